// The tiles of AMX, and bits on their way into them.
#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#define XK_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,gfni")))

namespace xk {
namespace amx {

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

// Tiles in use for a task, on whatever thread it runs.
class TilesInUse {
 public:
  TilesInUse() {
    static const TileConfig config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TilesInUse() { asm volatile("tilerelease" ::); }
};

XK_TARGET static inline __m512i signs(uint64_t bits) {
  return _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(-1), _mm512_set1_epi8(1));
}

// A byte of the result is bit q of a byte of the word, as -1 for 0 and +1 for 1, q the byte's eighth of the
// vector: one affine map over GF(2) whose upper seven rows select the bit and whose constant inverts them.
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

// The processor has it, the system saves its registers, and grants this process their use.
static inline bool granted() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tile = d >> 24 & 1, int8 = d >> 25 & 1, gfni = c >> 8 & 1;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return tile && int8 && gfni && !syscall(SYS_arch_prctl, kRequestPermission, kTileData);
}

}  // namespace amx
}  // namespace xk
