#include "training/elements.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace xk::elements {

namespace {

// What an instruction set provides, for whole words.
struct Bits {
  void (*compare)(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside);
  void (*choose)(const uint64_t* positive, int64_t words, float size, float* values);
  void (*keep)(const uint64_t* inside, int64_t words, const float* x, float* result);
};

void compare_scalar(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  for (int64_t w = 0; w < words; ++w, x += kWordBits) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; ++b) {
      const float size = std::fabs(x[b]);
      p |= uint64_t{x[b] >= 0.0f} << b;
      i |= uint64_t{closed ? size <= 1.0f : size < 1.0f} << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

void choose_scalar(const uint64_t* positive, int64_t words, float size, float* values) {
  for (int64_t w = 0; w < words; ++w, values += kWordBits)
    for (int b = 0; b < kWordBits; ++b) values[b] = positive[w] >> b & 1 ? size : -size;
}

void keep_scalar(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w, x += kWordBits, result += kWordBits)
    for (int b = 0; b < kWordBits; ++b) result[b] = inside[w] >> b & 1 ? x[b] : 0.0f;
}

constexpr Bits kScalarBits = {compare_scalar, choose_scalar, keep_scalar};

#if defined(__x86_64__)

#define XK_AVX512 __attribute__((target("avx512f")))

XK_AVX512 void compare_avx512(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  for (int64_t w = 0; w < words; ++w) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; b += 16, x += 16) {
      const __m512 value = _mm512_loadu_ps(x), size = _mm512_abs_ps(value);
      const __mmask16 near =
          closed ? _mm512_cmp_ps_mask(size, one, _CMP_LE_OQ) : _mm512_cmp_ps_mask(size, one, _CMP_LT_OQ);
      p |= uint64_t{_mm512_cmp_ps_mask(value, zero, _CMP_GE_OQ)} << b;
      i |= uint64_t{near} << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

XK_AVX512 void choose_avx512(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m512 low = _mm512_set1_ps(-size), high = _mm512_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, values += 16)
      _mm512_storeu_ps(values, _mm512_mask_blend_ps(static_cast<__mmask16>(positive[w] >> b), low, high));
}

XK_AVX512 void keep_avx512(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, x += 16, result += 16)
      _mm512_storeu_ps(result, _mm512_maskz_loadu_ps(static_cast<__mmask16>(inside[w] >> b), x));
}

constexpr Bits kAvx512Bits = {compare_avx512, choose_avx512, keep_avx512};

#define XK_AVX2 __attribute__((target("avx2")))

XK_AVX2 void compare_avx2(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
  for (int64_t w = 0; w < words; ++w) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; b += 8, x += 8) {
      const __m256 value = _mm256_loadu_ps(x), size = _mm256_andnot_ps(minus, value);
      const __m256 near = closed ? _mm256_cmp_ps(size, one, _CMP_LE_OQ) : _mm256_cmp_ps(size, one, _CMP_LT_OQ);
      p |= static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(value, zero, _CMP_GE_OQ))) << b;
      i |= static_cast<uint64_t>(_mm256_movemask_ps(near)) << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

// All ones in the lanes whose bit is set.
XK_AVX2 inline __m256i lanes_of(uint64_t bits) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits & 255)), each), each);
}

XK_AVX2 void choose_avx2(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m256 low = _mm256_set1_ps(-size), high = _mm256_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, values += 8)
      _mm256_storeu_ps(values, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(lanes_of(positive[w] >> b))));
}

XK_AVX2 void keep_avx2(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, x += 8, result += 8)
      _mm256_storeu_ps(result, _mm256_and_ps(_mm256_loadu_ps(x), _mm256_castsi256_ps(lanes_of(inside[w] >> b))));
}

constexpr Bits kAvx2Bits = {compare_avx2, choose_avx2, keep_avx2};

#endif

// Those of the kernel that is chosen for convolutions, by the machine or by XNORKIT_KERNEL.
const Bits& machine_bits() {
#if defined(__x86_64__)
  static const Bits& best = []() -> const Bits& {
    const std::string name = kKernels[choose_kernel(nullptr, Shape{})]->name;
    return name == "scalar" ? kScalarBits : name == "avx2" ? kAvx2Bits : kAvx512Bits;
  }();
  return best;
#else
  return kScalarBits;
#endif
}

}  // namespace

// The last elements go through a word of their own.

void compare(const float* x, int64_t count, bool closed, uint64_t* positive, uint64_t* inside) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().compare(x, words, closed, positive, inside);
  if (!rest) return;
  float last[kWordBits];
  std::fill(std::copy_n(x + words * kWordBits, rest, last), last + kWordBits, NAN);
  compare_scalar(last, 1, closed, positive + words, inside + words);
}

void choose(const uint64_t* positive, int64_t count, float size, float* values) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().choose(positive, words, size, values);
  if (!rest) return;
  float last[kWordBits];
  choose_scalar(positive + words, 1, size, last);
  std::copy_n(last, rest, values + words * kWordBits);
}

void keep(const uint64_t* inside, int64_t count, const float* x, float* result) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().keep(inside, words, x, result);
  for (int64_t i = 0, first = words * kWordBits; i < rest; ++i)
    result[first + i] = inside[words] >> i & 1 ? x[first + i] : 0.0f;
}

}  // namespace xk::elements
