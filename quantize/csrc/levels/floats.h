// Convolutions of floats with signs: sums are looked up, as in linear/lookup.cc.
//
// Of four channels of a pixel there are 16 sums with signs. They are formed once, as a table, and serve all filters and all
// taps that meet the pixel: a filter takes the sum that four of its bits point to, one permutation and one addition for 16
// filters and four channels, where a product takes four multiplications with additions.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "levels/filters.h"
#include "levels/sums.h"
#include "linear/tables.h"
#include "prepared.h"
#include "shape.h"
#include "xnorkit.h"

namespace xk::levels {

class FloatConv {
 public:
  using Size = std::array<int64_t, 2>;  // height, width

  // Whether some kernel of this machine permutes 16 floats: with fewer, a convolution of floats is as fast, or faster.
  static bool is_fast();

  // The weight has one plane; `window` as in Filters.
  FloatConv(const Weight& weight, const xk_conv_shape& window, ScaleBias end);

  int64_t channels() const { return shape_.channels; }
  int64_t outputs() const { return shape_.out_channels; }
  Size output_size(const Size& size) const;
  // y = scale (x * w) + bias; x [batch][channels][height][width], y [batch][outputs][of output_size()].
  void compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const;

 private:
  struct Band;  // of output rows, and the tables of the input rows that they see
  struct Pixels;

  Shape full(const Size& size) const;
  const uint32_t* weights(int64_t block, int64_t tap) const;
  int64_t pixel_floats() const;
  void form_row(const Shape& s, const float* x, const std::vector<uint8_t>& columns, float* tables) const;
  void sum_row(const Shape& s, const Band& band, int64_t row, int64_t first, int64_t blocks, float* y) const;
  void add_tap(const Shape& s, const Band& band, const Pixels& pixels, int64_t tap, int64_t first, int64_t blocks,
               int64_t block, float* sums) const;

  Shape shape_;
  const Microkernels& kernels_;
  LookUpPlan plan_;  // of the channels of a group, at one tap
  ScaleBias end_;
  PreparedBits weights_;  // [block][tap][word][lane]
};

}  // namespace xk::levels
