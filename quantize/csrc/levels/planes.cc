#include "levels/planes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "api.h"
#include "parallel.h"
#include "shape.h"

namespace xk::levels {

namespace {

constexpr int64_t kPart = 256;  // numbers that are made together
constexpr int kByteBits = 8;

// The numbers of `count` <= kPart floats. Clamped as integers, in whose order floats from 0 on are: compilers branch on
// comparisons of floats, which could trap, and input is not to be predicted.
void round_part(const float* x, int64_t count, float largest, uint8_t* q) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its sums with less than 2^22 have no fractions
  constexpr int32_t kInfinity = 0x7f800000, kOne = 0x3f800000;
  int32_t bits[kPart];
  float values[kPart];
  std::memcpy(bits, x, static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t number = bits[i] > kInfinity ? 0 : bits[i];  // 0 of a NaN
    bits[i] = std::clamp(number, 0, kOne);
  }
  std::memcpy(values, bits, static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] * largest + kRound;
  std::memcpy(bits, values, static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) q[i] = static_cast<uint8_t>(bits[i]);  // the low bits of the fraction
}

// One byte of the words of `count` <= kPart pixels, of each plane: that of `channels` <= 8 channels, which lie `pixels`
// apart in x. A plane's words are `plane_words` behind those of the plane before.
void pack_byte(const Input& input, const float* x, int64_t pixels, int64_t count, int64_t channels, uint8_t* byte,
               int64_t words, int64_t plane_words) {
  uint8_t packed[kMostBits][kPart] = {};
  for (int64_t c = channels - 1; c >= 0; --c) {
    uint8_t q[kPart];
    round_part(x + c * pixels, count, static_cast<float>(input.largest()), q);
    for (int i = 0; i < input.bits; ++i)
      for (int64_t p = 0; p < count; ++p) packed[i][p] = static_cast<uint8_t>(packed[i][p] * 2 | (q[p] >> i & 1));
  }
  for (int i = 0; i < input.bits; ++i) {
    uint8_t* to = byte + i * plane_words * static_cast<int64_t>(sizeof(uint64_t));
    for (int64_t p = 0; p < count; ++p) to[p * words * static_cast<int64_t>(sizeof(uint64_t))] = packed[i][p];
  }
}

// The bits of eight numbers, 0 or 1, in a byte each.
uint8_t gather_bits(const uint8_t* numbers, int bit) {
  uint64_t eight;
  std::memcpy(&eight, numbers, sizeof eight);
  return static_cast<uint8_t>(((eight >> bit & 0x0101010101010101u) * 0x0102040810204080u) >> 56);
}

void pack_row(const Input& input, const float* x, int64_t channels, uint64_t* words, int64_t plane_words) {
  for (int64_t first = 0; first < channels; first += kPart) {
    const int64_t count = std::min(kPart, channels - first);
    uint8_t q[kPart] = {};
    round_part(x + first, count, static_cast<float>(input.largest()), q);
    for (int i = 0; i < input.bits; ++i) {
      uint8_t* to = reinterpret_cast<uint8_t*>(words + i * plane_words + first / kWordBits);
      const int64_t bytes = ceil_div(count, kWordBits) * static_cast<int64_t>(sizeof(uint64_t));
      for (int64_t b = 0; b < bytes; ++b) to[b] = gather_bits(q + b * kByteBits, i);
    }
  }
}

// One bit is a comparison, which the kernels pack: round(x) is 1 from the first float over 1/2 on.
void pack_one_plane(const Input& input, const float* x, int32_t layout, int64_t batch, int64_t channels,
                    int64_t pixels, uint64_t* words, const xk_parallel* parallel) {
  const std::vector<float> threshold(static_cast<size_t>(channels), input.bits ? std::nextafter(0.5f, 1.0f) : 0.0f);
  const xk_binarize binarize{threshold.data(), nullptr};
  check_call(xk_pack(x, layout, batch, channels, 1, pixels, &binarize, words, parallel));
}

}  // namespace

void pack_images(const Input& input, const float* x, int64_t batch, int64_t channels, int64_t pixels, uint64_t* words,
                 const xk_parallel* parallel) {
  if (input.planes() == 1) return pack_one_plane(input, x, XK_NCHW, batch, channels, pixels, words, parallel);
  const int64_t width = ceil_div(channels, kWordBits), plane_words = pixels * width, parts = ceil_div(pixels, kPart);
  parallel_for(parallel, batch * parts, [&](int64_t index) {
    const int64_t image = index / parts, first = index % parts * kPart, count = std::min(kPart, pixels - first);
    uint8_t* byte = reinterpret_cast<uint8_t*>(words + image * input.bits * plane_words + first * width);
    const float* from = x + image * channels * pixels + first;
    for (int64_t c = 0; c < width * kWordBits; c += kByteBits, ++byte) {
      const int64_t there = std::clamp<int64_t>(channels - c, 0, kByteBits);
      pack_byte(input, from + std::min(c, channels) * pixels, pixels, count, there, byte, width, plane_words);
    }
  });
}

void pack_rows(const Input& input, const float* x, int64_t rows, int64_t channels, uint64_t* words,
               const xk_parallel* parallel) {
  if (input.planes() == 1) return pack_one_plane(input, x, XK_NHWC, 1, channels, rows, words, parallel);
  const int64_t width = ceil_div(channels, kWordBits);
  parallel_for(parallel, rows, [&](int64_t row) {
    pack_row(input, x + row * channels, channels, words + row * width, rows * width);
  });
}

}  // namespace xk::levels
