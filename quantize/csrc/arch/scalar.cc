// Any machine: a popcount of ordinary arithmetic.
#include <algorithm>
#include <cstring>

#include "arch/microkernels.h"

namespace xk::scalar {

#define XK_TARGET
#include "arch/portable.inc"

static inline uint64_t popcount(uint64_t x) {
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (x * 0x0101010101010101u) >> 56;
}

static void dot_words(const Tile<Word>& t) {
  for (int p = 0; p < t.pixels; ++p) {
    uint64_t differ[kLanes] = {};
    for (size_t r = 0; r < t.run_count; ++r)
      for (int64_t i = 0; i < t.runs[r].length; ++i) {
        const uint64_t a = t.input[t.origin + p * t.input_stride + t.runs[r].input + i * t.input_step];
        const uint64_t mask = t.mask ? t.mask[p * t.mask_stride + i] : ~uint64_t{0};
        const uint64_t* w = t.weights + (t.runs[r].weight + i) * kLanes;
        for (int l = 0; l < kLanes; ++l) differ[l] += popcount((a ^ w[l]) & mask);
      }
    for (int l = 0; l < kLanes; ++l)
      t.dots[p * t.dots_stride + l] = t.terms[p * t.terms_stride] - 2 * static_cast<int32_t>(differ[l]);
  }
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  return m;
}();

}  // namespace xk::scalar
