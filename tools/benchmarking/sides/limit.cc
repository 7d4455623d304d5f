// What the machine can do at most: xor, popcount and add of 512 bits, all in registers, nothing loaded.
#include <immintrin.h>

#include <cstdint>

// Sums over `steps` steps of eight vectors each; 4096 products a step. Returns the number of ones.
extern "C" __attribute__((target("avx512f,avx512vpopcntdq"))) uint64_t xor_popcount_add(int64_t steps, uint64_t bits) {
  constexpr int kSums = 8;
  __m512i sums[kSums], inputs[kSums], weights = _mm512_set1_epi64(static_cast<int64_t>(bits));
  for (int i = 0; i < kSums; ++i) {
    sums[i] = _mm512_setzero_si512();
    inputs[i] = _mm512_set1_epi64(i);
  }
  for (int64_t step = 0; step < steps; ++step) {
    asm volatile("" : "+v"(weights));  // unknown to the compiler: nothing can be computed beforehand
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i)
      sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(_mm512_xor_si512(inputs[i], weights)));
  }
  __m512i sum = sums[0];
  for (int i = 1; i < kSums; ++i) sum = _mm512_add_epi64(sum, sums[i]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
}
