// AVX2: from floats to bits, and back.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "arch/avx2.h"

namespace xk::avx2 {

constexpr int kPackVectors = 4;  // of pixels
constexpr int64_t kPackPixels = kPackVectors * kFloats;

// Channels [channel, channel + count), count <= 32, of kVectors vectors of pixels: lanes get the sign of channel c in
// bit c. `last` has the lanes that the last vector has.
template <int kVectors, bool kFlips>
XK_TARGET static inline void pack_half_words(const Packing& pack, int64_t pixel, __m256i last, int64_t channel,
                                             int64_t count, __m256i (&half)[kVectors]) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) half[v] = _mm256_setzero_si256();
  const float* x = pack.input + channel * pack.plane + pixel;
  for (int64_t c = 0; c < count; ++c, x += pack.plane) {
    const __m256 threshold = _mm256_set1_ps(pack.threshold[channel + c]);
    const __m256i bit = _mm256_set1_epi32(static_cast<int32_t>(uint32_t{1} << c));
    const __m256i flip = _mm256_set1_epi32(static_cast<int32_t>(pack.flip[channel + c]));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const float* from = x + v * kFloats;
      __m256 value = v + 1 < kVectors ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, last);
      if (kFlips) value = _mm256_xor_ps(value, _mm256_castsi256_ps(flip));
      const __m256i there = _mm256_castps_si256(_mm256_cmp_ps(value, threshold, _CMP_GE_OQ));
      half[v] = _mm256_or_si256(half[v], _mm256_and_si256(there, bit));
    }
  }
}

// Packs up to kVectors vectors of pixels.
template <int kVectors, bool kFlips>
XK_TARGET static void pack_vectors(const Packing& pack, int64_t pixel, int64_t pixels) {
  const __m256i last = first_lanes(pixels - (kVectors - 1) * kFloats);
  for (int64_t w = 0; w < pack.words; ++w) {
    const int64_t channel = w * kWordBits, count = std::min<int64_t>(kWordBits, pack.channels - channel);
    __m256i low[kVectors], high[kVectors];
    pack_half_words<kVectors, kFlips>(pack, pixel, last, channel, std::min<int64_t>(count, kHalfBits), low);
    pack_half_words<kVectors, kFlips>(pack, pixel, last, channel + kHalfBits, std::max<int64_t>(count - kHalfBits, 0),
                                      high);
    uint64_t joined[kVectors * kFloats];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const __m256i even = _mm256_unpacklo_epi32(low[v], high[v]), odd = _mm256_unpackhi_epi32(low[v], high[v]);
      __m256i* const words = reinterpret_cast<__m256i*>(joined + v * kFloats);
      _mm256_storeu_si256(words, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(words + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
    uint64_t* bits = pack.bits + pixel * pack.words + w;
    for (int64_t p = 0; p < pixels; ++p, bits += pack.words) *bits = joined[p];
  }
}

template <bool kFlips>
static void pack_planes_8xN(const Packing& pack) {
  using Function = void (*)(const Packing&, int64_t, int64_t);
  static constexpr Function kFunctions[kPackVectors] = {pack_vectors<1, kFlips>, pack_vectors<2, kFlips>,
                                                        pack_vectors<3, kFlips>, pack_vectors<4, kFlips>};
  for (int64_t first = 0; first < pack.pixels; first += kPackPixels) {
    const int64_t pixels = std::min(kPackPixels, pack.pixels - first);
    kFunctions[ceil_div(pixels, kFloats) - 1](pack, first, pixels);
  }
}

void pack_planes(const Packing& pack) { pack.flips ? pack_planes_8xN<true>(pack) : pack_planes_8xN<false>(pack); }

// The signs of up to eight channels of a pixel, those in `lanes`.
template <bool kFlips>
XK_TARGET static inline uint32_t pack_channels(const Packing& pack, const float* x, int64_t channel, __m256i lanes) {
  __m256 value = _mm256_maskload_ps(x, lanes);
  if (kFlips)
    value = _mm256_xor_ps(value, _mm256_maskload_ps(reinterpret_cast<const float*>(pack.flip + channel), lanes));
  const __m256 over = _mm256_cmp_ps(value, _mm256_maskload_ps(pack.threshold + channel, lanes), _CMP_GE_OQ);
  return sign_bits(_mm256_and_ps(over, _mm256_castsi256_ps(lanes)));
}

template <bool kFlips>
XK_TARGET static void pack_rows_8xN(const Packing& pack) {
  const __m256i all = first_lanes(kFloats);
  const float* x = pack.input;
  for (int64_t p = 0; p < pack.pixels; ++p, x += pack.channels)
    for (int64_t w = 0; w < pack.words; ++w) {
      const int64_t end = std::min(pack.channels, (w + 1) * kWordBits);
      int64_t c = w * kWordBits;
      uint64_t word = 0;
      for (; c + kFloats <= end; c += kFloats)
        word |= uint64_t{pack_channels<kFlips>(pack, x + c, c, all)} << c % kWordBits;
      if (c < end) word |= uint64_t{pack_channels<kFlips>(pack, x + c, c, first_lanes(end - c))} << c % kWordBits;
      pack.bits[p * pack.words + w] = word;
    }
}

void pack_rows(const Packing& pack) { pack.flips ? pack_rows_8xN<true>(pack) : pack_rows_8xN<false>(pack); }

// Training: one bit an element, eight elements an instruction.
XK_TARGET void compare(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
  for (int64_t w = 0; w < words; ++w) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; b += 8, x += 8) {
      const __m256 value = _mm256_loadu_ps(x), size = _mm256_andnot_ps(minus, value);
      const __m256 near = closed ? _mm256_cmp_ps(size, one, _CMP_LE_OQ) : _mm256_cmp_ps(size, one, _CMP_LT_OQ);
      p |= uint64_t{sign_bits(_mm256_cmp_ps(value, zero, _CMP_GE_OQ))} << b;
      i |= uint64_t{sign_bits(near)} << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

// All ones in the lanes whose bit is set.
XK_TARGET static inline __m256i lanes_of(uint64_t bits) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits & 255)), each), each);
}

XK_TARGET void choose(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m256 low = _mm256_set1_ps(-size), high = _mm256_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, values += 8)
      _mm256_storeu_ps(values, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(lanes_of(positive[w] >> b))));
}

XK_TARGET void keep(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, x += 8, result += 8)
      _mm256_storeu_ps(result, _mm256_and_ps(_mm256_loadu_ps(x), _mm256_castsi256_ps(lanes_of(inside[w] >> b))));
}

}  // namespace xk::avx2
#endif
