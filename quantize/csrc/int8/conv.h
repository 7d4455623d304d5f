// Convolutions of 8-bit numbers, for the layers of a network that are no binary ones.
//
// y = epilogue(sum of (q - zero) w), q = round(x * inverse) + zero in 0 to 255, w in -127 to 127. Padding is 0.
#pragma once

#include <cstdint>
#include <vector>

#include "conv/conv.h"
#include "int8/kernels.h"

namespace xk::int8 {

// How floats become numbers of 8 bits.
struct Levels {
  float inverse;  // of a step
  int32_t zero;   // the number of 0.0
};

// A layer's weights, in the order of a kernel.
class Weights {
 public:
  // `numbers` are [out][kernel_h][kernel_w][channels], each w + 128. Fails for a shape with groups, or whose sums
  // 32 bits do not hold.
  Weights(const xk_conv_shape& shape, const uint8_t* numbers, int32_t zero);

  const Kernel& kernel() const { return kernel_; }
  int64_t run_steps() const { return run_steps_; }
  int64_t steps() const { return steps_; }
  // Of a block of kLanes filters.
  const uint8_t* filters(int64_t block) const {
    return lines_.data()->bytes + block * steps_ * kLanes * kStepBytes;
  }
  const int32_t* start(int64_t block) const { return start_.data() + block * kLanes; }

 private:
  struct alignas(64) CacheLine {
    uint8_t bytes[64];
  };
  static_assert(sizeof(CacheLine) == kLanes * kStepBytes, "a line is a step");

  const Kernel& kernel_;
  int64_t run_steps_, steps_;
  std::vector<CacheLine> lines_;
  std::vector<int32_t> start_;  // -zero * sum of w, a filter
};

// Floats [batch][channels][height][width] in; the output as in xk_conv.
void conv(const xk_conv_shape& shape, const float* input, const Levels& levels, const Weights& weights,
          const xk_epilogue& epilogue, const xk_output& output, const xk_parallel* parallel);

}  // namespace xk::int8
