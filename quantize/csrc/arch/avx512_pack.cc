// AVX-512: packing.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "arch/avx512.h"

namespace xk::avx512 {

// Packing: bit c of a vector's lanes are the signs of 16 pixels of channel c, so that a half of 16 pixels is done
// after 32 comparisons. It is [half][pixel]: chains are formed there, and pixels brought together last.
constexpr int kPackVectors = 8;
constexpr int64_t kPackPixels = kPackVectors * kLanes, kPackHalves = 16;

// Halves [begin, end) of kVectors vectors of pixels. `last`: of the last vector, the pixels that there are; `sums`: of
// the chain so far, [vector].
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

// From halves [half][pixel] to words [pixel][word], `pitch` apart.
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

// A mask of 16 channels a comparison.
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

}  // namespace xk::avx512
#endif
