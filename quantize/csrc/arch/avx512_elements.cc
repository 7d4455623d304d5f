// AVX-512: one bit an element, for training.
#if defined(__x86_64__)
#include "arch/avx512.h"

namespace xk::avx512 {

XK_TARGET void compare(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
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

XK_TARGET void choose(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m512 low = _mm512_set1_ps(-size), high = _mm512_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, values += 16)
      _mm512_storeu_ps(values, _mm512_mask_blend_ps(static_cast<__mmask16>(positive[w] >> b), low, high));
}

XK_TARGET void keep(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, x += 16, result += 16)
      _mm512_storeu_ps(result, _mm512_maskz_loadu_ps(static_cast<__mmask16>(inside[w] >> b), x));
}

}  // namespace xk::avx512
#endif
