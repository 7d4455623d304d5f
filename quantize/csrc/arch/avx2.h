// What the files of the AVX2 kernel share.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "arch/microkernels.h"

#define XK_TARGET __attribute__((target("avx2,popcnt,bmi2")))
#define XK_DEPOSIT _pdep_u64

namespace xk::avx2 {

void store_planes(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch);
void store_rows(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch);
void store_signs(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs);
void pack_planes(const Packing& packing);
void pack_rows(const Packing& packing);
void compare(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside);
void choose(const uint64_t* positive, int64_t words, float size, float* values);
void keep(const uint64_t* inside, int64_t words, const float* x, float* result);

constexpr int kFloats = 8;  // of a vector

// All ones in the first `count` lanes.
XK_TARGET static inline __m256i first_lanes(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lane);
}

// Bit l is the sign of lane l.
XK_TARGET static inline uint32_t sign_bits(__m256 v) { return static_cast<uint32_t>(_mm256_movemask_ps(v)); }

}  // namespace xk::avx2
