#include "ort/level_layers.h"

#include <cinttypes>

#include "error.h"
#include "levels/layer.h"
#include "ort/call.h"
#include "shape.h"

namespace xk::ort {

namespace {

enum class Kind { kConv, kTransposed, kLinear };

struct LevelVariant {
  const char* name;
  Kind kind;
  bool of_signs;  // the input, else numbers of a few bits
};

constexpr LevelVariant kVariants[] = {
    {"LevelConv", Kind::kConv, false},
    {"LevelConvOfSigns", Kind::kConv, true},
    {"LevelConvTranspose", Kind::kTransposed, false},
    {"LevelConvTransposeOfSigns", Kind::kTransposed, true},
    {"LevelLinear", Kind::kLinear, false},
    {"LevelLinearOfSigns", Kind::kLinear, true},
};

// The inputs, in order.
enum : size_t { kX, kWeightBits, kScale, kBias, kInputs };

levels::Input input_of(const LevelVariant& variant, const Node& node) {
  if (variant.of_signs) return {0};
  const int64_t largest = node.integer("input_largest");
  for (int bits = 1; bits <= levels::kMostBits; ++bits)
    if (largest == levels::Input{bits}.largest()) return {bits};
  fail(XK_INVALID_ARGUMENT, "input_largest is %" PRId64 "; it must be 1, 3, 7 or 15", largest);
}

// The number of planes of the weight.
int planes_of(const Node& node) {
  const std::vector<int64_t> values = node.integers("bit_values");
  bool powers = !values.empty() && values.size() <= levels::kMostBits;
  for (size_t j = 0; powers && j < values.size(); ++j) powers = values[j] == int64_t{1} << j;
  if (!powers)
    fail(XK_INVALID_ARGUMENT, "bit_values is %s; it must be 1, 2, 4 and 8, or the first of them",
         text_of(values).c_str());
  return static_cast<int>(values.size());
}

// With its bits checked. A linear layer has a kernel of one tap.
levels::Weight weight_of(const LevelVariant& variant, const Node& node) {
  const bool linear = variant.kind == Kind::kLinear;
  std::vector<int64_t> filter = node.integers("filter_shape", linear ? 2 : 4);
  const std::vector<int64_t> bits = node.integers("filter_bits", 1);
  for (int64_t size : filter) check_size("a size of filter_shape", size, 1);
  if (linear) filter.insert(filter.begin() + 1, {1, 1});
  const int64_t product = checked_product("filter_shape", {filter[1], filter[2], filter[3]});
  if (bits[0] != product)
    fail(XK_INVALID_ARGUMENT, "filter_bits is %" PRId64 "; filter_shape %s says %" PRId64, bits[0],
         text_of(filter).c_str(), product);
  levels::Weight weight{nullptr, planes_of(node), filter[0], linear ? 1 : node.integer("group"),
                        filter[1], filter[2], filter[3]};
  check_size("group", weight.groups, 1);
  if (weight.outputs % weight.groups)
    fail(XK_INVALID_ARGUMENT, "group is %" PRId64 "; it must divide the %" PRId64 " outputs", weight.groups,
         weight.outputs);
  checked_product("the size of the weight", {weight.planes, weight.outputs, product});
  checked_product("group * channels a group", {weight.groups, weight.channels});
  const int64_t rows = weight.planes * weight.outputs;
  weight.dense = node.bytes(kWeightBits, "weight_bits", rows, weight.filter_bytes());
  check_tails(weight.dense, rows, product);
  return weight;
}

levels::ScaleBias end_of(const Node& node, const levels::Weight& weight) {
  return {node.floats(kScale, "scale", weight.outputs), node.floats(kBias, "bias", weight.outputs)};
}

void check_kernel(const levels::Weight& weight, int64_t height, int64_t width) {
  if (height != weight.kernel_h || width != weight.kernel_w)
    fail(XK_INVALID_ARGUMENT, "kernel_shape is %s; filter_shape says %s", text_of({height, width}).c_str(),
         text_of({weight.kernel_h, weight.kernel_w}).c_str());
}

xk_conv_shape window_of(const Node& node, const levels::Weight& weight) {
  xk_conv_shape window{};
  read_window(node, &window);
  check_kernel(weight, window.kernel_h, window.kernel_w);
  const std::vector<int64_t> hint = node.integers("size_hint", std::vector<int64_t>{0, 0});
  for (int64_t size : hint) check_size("a size of size_hint", size, 0);
  window.height = hint[0], window.width = hint[1];
  checked_product("size_hint", {window.height, window.width});
  return window;
}

levels::TransposedAxis axis_of(const Node& node, int axis) {
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
  if (variant.kind == Kind::kConv) return {input, weight, window_of(node, weight), end_of(node, weight)};
  const levels::TransposedAxis vertical = axis_of(node, 0), horizontal = axis_of(node, 1);
  check_kernel(weight, vertical.kernel, horizontal.kernel);
  return {input, weight, vertical, horizontal, end_of(node, weight)};
}

class LevelConvKernel : public NodeKernel {
 public:
  LevelConvKernel(const LevelVariant& variant, const Api& api, const Node& node)
      : NodeKernel(api), conv_(conv_of(variant, node)) {}

  void compute(OrtKernelContext* context) const override {
    Call call(api_, context);
    const Tensor x = call.input(kX, "x");
    if (x.dims[1] != conv_.channels())
      fail(XK_INVALID_ARGUMENT, "x has shape %s; this layer takes %" PRId64 " channels", text_of(x.dims).c_str(),
           conv_.channels());
    check_size("the height of x", x.dims[2], 1);
    check_size("the width of x", x.dims[3], 1);
    int64_t height = 0, width = 0;
    conv_.output_size(x.dims[2], x.dims[3], &height, &width);
    checked_product("the size of the output", {x.dims[0], conv_.outputs(), height, width, 4});
    const Tensor y = call.output({x.dims[0], conv_.outputs(), height, width});
    if (x.dims[0] == 0) return;
    const xk_parallel parallel = call.parallel();
    conv_.compute(floats_in(x, "x"), x.dims[0], x.dims[2], x.dims[3], static_cast<float*>(y.data), &parallel);
    call.check_parallel(XK_OK);
  }

 private:
  const levels::Conv conv_;
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
    const float* const floats = x.dims.size() == 4 ? floats_in(x, "x") : static_cast<const float*>(x.data);
    const xk_parallel parallel = call.parallel();
    linear_.compute(floats, rows.count, rows.y, &parallel);
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
  return std::make_unique<LevelConvKernel>(variant, api, node);
}

}  // namespace

std::vector<Operator> level_operators() {
  std::vector<Operator> operators;
  for (const LevelVariant& variant : kVariants) {
    std::vector<ElementType> inputs(kInputs, kFloat);
    inputs[kWeightBits] = kUint8;
    operators.push_back(
        {variant.name, inputs, [&variant](const Api& api, const Node& node) { return kernel_of(variant, api, node); }});
  }
  return operators;
}

}  // namespace xk::ort
