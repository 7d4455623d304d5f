// AVX-512 without a popcount of vectors (Skylake-SP, Cascade Lake): sums by look-up of nibbles, see nibbles.inc, and
// all else as with it.
#if defined(__x86_64__)
#include <algorithm>

#include "arch/avx512.h"

namespace xk::avx512bw {

#include "arch/portable.inc"

constexpr int kVectorBytes = 64;
using Vector = __m512i;

XK_TARGET static inline Vector repeat(const uint8_t* bytes) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

XK_TARGET static inline Vector look_up(Vector table, Vector index) { return _mm512_shuffle_epi8(table, index); }

XK_TARGET static inline Vector sum_bytes(Vector v) { return _mm512_sad_epu8(v, _mm512_setzero_si512()); }

XK_TARGET static inline void store_words(Vector words, int32_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi64_epi32(words));
}

// Filters of 128 bits are those of a block: even and odd ones of eight each.
XK_TARGET static inline void store_sums(Vector even, Vector odd, int32_t* to, int64_t pitch) {
  const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
  // A block's 16 filters, side by side: quarters 0 and 1 of the four.
  const __m512i early = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i late = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i both[2] = {_mm512_permutex2var_epi64(low, early, high), _mm512_permutex2var_epi64(low, late, high)};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i, to += 2 * pitch) {
    _mm512_storeu_si512(to, _mm512_cvtepi16_epi32(_mm512_castsi512_si256(both[i])));
    _mm512_storeu_si512(to + pitch, _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(both[i], 1)));
  }
}

#include "arch/nibbles.inc"

static void count_pairs(const PairTile& t) {
  if (t.single) return count_tile<1, 1, true>(t, 0);
  int64_t p = 0;
  for (; p + 4 <= t.pairs; p += 4) count_tile<4, 1, false>(t, p);
  if (p + 2 <= t.pairs) count_tile<2, 1, false>(t, p), p += 2;
  if (p < t.pairs) count_tile<1, 1, false>(t, p);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.lookup_lanes = kVectorBytes;
  m.count_pairs = count_pairs;
  m.offsets_of = offsets_of;
  m.join_offsets = join_offsets;
  m.split_nibbles = split_nibbles;
  m.store_planes = avx512::store_planes;
  m.store_rows = avx512::store_rows;
  m.store_signs = avx512::store_signs;
  m.pack_planes = avx512::pack_planes;
  m.pack_rows = avx512::pack_rows;
  m.merge_fields = avx512::merge_fields;
  m.compare = avx512::compare;
  m.choose = avx512::choose;
  m.keep = avx512::keep;
  m.permutes_floats = true;
  m.sum_signed = avx512::sum_signed;
  return m;
}();

bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("bmi2");
}

}  // namespace xk::avx512bw
#endif
