// AMX int8: tiles of 32 output pixels by 32 output channels, 64 products a step.
//
// Weights stay bits in memory and become bytes just before their use, one instruction for 64 of them, in the
// shadow of the matrix unit. (Bytes kept for all tiles of a chunk were slower: they crowd the first cache.)
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arch/microkernels.h"

#define XK_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,gfni")))

namespace xk::amx {

// The compiler's own intrinsics do not tell it which memory they read. Tiles 0 to 3 are sums [pixels][block],
// 4 and 5 pixels, 6 and 7 weights.
#define TILE_LOAD(tile, base, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_STORE(tile, base) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(int64_t{64}) : "memory")
#define TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
#define TILE_DOT(sum, pixels, weights) asm volatile("tdpbssd %%tmm" #weights ", %%tmm" #pixels ", %%tmm" #sum ::)

constexpr int kTileBytes = 1024;

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

XK_TARGET static inline __m512i signs(uint64_t bits) {
  return _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(-1), _mm512_set1_epi8(1));
}

// A byte of the result is bit q of a byte of the word, as -1 for 0 and +1 for 1, q the byte's eighth of the
// vector: one affine map over GF(2) whose upper seven rows select the bit and whose constant flips them.
XK_TARGET static inline __m512i weight_signs(uint64_t word) {
  const __m512i select = _mm512_set_epi64(0x0080808080808080, 0x0040404040404040, 0x0020202020202020,
                                          0x0010101010101010, 0x0008080808080808, 0x0004040404040404,
                                          0x0002020202020202, 0x0001010101010101);
  return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64(static_cast<int64_t>(word)), select, 0xff);
}

// Word k holds weights 4 k to 4 k + 3 of 16 channels: row k of a tile.
XK_TARGET static inline void expand_whole(const uint64_t* words, int8_t* tile) {
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) _mm512_store_si512(tile + 64 * k, weight_signs(words[k]));
}

XK_TARGET static inline void expand_masked(const uint64_t* words, const uint64_t* masks, int8_t* tile) {
  for (int k = 0; k < 16; ++k)
    _mm512_store_si512(tile + 64 * k, _mm512_maskz_mov_epi8(masks[k], weight_signs(words[k])));
}

// `count` <= 64 bits from bit `first` of a pixel.
static inline uint64_t pixel_bits(const uint64_t* pixel, int64_t first, int64_t count) {
  const int shift = static_cast<int>(first % kWordBits);
  const uint64_t low = pixel[first / kWordBits] >> shift;
  return shift + count <= kWordBits ? low : low | pixel[first / kWordBits + 1] << (kWordBits - shift);
}

XK_TARGET static void expand_row(const ByteRow& r) {
  const __mmask64 valid = ~uint64_t{0} >> (64 - r.channels), stored = ~uint64_t{0} >> (64 - r.pitch);
  int8_t* target = r.bytes;
  for (int64_t i = 0, x = r.first; i < r.count; ++i, x += r.step, target += r.pitch) {
    __m512i bytes = _mm512_setzero_si512();
    if (x >= 0 && x < r.width)
      bytes = _mm512_maskz_mov_epi8(valid, signs(pixel_bits(r.bits + x * r.words, r.channel, r.channels)));
    _mm512_mask_storeu_epi8(target, stored, bytes);
  }
}

XK_TARGET static inline void expand_weights(const ByteTile& t, size_t step, int8_t* tiles) {
  const uint64_t *first = t.weights[0] + 16 * step, *second = t.weights[1] + 16 * step;
  if (t.steps[step].whole) {
    expand_whole(first, tiles);
    expand_whole(second, tiles + kTileBytes);
  } else {
    expand_masked(first, t.tail_masks, tiles);
    expand_masked(second, t.tail_masks, tiles + kTileBytes);
  }
}

// Weights are bytes in a ring of steps, expanded some steps before their use for the stores to finish.
constexpr size_t kRing = 4, kAhead = 2;
// More than about 24 steps between two tile stores run a third slower on Sapphire Rapids: store one now and then.
constexpr size_t kStoreEvery = 4;

// Sums of 16 or 32 pixels, [block][pixel][kLanes]. The ring goes around tile after tile: the steps of the next
// one, which has the same weights, follow the last of this one. Returns the slot of the next step.
template <int kPixelTiles>
XK_TARGET static size_t dot_tiles(const ByteTile& t, const int8_t* input, int8_t* ring, size_t slot,
                                  int32_t* const (&sums)[2]) {
  const int64_t pitch = t.pitch;
  const size_t steps = t.step_count;
  size_t ahead = kAhead % steps;
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  for (size_t i = 0; i < steps; ++i, ++slot) {
    const int8_t* weights = ring + slot % kRing * 2 * kTileBytes;
    const int8_t* pixels = input + t.steps[i].input;
    expand_weights(t, ahead, ring + (slot + kAhead) % kRing * 2 * kTileBytes);
    if (++ahead == steps) ahead = 0;
    TILE_LOAD(4, pixels, pitch);
    TILE_LOAD(6, weights, 64);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, weights + kTileBytes, 64);
    TILE_DOT(1, 4, 7);
    if (i % kStoreEvery == kStoreEvery - 1) TILE_STORE(0, sums[0]);
    if (kPixelTiles == 1) continue;
    TILE_LOAD(5, pixels + 16 * pitch, pitch);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_STORE(0, sums[0]);
  TILE_STORE(1, sums[1]);
  if (kPixelTiles == 2) {
    TILE_STORE(2, sums[0] + 256);
    TILE_STORE(3, sums[1] + 256);
  }
  return slot;
}

XK_TARGET static void dot_bytes(const ByteTile& t) {
  static constexpr TileConfig config;
  asm volatile("ldtilecfg %0" ::"m"(config));
  alignas(64) int8_t ring[kRing * 2 * kTileBytes];
  const int64_t positions = (t.rows - 1) * t.row_pitch + t.columns;
  for (size_t i = 0; i < kAhead; ++i) expand_weights(t, i % t.step_count, ring + i * 2 * kTileBytes);
  size_t slot = 0;
  for (int64_t p = 0; p < positions; p += 32) {
    int32_t* const sums[2] = {t.dots[0] + p * kLanes, t.dots[1] + p * kLanes};
    slot = positions - p > 16 ? dot_tiles<2>(t, t.input + p * t.pitch, ring, slot, sums)
                              : dot_tiles<1>(t, t.input + p * t.pitch, ring, slot, sums);
  }
  asm volatile("tilerelease" ::);
  // Close the gaps between rows. Not tile by tile: loads would wait for the tiles' stores.
  for (int32_t* dots : t.dots)
    for (int64_t row = 1; row < t.rows && t.row_pitch > t.columns; ++row)
      for (int64_t column = 0; column < t.columns; ++column)
        _mm512_store_si512(dots + (row * t.columns + column) * kLanes,
                           _mm512_load_si512(dots + (row * t.row_pitch + column) * kLanes));
}

constexpr ByteMicrokernels kMicrokernels = {expand_row, dot_bytes};

// The processor has it, the system saves its registers, and grants this process their use.
bool usable() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    if (!avx512::usable() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool tile = d >> 24 & 1, int8 = d >> 25 & 1, gfni = c >> 8 & 1;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return tile && int8 && gfni && !syscall(SYS_arch_prctl, kRequestPermission, kTileData);
  }();
  return granted;
}

}  // namespace xk::amx
#endif
