// BinaryConv and its variants: the convolution of signs, as an operator of onnxruntime.
#pragma once

#include <cstdint>
#include <vector>

#include "ort/call.h"
#include "ort/node.h"

namespace xk::ort {

// What becomes of sum * scale + bias.
enum class ConvEpilogue { kFloat, kBits, kRelu };

struct ConvVariant {
  const char* name;
  bool from_bits;
  ConvEpilogue epilogue;
  bool scaled;
  bool shuffled;
};

// The inputs of a variant, in order: x, weight_bits, scale, bias, [threshold, turn,] [output_threshold, output_turn,]
// [input_scale].
class ConvInputs {
 public:
  explicit ConvInputs(const ConvVariant& variant) : v_(variant) {}
  static constexpr size_t kX = 0, kWeightBits = 1, kScale = 2, kBias = 3;
  size_t threshold() const { return 4; }
  size_t output_threshold() const { return v_.from_bits ? 4 : 6; }
  size_t input_scale() const { return output_threshold() + (v_.epilogue == ConvEpilogue::kBits ? 2 : 0); }
  size_t count() const { return input_scale() + v_.scaled; }

 private:
  const ConvVariant& v_;
};

// Immutable once it is made: runs at the same time are safe.
class ConvKernel {
 public:
  ConvKernel(const ConvVariant& variant, const Api& api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;
  const Api& api() const { return api_; }

 private:
  // A comparison a channel, as xk_binarize has it. In the file it is turn * value >= threshold, with the input `turn`
  // -1 where it is flipped, else 1.
  struct Comparison {
    std::vector<float> threshold;
    std::vector<uint8_t> flip;
    Comparison() = default;
    Comparison(const Node& node, size_t index, const char* threshold, const char* turn, int64_t count);
    xk_binarize view() const { return {threshold.data(), flip.data()}; }
  };
  struct alignas(64) CacheLine {
    char bytes[64];
  };

  void read_weights(const Node& node);
  xk_epilogue epilogue_for(const Call& call, const std::vector<int64_t>& output) const;

  const ConvVariant& variant_;
  const ConvInputs inputs_;
  const Api api_;
  xk_conv_shape shape_;  // without batch, height and width
  int64_t shuffle_ = 1;
  std::vector<CacheLine> weights_;
  size_t weights_bytes_ = 0;
  std::vector<float> scale_, bias_;
  Comparison input_, output_;
};

}  // namespace xk::ort
