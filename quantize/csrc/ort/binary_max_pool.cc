#include "ort/binary_max_pool.h"

#include <cinttypes>

#include "error.h"
#include "ort/call.h"
#include "shape.h"

namespace xk::ort {

namespace {

class PoolKernel : public NodeKernel {
 public:
  PoolKernel(const Api& api, const Node& node);
  void compute(OrtKernelContext* context) const override;

 private:
  xk_pool_shape sized_for(const Tensor& x) const;

  xk_pool_shape shape_;  // without batch, height, width and the output's size
  bool ceil_mode_ = false;
  std::vector<uint8_t> flip_;
};

// As ONNX and PyTorch count: with ceil_mode a last window that starts behind the input is left out.
int64_t extent(const Axis& axis, bool ceil_mode) {
  if (!ceil_mode) return output_extent(axis);
  const int64_t count = output_extent(axis, axis.stride - 1);
  return (count - 1) * axis.stride >= axis.size + axis.before ? count - 1 : count;
}

// A padding of a whole window would make windows without a value.
void check_padding(const Axis& axis) {
  const int64_t span = checked_product("dilation * (kernel - 1)", {axis.dilation, axis.kernel - 1}) + 1;
  for (int64_t pad : {axis.before, axis.after})
    if (pad >= span)
      fail(XK_INVALID_ARGUMENT, "a padding is %" PRId64 "; it must be less than the %" PRId64 " that a window spans",
           pad, span);
}

PoolKernel::PoolKernel(const Api& api, const Node& node) : NodeKernel(api) {
  shape_ = {};
  read_window(node, &shape_);
  check_window(shape_);
  ceil_mode_ = node.integer("ceil_mode") != 0;
  shape_.channels = node.length(1, "turn");
  check_holds_bits("turn", shape_.channels);
  flip_ = node.flips(1, "turn", shape_.channels);
  check_padding(vertical(shape_));
  check_padding(horizontal(shape_));
}

xk_pool_shape PoolKernel::sized_for(const Tensor& x) const {
  xk_pool_shape s = shape_for(shape_, x);
  s.out_height = extent(vertical(s), ceil_mode_);
  s.out_width = extent(horizontal(s), ceil_mode_);
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

}  // namespace

Operator max_pool_operator() {
  return {"BinaryMaxPool", {kFloat, kFloat}, [](const Api& api, const Node& node) {
            return std::make_unique<PoolKernel>(api, node);
          }};
}

}  // namespace xk::ort
