// AVX-512: from floats to bits, and back.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "arch/avx512.h"

namespace xk::avx512 {

// A vector gets the signs of 16 pixels of channel c in bit c of its lanes: 32 comparisons make a half of each pixel.
// The halves lie as [half][pixel]: chains are formed there, and the halves of a pixel are joined last.
constexpr int kPackVectors = 8;
constexpr int64_t kPackPixels = kPackVectors * kLanes, kPackHalves = 16;

// Packs halves [begin, end) of kVectors vectors of pixels. `last` has the pixels that the last vector has; `sums`,
// [vector], are the xor of the chain's halves so far.
template <int kVectors, bool kFlips>
XK_TARGET static void pack_halves(const Packing& pack, int64_t pixel, __mmask16 last, int64_t begin, int64_t end,
                                  __m512i* sums, Half* joined) {
  for (int64_t h = begin; h < end; ++h) {
    __m512i half[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) half[v] = _mm512_setzero_si512();
    const int64_t channel = h * kHalfBits, count = std::min<int64_t>(kHalfBits, pack.channels - channel);
    const float* x = pack.input + channel * pack.plane + pixel;
    for (int64_t c = 0; c < count; ++c, x += pack.plane) {
      const __m512 threshold = _mm512_set1_ps(pack.threshold[channel + c]);
      const __m512i bit = _mm512_set1_epi32(static_cast<int32_t>(uint32_t{1} << c));
      const __m512i flip = _mm512_set1_epi32(static_cast<int32_t>(pack.flip[channel + c]));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const float* from = x + v * kLanes;
        __m512 value = v + 1 < kVectors ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(last, from);
        if (kFlips) value = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(value), flip));
        half[v] = _mm512_mask_or_epi32(half[v], _mm512_cmp_ps_mask(value, threshold, _CMP_GE_OQ), half[v], bit);
      }
    }
    const int64_t place = pack.chain ? h % pack.chain : 1;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      if (pack.chain) sums[v] = place == 0 ? half[v] : _mm512_xor_si512(sums[v], half[v]);
      const __m512i stored = place % 2 ? half[v] : sums[v];
      if (joined)
        _mm512_store_si512(joined + (h - begin) * kPackPixels + v * kLanes, stored);
      else
        _mm512_mask_storeu_epi32(pack.planes + h * pack.plane + pixel + v * kLanes,
                                 v + 1 < kVectors ? __mmask16{0xffff} : last, stored);
    }
  }
}

// Joins halves [half][pixel] to words [pixel][word], pixels `pitch` words apart.
static void join_words(const Half* halves, int64_t pixels, int64_t words, int64_t pitch, uint64_t* target) {
  for (int64_t p = 0; p < pixels; ++p, ++halves, target += pitch)
    for (int64_t w = 0; w < words; ++w)
      target[w] = halves[2 * w * kPackPixels] | uint64_t{halves[(2 * w + 1) * kPackPixels]} << kHalfBits;
}

template <bool kFlips>
XK_TARGET static void pack_planes_16xN(const Packing& pack) {
  using Function = void (*)(const Packing&, int64_t, __mmask16, int64_t, int64_t, __m512i*, Half*);
  static constexpr Function kFunctions[kPackVectors] = {
      pack_halves<1, kFlips>, pack_halves<2, kFlips>, pack_halves<3, kFlips>, pack_halves<4, kFlips>,
      pack_halves<5, kFlips>, pack_halves<6, kFlips>, pack_halves<7, kFlips>, pack_halves<8, kFlips>};
  alignas(64) Half joined[kPackHalves * kPackPixels];
  __m512i sums[kPackVectors];
  const int64_t halves = pack.planes ? ceil_div(pack.channels, kHalfBits) : 2 * pack.words;
  for (int64_t first = 0; first < pack.pixels; first += kPackPixels) {
    const int64_t pixels = std::min(kPackPixels, pack.pixels - first), vectors = ceil_div(pixels, kLanes);
    const __mmask16 last = static_cast<__mmask16>(0xffffu >> (vectors * kLanes - pixels));
    for (int64_t begin = 0; begin < halves; begin += kPackHalves) {
      const int64_t end = std::min(halves, begin + kPackHalves);
      kFunctions[vectors - 1](pack, first, last, begin, end, sums, pack.planes ? nullptr : joined);
      if (!pack.planes)
        join_words(joined, pixels, (end - begin) / 2, pack.words, pack.bits + first * pack.words + begin / 2);
    }
  }
}

void pack_planes(const Packing& pack) {
  pack.flips ? pack_planes_16xN<true>(pack) : pack_planes_16xN<false>(pack);
}

// Packs rows: one comparison gives the bits of 16 channels.
template <bool kFlips>
XK_TARGET static void pack_rows_16xN(const Packing& pack) {
  const float* x = pack.input;
  for (int64_t p = 0; p < pack.pixels; ++p, x += pack.channels)
    for (int64_t w = 0; w < pack.words; ++w) {
      uint64_t word = 0;
      for (int64_t c = w * kWordBits; c < std::min(pack.channels, (w + 1) * kWordBits); c += kLanes) {
        const int64_t count = std::min<int64_t>(kLanes, pack.channels - c);
        const __mmask16 there = static_cast<__mmask16>(0xffffu >> (kLanes - count));
        __m512 value = _mm512_maskz_loadu_ps(there, x + c);
        if (kFlips)
          value = _mm512_castsi512_ps(
              _mm512_xor_si512(_mm512_castps_si512(value), _mm512_maskz_loadu_epi32(there, pack.flip + c)));
        const __m512 threshold = _mm512_maskz_loadu_ps(there, pack.threshold + c);
        word |= uint64_t{_mm512_mask_cmp_ps_mask(there, value, threshold, _CMP_GE_OQ)} << c % kWordBits;
      }
      pack.bits[p * pack.words + w] = word;
    }
}

void pack_rows(const Packing& pack) {
  pack.flips ? pack_rows_16xN<true>(pack) : pack_rows_16xN<false>(pack);
  if (pack.chain)
    for (int64_t h = 0; h + pack.chain <= 2 * pack.words; h += pack.chain)
      form_chains(reinterpret_cast<Half*>(pack.bits) + h, pack.pixels, pack.chain, 2 * pack.words);
}

// Training: one bit an element, 16 elements an instruction.
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

// The fields of a tap of the groups in the mask, in the bits of words that belong to place i.
template <int kFieldBytes>
XK_TARGET static inline __m512i fields_of(const char* tap, __mmask8 groups, int i) {
  __m512i words;
  if constexpr (kFieldBytes == 1)
    words = _mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8(groups, tap));
  else if constexpr (kFieldBytes == 2)
    words = _mm512_cvtepu16_epi64(_mm_maskz_loadu_epi16(groups, tap));
  else
    words = _mm512_cvtepu32_epi64(_mm256_maskz_loadu_epi32(groups, tap));
  return _mm512_sll_epi64(words, _mm_cvtsi32_si128(i * kFieldBytes * 8));
}

template <int kFieldBytes>
XK_TARGET static void merge(const void* const* taps, int64_t groups, uint64_t* words) {
  for (int64_t g = 0; g < groups; g += 8) {
    const __mmask8 mask = static_cast<__mmask8>(0xffu >> (8 - std::min<int64_t>(8, groups - g)));
    __m512i merged = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8 / kFieldBytes; ++i) {
      const char* tap = static_cast<const char*>(taps[i]) + g * kFieldBytes;
      merged = _mm512_or_si512(merged, fields_of<kFieldBytes>(tap, mask, i));
    }
    _mm512_mask_storeu_epi64(words + g, mask, merged);
  }
}

XK_TARGET void merge_fields(const void* const* taps, int field_bytes, int64_t groups, uint64_t* words) {
  if (field_bytes == 1) return merge<1>(taps, groups, words);
  if (field_bytes == 2) return merge<2>(taps, groups, words);
  merge<4>(taps, groups, words);
}

}  // namespace xk::avx512
#endif
