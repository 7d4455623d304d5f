// What the machine can do at most: xor, popcount and add of vectors, all in registers, nothing loaded. Each loop has four
// or eight sums, enough to hide what an addition waits for, and returns the number of ones.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kInputs = 8, kNibbleInputs = 4;  // words 0, 1, ... are xor-ed with `bits`
constexpr int64_t kByteSteps = 255 / 8;        // a byte gains at most 8 with each step

}  // namespace

// Steps of eight vectors of 512 bits: 4096 products.
extern "C" __attribute__((target("avx512f,avx512vpopcntdq"))) uint64_t xor_popcount_add(int64_t steps, uint64_t bits) {
  __m512i sums[kInputs], inputs[kInputs], weights = _mm512_set1_epi64(static_cast<int64_t>(bits));
  for (int i = 0; i < kInputs; ++i) {
    sums[i] = _mm512_setzero_si512();
    inputs[i] = _mm512_set1_epi64(i);
  }
  for (int64_t step = 0; step < steps; ++step) {
    asm volatile("" : "+v"(weights));  // unknown to the compiler: nothing can be computed beforehand
#pragma GCC unroll 8
    for (int i = 0; i < kInputs; ++i)
      sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(_mm512_xor_si512(inputs[i], weights)));
  }
  __m512i sum = sums[0];
  for (int i = 1; i < kInputs; ++i) sum = _mm512_add_epi64(sum, sums[i]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
}

// The popcount of a byte by look-up of its nibbles: with xor and add, eight operations a vector. Sums are bytes, widened
// before they overflow. Steps of four vectors of 256 bits: 1024 products.
extern "C" __attribute__((target("avx2"))) uint64_t xor_nibbles_add(int64_t steps, uint64_t bits) {
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                         2, 3, 2, 3, 3, 4);
  __m256i sum = zero, inputs[kNibbleInputs], weights = _mm256_set1_epi64x(static_cast<int64_t>(bits));
  for (int i = 0; i < kNibbleInputs; ++i) inputs[i] = _mm256_set1_epi64x(i);
  for (int64_t left = steps; left > 0; left -= kByteSteps) {
    __m256i sums[kNibbleInputs] = {zero, zero, zero, zero};
    for (int64_t step = 0; step < (left < kByteSteps ? left : kByteSteps); ++step) {
      asm volatile("" : "+x"(weights));
#pragma GCC unroll 4
      for (int i = 0; i < kNibbleInputs; ++i) {
        const __m256i x = _mm256_xor_si256(inputs[i], weights);
        const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
        const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
        sums[i] = _mm256_add_epi8(sums[i], _mm256_add_epi8(low, high));
      }
    }
    for (int i = 0; i < kNibbleInputs; ++i) sum = _mm256_add_epi64(sum, _mm256_sad_epu8(sums[i], zero));
  }
  uint64_t words[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), sum);
  return words[0] + words[1] + words[2] + words[3];
}

// The same with vectors of 512 bits: 2048 products a step.
extern "C" __attribute__((target("avx512bw"))) uint64_t xor_wide_nibbles_add(int64_t steps, uint64_t bits) {
  const __m512i nibble = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  __m512i sum = zero, inputs[kNibbleInputs], weights = _mm512_set1_epi64(static_cast<int64_t>(bits));
  for (int i = 0; i < kNibbleInputs; ++i) inputs[i] = _mm512_set1_epi64(i);
  for (int64_t left = steps; left > 0; left -= kByteSteps) {
    __m512i sums[kNibbleInputs] = {zero, zero, zero, zero};
    for (int64_t step = 0; step < (left < kByteSteps ? left : kByteSteps); ++step) {
      asm volatile("" : "+v"(weights));
#pragma GCC unroll 4
      for (int i = 0; i < kNibbleInputs; ++i) {
        const __m512i x = _mm512_xor_si512(inputs[i], weights);
        const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(x, nibble));
        const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble));
        sums[i] = _mm512_add_epi8(sums[i], _mm512_add_epi8(low, high));
      }
    }
    for (int i = 0; i < kNibbleInputs; ++i) sum = _mm512_add_epi64(sum, _mm512_sad_epu8(sums[i], zero));
  }
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
}
