// Convolutions of floats with floats against a plain loop, in the order of their sums, and what their functions refuse.
#include <algorithm>
#include <cmath>

#include "testing.h"

namespace {

enum class Numbers { kWhole, kFractions };  // sums of whole ones are exact in any order

// Whether a kernel multiplies and adds with one rounding.
bool rounds_once(const std::string& kernel) {
  return kernel != "scalar" && kernel != "wasm";
}

struct FloatsProblem {
  xk_conv_shape s;
  int64_t oh = 0, ow = 0;
  std::vector<float> x, values, bias, threshold;
  std::vector<uint8_t> flip;

  FloatsProblem(const xk_conv_shape& shape, uint32_t seed, Numbers numbers = Numbers::kWhole) : s(shape) {
    check(xk_output_size(&s, &oh, &ow) == XK_OK, "xk_output_size");
    const auto next = [&] {
      seed = seed * 1664525 + 1013904223;
      const float whole = static_cast<float>(static_cast<int>((seed >> 8) % 41) - 20);
      return numbers == Numbers::kWhole ? whole : whole / 7.0f + 1e-3f;
    };
    x.resize(static_cast<size_t>(s.batch * s.channels * s.height * s.width));
    values.resize(static_cast<size_t>(s.out_channels * s.kernel_h * s.kernel_w * s.channels));
    std::generate(x.begin(), x.end(), next);
    std::generate(values.begin(), values.end(), next);
    for (int64_t o = 0; o < s.out_channels; ++o) {
      bias.push_back(next());
      threshold.push_back(10 * next());
      flip.push_back(o % 3 == 1);
    }
  }

  std::vector<char> weights(int32_t by_channels) const {
    size_t size = 0;
    check(xk_float_size(&s, &size) == XK_OK, "xk_float_size");
    std::vector<char> packed(size);
    check(xk_float_pack(&s, values.data(), values.size(), by_channels, packed.data(), size) == XK_OK, "xk_float_pack");
    return packed;
  }

  float number(int64_t n, int64_t c, int64_t y, int64_t column) const {
    if (y < 0 || y >= s.height || column < 0 || column >= s.width) return 0;
    return x[static_cast<size_t>(((n * s.channels + c) * s.height + y) * s.width + column)];
  }

  // The sum of a window, product by product: of a tap all channels, or of a channel all taps.
  float sum(int64_t n, int64_t o, int64_t row, int64_t column, int32_t by_channels, bool once) const {
    const int64_t taps = s.kernel_h * s.kernel_w;
    float sum = 0;
    for (int64_t k = 0; k < taps * s.channels; ++k) {
      const int64_t tap = by_channels ? k % taps : k / s.channels, c = by_channels ? k / taps : k % s.channels;
      const float w = values[static_cast<size_t>((o * taps + tap) * s.channels + c)];
      const float value = number(n, c, row * s.stride_h - s.pad_top + tap / s.kernel_w * s.dilation_h,
                                 column * s.stride_w - s.pad_left + tap % s.kernel_w * s.dilation_w);
      sum = once ? std::fma(value, w, sum) : sum + value * w;
    }
    return sum;
  }

  std::vector<float> expected(int32_t by_channels, bool once) const {
    std::vector<float> y;
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t o = 0; o < s.out_channels; ++o)
        for (int64_t row = 0; row < oh; ++row)
          for (int64_t column = 0; column < ow; ++column)
            y.push_back(sum(n, o, row, column, by_channels, once) + bias[static_cast<size_t>(o)]);
    return y;
  }

  std::vector<uint64_t> bits_of(const std::vector<float>& y) const {
    const int64_t pixels = oh * ow, words = (s.out_channels + 63) / 64;
    std::vector<uint64_t> bits(static_cast<size_t>(s.batch * pixels * words));
    for (size_t i = 0; i < y.size(); ++i) {
      const int64_t pixel = static_cast<int64_t>(i) % pixels, o = static_cast<int64_t>(i) / pixels % s.out_channels;
      const int64_t n = static_cast<int64_t>(i) / pixels / s.out_channels;
      const float t = threshold[static_cast<size_t>(o)];
      const bool bit = flip[static_cast<size_t>(o)] ? y[i] <= t : y[i] >= t;
      bits[static_cast<size_t>((n * pixels + pixel) * words + o / 64)] |= uint64_t{bit} << o % 64;
    }
    return bits;
  }

  int32_t run(const std::vector<char>& weights, void* y, int32_t kind, int32_t relu = 0,
              const xk_parallel* parallel = nullptr) const {
    const xk_epilogue epilogue{nullptr, bias.data(), nullptr, relu};
    xk_output output{};
    output.data = y, output.kind = kind, output.shuffle = 1, output.binarize = {threshold.data(), flip.data()};
    return xk_float_conv(&s, x.data(), weights.data(), weights.size(), &epilogue, &output, parallel);
  }
};

void check_problem(const FloatsProblem& p, const std::string& kernel) {
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  for (int32_t by_channels : {0, 1}) {
    const std::vector<char> weights = p.weights(by_channels);
    const std::vector<float> floats = p.expected(by_channels, rounds_once(kernel));
    std::vector<float> positive = floats;
    for (float& value : positive) value = std::max(value, 0.0f);
    const std::vector<uint64_t> bits = p.bits_of(floats);
    const std::string name = name_of(p.s, kernel.c_str()) + (by_channels ? " by channels" : "");
    for (const xk_parallel* run : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
      std::vector<float> y(floats.size(), NAN);
      check(p.run(weights, y.data(), XK_OUT_FLOAT, 0, run) == XK_OK && y == floats, name + " sums of floats");
      check(p.run(weights, y.data(), XK_OUT_FLOAT, 1, run) == XK_OK && y == positive, name + " after ReLU");
      std::vector<uint64_t> words(bits.size(), ~uint64_t{0});
      check(p.run(weights, words.data(), XK_OUT_BITS, 0, run) == XK_OK && words == bits, name + " bits of floats");
    }
  }
}

}  // namespace

void test_floats() {
  with_each_kernel([](const std::string& kernel) {
    uint32_t seed = 1;
    for (int64_t channels : {1, 2, 3, 4, 7})
      for (int64_t filters : {1, 16, 17, 40}) {
        check_problem(FloatsProblem(square(2, channels, filters, 1, 1, 1, 0, 1, 1), seed++), kernel);
        check_problem(FloatsProblem(square(1, channels, filters, 9, 3, 1, 1, 1, 1), seed++), kernel);
        check_problem(FloatsProblem(square(1, channels, filters, 11, 5, 2, 2, 1, 1), seed++), kernel);
        check_problem(FloatsProblem(square(1, channels, filters, 10, 3, 1, 0, 2, 1), seed++), kernel);
      }
    check_problem(FloatsProblem(square(1, 3, 192, 8, 5, 1, 2, 1, 1), seed++), kernel);
    check_problem(FloatsProblem(square(1, 3, 20, 23, 11, 4, 2, 1, 1), seed++), kernel);
    check_problem(FloatsProblem(square(2, 3, 5, 3, 2, 1, 4, 1, 1), seed++), kernel);  // windows wholly in the padding
    check_problem(FloatsProblem({1, 3, 3, 150, 33, 2, 3, 1, 2, 2, 1, 0, 3, 2, 0, 1}, seed++), kernel);  // all uneven
    check_problem(FloatsProblem(square(1, 3, 17, 9, 5, 1, 2, 1, 1), seed++, Numbers::kFractions), kernel);
    check_problem(FloatsProblem(square(1, 4, 40, 9, 3, 1, 1, 2, 1), seed++, Numbers::kFractions), kernel);
  });
}

void test_bad_floats() {
  const FloatsProblem p(square(1, 4, 20, 6, 3, 1, 1, 1, 1), 1);
  const std::vector<char> weights = p.weights(0);
  std::vector<float> y(static_cast<size_t>(p.s.out_channels * p.oh * p.ow));
  size_t size = weights.size();
  xk_conv_shape other = p.s;
  other.groups = 2;
  fails(xk_float_size(&other, &size), "groups is 2");
  other = p.s, other.channels = 0;
  fails(xk_float_size(&other, &size), "channels is 0");
  fails(xk_float_size(nullptr, &size), "shape is NULL");
  fails(xk_float_size(&p.s, nullptr), "bytes is NULL");
  std::vector<char> to = weights;
  fails(xk_float_pack(&p.s, p.values.data(), p.values.size() - 1, 0, to.data(), size), "there are 719 numbers");
  fails(xk_float_pack(&p.s, p.values.data(), p.values.size(), 0, to.data(), size - 1), "they need");
  fails(xk_float_pack(&p.s, nullptr, p.values.size(), 0, to.data(), size), "values is NULL");
  fails(p.run(weights, nullptr, XK_OUT_FLOAT), "output data is NULL");
  fails(p.run(weights, y.data(), XK_OUT_INT32), "int32");
  fails(p.run({}, y.data(), XK_OUT_FLOAT), "weights is NULL");
  const char* const unknown = "xk_float_pack made on this machine for this shape";
  fails(p.run(std::vector<char>(3), y.data(), XK_OUT_FLOAT), unknown);
  for (size_t byte : {size_t{0}, size_t{8}, size_t{16}, size_t{24}, size_t{32}, size_t{40}, size_t{44}, size_t{56}}) {
    std::vector<char> damaged = weights;
    damaged[byte] ^= 0x56;
    fails(p.run(damaged, y.data(), XK_OUT_FLOAT), unknown);
  }
  const FloatsProblem flat(square(1, 12, 20, 6, 1, 1, 0, 1, 1), 1);
  xk_conv_shape column = flat.s;  // as many numbers in another order
  column.kernel_h = 3, column.channels = 4;
  fails(FloatsProblem(column, 1).run(flat.weights(0), y.data(), XK_OUT_FLOAT), unknown);
}
