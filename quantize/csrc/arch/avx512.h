// What the files of the AVX-512 kernel share.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "arch/microkernels.h"

// Aligned, so that the speed of loops (7% of it) does not depend on what stands before them in the library.
#define XK_TARGET_WITH(features)                                                                             \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2,prefer-vector-width=512" features), aligned(64)))
#define XK_TARGET XK_TARGET_WITH("")
#define XK_POPCOUNT_TARGET XK_TARGET_WITH(",avx512vpopcntdq")
#define XK_DEPOSIT _pdep_u64

namespace xk::avx512 {

void convolve_planes(const PlaneTile& tile, const Epilogue& epilogue);
void store_planes(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* planes, int64_t pitch);
void store_rows(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* rows, int64_t pitch);
void store_signs(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs);
void pack_planes(const Packing& packing);
void pack_rows(const Packing& packing);
void merge_fields(const void* const* taps, int field_bytes, int64_t groups, uint64_t* words);
void compare(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside);
void choose(const uint64_t* positive, int64_t words, float size, float* values);
void keep(const uint64_t* inside, int64_t words, const float* x, float* result);
void sum_signed(const SignedSums& call);

// 16 halves, each xor-ed with the same one: a bit is set where a product is -1.
XK_TARGET static inline __m512i products(__m512i vector, const Half* half) {
  int32_t bits;
  std::memcpy(&bits, half, sizeof bits);
  return _mm512_xor_si512(vector, _mm512_set1_epi32(bits));
}

XK_POPCOUNT_TARGET static inline __m512i add_ones(__m512i sum, __m512i bits) {
  return _mm512_add_epi32(sum, _mm512_popcnt_epi32(bits));
}

// The carry of sum + x + y, where next = sum ^ x ^ y: its truth table over (x, sum, next) is 0xd4. The compiler's
// own intrinsic overwrites `sum`, and so copies it first; x is not needed any more.
XK_TARGET static inline __m512i carry(__m512i x, __m512i sum, __m512i next) {
  asm("vpternlogd $0xd4, %2, %1, %0" : "+v"(x) : "v"(sum), "v"(next));
  return x;
}

}  // namespace xk::avx512
