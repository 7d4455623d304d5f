#include "ort/dense_conv.h"

#include <cinttypes>
#include <cmath>

#include "dense/conv.h"
#include "error.h"
#include "ort/call.h"

namespace xk::ort {

namespace {

enum class End { kFloat, kRelu, kBits };

struct DenseVariant {
  const char* name;
  bool linear;  // x is rows
  End end;
};

constexpr DenseVariant kInt8[] = {
    {"Int8Conv", false, End::kFloat},
    {"Int8ConvRelu", false, End::kRelu},
    {"Int8ConvToBits", false, End::kBits},
    {"Int8Linear", true, End::kFloat},
    {"Int8LinearRelu", true, End::kRelu},
};

// Where floats are asked for, onnxruntime's own convolution is as fast.
constexpr DenseVariant kFloatConv = {"FloatConvToBits", false, End::kBits};

// Of a convolution but for its filters.
xk_conv_shape window_of(const Node& node) {
  xk_conv_shape shape{};
  read_window(node, &shape);
  shape.groups = node.integer("group");
  if (shape.groups != 1) fail(XK_INVALID_ARGUMENT, "group is %" PRId64 "; it must be 1", shape.groups);
  return shape;
}

void check_kernel(const xk_conv_shape& shape, int64_t height, int64_t width, const char* name,
                  const std::vector<int64_t>& dims) {
  if (height != shape.kernel_h || width != shape.kernel_w)
    fail(XK_INVALID_ARGUMENT, "kernel_shape is %s; %s %s says otherwise",
         text_of({shape.kernel_h, shape.kernel_w}).c_str(), name, text_of(dims).c_str());
}

// A layer on numbers of 8 bits.
class Numbers {
 public:
  // The inputs, in order, behind x.
  enum : size_t { kNumbers = 1, kScale, kBias, kInverse, kZero, kInputs };

  Numbers(const DenseVariant& variant, const Node& node)
      : shape_(shape_of(variant, node)),
        levels_(levels_of(node)),
        memory_(ordered(shape_, node, levels_.zero)),
        weights_(shape_, dense::int8_kernel(), static_cast<const uint8_t*>(memory_.data())),
        scale_(node.floats(kScale, "scale", shape_.out_channels)),
        bias_(node.floats(kBias, "bias", shape_.out_channels)) {}

  const xk_conv_shape& shape() const { return shape_; }

  void conv(const xk_conv_shape& shape, const float* x, bool relu, const xk_output& output,
            const xk_parallel& parallel) const {
    dense::conv(shape, x, levels_, weights_, {scale_.data(), bias_.data(), nullptr, relu}, output, &parallel);
  }

 private:
  static xk_conv_shape shape_of(const DenseVariant& variant, const Node& node) {
    xk_conv_shape shape{};
    if (variant.linear) {
      const std::vector<int64_t> filter = node.integers("filter_shape", 2);
      shape.groups = 1;
      shape.kernel_h = shape.kernel_w = shape.stride_h = shape.stride_w = shape.dilation_h = shape.dilation_w = 1;
      shape.out_channels = filter[0], shape.channels = filter[1];
    } else {
      shape = window_of(node);
      const std::vector<int64_t> filter = node.integers("filter_shape", 4);
      check_kernel(shape, filter[1], filter[2], "filter_shape", filter);
      shape.out_channels = filter[0], shape.channels = filter[3];
    }
    weight_shape(shape);  // checks it
    return shape;
  }

  static dense::Levels levels_of(const Node& node) {
    const float inverse = node.floats(kInverse, "x_inverse", 1)[0], zero = node.floats(kZero, "x_zero", 1)[0];
    if (!(inverse > 0) || !std::isfinite(inverse))
      fail(XK_INVALID_ARGUMENT, "x_inverse is %g; it must be over 0 and finite", inverse);
    if (!(zero >= 0 && zero <= 255) || zero != std::floor(zero))
      fail(XK_INVALID_ARGUMENT, "x_zero is %g; it must be a whole number from 0 to 255", zero);
    return {inverse, static_cast<int32_t>(zero)};
  }

  static PreparedBits ordered(const xk_conv_shape& shape, const Node& node, int32_t zero) {
    const Shape full = weight_shape(shape);
    const uint8_t* const numbers = node.bytes(kNumbers, "numbers", full.out_channels, full.filter_bits);
    for (int64_t i = 0; i < full.out_channels * full.filter_bits; ++i)
      if (numbers[i] == 0)
        fail(XK_INVALID_ARGUMENT, "'numbers' has a 0, which is -128; the least is 1: the data is damaged");
    PreparedBits memory(dense::Weights::size(shape, dense::int8_kernel()));
    dense::Weights::order(shape, numbers, zero, static_cast<uint8_t*>(memory.data()));
    return memory;
  }

  const xk_conv_shape shape_;  // without batch, height and width
  const dense::Levels levels_;
  const PreparedBits memory_;  // of the weights
  const dense::Weights weights_;
  const std::vector<float> scale_, bias_;
};

// A convolution of floats.
class Floats {
 public:
  enum : size_t { kWeight = 1, kBias, kInputs };

  Floats(const DenseVariant&, const Node& node)
      : shape_(shape_of(node)),
        memory_(ordered(shape_, node.filters(kWeight, "weight"))),
        weights_(shape_, dense::float_kernel(), static_cast<const uint8_t*>(memory_.data())),
        bias_(node.floats(kBias, "bias", shape_.out_channels)) {}

  const xk_conv_shape& shape() const { return shape_; }

  void conv(const xk_conv_shape& shape, const float* x, bool relu, const xk_output& output,
            const xk_parallel& parallel) const {
    dense::conv(shape, x, weights_, {nullptr, bias_.data(), nullptr, relu}, output, &parallel);
  }

 private:
  static xk_conv_shape shape_of(const Node& node) {
    xk_conv_shape shape = window_of(node);
    const std::vector<int64_t> dims = node.filters(kWeight, "weight").dims;
    check_kernel(shape, dims[2], dims[3], "weight", dims);
    shape.out_channels = dims[0], shape.channels = dims[1];
    weight_shape(shape);  // checks it
    return shape;
  }

  // The file has (out, channels, kernel_h, kernel_w), as the standard's convolutions.
  static PreparedBits ordered(const xk_conv_shape& shape, const Tensor& weight) {
    const Shape full = weight_shape(shape);
    const float* from = static_cast<const float*>(weight.data);
    std::vector<float> values(static_cast<size_t>(full.out_channels * full.filter_bits));
    for (int64_t o = 0; o < full.out_channels; ++o)
      for (int64_t c = 0; c < full.channels; ++c)
        for (int64_t tap = 0; tap < full.taps; ++tap)
          values[static_cast<size_t>((o * full.taps + tap) * full.channels + c)] = *from++;
    PreparedBits memory(dense::Weights::size(shape, dense::float_kernel()));
    dense::Weights::order(shape, values.data(), dense::Sequence::kTaps, static_cast<uint8_t*>(memory.data()));
    return memory;
  }

  const xk_conv_shape shape_;  // without batch, height and width
  const PreparedBits memory_;  // of the weights
  const dense::Weights weights_;
  const std::vector<float> bias_;
};

// Behind the inputs of its layer, what ends in bits has a threshold and a turn a filter.
template <class Layer>
class DenseKernel : public NodeKernel {
 public:
  DenseKernel(const DenseVariant& variant, const Api& api, const Node& node)
      : NodeKernel(api), variant_(variant), layer_(variant, node) {
    if (variant.end != End::kBits) return;
    const int64_t outputs = layer_.shape().out_channels;
    check_holds_bits("the output", outputs);
    output_ = Comparison(node, Layer::kInputs, "output_threshold", "output_turn", outputs);
  }

  void compute(OrtKernelContext* context) const override {
    Call call(api_, context);
    const Tensor x = variant_.linear ? rows_as_images(call.tensor(0)) : call.input(0, "x");
    xk_conv_shape shape = shape_for(layer_.shape(), x);
    const bool empty = shape.batch == 0;
    shape.batch += empty;  // the size of the output is checked for one image then
    const Shape full = full_shape(shape);
    std::vector<int64_t> dims{x.dims[0], shape.out_channels};
    if (!variant_.linear) dims.insert(dims.end(), {full.out_height, full.out_width});
    const Tensor y = call.output(dims);
    if (empty) return;
    const bool bits = variant_.end == End::kBits;
    xk_output output{};
    output.data = bits ? bits_to_write(y) : y.data;
    output.kind = bits ? XK_OUT_BITS : XK_OUT_FLOAT;
    output.binarize = bits ? output_.view() : xk_binarize{};
    layer_.conv(shape, floats_in(x, "x"), variant_.end == End::kRelu, output, call.parallel());
    call.check_parallel(XK_OK);
    if (bits) mark_as_bits(y);
  }

 private:
  static Tensor rows_as_images(Tensor x) {
    if (x.dims.size() != 2)
      fail(XK_INVALID_ARGUMENT, "the input 'x' has shape %s; it must be (rows, inputs)", text_of(x.dims).c_str());
    x.dims.insert(x.dims.end(), {1, 1});
    return x;
  }

  const DenseVariant& variant_;
  const Layer layer_;
  Comparison output_;
};

template <class Layer>
Operator operator_of(const DenseVariant& variant) {
  return {variant.name, std::vector<ElementType>(Layer::kInputs + (variant.end == End::kBits ? 2 : 0), kFloat),
          [&variant](const Api& api, const Node& node) {
            return std::make_unique<DenseKernel<Layer>>(variant, api, node);
          }};
}

}  // namespace

std::vector<Operator> dense_operators() {
  std::vector<Operator> operators;
  for (const DenseVariant& variant : kInt8) {
    operators.push_back(operator_of<Numbers>(variant));
    operators.back().inputs[Numbers::kNumbers] = kUint8;
  }
  operators.push_back(operator_of<Floats>(kFloatConv));
  return operators;
}

}  // namespace xk::ort
