// Any machine: a popcount of ordinary arithmetic.
#include <algorithm>
#include <cstring>

#include "conv/conv.h"
#include "kernel.h"

namespace xk {
namespace scalar {

#define XK_TARGET
#include "arch/portable.inc"

static inline uint64_t popcount(uint64_t x) {
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (x * 0x0101010101010101u) >> 56;
}

static void dot_tile_16x1(const Tile<Word>& t) {
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

static void store_planes(const Epilogue& f, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch) {
  if (!f.integers) apply_epilogue(f, pixels, dots);
  transpose_portable(dots, pixels, f.lanes, planes, pitch);
}

static bool usable() { return true; }
static bool preferred(const Shape&) { return true; }

}  // namespace scalar

extern const Parts kScalarParts = {
    scalar::dot_tile_16x1, nullptr, nullptr, scalar::store_planes, scalar::store_rows_portable,
    scalar::store_signs_portable, scalar::find_limits, scalar::spread_signs, scalar::pack_planes, scalar::pack_rows,
    scalar::merge_fields,
};
extern const Kernel kScalar = {"scalar",  scalar::usable, scalar::preferred, WeightOrder::kWords,
                               conv_bits, &kScalarParts};

}  // namespace xk
