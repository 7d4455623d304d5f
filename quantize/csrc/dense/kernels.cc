#include "dense/kernels.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace xk::dense {

namespace {

bool always() { return true; }

// Pairs of 16-bit numbers. A compiler makes vectors of the lanes.
void sum_pairs(const Tile& t) {
  for (int b = 0; b < t.blocks; ++b)
    for (int p = 0; p < t.pixels; ++p) {
      const uint8_t* const window = t.input + p * t.pixel_bytes;
      const uint8_t* weights = t.weights + b * t.steps * kLanes * kStepBytes;
      int32_t sums[kLanes];
      std::memcpy(sums, t.start + b * kLanes, sizeof sums);
      for (int64_t i = 0; i < t.steps; ++i, weights += kLanes * kStepBytes) {
        int16_t x[2], w[2 * kLanes];
        std::memcpy(x, window + t.offsets[i], sizeof x);
        std::memcpy(w, weights, sizeof w);
        for (int l = 0; l < kLanes; ++l) sums[l] += x[0] * w[2 * l] + x[1] * w[2 * l + 1];
      }
      std::memcpy(t.sums + (b * t.sums_pitch + p) * kLanes, sums, sizeof sums);
    }
}

void sum_floats(const Tile& t) {
  for (int b = 0; b < t.blocks; ++b)
    for (int p = 0; p < t.pixels; ++p) {
      const uint8_t* const window = t.input + p * t.pixel_bytes;
      const uint8_t* weights = t.weights + b * t.steps * kLanes * kStepBytes;
      float sums[kLanes] = {};
      for (int64_t i = 0; i < t.steps; ++i, weights += kLanes * kStepBytes) {
        float x, w[kLanes];
        std::memcpy(&x, window + t.offsets[i], sizeof x);
        std::memcpy(w, weights, sizeof w);
        for (int l = 0; l < kLanes; ++l) sums[l] += x * w[l];
      }
      std::memcpy(t.sums + (b * t.sums_pitch + p) * kLanes, sums, sizeof sums);
    }
}

// The sums of some pixels, from `first` on, and a block.
using BlockFunction = void (*)(const Tile& t, int first, int block);

// Functions for one pixel to kMost, which are as many as registers hold sums of.
template <int kMost>
void sum_in_parts(const Tile& t, const BlockFunction (&functions)[kMost]) {
  for (int block = 0; block < t.blocks; ++block)
    for (int first = 0, pixels = 0; first < t.pixels; first += pixels) {
      const int left = t.pixels - first;
      pixels = left <= kMost ? left : std::min(kMost, (left + 1) / 2);  // two even parts of the rest
      functions[pixels - 1](t, first, block);
    }
}

#if defined(__x86_64__)

int32_t four_bytes(const uint8_t* bytes) {
  int32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Calls sum<pixels, blocks> of a tile.
#define XK_TILE_TABLE(sum)                                                                     \
  {{sum<1, 1>, sum<2, 1>, sum<3, 1>, sum<4, 1>, sum<5, 1>, sum<6, 1>, sum<7, 1>, sum<8, 1>},   \
   {sum<1, 2>, sum<2, 2>, sum<3, 2>, sum<4, 2>, sum<5, 2>, sum<6, 2>, sum<7, 2>, sum<8, 2>}}
using TileFunction = void (*)(const Tile&);

// Two vectors hold a block: four pixels at a time, for the 16 registers.
template <int kPixels>
__attribute__((target("avx2"))) void sum_pairs_avx2(const Tile& t, int first, int block) {
  const uint8_t* const window = t.input + first * t.pixel_bytes;
  const uint8_t* weights = t.weights + block * t.steps * kLanes * kStepBytes;
  const __m256i* const start = reinterpret_cast<const __m256i*>(t.start + block * kLanes);
  __m256i sums[kPixels][2];
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p)
    sums[p][0] = _mm256_loadu_si256(start), sums[p][1] = _mm256_loadu_si256(start + 1);
  for (int64_t i = 0; i < t.steps; ++i, weights += kLanes * kStepBytes) {
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights) + 1);
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      const __m256i x = _mm256_set1_epi32(four_bytes(window + p * t.pixel_bytes + t.offsets[i]));
      sums[p][0] = _mm256_add_epi32(sums[p][0], _mm256_madd_epi16(x, w0));
      sums[p][1] = _mm256_add_epi32(sums[p][1], _mm256_madd_epi16(x, w1));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
    __m256i* const to = reinterpret_cast<__m256i*>(t.sums + (block * t.sums_pitch + first + p) * kLanes);
    _mm256_storeu_si256(to, sums[p][0]);
    _mm256_storeu_si256(to + 1, sums[p][1]);
  }
}

void sum_avx2(const Tile& t) {
  static constexpr BlockFunction kFunctions[] = {sum_pairs_avx2<1>, sum_pairs_avx2<2>, sum_pairs_avx2<3>,
                                                 sum_pairs_avx2<4>};
  sum_in_parts(t, kFunctions);
}

// Four bytes of the input, unsigned, by four signed ones of each filter: one instruction for the 64 products of a pixel
// and a block, whose sums are exact.
template <int kPixels, int kBlocks>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void sum_bytes_vnni(const Tile& t) {
  __m512i sums[kBlocks][kPixels];
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sums[b][p] = _mm512_loadu_si512(t.start + b * kLanes);
  const uint8_t* weights = t.weights;
  const int64_t block_bytes = t.steps * kLanes * kStepBytes;
  for (int64_t i = 0; i < t.steps; ++i, weights += kLanes * kStepBytes) {
    const uint8_t* const window = t.input + t.offsets[i];
    __m512i w[kBlocks];
#pragma GCC unroll 2
    for (int b = 0; b < kBlocks; ++b) w[b] = _mm512_loadu_si512(weights + b * block_bytes);
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      const __m512i x = _mm512_set1_epi32(four_bytes(window + p * t.pixel_bytes));
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) sums[b][p] = _mm512_dpbusd_epi32(sums[b][p], x, w[b]);
    }
  }
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) _mm512_storeu_si512(t.sums + (b * t.sums_pitch + p) * kLanes, sums[b][p]);
}

void sum_vnni(const Tile& t) {
  static constexpr TileFunction kFunctions[kTileBlocks][kTilePixels] = XK_TILE_TABLE(sum_bytes_vnni);
  kFunctions[t.blocks - 1][t.pixels - 1](t);
}

// Two vectors hold a block, as above.
template <int kPixels>
__attribute__((target("avx2,fma"))) void sum_floats_fma(const Tile& t, int first, int block) {
  const uint8_t* const window = t.input + first * t.pixel_bytes;
  const float* weights = reinterpret_cast<const float*>(t.weights + block * t.steps * kLanes * kStepBytes);
  __m256 sums[kPixels][2];
#pragma GCC unroll 6
  for (int p = 0; p < kPixels; ++p) sums[p][0] = sums[p][1] = _mm256_setzero_ps();
  for (int64_t i = 0; i < t.steps; ++i, weights += kLanes) {
    const __m256 w0 = _mm256_loadu_ps(weights), w1 = _mm256_loadu_ps(weights + kLanes / 2);
#pragma GCC unroll 6
    for (int p = 0; p < kPixels; ++p) {
      const __m256 x = _mm256_broadcast_ss(reinterpret_cast<const float*>(window + p * t.pixel_bytes + t.offsets[i]));
      sums[p][0] = _mm256_fmadd_ps(x, w0, sums[p][0]);
      sums[p][1] = _mm256_fmadd_ps(x, w1, sums[p][1]);
    }
  }
#pragma GCC unroll 6
  for (int p = 0; p < kPixels; ++p) {
    float* const to = reinterpret_cast<float*>(t.sums + (block * t.sums_pitch + first + p) * kLanes);
    _mm256_storeu_ps(to, sums[p][0]);
    _mm256_storeu_ps(to + kLanes / 2, sums[p][1]);
  }
}

void sum_fma(const Tile& t) {
  static constexpr BlockFunction kFunctions[] = {sum_floats_fma<1>, sum_floats_fma<2>, sum_floats_fma<3>,
                                                 sum_floats_fma<4>, sum_floats_fma<5>, sum_floats_fma<6>};
  sum_in_parts(t, kFunctions);
}

bool fma_usable() { return avx2::usable() && __builtin_cpu_supports("fma"); }

template <int kPixels, int kBlocks>
__attribute__((target("avx512f"))) void sum_floats_fma512(const Tile& t) {
  __m512 sums[kBlocks][kPixels];
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sums[b][p] = _mm512_setzero_ps();
  const float* weights = reinterpret_cast<const float*>(t.weights);
  const int64_t block_floats = t.steps * kLanes;
  for (int64_t i = 0; i < t.steps; ++i, weights += kLanes) {
    const uint8_t* const window = t.input + t.offsets[i];
    __m512 w[kBlocks];
#pragma GCC unroll 2
    for (int b = 0; b < kBlocks; ++b) w[b] = _mm512_loadu_ps(weights + b * block_floats);
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      const __m512 x = _mm512_set1_ps(*reinterpret_cast<const float*>(window + p * t.pixel_bytes));
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) sums[b][p] = _mm512_fmadd_ps(x, w[b], sums[b][p]);
    }
  }
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) _mm512_storeu_ps(t.sums + (b * t.sums_pitch + p) * kLanes, sums[b][p]);
}

void sum_fma512(const Tile& t) {
  static constexpr TileFunction kFunctions[kTileBlocks][kTilePixels] = XK_TILE_TABLE(sum_floats_fma512);
  kFunctions[t.blocks - 1][t.pixels - 1](t);
}

bool vnni_usable() { return avx512bw::usable() && __builtin_cpu_supports("avx512vnni"); }

#elif defined(__aarch64__)

// Four vectors hold a block.
template <int kPixels>
void sum_floats_neon(const Tile& t, int first, int block) {
  constexpr int kVectors = kLanes / 4;
  const uint8_t* const window = t.input + first * t.pixel_bytes;
  const float* weights = reinterpret_cast<const float*>(t.weights + block * t.steps * kLanes * kStepBytes);
  float32x4_t sums[kPixels][kVectors];
#pragma GCC unroll 6
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[p][v] = vdupq_n_f32(0);
  for (int64_t i = 0; i < t.steps; ++i, weights += kLanes) {
    float32x4_t w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = vld1q_f32(weights + 4 * v);
#pragma GCC unroll 6
    for (int p = 0; p < kPixels; ++p) {
      const float x = *reinterpret_cast<const float*>(window + p * t.pixel_bytes + t.offsets[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[p][v] = vfmaq_n_f32(sums[p][v], w[v], x);
    }
  }
#pragma GCC unroll 6
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      vst1q_f32(reinterpret_cast<float*>(t.sums + (block * t.sums_pitch + first + p) * kLanes) + 4 * v, sums[p][v]);
}

void sum_neon(const Tile& t) {
  static constexpr BlockFunction kFunctions[] = {sum_floats_neon<1>, sum_floats_neon<2>, sum_floats_neon<3>,
                                                 sum_floats_neon<4>, sum_floats_neon<5>, sum_floats_neon<6>};
  sum_in_parts(t, kFunctions);
}

#endif

#if defined(__x86_64__)

// Rounded to the nearest, ties to even, as conv.cc does it. The second operand of max is taken where one is a NaN.
__attribute__((target("avx512f"))) void four_numbers_avx512(const float* x, int64_t plane, int64_t pixels,
                                                            const Levels& levels, uint32_t* pieces) {
  const __mmask16 mask = static_cast<__mmask16>(0xffffu >> (16 - pixels));
  const __m512 inverse = _mm512_set1_ps(levels.inverse), low = _mm512_set1_ps(static_cast<float>(-levels.zero));
  const __m512 high = _mm512_set1_ps(static_cast<float>(255 - levels.zero));
  const __m512i zero = _mm512_set1_epi32(levels.zero);
  __m512i numbers = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int c = 3; c >= 0; --c) {
    const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + c * plane), inverse);
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, low), high));
    numbers = _mm512_or_si512(_mm512_slli_epi32(numbers, 8), _mm512_add_epi32(rounded, zero));
  }
  _mm512_mask_storeu_epi32(pieces, mask, numbers);
}

#endif

// The instruction sets that have functions of their own here.
enum class Generation { kAny, kNeon, kAvx2, kAvx512 };

[[maybe_unused]] Generation generation() {
  const std::string name = kKernels[choose_kernel(nullptr, Shape{})].name;
  if (name == "scalar" || name == "wasm") return Generation::kAny;
  if (name == "neon") return Generation::kNeon;
  return name == "avx2" ? Generation::kAvx2 : Generation::kAvx512;
}

}  // namespace

const Kernel& int8_kernel() {
  static constexpr Kernel kPairs = {"pairs", always, 2, sum_pairs, nullptr};
#if defined(__x86_64__)
  static constexpr Kernel kAvx2 = {"avx2", avx2::usable, 2, sum_avx2, nullptr};
  static constexpr Kernel kVnni = {"vnni", vnni_usable, 1, sum_vnni, four_numbers_avx512};
  if (generation() == Generation::kAvx512 && kVnni.usable()) return kVnni;
  if (generation() != Generation::kAny) return kAvx2;  // all that have AVX-512 have AVX2
#endif
  return kPairs;
}

const Kernel& float_kernel() {
  static constexpr Kernel kFloats = {"floats", always, 4, sum_floats, nullptr};
#if defined(__x86_64__)
  static constexpr Kernel kFma = {"fma", fma_usable, 4, sum_fma, nullptr};
  static constexpr Kernel kFma512 = {"fma512", avx512bw::usable, 4, sum_fma512, nullptr};
  if (generation() == Generation::kAvx512) return kFma512;
  if (generation() == Generation::kAvx2 && kFma.usable()) return kFma;
#elif defined(__aarch64__)
  static constexpr Kernel kNeon = {"neon", always, 4, sum_neon, nullptr};
  if (generation() == Generation::kNeon) return kNeon;
#endif
  return kFloats;
}

}  // namespace xk::dense
