// What convolutions of planes with planes add up to, and what a layer makes of that.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "levels/filters.h"
#include "levels/planes.h"
#include "shape.h"
#include "xnorkit.h"

namespace xk::levels {

constexpr int64_t kBlock = 1024;  // sums that are added up together

template <class T>
std::unique_ptr<T[]> array_of(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

// What becomes of (q * w): it is divided, multiplied and added to, and rounded each time.
struct ScaleBias {
  std::vector<float> scale, bias;  // one an output
  float divisor = 1;
};

// The same of the sums of one output, of which the planes of the input have doubled those of numbers. Without a divisor the
// half is the scale's.
struct End {
  float scale, bias, divisor;
  void store(const int32_t* sums, int64_t count, float* y) const {
    if (divisor == 1) {
      for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(sums[i]) * scale + bias;
    } else {
      for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(sums[i]) / divisor * scale + bias;
    }
  }
};
// The same of the sums of outputs from `first` on.
inline void store_outputs(const ScaleBias& end, const Input& input, int64_t first, const int32_t* sums, int64_t count,
                          float* y) {
  const float *const scale = end.scale.data() + first, *const bias = end.bias.data() + first;
  const float doubled = input.bits ? 2.0f : 1.0f, divisor = end.divisor * doubled;
  if (end.divisor == 1) {
    for (int64_t o = 0; o < count; ++o) y[o] = static_cast<float>(sums[o]) * (scale[o] / doubled) + bias[o];
  } else {
    for (int64_t o = 0; o < count; ++o) y[o] = static_cast<float>(sums[o]) / divisor * scale[o] + bias[o];
  }
}
inline End end_of(const ScaleBias& end, const Input& input, int64_t o) {
  const float scale = end.scale[static_cast<size_t>(o)], bias = end.bias[static_cast<size_t>(o)];
  const float doubled = input.bits ? 2.0f : 1.0f;
  return end.divisor == 1 ? End{scale / doubled, bias, 1} : End{scale, bias, end.divisor * doubled};
}

// Adds a plane of sums times 2^bit.
inline void add_plane(const int32_t* plane, int64_t count, int bit, int32_t* sums) {
  for (int64_t i = 0; i < count; ++i)
    sums[i] += static_cast<int32_t>(static_cast<uint32_t>(plane[i]) << bit);  // a product takes two of SSE2
}

// The convolution of an image's planes with a weight's, by the kernels.
class ImageSums {
 public:
  // The planes of the image are `plane_words` words apart.
  ImageSums(const Filters& filters, const Input& input, int64_t height, int64_t width, const uint64_t* words,
            int64_t plane_words, const xk_parallel* parallel);

  int64_t out_height() const { return shape_.out_height; }
  int64_t out_width() const { return shape_.out_width; }
  int64_t count() const { return shape_.out_height * shape_.out_width; }
  // Of output o at places [begin, begin + count) of the convolution's output, row by row.
  void read(int64_t o, int64_t begin, int64_t count, int32_t* sums) const;

 private:
  void fill_inside(int64_t o, int64_t begin, int64_t count, int32_t* sums) const;

  const Filters& filters_;
  int images_;
  int32_t largest_;
  Shape shape_;
  std::unique_ptr<int32_t[]> planes_;  // [images][outputs of the convolution][count()]
  std::vector<Band> rows_, columns_;   // where inputs are numbers
};

}  // namespace xk::levels
