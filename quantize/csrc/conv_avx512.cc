// AVX-512 with VPOPCNTDQ: tiles of two vectors of output channels by up to eight pixels, in registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "conv.h"
#include "kernel.h"

namespace xk {
namespace avx512 {

#define XK_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,prefer-vector-width=512")))
#include "portable.inc"

// x = (a ^ w) & mask where kMasked, in one instruction: its truth table over (a, w, mask), mask lowest, is 0x28.
template <int kPixels, bool kMasked>
XK_TARGET static void dot_tile_16xN(const Tile& t) {
  __m512i differ[kPixels][2];
  for (int p = 0; p < kPixels; ++p) differ[p][0] = differ[p][1] = _mm512_setzero_si512();
  for (size_t r = 0; r < t.run_count; ++r) {
    const uint64_t* a = t.input + (t.origin + t.runs[r].input);
    const uint64_t* w = t.weights + t.runs[r].weight * kLanes;
    for (int64_t i = 0; i < t.runs[r].length; ++i, a += t.input_step, w += kLanes) {
      const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 8);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(a[p * t.input_stride]));
        __m512i x0, x1;
        if (kMasked) {
          const __m512i mask = _mm512_set1_epi64(static_cast<int64_t>(t.mask[p * t.mask_stride + i]));
          x0 = _mm512_ternarylogic_epi64(bits, w0, mask, 0x28);
          x1 = _mm512_ternarylogic_epi64(bits, w1, mask, 0x28);
        } else {
          x0 = _mm512_xor_si512(bits, w0);
          x1 = _mm512_xor_si512(bits, w1);
        }
        differ[p][0] = _mm512_add_epi64(differ[p][0], _mm512_popcnt_epi64(x0));
        differ[p][1] = _mm512_add_epi64(differ[p][1], _mm512_popcnt_epi64(x1));
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
    const __m512i low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(differ[p][0]));
    const __m512i both = _mm512_inserti64x4(low, _mm512_cvtepi64_epi32(differ[p][1]), 1);
    const __m512i terms = _mm512_set1_epi32(t.terms[p * t.terms_stride]);
    _mm512_storeu_si512(t.dots + p * t.dots_stride, _mm512_sub_epi32(terms, _mm512_add_epi32(both, both)));
  }
}

static void dot_tile(const Tile& t) {
  using Function = void (*)(const Tile&);
  static constexpr Function kFunctions[2][kMaxTilePixels] = {
      {dot_tile_16xN<1, false>, dot_tile_16xN<2, false>, dot_tile_16xN<3, false>, dot_tile_16xN<4, false>,
       dot_tile_16xN<5, false>, dot_tile_16xN<6, false>, dot_tile_16xN<7, false>, dot_tile_16xN<8, false>},
      {dot_tile_16xN<1, true>, dot_tile_16xN<2, true>, dot_tile_16xN<3, true>, dot_tile_16xN<4, true>,
       dot_tile_16xN<5, true>, dot_tile_16xN<6, true>, dot_tile_16xN<7, true>, dot_tile_16xN<8, true>}};
  kFunctions[t.mask != nullptr][t.pixels - 1](t);
}

// Transposes 16 x 16 by four rounds of pairwise interleaving at growing distance: after the round with step s
// row i holds elements whose bit s of the column is bit s of i.
XK_TARGET static inline void transpose_16x16(__m512i* rows) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const int j = i % 4 + i / 4 * 8;  // 128-bit quarters of rows j and j + 4
    a[j] = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0x88);
    a[j + 4] = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
  }
}

// One pixel's sums as floats after the epilogue, or as they are.
template <bool kIntegers>
XK_TARGET static inline __m512i finish_16(const Finish& f, const int32_t* dots, int64_t pixel) {
  const __m512i sums = _mm512_loadu_si512(dots + pixel * kLanes);
  if (kIntegers) return sums;
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(f.scale));
  if (f.input_scale) y = _mm512_mul_ps(y, _mm512_set1_ps(f.input_scale[pixel]));
  y = _mm512_add_ps(y, _mm512_loadu_ps(f.bias));
  if (f.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // the second operand where one is NaN
  return _mm512_castps_si512(y);
}

template <bool kIntegers>
XK_TARGET static void store_planes_16x16(const Finish& f, int64_t pixels, int32_t* dots, int32_t* planes,
                                         int64_t pitch) {
  for (int64_t p = 0; p < pixels; p += 16) {
    const int64_t count = std::min<int64_t>(16, pixels - p);
    __m512i block[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) block[i] = finish_16<kIntegers>(f, dots, p + std::min<int64_t>(i, count - 1));
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) __builtin_prefetch(planes + l * pitch + p + 16, 1);
    transpose_16x16(block);
    if (f.lanes == kLanes && count == 16) {
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) _mm512_storeu_si512(planes + l * pitch + p, block[l]);
    } else {
      const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
      for (int l = 0; l < f.lanes; ++l) _mm512_mask_storeu_epi32(planes + l * pitch + p, mask, block[l]);
    }
  }
}

static void store_planes(const Finish& f, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch) {
  (f.integers ? store_planes_16x16<true> : store_planes_16x16<false>)(f, pixels, dots, planes, pitch);
}

template <bool kIntegers>
XK_TARGET static void store_rows_1x16(const Finish& f, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch) {
  const __mmask16 mask = static_cast<__mmask16>((1u << f.lanes) - 1);
  for (int64_t p = 0; p < pixels; ++p)
    _mm512_mask_storeu_epi32(rows + p * pitch, mask, finish_16<kIntegers>(f, dots, p));
}

static void store_rows(const Finish& f, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch) {
  (f.integers ? store_rows_1x16<true> : store_rows_1x16<false>)(f, pixels, dots, rows, pitch);
}

XK_TARGET static void store_signs(const Finish& f, int64_t pixels, int32_t* dots, uint16_t* signs) {
  const __m512i flip = _mm512_loadu_si512(f.flip);
  for (int64_t p = 0; p < pixels; ++p) {
    const __m512 y = _mm512_castsi512_ps(_mm512_xor_si512(finish_16<false>(f, dots, p), flip));
    signs[p] = _mm512_cmp_ps_mask(y, _mm512_loadu_ps(f.threshold), _CMP_GE_OQ);
  }
}

static bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}

static bool preferred(const Shape&) { return true; }

}  // namespace avx512

extern const Parts kAvx512Parts = {
    avx512::dot_tile,    avx512::store_planes, avx512::store_rows,  avx512::store_signs,
    avx512::pack_planes, avx512::pack_rows, avx512::merge_fields,
};
extern const Kernel kAvx512 = {"avx512",       avx512::usable, avx512::preferred, WeightOrder::kWords,
                        conv_words, &kAvx512Parts};

}  // namespace xk
#endif
