// Convolutions of 8-bit numbers against a plain loop, and what their functions refuse.
#include <algorithm>
#include <cmath>

#include "testing.h"

namespace {

constexpr int32_t kZero = 100;
constexpr float kInverse = 16.0f;

struct Int8Problem {
  xk_conv_shape s;
  int64_t oh = 0, ow = 0;
  std::vector<float> x, scale, bias;
  std::vector<uint8_t> numbers;

  Int8Problem(const xk_conv_shape& shape, uint32_t seed) : s(shape) {
    check(xk_output_size(&s, &oh, &ow) == XK_OK, "xk_output_size");
    const auto next = [&] { return seed = seed * 1664525 + 1013904223, seed >> 8; };
    x.resize(static_cast<size_t>(s.batch * s.channels * s.height * s.width));
    // Sixteenths, of which some are beyond the numbers.
    for (float& value : x) value = static_cast<float>(static_cast<int>(next() % 400) - 150) / 16.0f;
    numbers.resize(static_cast<size_t>(s.out_channels * s.kernel_h * s.kernel_w * s.channels));
    for (uint8_t& number : numbers) number = static_cast<uint8_t>(1 + next() % 255);
    for (int64_t o = 0; o < s.out_channels; ++o) scale.push_back(1.0f / static_cast<float>(1 << o % 5));
    for (int64_t o = 0; o < s.out_channels; ++o) bias.push_back(static_cast<float>(o));
  }

  std::vector<char> weights() const {
    size_t size = 0;
    check(xk_int8_size(&s, &size) == XK_OK, "xk_int8_size");
    std::vector<char> packed(size);
    check(xk_int8_pack(&s, numbers.data(), numbers.size(), kZero, packed.data(), size) == XK_OK, "xk_int8_pack");
    return packed;
  }

  int32_t number(int64_t n, int64_t c, int64_t y, int64_t column) const {
    if (y < 0 || y >= s.height || column < 0 || column >= s.width) return 0;
    const float value = x[static_cast<size_t>(((n * s.channels + c) * s.height + y) * s.width + column)];
    return std::clamp(static_cast<int32_t>(value * kInverse), -kZero, 255 - kZero);
  }

  float expected(int64_t n, int64_t o, int64_t row, int64_t column) const {
    int32_t sum = 0;
    for (int64_t i = 0; i < s.kernel_h; ++i)
      for (int64_t j = 0; j < s.kernel_w; ++j)
        for (int64_t c = 0; c < s.channels; ++c) {
          const size_t at = static_cast<size_t>(((o * s.kernel_h + i) * s.kernel_w + j) * s.channels + c);
          sum += (numbers[at] - 128) * number(n, c, row * s.stride_h - s.pad_top + i * s.dilation_h,
                                              column * s.stride_w - s.pad_left + j * s.dilation_w);
        }
    return static_cast<float>(sum) * scale[static_cast<size_t>(o)] + bias[static_cast<size_t>(o)];
  }

  int32_t run(const std::vector<char>& weights, float* y, float inverse = kInverse,
              const xk_parallel* parallel = nullptr) const {
    const xk_epilogue epilogue{scale.data(), bias.data(), nullptr, 0};
    xk_output output{};
    output.data = y, output.kind = XK_OUT_FLOAT, output.shuffle = 1;
    return xk_int8_conv(&s, x.data(), inverse, weights.data(), weights.size(), &epilogue, &output, parallel);
  }
};

xk_conv_shape shape_of(int64_t batch, int64_t channels, int64_t size, int64_t filters, int64_t kernel, int64_t stride,
                       int64_t pad, int64_t dilation) {
  xk_conv_shape s{};
  s.batch = batch, s.channels = channels, s.height = size, s.width = size + (size > 1), s.out_channels = filters;
  s.kernel_h = s.kernel_w = kernel, s.stride_h = s.stride_w = stride, s.dilation_h = s.dilation_w = dilation;
  s.pad_top = s.pad_left = pad, s.pad_bottom = s.pad_right = pad + (kernel > 1), s.groups = 1;
  return s;
}

void check_problem(const Int8Problem& p, const std::string& kernel) {
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  const std::vector<char> weights = p.weights();
  for (const xk_parallel* run : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
    std::vector<float> y(static_cast<size_t>(p.s.batch * p.s.out_channels * p.oh * p.ow), NAN);
    check(p.run(weights, y.data(), kInverse, run) == XK_OK, kernel + " xk_int8_conv");
    size_t at = 0, wrong = 0;
    for (int64_t n = 0; n < p.s.batch; ++n)
      for (int64_t o = 0; o < p.s.out_channels; ++o)
        for (int64_t row = 0; row < p.oh; ++row)
          for (int64_t column = 0; column < p.ow; ++column) wrong += y[at++] != p.expected(n, o, row, column);
    check(wrong == 0, kernel + " int8 sums");
  }
}

}  // namespace

void test_int8() {
  with_each_kernel([](const std::string& kernel) {
    uint32_t seed = 1;
    for (int64_t channels : {1, 3, 4, 7, 20})
      for (int64_t filters : {1, 16, 17, 40}) {
        check_problem(Int8Problem(shape_of(2, channels, 1, filters, 1, 1, 0, 1), seed++), kernel);
        check_problem(Int8Problem(shape_of(1, channels, 9, filters, 3, 1, 1, 1), seed++), kernel);
        check_problem(Int8Problem(shape_of(1, channels, 11, filters, 5, 2, 2, 1), seed++), kernel);
        check_problem(Int8Problem(shape_of(1, channels, 10, filters, 3, 1, 0, 2), seed++), kernel);
      }
  });
}

void test_bad_int8() {
  const Int8Problem p(shape_of(1, 4, 6, 20, 3, 1, 1, 1), 1);
  const std::vector<char> weights = p.weights();
  std::vector<float> y(static_cast<size_t>(p.s.out_channels * p.oh * p.ow));
  size_t size = weights.size();
  xk_conv_shape grouped = p.s;
  grouped.groups = 2;
  fails(xk_int8_size(&grouped, &size), "groups is 2");
  xk_conv_shape deep = p.s;
  deep.channels = 1 << 20;
  fails(xk_int8_size(&deep, &size), "sums of 32 bits hold");
  fails(xk_int8_size(&p.s, nullptr), "bytes is NULL");
  std::vector<char> to = weights;
  fails(xk_int8_pack(&p.s, p.numbers.data(), p.numbers.size() - 1, kZero, to.data(), to.size()), "there are 719 numbers");
  fails(xk_int8_pack(&p.s, p.numbers.data(), p.numbers.size(), 256, to.data(), to.size()), "zero is 256");
  fails(xk_int8_pack(&p.s, p.numbers.data(), p.numbers.size(), kZero, to.data(), to.size() - 1), "they need");
  std::vector<uint8_t> numbers = p.numbers;
  numbers[5] = 0;
  fails(xk_int8_pack(&p.s, numbers.data(), numbers.size(), kZero, to.data(), to.size()), "number 5 is 0");
  fails(p.run(weights, nullptr), "output data is NULL");
  fails(p.run(weights, y.data(), 0.0f), "inverse is 0");
  fails(p.run(weights, y.data(), NAN), "inverse is nan");
  const char* const unknown = "xk_int8_pack made on this machine for this shape";
  fails(p.run({}, y.data()), "weights is NULL");
  fails(p.run(std::vector<char>(3), y.data()), unknown);
  for (size_t byte : {size_t{0}, size_t{8}, size_t{16}, size_t{24}, size_t{32}, size_t{44}}) {
    std::vector<char> damaged = weights;
    damaged[byte] ^= 0x55;
    fails(p.run(damaged, y.data()), unknown);
  }
  const Int8Problem flat(shape_of(1, 12, 6, 20, 1, 1, 0, 1), 1);
  xk_conv_shape column = flat.s;  // as many numbers in another order
  column.kernel_h = 3, column.channels = 4;
  check(Int8Problem(column, 1).run(flat.weights(), y.data()) == XK_INVALID_ARGUMENT, "weights of another shape");
}
