// AVX-512: epilogues.
#if defined(__x86_64__)
#include <algorithm>

#include "arch/avx512.h"

namespace xk::avx512 {

// 16 sums after the epilogue: floats, or the sums as they are. They are those of a lane, with its scale and bias in all
// places, or of a pixel, with the scale and bias of each lane.
XK_TARGET static inline __m512i apply_epilogue(const Epilogue& f, __m512i sums, __m512 scale, __m512 bias, __m512 k) {
  if (f.integers) return sums;
  __m512 y = _mm512_mul_ps(f.floats ? _mm512_castsi512_ps(sums) : _mm512_cvtepi32_ps(sums), scale);
  if (f.input_scale) y = _mm512_mul_ps(y, k);
  y = _mm512_add_ps(y, bias);
  if (f.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // the second operand where one is NaN
  return _mm512_castps_si512(y);
}

// Gathers lanes 4 q to 4 q + 3 of 16 pixels as [lane][pixel]. 128-bit quarters are loaded to where they belong
// (quarter j of rows[i] is pixel 4 j + i), so that only 4 x 4 blocks remain to be transposed.
XK_TARGET static inline void transpose_16x4(const int32_t* dots, int q, __m512i (&rows)[4]) {
  __m512i a[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m128i* quarter = reinterpret_cast<const __m128i*>(dots + i * kLanes + 4 * q);
    a[i] = _mm512_castsi128_si512(_mm_loadu_si128(quarter));
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(quarter + kLanes), 1);
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(quarter + 2 * kLanes), 2);
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(quarter + 3 * kLanes), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]), low23 = _mm512_unpacklo_epi32(a[2], a[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
  rows[0] = _mm512_unpacklo_epi64(low01, low23);
  rows[1] = _mm512_unpackhi_epi64(low01, low23);
  rows[2] = _mm512_unpacklo_epi64(high01, high23);
  rows[3] = _mm512_unpackhi_epi64(high01, high23);
}

// `dots` must have room for whole groups of 16 pixels: it reads these.
XK_TARGET void store_planes(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch) {
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  for (int64_t p = 0; p < pixels; p += 16, dots += 16 * kLanes) {
    const __mmask16 mask = static_cast<__mmask16>(0xffffu >> (16 - std::min<int64_t>(16, pixels - p)));
    const __m512 k = f.input_scale ? _mm512_maskz_loadu_ps(mask, f.input_scale + p) : _mm512_setzero_ps();
    for (int l = 0; l < f.lanes; ++l) __builtin_prefetch(planes + l * pitch + p + 16, 1);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      __m512i rows[4];
      transpose_16x4(dots, q, rows);
#pragma GCC unroll 4
      for (int l = 4 * q; l < 4 * q + 4; ++l) {
        if (l >= f.lanes) break;
        const __m512i y = apply_epilogue(f, rows[l % 4], _mm512_set1_ps(f.scale[l]), _mm512_set1_ps(f.bias[l]), k);
        _mm512_mask_storeu_epi32(planes + l * pitch + p, mask, y);
      }
    }
  }
}

// The sums of pixel p after the epilogue.
XK_TARGET static inline __m512i pixel_epilogue(const Epilogue& f, const int32_t* dots, int64_t p) {
  const __m512 k = _mm512_set1_ps(f.input_scale ? f.input_scale[p] : 0.0f);
  return apply_epilogue(f, _mm512_loadu_si512(dots + p * kLanes), _mm512_loadu_ps(f.scale), _mm512_loadu_ps(f.bias), k);
}

XK_TARGET void store_rows(const Epilogue& f, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch) {
  const __mmask16 mask = static_cast<__mmask16>((1u << f.lanes) - 1);
  for (int64_t p = 0; p < pixels; ++p) _mm512_mask_storeu_epi32(rows + p * pitch, mask, pixel_epilogue(f, dots, p));
}

XK_TARGET static void compare_sums(const SignLimits& limits, int64_t pixels, const int32_t* dots, uint16_t* signs) {
  const __m512i flip = _mm512_loadu_si512(limits.flip), limit = _mm512_loadu_si512(limits.limit);
  for (int64_t p = 0; p < pixels; ++p)
    signs[p] = _mm512_cmpgt_epi32_mask(_mm512_xor_si512(_mm512_loadu_si512(dots + p * kLanes), flip), limit);
}

XK_TARGET void store_signs(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs) {
  if (epilogue.limits) return compare_sums(*epilogue.limits, pixels, dots, signs);
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  const __m512i flip = _mm512_loadu_si512(f.flip);
  for (int64_t p = 0; p < pixels; ++p) {
    const __m512 y = _mm512_castsi512_ps(_mm512_xor_si512(pixel_epilogue(f, dots, p), flip));
    signs[p] = _mm512_cmp_ps_mask(y, _mm512_loadu_ps(f.threshold), _CMP_GE_OQ);
  }
}

}  // namespace xk::avx512
#endif
