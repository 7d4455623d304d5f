// One run of a kernel in onnxruntime: its tensors, and onnxruntime's threads.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <vector>

#include "api.h"
#include "error.h"
#include "ort/c_api.h"
#include "ort/node.h"
#include "xnorkit.h"

namespace xk::ort {

// The rows of a linear layer's output, (..., outputs).
struct Rows {
  int64_t count;
  float* y;
};

class Call {
 public:
  Call(const Api& api, OrtKernelContext* context) : api_(api), context_(context) {}
  Call(const Call&) = delete;

  Tensor tensor(size_t index) const;
  // The input, which must be images, or volumes where it has five dimensions.
  Tensor input(size_t index, const char* name, size_t rank = 4) const;
  Tensor output(const std::vector<int64_t>& dims) const;
  // The output of a linear layer for x, which must be (..., inputs).
  Rows output_rows(const Tensor& x, int64_t inputs, int64_t outputs) const;

  // onnxruntime's intra-op threads.
  xk_parallel parallel() { return {run, this}; }
  // check_call() for a call that had these threads: throws, too, what onnxruntime said of them.
  void check_parallel(int32_t status) const;

 private:
  static void run(void* call, size_t count, void (*task)(void*, size_t), void* argument);

  const Api& api_;
  OrtKernelContext* context_;
  OrtStatus* failure_ = nullptr;
};

// Completes `layer`, an xk_conv_shape or an xk_pool_shape, with the sizes of the images `x`; their channels must agree.
template <class Sizes>
Sizes shape_for(Sizes layer, const Tensor& x) {
  if (x.dims[1] != layer.channels)
    fail(XK_INVALID_ARGUMENT, "x has shape %s; this layer takes %" PRId64 " channels", text_of(x.dims).c_str(),
         layer.channels);
  layer.batch = x.dims[0], layer.height = x.dims[2], layer.width = x.dims[3];
  return layer;
}

// Bits between two of our nodes. The graph declares them as +-1 floats (N, C, H, W), so that a standard runtime can
// run the nodes' function bodies; for the kernels such a tensor is a container, whose front holds the words [N][H][W]
// [words]. They fit from two channels on. Nobody but our nodes may read a container: whoever writes a file sees to
// that, since a kernel does not know who reads its output.
//
// From three channels on a float is left behind the words. It is a NaN that tells the container's shape: so our nodes
// tell bits from floats, and others that read them as floats compute with a NaN.
void check_holds_bits(const char* what, int64_t channels);
// The words in an input, or an error where it has none.
const uint64_t* bits_in(const Tensor& container, const char* name);
// The floats of an input, or an error where it holds bits, which only tensors of four dimensions do.
const float* floats_in(const Tensor& tensor, const char* name);
uint64_t* bits_to_write(const Tensor& container);
void mark_as_bits(const Tensor& container);

}  // namespace xk::ort
