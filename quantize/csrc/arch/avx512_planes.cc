// AVX-512: vectors of 16 pixels by up to eight output channels, in registers; see conv/planes.cc.
#if defined(__x86_64__)
#include <algorithm>
#include <limits>

#include "arch/avx512.h"

namespace xk::avx512 {

XK_POPCOUNT_TARGET static inline __m512i add_masked_ones(__m512i sum, __mmask16 mask, __m512i bits) {
  return _mm512_add_epi32(sum, _mm512_maskz_popcnt_epi32(mask, bits));
}

// Counts the products that are -1, of 16 pixels with kChannels filters, whose weights lie side by side.
template <int kChannels, bool kChained>
XK_POPCOUNT_TARGET static inline void plane_counts(const PlaneTile& t, const Half* weights,
                                                   __m512i (&ones)[kChannels]) {
  __m512i twos[kChannels], sum[kChannels];
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c) ones[c] = twos[c] = _mm512_setzero_si512();
  for (int64_t tap = 0; tap < t.tap_count; ++tap) {
    const Half* a = t.input + t.taps[tap].input;
    const Half* w = weights + t.taps[tap].weight * kLanes;
    const __mmask16 mask = t.masks[tap];
    int64_t left = t.halves;
    if (kChained) {
      const __m512i first = _mm512_loadu_si512(a);
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) sum[c] = products(first, w + c);
      a += t.plane, w += kLanes;
      for (left -= 1; left >= 2; left -= 2, a += 2 * t.plane, w += 2 * kLanes) {
        const __m512i odd = _mm512_loadu_si512(a), even = _mm512_loadu_si512(a + t.plane);
#pragma GCC unroll 8
        for (int c = 0; c < kChannels; ++c) {
          const __m512i x = products(odd, w + c), next = products(even, w + kLanes + c);
          twos[c] = add_masked_ones(twos[c], mask, carry(x, sum[c], next));
          sum[c] = next;
        }
      }
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) ones[c] = add_masked_ones(ones[c], mask, sum[c]);
    }
    for (; left > 0; --left, a += t.plane, w += kLanes) {
      const __m512i input = _mm512_loadu_si512(a);
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) ones[c] = add_masked_ones(ones[c], mask, products(input, w + c));
    }
  }
#pragma GCC unroll 8
  for (int c = 0; kChained && c < kChannels; ++c)
    ones[c] = _mm512_add_epi32(ones[c], _mm512_add_epi32(twos[c], twos[c]));
}

constexpr int kTileChannels = 8;
constexpr int kPrefetched = 4;  // vectors ahead, of the output: memory answers later than one vector is computed

// Computes kChannels channels of a block, from lane `first` on.
template <int kChannels, bool kChained, bool kIntegers>
XK_POPCOUNT_TARGET static void planes_16xN(const PlaneTile& t, const Epilogue& f, int first, const __m512i* terms) {
  const __m512 floor = _mm512_set1_ps(f.relu ? 0.0f : -std::numeric_limits<float>::infinity());
  PlaneTile vector = t;
  int32_t* output = t.output + first * t.output_pitch;
  for (int64_t p = 0; p < t.pixels; p += kLanes, output += kLanes) {
    const __mmask16 mask = static_cast<__mmask16>(0xffffu >> (kLanes - std::min<int64_t>(kLanes, t.pixels - p)));
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) __builtin_prefetch(output + c * t.output_pitch + kPrefetched * kLanes, 1);
    __m512i ones[kChannels];
    plane_counts<kChannels, kChained>(vector, t.weights + first, ones);
    const __m512 k = f.input_scale ? _mm512_maskz_loadu_ps(mask, f.input_scale + p) : _mm512_set1_ps(1.0f);
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) {
      __m512i dots = _mm512_sub_epi32(terms[p / kLanes], _mm512_add_epi32(ones[c], ones[c]));
      if (!kIntegers) {
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(f.scale[first + c]));
        y = _mm512_add_ps(_mm512_mul_ps(y, k), _mm512_set1_ps(f.bias[first + c]));
        dots = _mm512_castps_si512(_mm512_max_ps(floor, y));  // the second operand where one is NaN
      }
      _mm512_mask_storeu_epi32(output + c * t.output_pitch, mask, dots);
    }
    vector.input += kLanes, vector.masks += t.tap_count;
  }
}

template <bool kChained, bool kIntegers>
static void planes_of(const PlaneTile& t, const Epilogue& f, const __m512i* terms) {
  using Function = void (*)(const PlaneTile&, const Epilogue&, int, const __m512i*);
  static constexpr Function kFunctions[kTileChannels] = {
      planes_16xN<1, kChained, kIntegers>, planes_16xN<2, kChained, kIntegers>, planes_16xN<3, kChained, kIntegers>,
      planes_16xN<4, kChained, kIntegers>, planes_16xN<5, kChained, kIntegers>, planes_16xN<6, kChained, kIntegers>,
      planes_16xN<7, kChained, kIntegers>, planes_16xN<8, kChained, kIntegers>};
  for (int first = 0; first < f.lanes; first += kTileChannels)
    kFunctions[std::min(kTileChannels, f.lanes - first) - 1](t, f, first, terms);
}

XK_POPCOUNT_TARGET void convolve_planes(const PlaneTile& t, const Epilogue& epilogue) {
  using Function = void (*)(const PlaneTile&, const Epilogue&, const __m512i*);
  static constexpr Function kFunctions[2][2] = {{planes_of<false, false>, planes_of<false, true>},
                                                {planes_of<true, false>, planes_of<true, true>}};
  const Epilogue f = epilogue;  // a copy, which the stores cannot change
  const __m512i tap_terms = _mm512_set1_epi32(t.tap_terms);
  __m512i terms[kPlaneVectors];
  const uint16_t* mask = t.masks;
  for (int64_t v = 0; v * kLanes < t.pixels; ++v) {
    terms[v] = _mm512_setzero_si512();
    for (int64_t tap = 0; tap < t.tap_count; ++tap, ++mask)
      terms[v] = _mm512_mask_add_epi32(terms[v], *mask, terms[v], tap_terms);
  }
  kFunctions[t.chained][f.integers](t, f, terms);
}

}  // namespace xk::avx512
#endif
