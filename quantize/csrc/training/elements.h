// One bit an element, 64 elements a word: floats to bits and back, with the machine's instructions.
#pragma once

#include <cstdint>

namespace xk::elements {

// positive: x >= 0; inside: |x| < 1, or <= 1 where closed. Neither for NaN. Bits past the last element are zero.
void compare(const float* x, int64_t count, bool closed, uint64_t* positive, uint64_t* inside);
// size where the bit is set, else -size.
void choose(const uint64_t* positive, int64_t count, float size, float* values);
// x where the bit is set, else 0; in place too.
void keep(const uint64_t* inside, int64_t count, const float* x, float* result);

}  // namespace xk::elements
