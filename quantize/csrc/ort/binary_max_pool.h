// BinaryMaxPool: max pooling of bits, as an operator of onnxruntime. Inputs: x, turn.
#pragma once

#include <cstdint>
#include <vector>

#include "ort/call.h"
#include "ort/node.h"

namespace xk::ort {

// Immutable once it is made: runs at the same time are safe.
class PoolKernel {
 public:
  PoolKernel(const Api& api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;
  const Api& api() const { return api_; }

 private:
  xk_pool_shape sized_for(const Tensor& x) const;

  const Api api_;
  xk_pool_shape shape_;  // without batch, height, width and the output's size
  bool ceil_mode_ = false;
  std::vector<uint8_t> flip_;
};

}  // namespace xk::ort
