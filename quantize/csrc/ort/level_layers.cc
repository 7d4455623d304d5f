#include "ort/level_layers.h"

#include <array>
#include <cinttypes>
#include <iterator>
#include <utility>

#include "api.h"
#include "error.h"
#include "levels/layer.h"
#include "levels/volume.h"
#include "ort/call.h"
#include "prepared.h"
#include "shape.h"

namespace xk::ort {

namespace {

enum class Kind { kConv, kVolume, kTransposed, kLinear };
enum class Of { kNumbers, kSigns, kFloats };  // numbers of a few bits

struct LevelVariant {
  const char* name;
  Kind kind;
  Of of;  // what the input is
};

constexpr LevelVariant kVariants[] = {
    {"LevelConv", Kind::kConv, Of::kNumbers},
    {"LevelConvOfSigns", Kind::kConv, Of::kSigns},
    {"LevelConv3d", Kind::kVolume, Of::kNumbers},
    {"LevelConv3dOfSigns", Kind::kVolume, Of::kSigns},
    {"LevelConvTranspose", Kind::kTransposed, Of::kNumbers},
    {"LevelConvTransposeOfSigns", Kind::kTransposed, Of::kSigns},
    {"LevelLinear", Kind::kLinear, Of::kNumbers},
    {"LevelLinearOfSigns", Kind::kLinear, Of::kSigns},
    {"SignConv", Kind::kConv, Of::kFloats},
};

// The inputs, in order.
enum : size_t { kX, kWeightBits, kScale, kBias, kInputs };

levels::Input input_of(const LevelVariant& variant, const Node& node) {
  if (variant.of == Of::kSigns) return {0};
  const int64_t largest = node.integer("input_largest");
  for (int bits = 1; bits <= levels::kMostBits; ++bits)
    if (largest == levels::Input{bits}.largest()) return {bits};
  fail(XK_INVALID_ARGUMENT, "input_largest is %" PRId64 "; it must be 1, 3, 7 or 15", largest);
}

// The number of planes of the weight, which is signs where the input is floats.
int planes_of(const LevelVariant& variant, const Node& node) {
  if (variant.of == Of::kFloats) return 1;
  const std::vector<int64_t> values = node.integers("bit_values");
  bool powers = !values.empty() && values.size() <= levels::kMostBits;
  for (size_t j = 0; powers && j < values.size(); ++j) powers = values[j] == int64_t{1} << j;
  if (!powers)
    fail(XK_INVALID_ARGUMENT, "bit_values is %s; it must be 1, 2, 4 and 8, or the first of them",
         text_of(values).c_str());
  return static_cast<int>(values.size());
}

// The number of directions that a kernel moves in.
size_t dimensions_of(const LevelVariant& variant) {
  return variant.kind == Kind::kLinear ? 0 : variant.kind == Kind::kVolume ? 3 : 2;
}

// With its bits checked. A linear layer has a kernel of one tap; the rows of one of volumes are those of all depths.
levels::Weight weight_of(const LevelVariant& variant, const Node& node) {
  const size_t dimensions = dimensions_of(variant);
  const std::vector<int64_t> filter = node.integers("filter_shape", dimensions + 2);
  const std::vector<int64_t> bits = node.integers("filter_bits", 1);
  for (int64_t size : filter) check_size("a size of filter_shape", size, 1);
  std::vector<int64_t> kernel(filter.begin() + 1, filter.end() - 1);
  if (dimensions && node.integers("kernel_shape", dimensions) != kernel)
    fail(XK_INVALID_ARGUMENT, "kernel_shape is %s; filter_shape says %s",
         text_of(node.integers("kernel_shape")).c_str(), text_of(kernel).c_str());
  kernel.insert(kernel.begin(), 3 - dimensions, 1);
  const int64_t rows = checked_product("filter_shape", {kernel[0], kernel[1]});
  levels::Weight weight{nullptr, planes_of(variant, node), filter[0], dimensions ? node.integer("group") : 1, rows, kernel[2],
                        filter.back()};
  const int64_t product = checked_product("filter_shape", {rows, weight.kernel_w, weight.channels});
  if (bits[0] != product)
    fail(XK_INVALID_ARGUMENT, "filter_bits is %" PRId64 "; filter_shape %s says %" PRId64, bits[0],
         text_of(filter).c_str(), product);
  check_size("group", weight.groups, 1);
  if (weight.outputs % weight.groups)
    fail(XK_INVALID_ARGUMENT, "group is %" PRId64 "; it must divide the %" PRId64 " outputs", weight.groups,
         weight.outputs);
  checked_product("the size of the weight", {weight.planes, weight.outputs, product});
  checked_product("group * channels a group", {weight.groups, weight.channels});
  const int64_t filters = weight.planes * weight.outputs;
  weight.dense = node.bytes(kWeightBits, "weight_bits", filters, weight.filter_bytes());
  check_tails(weight.dense, filters, product);
  return weight;
}

levels::ScaleBias end_of(const Node& node, const levels::Weight& weight) {
  return {node.floats(kScale, "scale", weight.outputs), node.floats(kBias, "bias", weight.outputs)};
}

// How a kernel moves in one of `count` directions.
Axis axis_of(const Node& node, size_t axis, size_t count) {
  const std::vector<int64_t> pads = node.integers("pads", 2 * count);
  return {"depth",
          0,
          node.integers("kernel_shape", count)[axis],
          node.integers("strides", count)[axis],
          node.integers("dilations", count)[axis],
          pads[axis],
          pads[count + axis]};
}

// How it does in the last two.
xk_conv_shape window_of(const Node& node, size_t count) {
  const std::vector<int64_t> hint = node.integers("size_hint", std::vector<int64_t>(count, 0));
  for (int64_t size : hint) check_size("a size of size_hint", size, 0);
  const Axis rows = axis_of(node, count - 2, count), columns = axis_of(node, count - 1, count);
  xk_conv_shape window{};
  window.height = hint[count - 2], window.width = hint[count - 1];
  window.kernel_h = rows.kernel, window.kernel_w = columns.kernel;
  window.stride_h = rows.stride, window.stride_w = columns.stride;
  window.dilation_h = rows.dilation, window.dilation_w = columns.dilation;
  window.pad_top = rows.before, window.pad_bottom = rows.after;
  window.pad_left = columns.before, window.pad_right = columns.after;
  checked_product("size_hint", {window.height, window.width});
  return window;
}

levels::TransposedAxis transposed_axis(const Node& node, int axis) {
  const std::vector<int64_t> kernel = node.integers("kernel_shape", 2), strides = node.integers("strides", 2),
                             pads = node.integers("pads", 4), more = node.integers("output_padding", 2);
  const levels::TransposedAxis a{axis ? "width" : "height", kernel[axis], strides[axis], pads[axis], pads[2 + axis],
                                 more[axis]};
  check_size("a stride", a.stride, 1);
  check_size("a padding", a.before, 0);
  check_size("a padding", a.after, 0);
  if (a.output_padding < 0 || a.output_padding >= a.stride)
    fail(XK_INVALID_ARGUMENT, "output_padding is %" PRId64 "; it must be 0 to less than the stride, %" PRId64,
         a.output_padding, a.stride);
  return a;
}

levels::Conv conv_of(const LevelVariant& variant, const Node& node) {
  const levels::Input input = input_of(variant, node);
  const levels::Weight weight = weight_of(variant, node);
  if (variant.kind == Kind::kConv) return {input, weight, window_of(node, 2), end_of(node, weight)};
  return {input, weight, transposed_axis(node, 0), transposed_axis(node, 1), end_of(node, weight)};
}

levels::Volume volume_of(const LevelVariant& variant, const Node& node) {
  const levels::Weight weight = weight_of(variant, node);
  return {input_of(variant, node), weight, axis_of(node, 0, 3), window_of(node, 3), end_of(node, weight)};
}

// A convolution of floats.
class SignConv {
 public:
  using Size = std::array<int64_t, 2>;  // height, width

  SignConv(const levels::Weight& weight, const xk_conv_shape& window, levels::ScaleBias end)
      : shape_(window), end_(std::move(end)) {
    shape_.groups = weight.groups, shape_.channels = weight.groups * weight.channels;
    shape_.out_channels = weight.outputs;
    size_t bytes = 0;
    check_call(xk_sign_conv_size(&shape_, 1, &bytes));
    weights_ = PreparedBits(bytes);
    check_call(xk_sign_conv_pack(&shape_, 1, weight.dense, static_cast<size_t>(weight.outputs * weight.filter_bytes()),
                                 weights_.data(), bytes));
  }

  int64_t channels() const { return shape_.channels; }
  int64_t outputs() const { return shape_.out_channels; }
  Size output_size(const Size& size) const {
    const xk_conv_shape shape = of(1, size);
    Size out;
    check_call(xk_output_size(&shape, &out[0], &out[1]));
    return out;
  }
  void compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const {
    const xk_conv_shape shape = of(batch, size);
    check_call(xk_sign_conv(&shape, x, weights_.data(), weights_.size(), end_.scale.data(), end_.bias.data(), y,
                            parallel));
  }

 private:
  xk_conv_shape of(int64_t batch, const Size& size) const {
    xk_conv_shape shape = shape_;
    shape.batch = batch, shape.height = size[0], shape.width = size[1];
    return shape;
  }

  xk_conv_shape shape_;
  levels::ScaleBias end_;
  PreparedBits weights_;
};

SignConv sign_conv_of(const LevelVariant& variant, const Node& node) {
  const levels::Weight weight = weight_of(variant, node);
  return {weight, window_of(node, 2), end_of(node, weight)};
}

// Of a levels::Conv, a levels::Volume or a SignConv.
template <class Layer>
class LevelConvKernel : public NodeKernel {
 public:
  LevelConvKernel(const Api& api, Layer layer) : NodeKernel(api), layer_(std::move(layer)) {}

  void compute(OrtKernelContext* context) const override {
    Call call(api_, context);
    typename Layer::Size size;
    const Tensor x = call.input(kX, "x", 2 + size.size());
    if (x.dims[1] != layer_.channels())
      fail(XK_INVALID_ARGUMENT, "x has shape %s; this layer takes %" PRId64 " channels", text_of(x.dims).c_str(),
           layer_.channels());
    constexpr const char* kNames[] = {"the depth of x", "the height of x", "the width of x"};
    for (size_t i = 0; i < size.size(); ++i) {
      size[i] = x.dims[2 + i];
      check_size(kNames[std::size(kNames) - size.size() + i], size[i], 1);
    }
    const typename Layer::Size out = layer_.output_size(size);
    std::vector<int64_t> dims{x.dims[0], layer_.outputs()};
    dims.insert(dims.end(), out.begin(), out.end());
    int64_t count = 4;
    for (int64_t dim : dims) count = checked_product("the size of the output", {count, dim});
    const Tensor y = call.output(dims);
    if (x.dims[0] == 0) return;
    const xk_parallel parallel = call.parallel();
    layer_.compute(floats_in(x, "x"), x.dims[0], size, static_cast<float*>(y.data), &parallel);
    call.check_parallel(XK_OK);
  }

 private:
  const Layer layer_;
};

class LevelLinearKernel : public NodeKernel {
 public:
  LevelLinearKernel(const LevelVariant& variant, const Api& api, const Node& node)
      : LevelLinearKernel(api, node, input_of(variant, node), weight_of(variant, node)) {}

  void compute(OrtKernelContext* context) const override {
    Call call(api_, context);
    const Tensor x = call.tensor(kX);
    const Rows rows = call.output_rows(x, channels_, outputs_);
    if (rows.count == 0) return;
    const xk_parallel parallel = call.parallel();
    linear_.compute(floats_in(x, "x"), rows.count, rows.y, &parallel);
    call.check_parallel(XK_OK);
  }

 private:
  LevelLinearKernel(const Api& api, const Node& node, const levels::Input& input, const levels::Weight& weight)
      : NodeKernel(api), outputs_(weight.outputs), channels_(weight.channels),
        linear_(input, weight, end_of(node, weight)) {}

  const int64_t outputs_, channels_;
  const levels::Linear linear_;
};

std::unique_ptr<NodeKernel> kernel_of(const LevelVariant& variant, const Api& api, const Node& node) {
  if (variant.kind == Kind::kLinear) return std::make_unique<LevelLinearKernel>(variant, api, node);
  if (variant.kind == Kind::kVolume)
    return std::make_unique<LevelConvKernel<levels::Volume>>(api, volume_of(variant, node));
  if (variant.of == Of::kFloats)
    return std::make_unique<LevelConvKernel<SignConv>>(api, sign_conv_of(variant, node));
  return std::make_unique<LevelConvKernel<levels::Conv>>(api, conv_of(variant, node));
}

}  // namespace

std::vector<Operator> level_operators() {
  std::vector<Operator> operators;
  for (const LevelVariant& variant : kVariants) {
    if (variant.of == Of::kFloats && !xk_sign_conv_is_fast()) continue;  // its body is faster
    std::vector<ElementType> inputs(kInputs, kFloat);
    inputs[kWeightBits] = kUint8;
    operators.push_back(
        {variant.name, inputs, [&variant](const Api& api, const Node& node) { return kernel_of(variant, api, node); }});
  }
  return operators;
}

}  // namespace xk::ort
