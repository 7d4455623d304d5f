// Floats as bit planes: what levels/ gives to the kernels of signs.
#pragma once

#include <cstdint>

#include "xnorkit.h"

namespace xk::levels {

constexpr int kMostBits = 4;

// How floats become numbers of `bits` bits: q = round((2^bits - 1) clamp(x, 0, 1)), ties to even, NaN to 0. With 0 bits
// they become signs, +1 where x >= 0: one plane.
struct Input {
  int bits;
  int planes() const { return bits ? bits : 1; }
  int largest() const { return (1 << bits) - 1; }  // 0 of signs
};

// The bits of [batch][channels][pixels], lowest first: [batch][planes][pixels][ceil(channels / 64)] words.
void pack_images(const Input& input, const float* x, int64_t batch, int64_t channels, int64_t pixels, uint64_t* words,
                 const xk_parallel* parallel);
// The same of [rows][channels]: [planes][rows][ceil(channels / 64)].
void pack_rows(const Input& input, const float* x, int64_t rows, int64_t channels, uint64_t* words,
               const xk_parallel* parallel);

}  // namespace xk::levels
