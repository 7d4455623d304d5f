// AVX2: epilogues.
#if defined(__x86_64__)
#include <limits>

#include "arch/avx2.h"

namespace xk::avx2 {

XK_TARGET static inline __m256 floor_of(const Epilogue& f) {
  return _mm256_set1_ps(f.relu ? 0.0f : -std::numeric_limits<float>::infinity());
}

// Eight sums after the epilogue: floats, or the sums as they are. They are those of a lane, with its scale and bias in
// all places, or of a pixel, with the scale and bias of each lane. k is 1 where there is no input_scale.
template <bool kIntegers>
XK_TARGET static inline __m256 apply_epilogue(const Epilogue& f, __m256i sums, __m256 scale, __m256 bias, __m256 k) {
  if (kIntegers) return _mm256_castsi256_ps(sums);
  const __m256 x = f.floats ? _mm256_castsi256_ps(sums) : _mm256_cvtepi32_ps(sums);
  const __m256 y = _mm256_mul_ps(_mm256_mul_ps(x, scale), k);
  return _mm256_max_ps(floor_of(f), _mm256_add_ps(y, bias));  // the second operand where one is NaN
}

// Gathers eight lanes of eight pixels as [lane][pixel]. 128-bit halves are loaded to where they belong (of rows[i] and
// rows[i + 4] the halves are pixels i and i + 4), so that only 4 x 4 blocks remain to be transposed.
XK_TARGET static inline void transpose_8x8(const int32_t* dots, __m256 (&rows)[8]) {
#pragma GCC unroll 2
  for (int q = 0; q < 2; ++q) {
    __m256 a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* quarter = reinterpret_cast<const float*>(dots + i * kLanes + 4 * q);
      a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(quarter)), _mm_loadu_ps(quarter + 4 * kLanes), 1);
    }
    const __m256 low01 = _mm256_unpacklo_ps(a[0], a[1]), low23 = _mm256_unpacklo_ps(a[2], a[3]);
    const __m256 high01 = _mm256_unpackhi_ps(a[0], a[1]), high23 = _mm256_unpackhi_ps(a[2], a[3]);
    rows[4 * q] = _mm256_shuffle_ps(low01, low23, 0x44);
    rows[4 * q + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
    rows[4 * q + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    rows[4 * q + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
}

constexpr int64_t kPrefetched = 64;  // pixels ahead: the next chunk's, which memory has some time to bring

// Lanes [0, kFloats) of the block at `dots`, of which there are f.lanes - first, of up to eight pixels.
template <bool kIntegers, bool kWhole>
XK_TARGET static inline void store_lanes(const Epilogue& f, int first, const int32_t* dots, __m256 k, __m256i pixels,
                                         float* planes, int64_t pitch) {
  __m256 block[kFloats];
  transpose_8x8(dots + first, block);
#pragma GCC unroll 8
  for (int l = 0; l < kFloats; ++l) {
    if (first + l >= f.lanes) return;
    const __m256 scale = _mm256_set1_ps(f.scale[first + l]), bias = _mm256_set1_ps(f.bias[first + l]);
    const __m256 y = apply_epilogue<kIntegers>(f, _mm256_castps_si256(block[l]), scale, bias, k);
    float* const target = planes + (first + l) * pitch;
    kWhole ? _mm256_storeu_ps(target, y) : _mm256_maskstore_ps(target, pixels, y);
  }
}

template <bool kIntegers>
XK_TARGET static void store_planes_8xN(const Epilogue& f, int64_t pixels, const int32_t* dots, float* planes,
                                       int64_t pitch) {
  for (int64_t p = 0; p < pixels; p += kFloats, dots += kFloats * kLanes) {
    const __m256i mask = first_lanes(pixels - p);
    const __m256 k = f.input_scale ? _mm256_maskload_ps(f.input_scale + p, mask) : _mm256_set1_ps(1.0f);
    if (p % (2 * kFloats) == 0)
      for (int l = 0; l < f.lanes; ++l) __builtin_prefetch(planes + l * pitch + p + kPrefetched, 1);
    for (int first = 0; first < f.lanes; first += kFloats)
      if (pixels - p >= kFloats)
        store_lanes<kIntegers, true>(f, first, dots, k, mask, planes + p, pitch);
      else
        store_lanes<kIntegers, false>(f, first, dots, k, mask, planes + p, pitch);
  }
}

// `dots` must have room for whole groups of 8 pixels: it reads these.
void store_planes(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch) {
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  float* const target = reinterpret_cast<float*>(planes);
  f.integers ? store_planes_8xN<true>(f, pixels, dots, target, pitch)
             : store_planes_8xN<false>(f, pixels, dots, target, pitch);
}

// Eight lanes of pixel p, from `first` on, after the epilogue.
template <bool kIntegers>
XK_TARGET static inline __m256 pixel_epilogue(const Epilogue& f, const int32_t* dots, int64_t p, int first) {
  const __m256 k = _mm256_set1_ps(f.input_scale ? f.input_scale[p] : 1.0f);
  const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots + p * kLanes + first));
  return apply_epilogue<kIntegers>(f, sums, _mm256_loadu_ps(f.scale + first), _mm256_loadu_ps(f.bias + first), k);
}

template <bool kIntegers>
XK_TARGET static void store_rows_8xN(const Epilogue& f, int64_t pixels, const int32_t* dots, float* rows,
                                     int64_t pitch) {
  const __m256i low = first_lanes(f.lanes), high = first_lanes(f.lanes - kFloats);
  for (int64_t p = 0; p < pixels; ++p, rows += pitch) {
    const __m256 first = pixel_epilogue<kIntegers>(f, dots, p, 0);
    const __m256 second = pixel_epilogue<kIntegers>(f, dots, p, kFloats);
    if (f.lanes == kLanes) {
      _mm256_storeu_ps(rows, first);
      _mm256_storeu_ps(rows + kFloats, second);
    } else {
      _mm256_maskstore_ps(rows, low, first);
      if (f.lanes > kFloats) _mm256_maskstore_ps(rows + kFloats, high, second);
    }
  }
}

void store_rows(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch) {
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  float* const target = reinterpret_cast<float*>(rows);
  f.integers ? store_rows_8xN<true>(f, pixels, dots, target, pitch)
             : store_rows_8xN<false>(f, pixels, dots, target, pitch);
}

XK_TARGET static void compare_sums(const SignLimits& limits, int64_t pixels, const int32_t* dots, uint16_t* signs) {
  __m256i flip[2], limit[2];
  std::memcpy(flip, limits.flip, sizeof flip);
  std::memcpy(limit, limits.limit, sizeof limit);
  for (int64_t p = 0; p < pixels; ++p, dots += kLanes) {
    uint32_t bits = 0;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots + half * kFloats));
      const __m256i over = _mm256_cmpgt_epi32(_mm256_xor_si256(sums, flip[half]), limit[half]);
      bits |= sign_bits(_mm256_castsi256_ps(over)) << half * kFloats;
    }
    signs[p] = static_cast<uint16_t>(bits);
  }
}

XK_TARGET void store_signs(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs) {
  if (epilogue.limits) return compare_sums(*epilogue.limits, pixels, dots, signs);
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  for (int64_t p = 0; p < pixels; ++p) {
    uint32_t bits = 0;
#pragma GCC unroll 2
    for (int first = 0; first < kLanes; first += kFloats) {
      const __m256 flip = _mm256_loadu_ps(reinterpret_cast<const float*>(f.flip + first));
      const __m256 y = _mm256_xor_ps(pixel_epilogue<false>(f, dots, p, first), flip);
      bits |= sign_bits(_mm256_cmp_ps(y, _mm256_loadu_ps(f.threshold + first), _CMP_GE_OQ)) << first;
    }
    signs[p] = static_cast<uint16_t>(bits);
  }
}

}  // namespace xk::avx2
#endif
