// NEON: popcount a byte, counted in bytes and widened before they overflow.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "arch/microkernels.h"

namespace xk::neon {

#define XK_TARGET
#include "arch/portable.inc"

constexpr int kVectors = kLanes / 2;  // of two channels each
constexpr int kTilePixels = 2;        // with kVectors each: 16 registers of counts, which leaves 16 for what is loaded

// What the counts of the bytes of 16 bytes are added to, and how many words it has room for.
#if defined(__ARM_FEATURE_DOTPROD)  // where what is compiled for has it, as Apple's processors: nothing to widen
using Counter = uint32x4_t;
constexpr int64_t kRoom = INT64_MAX;
static inline Counter add_counts(Counter c, uint8x16_t ones) { return vdotq_u32(c, ones, vdupq_n_u8(1)); }
static inline uint32x4_t widened(Counter c) { return c; }
#else
using Counter = uint8x16_t;
constexpr int64_t kRoom = 255 / 8;  // a byte gains at most 8 with each word
static inline Counter add_counts(Counter c, uint8x16_t ones) { return vaddq_u8(c, ones); }
static inline uint32x4_t widened(Counter c) { return vpaddlq_u16(vpaddlq_u8(c)); }
#endif

// [pixel][vector]; a sum is that of two channels, half of a channel's in each of two neighbours.
template <int kPixels>
using Counters = Counter[kPixels][kVectors];
template <int kPixels>
using Sums = uint32x4_t[kPixels][kVectors];

template <int kPixels>
static inline void widen(Counters<kPixels>& counters, Sums<kPixels>& sums) {
#pragma GCC unroll 2
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[p][v] = vaddq_u32(sums[p][v], widened(counters[p][v]));
      counters[p][v] = Counter{};
    }
}

// The inner loop, whose cycles tools/arm_cycles.py estimates: xor, count and add for 128 products, and beside them, for
// each word, a load of a vector of weights for all pixels and one of a pixel's word for all vectors. A compiler would put
// all xors before all counts before all adds, more of them than wait at a time for the pipes of a core.
template <int kPixels, bool kMasked>
static inline void count_words(const Tile<Word>& t, const uint64_t* a, const uint64_t* w, const uint64_t* mask,
                               int64_t n, Counters<kPixels>& counters) {
  const int64_t step = t.input_step, stride = t.input_stride, mask_stride = t.mask_stride;
  for (; n > 0; --n, a += step, w += kLanes, mask += kMasked) {
    uint64x2_t bits[kPixels], keep[kPixels];
#pragma GCC unroll 2
    for (int p = 0; p < kPixels; ++p) {
      bits[p] = vld1q_dup_u64(a + p * stride);
      if (kMasked) keep[p] = vld1q_dup_u64(mask + p * mask_stride);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const uint64x2_t weights = vld1q_u64(w + 2 * v);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // for the compiler: keeps vectors one behind the other
#pragma GCC unroll 2
      for (int p = 0; p < kPixels; ++p) {
        uint64x2_t x = veorq_u64(weights, bits[p]);
        if (kMasked) x = vandq_u64(x, keep[p]);
        counters[p][v] = add_counts(counters[p][v], vcntq_u8(vreinterpretq_u8_u64(x)));
      }
    }
  }
}

template <int kPixels, bool kMasked>
static void dot_tile(const Tile<Word>& t, int first_pixel) {
  Counters<kPixels> counters{};
  Sums<kPixels> sums{};
  int64_t room = kRoom;
  for (size_t r = 0; r < t.run_count; ++r) {
    const uint64_t* a = t.input + (t.origin + first_pixel * t.input_stride + t.runs[r].input);
    const uint64_t* w = t.weights + t.runs[r].weight * kLanes;
    const uint64_t* mask = kMasked ? t.mask + first_pixel * t.mask_stride : nullptr;
    for (int64_t i = 0; i < t.runs[r].length;) {
      const int64_t n = std::min(room, t.runs[r].length - i);
      count_words<kPixels, kMasked>(t, a + i * t.input_step, w + i * kLanes, mask + kMasked * i, n, counters);
      i += n;
      if ((room -= n) > 0) continue;
      widen<kPixels>(counters, sums);
      room = kRoom;
    }
  }
  widen<kPixels>(counters, sums);
#pragma GCC unroll 2
  for (int p = 0; p < kPixels; ++p) {
    const int32x4_t terms = vdupq_n_s32(t.terms[(first_pixel + p) * t.terms_stride]);
    int32_t* const dots = t.dots + (first_pixel + p) * t.dots_stride;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v += 2) {
      const int32x4_t differ = vreinterpretq_s32_u32(vpaddq_u32(sums[p][v], sums[p][v + 1]));
      vst1q_s32(dots + 2 * v, vsubq_s32(terms, vaddq_s32(differ, differ)));
    }
  }
}

template <bool kMasked>
static void dot_tiles(const Tile<Word>& t) {
  int p = 0;
  for (; p + kTilePixels <= t.pixels; p += kTilePixels) dot_tile<kTilePixels, kMasked>(t, p);
  if (p < t.pixels) dot_tile<1, kMasked>(t, p);
}

static void dot_words(const Tile<Word>& t) { t.mask ? dot_tiles<true>(t) : dot_tiles<false>(t); }

static void store_planes(const Epilogue& f, int64_t pixels, int32_t* rows, int32_t* planes, int64_t pitch) {
  if (!f.integers) portable::apply_epilogue(f, pixels, rows);
  const int lanes = f.lanes;
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4)
    for (int first = 0; first < lanes; first += 4) {
      const int32_t* r = rows + p * kLanes + first;
      const int32x4x2_t a = vtrnq_s32(vld1q_s32(r), vld1q_s32(r + kLanes));
      const int32x4x2_t b = vtrnq_s32(vld1q_s32(r + 2 * kLanes), vld1q_s32(r + 3 * kLanes));
      const int32x4_t columns[4] = {
          vcombine_s32(vget_low_s32(a.val[0]), vget_low_s32(b.val[0])),
          vcombine_s32(vget_low_s32(a.val[1]), vget_low_s32(b.val[1])),
          vcombine_s32(vget_high_s32(a.val[0]), vget_high_s32(b.val[0])),
          vcombine_s32(vget_high_s32(a.val[1]), vget_high_s32(b.val[1]))};
      for (int l = first; l < std::min(first + 4, lanes); ++l) vst1q_s32(planes + l * pitch + p, columns[l - first]);
    }
  portable::transpose(rows + p * kLanes, pixels - p, lanes, planes + p, pitch);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.store_planes = store_planes;
  return m;
}();

}  // namespace xk::neon
#endif
