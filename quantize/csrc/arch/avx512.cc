// AVX-512 with VPOPCNTDQ: tiles of 16 output channels by up to eight pixels, in registers.
#if defined(__x86_64__)
#include <algorithm>

#include "arch/avx512.h"

namespace xk::avx512 {

#include "arch/portable.inc"

// x = (a ^ w) & mask where kMasked, in one instruction: its truth table over (a, w, mask), mask lowest, is 0x28.
template <int kPixels, bool kMasked>
XK_POPCOUNT_TARGET static void dot_tile_16xN(const Tile<Word>& t) {
  __m512i differ[kPixels][2];
#pragma GCC unroll 8
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

static void dot_words(const Tile<Word>& t) {
  using Function = void (*)(const Tile<Word>&);
  static constexpr Function kFunctions[2][kMaxTilePixels] = {
      {dot_tile_16xN<1, false>, dot_tile_16xN<2, false>, dot_tile_16xN<3, false>, dot_tile_16xN<4, false>,
       dot_tile_16xN<5, false>, dot_tile_16xN<6, false>, dot_tile_16xN<7, false>, dot_tile_16xN<8, false>},
      {dot_tile_16xN<1, true>, dot_tile_16xN<2, true>, dot_tile_16xN<3, true>, dot_tile_16xN<4, true>,
       dot_tile_16xN<5, true>, dot_tile_16xN<6, true>, dot_tile_16xN<7, true>, dot_tile_16xN<8, true>}};
  kFunctions[t.mask != nullptr][t.pixels - 1](t);
}

constexpr int64_t kTapHalves = 8;  // dot_tap_16xN keeps up to so many halves of the weights in registers

// Sums from halves. The lanes of a vector are 32 bits wide: kLanes output channels.
template <int kPixels>
XK_POPCOUNT_TARGET static inline void store_dots(const Tile<Half>& t, const __m512i (&differ)[kPixels]) {
  const __m512i terms = _mm512_set1_epi32(*t.terms);
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p)
    _mm512_storeu_si512(t.dots + p * t.dots_stride, _mm512_sub_epi32(terms, _mm512_add_epi32(differ[p], differ[p])));
}

// `ones` counts sum bits, `twos` carries where runs are chains: see form_chains(). Halves behind the last carry, all of
// them where there are no chains, are counted one by one.
template <int kPixels, bool kChained>
XK_POPCOUNT_TARGET static void dot_halves_16xN(const Tile<Half>& t) {
  __m512i ones[kPixels], twos[kPixels], sum[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) ones[p] = twos[p] = _mm512_setzero_si512();
  for (size_t r = 0; r < t.run_count; ++r) {
    const Half* a = t.input + (t.origin + t.runs[r].input);
    const Half* w = t.weights + t.runs[r].weight * kLanes;
    int64_t i = 0;
    if (kChained) {
      const __m512i first = _mm512_loadu_si512(w);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sum[p] = products(first, a + p * t.input_stride);
      for (i = 1; i + 1 < t.runs[r].length; i += 2) {
        const __m512i odd = _mm512_loadu_si512(w + i * kLanes), even = _mm512_loadu_si512(w + (i + 1) * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          const __m512i x = products(odd, a + p * t.input_stride + i);
          const __m512i next = products(even, a + p * t.input_stride + i + 1);
          twos[p] = add_ones(twos[p], _mm512_ternarylogic_epi32(sum[p], x, next, 0xd4));
          sum[p] = next;
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) ones[p] = add_ones(ones[p], sum[p]);
    }
    for (; i < t.runs[r].length; ++i) {
      const __m512i weights = _mm512_loadu_si512(w + i * kLanes);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) ones[p] = add_ones(ones[p], products(weights, a + p * t.input_stride + i));
      if (kChained) break;  // there is one at most
    }
  }
#pragma GCC unroll 8
  for (int p = 0; kChained && p < kPixels; ++p)
    ones[p] = _mm512_add_epi32(ones[p], _mm512_add_epi32(twos[p], twos[p]));
  store_dots<kPixels>(t, ones);
}

// Sums over one tap, whose weights stay in registers while one pixel after the other is computed.
template <int kLength>
XK_POPCOUNT_TARGET static void dot_tap_16xN(const Tile<Half>& t) {
  const Half* a = t.input + (t.origin + t.runs[0].input);
  const Half* w = t.weights + t.runs[0].weight * kLanes;
  const __m512i terms = _mm512_set1_epi32(*t.terms);
  __m512i weights[kLength];
#pragma GCC unroll 8
  for (int i = 0; i < kLength; ++i) weights[i] = _mm512_loadu_si512(w + i * kLanes);
  int32_t* dots = t.dots;
#pragma GCC unroll 4
  for (int p = 0; p < t.pixels; ++p, a += t.input_stride, dots += t.dots_stride) {
    __m512i twos = _mm512_setzero_si512(), sum = products(weights[0], a);
#pragma GCC unroll 8
    for (int i = 1; i + 1 < kLength; i += 2) {
      const __m512i next = products(weights[i + 1], a + i + 1);
      twos = add_ones(twos, carry(products(weights[i], a + i), sum, next));
      sum = next;
    }
    __m512i differ = add_ones(_mm512_add_epi32(twos, twos), sum);
    if (kLength % 2 == 0) differ = add_ones(differ, products(weights[kLength - 1], a + kLength - 1));
    _mm512_storeu_si512(dots, _mm512_sub_epi32(terms, _mm512_add_epi32(differ, differ)));
  }
}

static void dot_halves(const Tile<Half>& t) {
  using Function = void (*)(const Tile<Half>&);
  static constexpr Function kTaps[kTapHalves + 1] = {nullptr,         nullptr,         nullptr,
                                                     dot_tap_16xN<3>, dot_tap_16xN<4>, dot_tap_16xN<5>,
                                                     dot_tap_16xN<6>, dot_tap_16xN<7>, dot_tap_16xN<8>};
  if (t.chained && t.run_count == 1 && t.runs[0].length <= kTapHalves) return kTaps[t.runs[0].length](t);
  static constexpr Function kFunctions[2][kMaxTilePixels] = {
      {dot_halves_16xN<1, false>, dot_halves_16xN<2, false>, dot_halves_16xN<3, false>, dot_halves_16xN<4, false>,
       dot_halves_16xN<5, false>, dot_halves_16xN<6, false>, dot_halves_16xN<7, false>, dot_halves_16xN<8, false>},
      {dot_halves_16xN<1, true>, dot_halves_16xN<2, true>, dot_halves_16xN<3, true>, dot_halves_16xN<4, true>,
       dot_halves_16xN<5, true>, dot_halves_16xN<6, true>, dot_halves_16xN<7, true>, dot_halves_16xN<8, true>}};
  kFunctions[t.chained][t.pixels - 1](t);
}

// A permutation takes an entry of 16 for each of 16 filters by the low four bits of a lane; those above do not count.
// Of one plane all sums stay in registers only where the compiler knows that there is one.
template <int kRows, int kPlanes>
XK_TARGET static void sum_signed_rows(const SignedSums& c) {
  constexpr int kFields = 8, kBits = 4, kEntries = 1 << kBits;
  __m512 sums[kRows][4] = {};  // [row][field modulo 4]
  const uint32_t* weights = c.weights;
  for (int j = 0; j < kPlanes; ++j, weights += c.plane_pitch)
    for (int64_t w = 0; w < c.words; ++w) {
      __m512i fields = _mm512_loadu_si512(weights + w * kLanes);
      const float* table = c.tables + w * kFields * kEntries;
#pragma GCC unroll 8
      for (int f = 0; f < kFields; ++f, table += kEntries) {
        for (int r = 0; r < kRows; ++r)
          sums[r][f % 4] =
              _mm512_add_ps(sums[r][f % 4], _mm512_permutexvar_ps(fields, _mm512_loadu_ps(table + r * c.row_pitch)));
        fields = _mm512_srli_epi32(fields, kBits);
      }
    }
  for (int r = 0; r < kRows; ++r) {
    float* y = c.sums + r * kLanes;
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[r][0], sums[r][1]), _mm512_add_ps(sums[r][2], sums[r][3]));
    _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), sum));
  }
}

void sum_signed(const SignedSums& c) {
  using Function = void (*)(const SignedSums&);
  static constexpr Function kRows[kMostSignedPlanes][kSignedRows] = {
      {sum_signed_rows<1, 1>, sum_signed_rows<2, 1>, sum_signed_rows<3, 1>, sum_signed_rows<4, 1>},
      {sum_signed_rows<1, 2>, sum_signed_rows<2, 2>, sum_signed_rows<3, 2>, sum_signed_rows<4, 2>}};
  kRows[c.planes - 1][c.rows - 1](c);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.dot_halves = dot_halves;
  m.convolve_planes = convolve_planes;
  m.store_planes = store_planes;
  m.store_rows = store_rows;
  m.store_signs = store_signs;
  m.pack_planes = pack_planes;
  m.pack_rows = pack_rows;
  m.merge_fields = merge_fields;
  m.compare = compare;
  m.choose = choose;
  m.keep = keep;
  m.sum_signed_inputs = 4;
  m.permutes_floats = true;
  m.sum_signed = sum_signed;
  return m;
}();

bool usable() { return avx512bw::usable() && __builtin_cpu_supports("avx512vpopcntdq"); }

}  // namespace xk::avx512
#endif
