// training/ has the operations of layers that train: signs of activations (signs.cc) and of filters with their scales
// (filters.cc), the gradients that pass straight through them, and the way of kept bits into a convolution
// (pixel_words.cc). They keep one bit an element, 64 elements a word, for the backward pass; this header has the loops
// from floats to such bits and back, by the machine's microkernels.
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

// y = x - level[i], or x - level[0] where `one`; y may be x.
void lower(const float* x, const float* level, bool one, int64_t count, float* y);
// y = gradient * max(0, 2 - 2 |x|); y may be either.
void fade(const float* gradient, const float* x, int64_t count, float* y);
// bfloat16 to float and back, rounded to the nearest, ties to even.
void widen(const uint16_t* x, int64_t count, float* y);
void narrow(const float* x, int64_t count, uint16_t* y);

// So many sums are formed at once, so that a compiler may use vectors for them.
constexpr int64_t kSums = 16;

// The sum of term(i) over i < count.
template <class Term>
double sum(int64_t count, const Term& term) {
  float sums[kSums] = {};
  const int64_t whole = count - count % kSums;
  for (int64_t i = 0; i < whole; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  double total = 0.0;
  for (const float part : sums) total += part;
  for (int64_t i = whole; i < count; ++i) total += term(i);
  return total;
}

}  // namespace xk::elements
