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

struct ScaleBias {
  std::vector<float> scale, bias;  // one an output
};

// What becomes of the sums of one output, of which the planes of the input have doubled those of numbers.
struct End {
  float scale, bias;
  void store(const int32_t* sums, int64_t count, float* y) const {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(sums[i]) * scale + bias;
  }
};
End end_of(const ScaleBias& end, const Input& input, int64_t o);

inline void add_plane(const int32_t* plane, int64_t count, int32_t weight, int32_t* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += plane[i] * weight;
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
