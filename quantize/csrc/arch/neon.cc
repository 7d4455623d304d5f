// NEON: popcount a byte, counted in bytes and widened before they overflow.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "arch/microkernels.h"

namespace xk::neon {

#define XK_TARGET
#include "arch/portable.inc"

constexpr int kVectors = 4;          // of two channels each
constexpr int kByteWords = 255 / 8;  // a byte gains at most 8 with each word

template <int kPixels>
struct Counts {
  uint8x16_t bytes[kPixels][kVectors];
  uint64x2_t words[kPixels][kVectors];
};

template <int kPixels>
static inline void widen(Counts<kPixels>* c) {
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) {
      c->words[p][v] = vpadalq_u32(c->words[p][v], vpaddlq_u16(vpaddlq_u8(c->bytes[p][v])));
      c->bytes[p][v] = vdupq_n_u8(0);
    }
}

template <int kPixels>
static inline void count_words(const Tile<Word>& t, const uint64_t* a, const uint64_t* w, int64_t first, int64_t n,
                               int first_pixel, Counts<kPixels>* c) {
  for (int64_t i = first; i < first + n; ++i)
    for (int p = 0; p < kPixels; ++p) {
      const uint64x2_t bits = vdupq_n_u64(a[i * t.input_step + p * t.input_stride]);
      const uint64x2_t mask = vdupq_n_u64(t.mask ? t.mask[(first_pixel + p) * t.mask_stride + i] : ~uint64_t{0});
      for (int v = 0; v < kVectors; ++v) {
        const uint64x2_t x = vandq_u64(veorq_u64(vld1q_u64(w + i * kLanes + 2 * v), bits), mask);
        c->bytes[p][v] = vaddq_u8(c->bytes[p][v], vcntq_u8(vreinterpretq_u8_u64(x)));
      }
    }
}

template <int kPixels>
static void dot_tile_8xN(const Tile<Word>& t, int first_pixel, int first_lane) {
  Counts<kPixels> c{};
  int64_t room = kByteWords;
  for (size_t r = 0; r < t.run_count; ++r) {
    const uint64_t* a = t.input + (t.origin + first_pixel * t.input_stride + t.runs[r].input);
    const uint64_t* w = t.weights + t.runs[r].weight * kLanes + first_lane;
    for (int64_t i = 0; i < t.runs[r].length;) {
      const int64_t n = std::min(room, t.runs[r].length - i);
      count_words<kPixels>(t, a, w, i, n, first_pixel, &c);
      i += n;
      if ((room -= n) == 0) {
        widen(&c);
        room = kByteWords;
      }
    }
  }
  widen(&c);
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) {
      const int32x2_t differ = vreinterpret_s32_u32(vmovn_u64(c.words[p][v]));
      const int32x2_t terms = vdup_n_s32(t.terms[(first_pixel + p) * t.terms_stride]);
      vst1_s32(t.dots + (first_pixel + p) * t.dots_stride + first_lane + 2 * v,
               vsub_s32(terms, vadd_s32(differ, differ)));
    }
}

static void dot_words(const Tile<Word>& t) {
  for (int lane = 0; lane < kLanes; lane += 2 * kVectors) {
    int p = 0;
    for (; p + 2 <= t.pixels; p += 2) dot_tile_8xN<2>(t, p, lane);
    if (p < t.pixels) dot_tile_8xN<1>(t, p, lane);
  }
}

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
