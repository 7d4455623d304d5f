// Arithmetic between layers, for one call and for several in a row.
#pragma once

#include <cstdint>

#include "xnorkit.h"

namespace xk {

struct Pointwise {
  xk_elements elements;
  int32_t kind;  // xk_pointwise_kind
  const float *x, *operand;
  float* y;
};

// Fails for a call that xk_pointwise refuses.
Pointwise checked_pointwise(const xk_elements* elements, int32_t kind, const float* x, const float* operand, float* y);

// Whether `next` may be computed part by part after `earlier`: what one of them writes is of the other the same elements, in
// the same places, or nothing.
bool part_by_part(const Pointwise& earlier, const Pointwise& next);

// Computes calls of as many elements, of which each two go part by part: a part of all of them stays in the first cache.
void compute(const Pointwise* calls, int64_t count, const xk_parallel* parallel);

}  // namespace xk
