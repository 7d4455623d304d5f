// A node of an onnxruntime graph, while its kernel is made: attributes and constant inputs, checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ort/c_api.h"
#include "xnorkit.h"

namespace xk::ort {

// A status of onnxruntime as an exception: who catches it owns the status.
struct StatusError {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw StatusError{status};
}

// A tensor: its data is not owned.
struct Tensor {
  std::vector<int64_t> dims;
  int32_t type;
  void* data;
};
Tensor tensor_of(const Api& api, const OrtValue* value);
// Dimensions in a message: "(1, 64, 8, 8)".
std::string text_of(const std::vector<int64_t>& dims);

class Node {
 public:
  Node(const Api& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  std::string name() const;

  // Values of attributes. Those without a default fail where they are missing or of another type.
  int64_t integer(const char* name) const;
  int64_t integer(const char* name, int64_t otherwise) const;
  std::vector<int64_t> integers(const char* name) const;
  std::vector<int64_t> integers(const char* name, size_t count) const;
  std::vector<int64_t> integers(const char* name, const std::vector<int64_t>& otherwise) const;

  // Constant inputs, of the given size where there is one. A `name` is what messages call them.
  const uint8_t* bytes(size_t index, const char* name, int64_t rows, int64_t columns) const;
  std::vector<float> floats(size_t index, const char* name, int64_t count) const;
  // Floats of any size with four dimensions.
  Tensor filters(size_t index, const char* name) const;
  // From an input `turn` that is -1 where a comparison is flipped, else 1: xk_binarize::flip, 1 and 0.
  std::vector<uint8_t> flips(size_t index, const char* name, int64_t count) const;
  // The number of values of a constant input with one dimension.
  int64_t length(size_t index, const char* name) const;

 private:
  // Whether the node has such an attribute.
  bool find(const char* name, int64_t* value) const;
  bool find(const char* name, std::vector<int64_t>* values) const;
  Tensor constant(size_t index, const char* name, int32_t type, size_t rank) const;

  const Api& api_;
  const OrtKernelInfo* info_;
};

// A comparison a channel, as xk_binarize has it. In the file it is turn * value >= threshold, with the input `turn` -1
// where it is flipped, else 1, behind that of the threshold.
struct Comparison {
  std::vector<float> threshold;
  std::vector<uint8_t> flip;
  Comparison() = default;
  Comparison(const Node& node, size_t index, const char* threshold, const char* turn, int64_t count);
  xk_binarize view() const { return {threshold.data(), flip.data()}; }
};

// Fails where a row of bits, each padded to a byte, has bits set past its end.
void check_tails(const uint8_t* weight_bits, int64_t rows, int64_t row_bits);

// Reads how a window moves into an xk_conv_shape or an xk_pool_shape.
template <class Sizes>
void read_window(const Node& node, Sizes* s) {
  const std::vector<int64_t> kernel = node.integers("kernel_shape", 2), strides = node.integers("strides", 2),
                             pads = node.integers("pads", 4), dilations = node.integers("dilations", 2);
  s->kernel_h = kernel[0], s->kernel_w = kernel[1];
  s->stride_h = strides[0], s->stride_w = strides[1];
  s->dilation_h = dilations[0], s->dilation_w = dilations[1];
  s->pad_top = pads[0], s->pad_left = pads[1], s->pad_bottom = pads[2], s->pad_right = pads[3];
}

}  // namespace xk::ort
