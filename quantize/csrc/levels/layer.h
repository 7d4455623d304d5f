// Layers of inputs and weights of a few even levels: convolutions, transposed ones, and linear layers.
//
// y[o] = scale[o] (q * w)[o] + bias[o], of an input and a weight as levels/planes.h and levels/filters.h have them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "levels/filters.h"
#include "levels/planes.h"
#include "levels/sums.h"
#include "xnorkit.h"

namespace xk::levels {

// Which outputs of a layer a convolution makes in one direction: every `step`-th from `first` on, of its own results
// from `skip` on.
struct Places {
  int64_t first, step, skip;
};

// One direction of a transposed convolution.
struct TransposedAxis {
  const char* name;
  int64_t kernel, stride, before, after, output_padding;
  // Of an input of such a size; an error where there is none.
  int64_t output_size(int64_t size) const;
};

class Conv {
 public:
  using Size = std::array<int64_t, 2>;  // height, width

  // A convolution; `window` as in Filters.
  Conv(const Input& input, const Weight& weight, const xk_conv_shape& window, ScaleBias end);
  // A transposed one, without dilation: a convolution with stride 1 for each place of an output between the inputs.
  Conv(const Input& input, const Weight& weight, const TransposedAxis& vertical, const TransposedAxis& horizontal,
       ScaleBias end);
  // A convolution whose filters are made; `channels` of the input.
  Conv(const Input& input, Filters filters, int64_t channels, ScaleBias end);

  int64_t channels() const { return channels_; }
  int64_t outputs() const { return static_cast<int64_t>(end_.scale.size()); }
  // The size of the output for images of such a size.
  Size output_size(const Size& size) const;
  // x [batch][channels][height][width], y [batch][outputs][of output_size()].
  void compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const;

 private:
  struct Part {
    Filters filters;
    Places vertical, horizontal;
  };
  struct Image;  // of the output

  void add_part(const Part& part, const Image& image, const uint64_t* words, const xk_parallel* parallel) const;

  Input input_;
  int64_t channels_;
  ScaleBias end_;
  bool transposed_ = false, has_gaps_ = false;  // has outputs that no tap reaches
  TransposedAxis vertical_{}, horizontal_{};
  std::vector<Part> parts_;
};

class Linear {
 public:
  Linear(const Input& input, const Weight& weight, ScaleBias end);
  Linear(const Input& input, Filters filters, ScaleBias end);
  // x [rows][channels], y [rows][outputs].
  void compute(const float* x, int64_t rows, float* y, const xk_parallel* parallel) const;

 private:
  Input input_;
  ScaleBias end_;
  Filters filters_;
};

}  // namespace xk::levels
