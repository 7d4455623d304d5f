// AVX2: sums by look-up of nibbles, see nibbles.inc.
#if defined(__x86_64__)
#include <algorithm>

#include "arch/avx2.h"

namespace xk::avx2 {

#include "arch/portable.inc"

constexpr int kVectorBytes = 32;
using Vector = __m256i;

XK_TARGET static inline Vector repeat(const uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

XK_TARGET static inline Vector look_up(Vector table, Vector index) { return _mm256_shuffle_epi8(table, index); }

XK_TARGET static inline Vector sum_bytes(Vector v) { return _mm256_sad_epu8(v, _mm256_setzero_si256()); }

XK_TARGET static inline void store_words(Vector words, int32_t* to) {
  const __m256i low = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(low));
}

// Filters of 128 bits are those of a block: even and odd ones of eight each.
XK_TARGET static inline void store_sums(Vector even, Vector odd, int32_t* to, int64_t pitch) {
  const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
  __m256i* const first = reinterpret_cast<__m256i*>(to);
  __m256i* const second = reinterpret_cast<__m256i*>(to + pitch);
  _mm256_storeu_si256(first, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(low)));
  _mm256_storeu_si256(first + 1, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(high)));
  _mm256_storeu_si256(second, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(low, 1)));
  _mm256_storeu_si256(second + 1, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(high, 1)));
}

#include "arch/nibbles.inc"

// Pairs one by one: a second one would need more than 16 registers.
static void count_pairs(const PairTile& t) {
  const bool two = t.lanes > kVectorBytes;
  if (t.single) return two ? count_tile<1, 2, true>(t, 0) : count_tile<1, 1, true>(t, 0);
  for (int64_t p = 0; p < t.pairs; ++p) two ? count_tile<1, 2, false>(t, p) : count_tile<1, 1, false>(t, p);
}

// A permutation takes an entry of 8 for each of 8 filters by the low three bits of a lane; those above do not count.
template <int kRows>
XK_TARGET static void sum_signed_rows(const SignedSums& c) {
  constexpr int kFields = 10, kBits = 3, kEntries = 1 << kBits;
  __m256 sums[kRows][2][2] = {};  // [row][half of the lanes][even and odd fields]
  for (int64_t i = 0; i < c.words * c.planes; ++i) {
    const int64_t w = i / c.planes;
    const uint32_t* const weights = c.weights + i % c.planes * c.plane_pitch + w * kLanes;
    __m256i fields[2];
    for (int h = 0; h < 2; ++h) fields[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights) + h);
    const float* table = c.tables + w * kFields * kEntries;
#pragma GCC unroll 10
    for (int f = 0; f < kFields; ++f, table += kEntries) {
      for (int r = 0; r < kRows; ++r) {
        const __m256 entries = _mm256_loadu_ps(table + r * c.row_pitch);
        for (int h = 0; h < 2; ++h)
          sums[r][h][f % 2] = _mm256_add_ps(sums[r][h][f % 2], _mm256_permutevar8x32_ps(entries, fields[h]));
      }
      for (int h = 0; h < 2; ++h) fields[h] = _mm256_srli_epi32(fields[h], kBits);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < 2; ++h) {
      float* y = c.sums + r * kLanes + h * 8;
      _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_add_ps(sums[r][h][0], sums[r][h][1])));
    }
}

static void sum_signed(const SignedSums& c) {
  using Function = void (*)(const SignedSums&);
  static constexpr Function kRows[kSignedRows] = {sum_signed_rows<1>, sum_signed_rows<2>, sum_signed_rows<3>, sum_signed_rows<4>};
  kRows[c.rows - 1](c);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.lookup_lanes = kVectorBytes;
  m.count_pairs = count_pairs;
  m.offsets_of = offsets_of;
  m.join_offsets = join_offsets;
  m.split_nibbles = split_nibbles;
  m.store_planes = store_planes;
  m.store_rows = store_rows;
  m.store_signs = store_signs;
  m.pack_planes = pack_planes;
  m.pack_rows = pack_rows;
  m.compare = compare;
  m.choose = choose;
  m.keep = keep;
  m.sum_signed_inputs = 3;
  m.sum_signed = sum_signed;
  return m;
}();

bool usable() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"); }

}  // namespace xk::avx2
#endif
