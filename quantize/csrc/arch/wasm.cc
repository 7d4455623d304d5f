// WebAssembly with SIMD: sums by look-up of nibbles, see nibbles.inc. Browsers make of a swizzle what the machine has,
// vpshufb or tbl; a popcount of bytes is one instruction of ARM and about eight of x86, so words come second there too.
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

#include <algorithm>
#include <cstring>

#include "arch/microkernels.h"

namespace xk::wasm {

#define XK_TARGET
#include "arch/portable.inc"

constexpr int kVectorBytes = 16;
using Vector = v128_t;

static inline Vector repeat(const uint8_t* bytes) { return wasm_v128_load(bytes); }

static inline Vector look_up(Vector table, Vector index) { return wasm_i8x16_swizzle(table, index); }

static inline Vector sum_bytes(Vector v) {
  const Vector fours = wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(v));
  return wasm_i64x2_add(wasm_u64x2_shr(fours, 32), wasm_v128_and(fours, wasm_i64x2_const_splat(0xffffffff)));
}

static inline void store_words(Vector words, int32_t* to) {
  wasm_v128_store64_lane(to, wasm_i32x4_shuffle(words, words, 0, 2, 0, 2), 0);
}

static inline void store_sums(Vector even, Vector odd, int32_t* to, int64_t) {
  const Vector low = wasm_i16x8_shuffle(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
  const Vector high = wasm_i16x8_shuffle(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
  wasm_v128_store(to, wasm_i32x4_extend_low_i16x8(low));
  wasm_v128_store(to + 4, wasm_i32x4_extend_high_i16x8(low));
  wasm_v128_store(to + 8, wasm_i32x4_extend_low_i16x8(high));
  wasm_v128_store(to + 12, wasm_i32x4_extend_high_i16x8(high));
}

#define XK_COUNT_BITS wasm_i8x16_popcnt
#include "arch/nibbles.inc"

template <int kVectors>
static void count_vectors(const PairTile& t) {
  if (t.single) return count_tile<1, kVectors, true>(t, 0);
  int64_t p = 0;
  for (; p + 2 <= t.pairs; p += 2) count_tile<2, kVectors, false>(t, p);
  if (p < t.pairs) count_tile<1, kVectors, false>(t, p);
}

// Two vectors of filters by two pairs: more would need more than 16 registers.
static void count_pairs(const PairTile& tile) {
  PairTile t = tile;
  for (int lane = 0; lane < tile.lanes; lane += 2 * kVectorBytes) {
    tile.lanes - lane > kVectorBytes ? count_vectors<2>(t) : count_vectors<1>(t);
    t.nibbles += 2 * kVectorBytes;
    t.octets += 2 * kVectorBytes;
    t.counts += 2 * kVectorBytes;
    t.dots += 2 * kVectorBytes / kLanes * t.dots_pitch;
  }
}

static void store_signs(const Epilogue& f, int64_t pixels, int32_t* dots, uint16_t* signs) {
  if (!f.limits) return portable::store_signs(f, pixels, dots, signs);
  Vector limit[4], flip[4];
  for (int i = 0; i < 4; ++i) {
    limit[i] = wasm_v128_load(f.limits->limit + 4 * i);
    flip[i] = wasm_v128_load(f.limits->flip + 4 * i);
  }
  for (int64_t p = 0; p < pixels; ++p, dots += kLanes) {
    Vector above[4];
    for (int i = 0; i < 4; ++i)
      above[i] = wasm_i32x4_gt(wasm_v128_xor(wasm_v128_load(dots + 4 * i), flip[i]), limit[i]);
    const Vector low = wasm_i16x8_narrow_i32x4(above[0], above[1]), high = wasm_i16x8_narrow_i32x4(above[2], above[3]);
    signs[p] = static_cast<uint16_t>(wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(low, high)));
  }
}

// Four pixels by four lanes at a time.
static void store_planes(const Epilogue& f, int64_t pixels, int32_t* dots, int32_t* output, int64_t pitch) {
  if (!f.integers) portable::apply_epilogue(f, pixels, dots);
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4)
    for (int first = 0; first < f.lanes; first += 4) {
      Vector r[4];
      for (int i = 0; i < 4; ++i) r[i] = wasm_v128_load(dots + (p + i) * kLanes + first);
      const Vector a = wasm_i32x4_shuffle(r[0], r[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(r[2], r[3], 0, 4, 1, 5);
      const Vector c = wasm_i32x4_shuffle(r[0], r[1], 2, 6, 3, 7), d = wasm_i32x4_shuffle(r[2], r[3], 2, 6, 3, 7);
      const Vector columns[4] = {wasm_i64x2_shuffle(a, b, 0, 2), wasm_i64x2_shuffle(a, b, 1, 3),
                                 wasm_i64x2_shuffle(c, d, 0, 2), wasm_i64x2_shuffle(c, d, 1, 3)};
      for (int l = first; l < std::min(first + 4, f.lanes); ++l)
        wasm_v128_store(output + l * pitch + p, columns[l - first]);
    }
  portable::transpose(dots + p * kLanes, pixels - p, f.lanes, output + p, pitch);
}

constexpr Microkernels kMicrokernels = [] {
  Microkernels m = portable::microkernels();
  m.dot_words = dot_words;
  m.lookup_lanes = kVectorBytes;
  m.count_pairs = count_pairs;
  m.offsets_of = offsets_of;
  m.join_offsets = join_offsets;
  m.split_nibbles = split_nibbles;
  m.store_signs = store_signs;
  m.store_planes = store_planes;
  return m;
}();

}  // namespace xk::wasm
#endif
