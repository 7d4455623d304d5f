// Convolutions of 8-bit numbers and of floats, for the layers of a network that are no binary ones.
//
// y = epilogue(sum of (q - zero) w), q = round(x * inverse) + zero in 0 to 255, w in -127 to 127; or y = epilogue(sum of
// x w), products added one after the other. Padding is 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"
#include "dense/kernels.h"

namespace xk::dense {

// The order in which the products of floats are added, on which their rounding depends: tap by tap, each with all its
// channels, as oneDNN adds those of few channels, or channel by channel, as a matrix product of unfolded windows does.
enum class Sequence { kTaps, kChannels };

// A layer's weights in the order of a kernel: steps by filters, and what the sums of the filters start from.
class Weights {
 public:
  // What `order` has put into `memory` for this kernel.
  Weights(const xk_conv_shape& shape, const Kernel& kernel, const uint8_t* memory,
          Sequence sequence = Sequence::kTaps);

  // Bytes of memory. Fails for a shape with groups, or whose sums of 8-bit numbers 32 bits do not hold.
  static size_t size(const xk_conv_shape& shape, const Kernel& kernel);
  // For int8_kernel(): `numbers` are [out][kernel_h][kernel_w][channels], each w + 128.
  static void order(const xk_conv_shape& shape, const uint8_t* numbers, int32_t zero, uint8_t* memory);
  // For float_kernel(), in the same order.
  static void order(const xk_conv_shape& shape, const float* values, Sequence sequence, uint8_t* memory);

  const Kernel& kernel() const { return kernel_; }
  Sequence sequence() const { return sequence_; }
  int64_t run_steps() const { return run_steps_; }
  int64_t steps() const { return steps_; }
  // Of a block of kLanes filters.
  const uint8_t* filters(int64_t block) const { return filters_ + block * steps_ * kLanes * kStepBytes; }
  // -zero * sum of w, a filter.
  const int32_t* start(int64_t block) const { return start_ + block * kLanes; }

 private:
  const Kernel& kernel_;
  const Sequence sequence_;
  int64_t run_steps_, steps_;
  const uint8_t* filters_;
  const int32_t* start_;
};

// Floats [batch][channels][height][width] in, and on 8-bit numbers, with weights of int8_kernel(), or as they are, with
// those of float_kernel(); the output as in xk_conv.
void conv(const xk_conv_shape& shape, const float* input, const Levels& levels, const Weights& weights,
          const xk_epilogue& epilogue, const xk_output& output, const xk_parallel* parallel);
void conv(const xk_conv_shape& shape, const float* input, const Weights& weights, const xk_epilogue& epilogue,
          const xk_output& output, const xk_parallel* parallel);

}  // namespace xk::dense
