// Layers of a few levels as functions of the library: their filters stay the caller's.
#include "api.h"

#include <algorithm>
#include <cinttypes>
#include <vector>

#include "levels/layer.h"

namespace xk::levels {

namespace {

Input input_of(const xk_level_layer& layer) {
  if (layer.input_bits < 0 || layer.input_bits > kMostBits)
    fail(XK_INVALID_ARGUMENT, "input_bits is %d; it must be 0 to %d", layer.input_bits, kMostBits);
  return {layer.input_bits};
}

Filters filters_of(const xk_conv_shape& shape, const xk_level_layer& layer) {
  check_pointers({{"weights", layer.weights}, {"totals", layer.totals}});
  if (layer.weight_bits < 1 || layer.weight_bits > kMostBits)
    fail(XK_INVALID_ARGUMENT, "weight_bits is %d; it must be 1 to %d", layer.weight_bits, kMostBits);
  check_sums(weight_shape(shape).filter_bits, layer.weight_bits, input_of(layer));
  return {shape, layer.weight_bits, layer.weights, layer.weights_bytes, layer.totals};
}

ScaleBias scale_bias_of(const xk_level_layer& layer, int64_t outputs) {
  const size_t count = static_cast<size_t>(outputs);
  if (layer.scale && layer.scales != 1 && layer.scales != outputs)
    fail(XK_INVALID_ARGUMENT, "there are %" PRId64 " scales of %" PRId64 " outputs", layer.scales, outputs);
  ScaleBias end{std::vector<float>(count, layer.scale ? *layer.scale : 1.0f), std::vector<float>(count), layer.divisor};
  if (layer.scale && layer.scales != 1) std::copy_n(layer.scale, count, end.scale.begin());
  if (layer.bias) std::copy_n(layer.bias, count, end.bias.begin());
  return end;
}

}  // namespace
}  // namespace xk::levels

using namespace xk;

int32_t xk_level_conv(const xk_conv_shape* shape, const xk_level_layer* layer, const float* x, float* y,
                      const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"layer", layer}, {"x", x}, {"y", y}});
    const Shape s = full_shape(*shape);
    const levels::Conv conv(levels::input_of(*layer), levels::filters_of(s, *layer), s.channels,
                            levels::scale_bias_of(*layer, s.out_channels));
    conv.compute(x, s.batch, {s.height, s.width}, y, parallel);
  });
}

int32_t xk_level_linear(int64_t rows, int64_t inputs, int64_t outputs, const xk_level_layer* layer, const float* x,
                        float* y, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"layer", layer}, {"x", x}, {"y", y}});
    xk_conv_shape shape{};
    shape.batch = shape.height = shape.groups = 1;
    shape.width = rows, shape.channels = inputs, shape.out_channels = outputs;
    shape.kernel_h = shape.kernel_w = shape.stride_h = shape.stride_w = shape.dilation_h = shape.dilation_w = 1;
    const Shape s = full_shape(shape);
    levels::Linear(levels::input_of(*layer), levels::filters_of(s, *layer), levels::scale_bias_of(*layer, outputs))
        .compute(x, rows, y, parallel);
  });
}
