#include "ort/binary_max_pool.h"

#include <cinttypes>

#include "error.h"
#include "shape.h"

namespace xk::ort {

namespace {

// As ONNX and PyTorch count: with ceil_mode a last window that starts behind the input is left out.
int64_t extent(const char* name, int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t before,
               int64_t after, bool ceil_mode) {
  if (!ceil_mode) return output_extent(name, size, kernel, stride, dilation, before + after);
  const int64_t count = output_extent(name, size, kernel, stride, dilation, before + after + stride - 1);
  return (count - 1) * stride >= size + before ? count - 1 : count;
}

// A padding of a whole window would make windows without a value.
void check_padding(int64_t before, int64_t after, int64_t kernel, int64_t dilation) {
  const int64_t span = checked_product("dilation * (kernel - 1)", {dilation, kernel - 1}) + 1;
  for (int64_t pad : {before, after})
    if (pad >= span)
      fail(XK_INVALID_ARGUMENT, "a padding is %" PRId64 "; it must be less than the %" PRId64 " that a window spans",
           pad, span);
}

}  // namespace

PoolKernel::PoolKernel(const Api& api, const OrtKernelInfo* info) : api_(api) {
  const Node node(api_, info);
  shape_ = {};
  read_window(node, &shape_);
  check_window(shape_);
  ceil_mode_ = node.integer("ceil_mode") != 0;
  shape_.channels = node.length(1, "turn");
  check_holds_bits("turn", shape_.channels);
  flip_ = node.flips(1, "turn", shape_.channels);
  check_padding(shape_.pad_top, shape_.pad_bottom, shape_.kernel_h, shape_.dilation_h);
  check_padding(shape_.pad_left, shape_.pad_right, shape_.kernel_w, shape_.dilation_w);
}

xk_pool_shape PoolKernel::sized_for(const Tensor& x) const {
  xk_pool_shape s = shape_for(shape_, x);
  s.out_height =
      extent("height", s.height, s.kernel_h, s.stride_h, s.dilation_h, s.pad_top, s.pad_bottom, ceil_mode_);
  s.out_width = extent("width", s.width, s.kernel_w, s.stride_w, s.dilation_w, s.pad_left, s.pad_right, ceil_mode_);
  return s;
}

void PoolKernel::compute(OrtKernelContext* context) const {
  Call call(api_, context);
  const Tensor x = call.input(0, "x");
  const xk_pool_shape shape = sized_for(x);
  // Before anything that takes as long as the output is large: a damaged file may ask for terabytes, and gets none.
  checked_product("the size of the output", {shape.batch, shape.channels, shape.out_height, shape.out_width, 4});
  const Tensor y = call.output({shape.batch, shape.channels, shape.out_height, shape.out_width});
  if (shape.batch == 0) return;
  const xk_parallel parallel = call.parallel();
  call.check_parallel(xk_max_pool(&shape, bits_in(x, "x"), flip_.data(), bits_to_write(y), &parallel));
  mark_as_bits(y);
}

}  // namespace xk::ort
