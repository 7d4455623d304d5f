#include "ort/binary_conv.h"

#include <cinttypes>

#include "error.h"
#include "ort/call.h"
#include "shape.h"

namespace xk::ort {

namespace {

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

class ConvKernel : public NodeKernel {
 public:
  ConvKernel(const ConvVariant& variant, const Api& api, const Node& node);
  void compute(OrtKernelContext* context) const override;

 private:
  void read_weights(const Node& node);
  xk_epilogue epilogue_for(const Call& call, const std::vector<int64_t>& output) const;

  const ConvVariant& variant_;
  const ConvInputs inputs_;
  xk_conv_shape shape_;  // without batch, height and width
  int64_t shuffle_ = 1;
  PreparedBits weights_;
  std::vector<float> scale_, bias_;
  Comparison input_, output_;
};

constexpr ConvVariant kConvs[] = {
    // name, from bits, epilogue, scaled, shuffled
    {"BinaryConv", false, ConvEpilogue::kFloat, false, false},
    {"BinaryConvRelu", false, ConvEpilogue::kRelu, false, false},
    {"BinaryConvToBits", false, ConvEpilogue::kBits, false, false},
    {"BinaryConvScaled", false, ConvEpilogue::kFloat, true, false},
    {"BinaryConvReluScaled", false, ConvEpilogue::kRelu, true, false},
    {"BinaryConvFromBits", true, ConvEpilogue::kFloat, false, false},
    {"BinaryConvFromBitsRelu", true, ConvEpilogue::kRelu, false, false},
    {"BinaryConvFromBitsToBits", true, ConvEpilogue::kBits, false, false},
    {"BinaryConvShuffle", false, ConvEpilogue::kFloat, false, true},
    {"BinaryConvReluShuffle", false, ConvEpilogue::kRelu, false, true},
    {"BinaryConvToBitsShuffle", false, ConvEpilogue::kBits, false, true},
    {"BinaryConvScaledShuffle", false, ConvEpilogue::kFloat, true, true},
    {"BinaryConvReluScaledShuffle", false, ConvEpilogue::kRelu, true, true},
    {"BinaryConvFromBitsShuffle", true, ConvEpilogue::kFloat, false, true},
    {"BinaryConvFromBitsReluShuffle", true, ConvEpilogue::kRelu, false, true},
    {"BinaryConvFromBitsToBitsShuffle", true, ConvEpilogue::kBits, false, true},
};

xk_conv_shape shape_of(const Node& node) {
  xk_conv_shape shape{};
  read_window(node, &shape);
  const std::vector<int64_t> filter = node.integers("filter_shape", 4), bits = node.integers("filter_bits", 1);
  const int64_t groups = node.integer("group");
  for (int64_t size : filter) check_size("a size of filter_shape", size, 1);
  check_size("group", groups, 1);
  if (filter[1] != shape.kernel_h || filter[2] != shape.kernel_w)
    fail(XK_INVALID_ARGUMENT, "kernel_shape is %s; filter_shape %s says otherwise",
         text_of({shape.kernel_h, shape.kernel_w}).c_str(), text_of(filter).c_str());
  const int64_t product = checked_product("filter_shape", {filter[1], filter[2], filter[3]});
  if (bits[0] != product)
    fail(XK_INVALID_ARGUMENT, "filter_bits is %" PRId64 "; filter_shape %s says %" PRId64, bits[0],
         text_of(filter).c_str(), product);
  shape.channels = checked_product("group * channels a group", {groups, filter[3]});
  shape.out_channels = filter[0];
  shape.groups = groups;
  weight_shape(shape);  // checks the rest
  return shape;
}

ConvKernel::ConvKernel(const ConvVariant& variant, const Api& api, const Node& node)
    : NodeKernel(api), variant_(variant), inputs_(variant) {
  shape_ = shape_of(node);
  if (variant.from_bits) check_holds_bits("the input", shape_.channels);
  if (variant.epilogue == ConvEpilogue::kBits) check_holds_bits("the output", shape_.out_channels);
  if (variant.shuffled) {
    shuffle_ = node.integer("shuffle");
    check_size("shuffle", shuffle_, 1);
    if (shape_.out_channels % shuffle_)
      fail(XK_INVALID_ARGUMENT, "shuffle is %" PRId64 "; it must divide the %" PRId64 " output channels", shuffle_,
           shape_.out_channels);
  }
  scale_ = node.floats(ConvInputs::kScale, "scale", shape_.out_channels);
  bias_ = node.floats(ConvInputs::kBias, "bias", shape_.out_channels);
  if (!variant.from_bits) input_ = Comparison(node, inputs_.threshold(), "threshold", "turn", shape_.channels);
  if (variant.epilogue == ConvEpilogue::kBits)
    output_ = Comparison(node, inputs_.output_threshold(), "output_threshold", "output_turn", shape_.out_channels);
  read_weights(node);
}

void ConvKernel::read_weights(const Node& node) {
  const std::vector<int64_t> hint = node.integers("size_hint", std::vector<int64_t>{0, 0});
  for (int64_t size : hint) check_size("a size of size_hint", size, 0);
  xk_conv_shape shape = shape_;
  shape.height = hint[0], shape.width = hint[1];
  checked_product("size_hint", {shape.height, shape.width});
  const Shape full = weight_shape(shape_);
  const uint8_t* dense = node.bytes(ConvInputs::kWeightBits, "weight_bits", full.out_channels, full.filter_bytes);
  check_tails(dense, full.out_channels, full.filter_bits);
  size_t bytes = 0;
  check_call(xk_weights_size(&shape, nullptr, &bytes));
  weights_ = PreparedBits(bytes);
  check_call(xk_weights_pack(&shape, nullptr, dense, static_cast<size_t>(full.out_channels * full.filter_bytes),
                             weights_.data(), weights_.size()));
}

xk_epilogue ConvKernel::epilogue_for(const Call& call, const std::vector<int64_t>& output) const {
  xk_epilogue epilogue{scale_.data(), bias_.data(), nullptr, variant_.epilogue == ConvEpilogue::kRelu};
  if (!variant_.scaled) return epilogue;
  const Tensor input_scale = call.input(inputs_.input_scale(), "input_scale");
  const std::vector<int64_t> expected{output[0], shape_.groups, output[2], output[3]};
  if (input_scale.dims != expected)
    fail(XK_INVALID_ARGUMENT, "input_scale has shape %s; it must be %s", text_of(input_scale.dims).c_str(),
         text_of(expected).c_str());
  epilogue.input_scale = static_cast<const float*>(input_scale.data);
  return epilogue;
}

void ConvKernel::compute(OrtKernelContext* context) const {
  Call call(api_, context);
  const Tensor x = call.input(ConvInputs::kX, "x");
  xk_conv_shape shape = shape_for(shape_, x);
  const bool empty = shape.batch == 0;
  shape.batch += empty;  // the size of the output is checked for one image then
  int64_t height = 0, width = 0;
  check_call(xk_output_size(&shape, &height, &width));
  const Tensor y = call.output({x.dims[0], shape.out_channels, height, width});
  const xk_epilogue epilogue = epilogue_for(call, y.dims);
  if (empty) return;
  const bool bits = variant_.epilogue == ConvEpilogue::kBits;
  xk_output output{};
  output.data = bits ? bits_to_write(y) : y.data;
  output.kind = bits ? XK_OUT_BITS : XK_OUT_FLOAT;
  output.binarize = bits ? output_.view() : xk_binarize{};
  output.shuffle = shuffle_;
  const xk_parallel parallel = call.parallel();
  const xk_binarize binarize = input_.view();
  call.check_parallel(variant_.from_bits
                  ? xk_conv(&shape, bits_in(x, "x"), weights_.data(), weights_.size(), &epilogue, &output, &parallel)
                  : xk_conv_float(&shape, floats_in(x, "x"), XK_NCHW, &binarize, weights_.data(), weights_.size(),
                                  &epilogue, &output, &parallel));
  if (bits) mark_as_bits(y);
}

Operator conv_operator(const ConvVariant& variant) {
  std::vector<ElementType> inputs(ConvInputs(variant).count(), kFloat);
  inputs[ConvInputs::kWeightBits] = kUint8;
  return {variant.name, inputs, [&variant](const Api& api, const Node& node) {
            return std::make_unique<ConvKernel>(variant, api, node);
          }};
}

}  // namespace

std::vector<Operator> conv_operators() {
  std::vector<Operator> operators;
  for (const ConvVariant& variant : kConvs) operators.push_back(conv_operator(variant));
  return operators;
}

}  // namespace xk::ort
