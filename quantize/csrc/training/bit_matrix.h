// Bits of a matrix that lie row by row without gaps, and their way to columns.
#pragma once

#include <cstdint>

#include "shape.h"

namespace xk {

// `count` <= 64 bits from bit `first` on, the others zero. Reads no word without one of them.
inline uint64_t read_bits(const uint64_t* bits, int64_t first, int64_t count) {
  const int64_t word = first / kWordBits, shift = first % kWordBits;
  uint64_t value = bits[word] >> shift;
  if (shift + count > kWordBits) value |= bits[word + 1] << (kWordBits - shift);
  return count < kWordBits ? value & ((uint64_t{1} << count) - 1) : value;
}

// Bit j of rows[i] to bit i of rows[j], by exchanging ever smaller squares (Warren, Hacker's Delight, 2013, 7-3).
inline void transpose(uint64_t* rows) {
  uint64_t mask = 0x00000000ffffffff;
  for (int size = 32; size; size /= 2, mask ^= mask << size)
    for (int block = 0; block < kWordBits; block += 2 * size)
      for (int i = block; i < block + size; ++i) {
        const uint64_t exchanged = (rows[i] >> size ^ rows[i + size]) & mask;
        rows[i] ^= exchanged << size;
        rows[i + size] ^= exchanged;
      }
}

}  // namespace xk
