// Layers of inputs and weights of a few even levels: convolutions of three dimensions.
//
// They are convolutions of slices, added up along the depth: y[d] = sum_k x[d stride + k dilation - before] * w[k]. The
// filters of all depths that meet a slice are one call of the kernels.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "levels/filters.h"
#include "levels/planes.h"
#include "levels/sums.h"
#include "xnorkit.h"

namespace xk::levels {

class Volume {
 public:
  using Size = std::array<int64_t, 3>;  // depth, height, width

  // `depth` says how the kernel moves from slice to slice, and `window` how it does inside one, as in Filters. The rows of
  // `weight` are those of the first depth, then those of the next.
  Volume(const Input& input, const Weight& weight, const Axis& depth, const xk_conv_shape& window, ScaleBias end);

  int64_t channels() const { return channels_; }
  int64_t outputs() const { return static_cast<int64_t>(end_.scale.size()); }
  // The size of the output for volumes of such a size.
  Size output_size(const Size& size) const;
  // x [batch][channels][depth][height][width], y [batch][outputs][of output_size()].
  void compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const;

 private:
  // What slices lack of a multiple of the stride, counted from the first padded one, and the taps that meet these.
  struct Part {
    int64_t remainder;
    std::vector<int64_t> taps;
    Filters filters;
  };

  void add_slice(const Part& part, int64_t slice, const ImageSums& sums, int64_t out_depth, int32_t* totals,
                 const xk_parallel* parallel) const;

  Input input_;
  int64_t channels_, groups_;
  Axis depth_;
  ScaleBias end_;
  std::vector<Part> parts_;
};

}  // namespace xk::levels
