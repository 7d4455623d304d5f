#include "ort/int8_conv.h"

#include <cinttypes>
#include <cmath>

#include "error.h"
#include "dense/conv.h"
#include "ort/call.h"

namespace xk::ort {

namespace {

struct Int8Variant {
  const char* name;
  bool linear;  // x is rows
  bool relu, to_bits;
};

constexpr Int8Variant kVariants[] = {
    // name, linear, relu, to bits
    {"Int8Conv", false, false, false},    {"Int8ConvRelu", false, true, false}, {"Int8ConvToBits", false, false, true},
    {"Int8Linear", true, false, false}, {"Int8LinearRelu", true, true, false},
};

// The inputs, in order; the last two only of what ends in bits.
enum : size_t { kX, kNumbers, kScale, kBias, kInverse, kZero, kOutputThreshold, kOutputTurn };

xk_conv_shape shape_of(const Int8Variant& variant, const Node& node) {
  xk_conv_shape shape{};
  shape.groups = 1;
  if (variant.linear) {
    const std::vector<int64_t> filter = node.integers("filter_shape", 2);
    shape.kernel_h = shape.kernel_w = shape.stride_h = shape.stride_w = shape.dilation_h = shape.dilation_w = 1;
    shape.out_channels = filter[0], shape.channels = filter[1];
  } else {
    read_window(node, &shape);
    if (const int64_t groups = node.integer("group"); groups != 1)
      fail(XK_INVALID_ARGUMENT, "group is %" PRId64 "; it must be 1", groups);
    const std::vector<int64_t> filter = node.integers("filter_shape", 4);
    if (filter[1] != shape.kernel_h || filter[2] != shape.kernel_w)
      fail(XK_INVALID_ARGUMENT, "kernel_shape is %s; filter_shape %s says otherwise",
           text_of({shape.kernel_h, shape.kernel_w}).c_str(), text_of(filter).c_str());
    shape.out_channels = filter[0], shape.channels = filter[3];
  }
  weight_shape(shape);  // checks it
  return shape;
}

dense::Levels levels_of(const Node& node) {
  const float inverse = node.floats(kInverse, "x_inverse", 1)[0], zero = node.floats(kZero, "x_zero", 1)[0];
  if (!(inverse > 0) || !std::isfinite(inverse))
    fail(XK_INVALID_ARGUMENT, "x_inverse is %g; it must be over 0 and finite", inverse);
  if (!(zero >= 0 && zero <= 255) || zero != std::floor(zero))
    fail(XK_INVALID_ARGUMENT, "x_zero is %g; it must be a whole number from 0 to 255", zero);
  return {inverse, static_cast<int32_t>(zero)};
}

PreparedBits ordered(const xk_conv_shape& shape, const uint8_t* numbers, int32_t zero) {
  PreparedBits memory(dense::Weights::size(shape, dense::int8_kernel()));
  dense::Weights::order(shape, numbers, zero, static_cast<uint8_t*>(memory.data()));
  return memory;
}

class Int8Kernel : public NodeKernel {
 public:
  Int8Kernel(const Int8Variant& variant, const Api& api, const Node& node)
      : NodeKernel(api),
        variant_(variant),
        shape_(shape_of(variant, node)),
        levels_(levels_of(node)),
        memory_(ordered(shape_, numbers_of(node), levels_.zero)),
        weights_(shape_, dense::int8_kernel(), static_cast<const uint8_t*>(memory_.data())),
        scale_(node.floats(kScale, "scale", shape_.out_channels)),
        bias_(node.floats(kBias, "bias", shape_.out_channels)) {
    if (!variant.to_bits) return;
    check_holds_bits("the output", shape_.out_channels);
    output_ = Comparison(node, kOutputThreshold, "output_threshold", "output_turn", shape_.out_channels);
  }

  void compute(OrtKernelContext* context) const override {
    Call call(api_, context);
    const Tensor x = variant_.linear ? rows_as_images(call.tensor(kX)) : call.input(kX, "x");
    xk_conv_shape shape = shape_for(shape_, x);
    const bool empty = shape.batch == 0;
    shape.batch += empty;  // the size of the output is checked for one image then
    const Shape full = full_shape(shape);
    std::vector<int64_t> dims{x.dims[0], shape.out_channels};
    if (!variant_.linear) dims.insert(dims.end(), {full.out_height, full.out_width});
    const Tensor y = call.output(dims);
    if (empty) return;
    const xk_epilogue epilogue{scale_.data(), bias_.data(), nullptr, variant_.relu};
    xk_output output{};
    output.data = variant_.to_bits ? bits_to_write(y) : y.data;
    output.kind = variant_.to_bits ? XK_OUT_BITS : XK_OUT_FLOAT;
    output.binarize = variant_.to_bits ? output_.view() : xk_binarize{};
    const xk_parallel parallel = call.parallel();
    dense::conv(shape, floats_in(x, "x"), levels_, weights_, epilogue, output, &parallel);
    call.check_parallel(XK_OK);
    if (variant_.to_bits) mark_as_bits(y);
  }

 private:
  const uint8_t* numbers_of(const Node& node) const {
    const Shape full = weight_shape(shape_);
    const uint8_t* const numbers = node.bytes(kNumbers, "numbers", full.out_channels, full.filter_bits);
    for (int64_t i = 0; i < full.out_channels * full.filter_bits; ++i)
      if (numbers[i] == 0)
        fail(XK_INVALID_ARGUMENT, "'numbers' has a 0, which is -128; the least is 1: the data is damaged");
    return numbers;
  }

  static Tensor rows_as_images(Tensor x) {
    if (x.dims.size() != 2)
      fail(XK_INVALID_ARGUMENT, "the input 'x' has shape %s; it must be (rows, inputs)", text_of(x.dims).c_str());
    x.dims.insert(x.dims.end(), {1, 1});
    return x;
  }

  const Int8Variant& variant_;
  const xk_conv_shape shape_;  // without batch, height and width
  const dense::Levels levels_;
  const PreparedBits memory_;  // of the weights
  const dense::Weights weights_;
  const std::vector<float> scale_, bias_;
  Comparison output_;
};

}  // namespace

std::vector<Operator> int8_operators() {
  std::vector<Operator> operators;
  for (const Int8Variant& variant : kVariants) {
    std::vector<ElementType> inputs(variant.to_bits ? kOutputTurn + 1 : kZero + 1, kFloat);
    inputs[kNumbers] = kUint8;
    operators.push_back({variant.name, inputs, [&variant](const Api& api, const Node& node) {
                           return std::make_unique<Int8Kernel>(variant, api, node);
                         }});
  }
  return operators;
}

}  // namespace xk::ort
