// Training: signs, and the gradients that pass straight through them, with one bit an element kept for each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "xnorkit.h"

namespace xk {

// 64 elements a word; the bits past the last element are zero.
void sign(const float* x, int64_t count, bool closed, float* values, uint64_t* positive, uint64_t* inside,
          const xk_parallel* parallel);
void signs(const uint64_t* positive, int64_t count, float* values, const xk_parallel* parallel);
void pass_inside(const float* gradient, const uint64_t* inside, int64_t count, float* result,
                 const xk_parallel* parallel);

void scaled_sign(const xk_filters& filters, const float* weight, float* values, float* scale, uint64_t* positive,
                 uint64_t* inside, const xk_parallel* parallel);
void scaled_sign_gradient(const xk_filters& filters, const float* gradient, const float* scale,
                          const uint64_t* positive, const uint64_t* inside, float* result,
                          const xk_parallel* parallel);

}  // namespace xk
