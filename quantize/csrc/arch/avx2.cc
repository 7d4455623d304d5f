// AVX2: popcount by two table look-ups of nibbles a byte, counted in bytes and widened before they overflow.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "arch/microkernels.h"

namespace xk::avx2 {

#define XK_TARGET __attribute__((target("avx2,popcnt,bmi2")))
#define XK_DEPOSIT _pdep_u64
#include "arch/portable.inc"

constexpr int kVectors = 2;          // of four channels each
constexpr int kByteWords = 255 / 8;  // a byte gains at most 8 with each word

// How many bits differ, counted in bytes or in words; [pixel][vector].
template <int kPixels>
using Counts = __m256i[kPixels][kVectors];

template <int kPixels>
XK_TARGET static inline void clear(Counts<kPixels>& counts) {
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) counts[p][0] = counts[p][1] = _mm256_setzero_si256();
}

template <int kPixels>
XK_TARGET static inline void widen(const Counts<kPixels>& bytes, Counts<kPixels>& words) {
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      words[p][v] = _mm256_add_epi64(words[p][v], _mm256_sad_epu8(bytes[p][v], _mm256_setzero_si256()));
}

template <int kPixels, bool kMasked>
XK_TARGET static inline void count_words(const Tile<Word>& t, const uint64_t* a, const uint64_t* w, int64_t first,
                                         int64_t n, Counts<kPixels>& bytes) {
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                         2, 3, 2, 3, 3, 4);
  for (int64_t i = first; i < first + n; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      const __m256i bits = _mm256_set1_epi64x(static_cast<int64_t>(a[i * t.input_step + p * t.input_stride]));
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i * kLanes + 4 * v));
        x = _mm256_xor_si256(x, bits);
        if (kMasked)
          x = _mm256_and_si256(x, _mm256_set1_epi64x(static_cast<int64_t>(t.mask[p * t.mask_stride + i])));
        const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
        const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
        bytes[p][v] = _mm256_add_epi8(bytes[p][v], _mm256_add_epi8(low, high));
      }
    }
}

// Where kShort, windows have at most kByteWords words, and bytes cannot overflow.
template <int kPixels, bool kMasked, bool kShort>
XK_TARGET static void dot_tile_8xN(const Tile<Word>& t, int first_pixel, int first_lane) {
  Counts<kPixels> bytes, words;
  clear<kPixels>(bytes);
  clear<kPixels>(words);
  int64_t room = kByteWords;
  for (size_t r = 0; r < t.run_count; ++r) {
    const uint64_t* a = t.input + (t.origin + first_pixel * t.input_stride + t.runs[r].input);
    const uint64_t* w = t.weights + t.runs[r].weight * kLanes + first_lane;
    for (int64_t i = 0; i < t.runs[r].length;) {
      const int64_t n = kShort ? t.runs[r].length : std::min(room, t.runs[r].length - i);
      count_words<kPixels, kMasked>(t, a, w, i, n, bytes);
      i += n;
      if (kShort || (room -= n) > 0) continue;
      widen<kPixels>(bytes, words);
      clear<kPixels>(bytes);
      room = kByteWords;
    }
  }
  widen<kPixels>(bytes, words);
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
    const __m128i terms = _mm_set1_epi32(t.terms[(first_pixel + p) * t.terms_stride]);
    int32_t* dots = t.dots + (first_pixel + p) * t.dots_stride + first_lane;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m128i differ = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(words[p][v], even));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dots + 4 * v),
                       _mm_sub_epi32(terms, _mm_add_epi32(differ, differ)));
    }
  }
}

template <bool kMasked, bool kShort>
static void dot_tile_16xN(Tile<Word> t) {
  const uint64_t* mask = t.mask;
  for (int p = 0; p < t.pixels; p += 4) {
    if (kMasked) t.mask = mask + p * t.mask_stride;
    for (int lane = 0; lane < kLanes; lane += 4 * kVectors) switch (std::min(4, t.pixels - p)) {
        case 1: dot_tile_8xN<1, kMasked, kShort>(t, p, lane); break;
        case 2: dot_tile_8xN<2, kMasked, kShort>(t, p, lane); break;
        case 3: dot_tile_8xN<3, kMasked, kShort>(t, p, lane); break;
        default: dot_tile_8xN<4, kMasked, kShort>(t, p, lane);
      }
  }
}

static void dot_words(const Tile<Word>& t) {
  int64_t words = 0;
  for (size_t r = 0; r < t.run_count; ++r) words += t.runs[r].length;
  if (words <= kByteWords)
    t.mask ? dot_tile_16xN<true, true>(t) : dot_tile_16xN<false, true>(t);
  else
    t.mask ? dot_tile_16xN<true, false>(t) : dot_tile_16xN<false, false>(t);
}

XK_TARGET static inline void transpose_8x8(__m256* r) {
  __m256 a[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    a[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = a[i];
}

XK_TARGET static void store_planes(const Epilogue& epilogue, int64_t pixels, int32_t* rows, int32_t* planes,
                                   int64_t pitch) {
  Epilogue f = epilogue;  // a copy, which the stores cannot change
  const __m256 floor = _mm256_set1_ps(f.relu ? 0.0f : -std::numeric_limits<float>::infinity());
  int64_t p = 0;
  for (; p + 8 <= pixels; p += 8) {
    const __m256 k = f.input_scale ? _mm256_loadu_ps(f.input_scale + p) : _mm256_set1_ps(1.0f);
    for (int first = 0; first < f.lanes; first += 8) {
      __m256 block[8];
      for (int i = 0; i < 8; ++i)
        block[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows + (p + i) * kLanes + first));
      transpose_8x8(block);
      for (int l = first; l < std::min(first + 8, f.lanes); ++l) {
        __m256 y = block[l - first];
        if (!f.integers) {
          y = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_castps_si256(y)), _mm256_set1_ps(f.scale[l]));
          y = _mm256_add_ps(_mm256_mul_ps(y, k), _mm256_set1_ps(f.bias[l]));
          y = _mm256_max_ps(floor, y);  // the second operand where one is NaN
        }
        _mm256_storeu_ps(reinterpret_cast<float*>(planes + l * pitch + p), y);
      }
    }
  }
  rows += p * kLanes;
  if (f.input_scale) f.input_scale += p;
  if (!f.integers) portable::apply_epilogue(f, pixels - p, rows);
  portable::transpose(rows, pixels - p, f.lanes, planes + p, pitch);
}

XK_TARGET static void compare(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
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
XK_TARGET static inline __m256i lanes_of(uint64_t bits) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits & 255)), each), each);
}

XK_TARGET static void choose(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m256 low = _mm256_set1_ps(-size), high = _mm256_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, values += 8)
      _mm256_storeu_ps(values, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(lanes_of(positive[w] >> b))));
}

XK_TARGET static void keep(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, x += 8, result += 8)
      _mm256_storeu_ps(result, _mm256_and_ps(_mm256_loadu_ps(x), _mm256_castsi256_ps(lanes_of(inside[w] >> b))));
}

// A permutation takes an entry of 8 for each of 8 filters by the low three bits of a lane; those above do not count.
template <int kRows>
XK_TARGET static void look_up_rows(const LookUp& c) {
  constexpr int kFields = 10, kBits = 3, kEntries = 1 << kBits;
  __m256 sums[kRows][2][2] = {};  // [row][half of the lanes][even and odd fields]
  for (int64_t w = 0; w < c.words; ++w) {
    __m256i fields[2];
    for (int h = 0; h < 2; ++h)
      fields[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(c.weights + w * kLanes) + h);
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

static void look_up(const LookUp& c) {
  using Function = void (*)(const LookUp&);
  static constexpr Function kRows[kLookUpRows] = {look_up_rows<1>, look_up_rows<2>, look_up_rows<3>, look_up_rows<4>};
  kRows[c.rows - 1](c);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.store_planes = store_planes;
  m.compare = compare;
  m.choose = choose;
  m.keep = keep;
  m.look_up_inputs = 3;
  m.look_up = look_up;
  return m;
}();

bool usable() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"); }

}  // namespace xk::avx2
#endif
