// training/ has the operations of layers that train: signs, and the gradients that pass straight through them
// (straight_through.cc). They keep one bit an element, 64 elements a word, for the backward pass; this header has the
// loops from floats to such bits and back, by the machine's microkernels.
#pragma once

#include <cstdint>

namespace xk::elements {

// Sets the bits of `positive` where x >= 0 and those of `inside` where |x| < 1, or <= 1 where closed; neither for NaN.
// Bits past the last element are zero.
void compare(const float* x, int64_t count, bool closed, uint64_t* positive, uint64_t* inside);
// values = size where the bit is set, else -size.
void choose(const uint64_t* positive, int64_t count, float size, float* values);
// result = x where the bit is set, else 0; `result` may be `x`.
void keep(const uint64_t* inside, int64_t count, const float* x, float* result);

}  // namespace xk::elements
