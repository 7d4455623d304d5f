// Convolutions of floats with signs, looked up, against sums written out in loops.
#include <cmath>

#include "testing.h"

namespace {

class FloatProblem {
 public:
  // Of weights that are signs, or, with two planes, those and zeros.
  FloatProblem(const xk_conv_shape& shape, uint32_t seed, int32_t planes = 1)
      : problem_(shape, seed), other_(shape, seed + 1000), planes_(planes) {
    // Of 256ths below 8: sums of this length are exact in float, in whatever order.
    for (float& value : problem_.x) value = std::nearbyint(std::fmin(std::fmax(value, -8.0f), 8.0f) * 256.0f) / 256.0f;
    for (int64_t o = 0; o < shape.out_channels; ++o) {
      scale_.push_back(o % 2 ? -0.5f : 2.0f);
      bias_.push_back(static_cast<float>(o % 5) - 1.5f);
    }
  }

  const xk_conv_shape& shape() const { return problem_.s; }
  std::vector<uint8_t> dense() const {
    std::vector<uint8_t> dense = problem_.dense;
    if (planes_ == 2) dense.insert(dense.end(), other_.dense.begin(), other_.dense.end());
    return dense;
  }

  std::vector<char> weights() const {
    size_t size = 0;
    check(xk_sign_conv_size(&shape(), planes_, &size) == XK_OK, "xk_sign_conv_size");
    std::vector<char> packed(size);
    check(xk_sign_conv_pack(&shape(), planes_, dense().data(), dense().size(), packed.data(), size) == XK_OK,
          "xk_sign_conv_pack");
    return packed;
  }

  // With or without scale and bias.
  std::vector<float> expected(bool ends) const {
    const Problem& p = problem_;
    const int64_t channels = p.s.channels / p.s.groups, filters = p.s.out_channels / p.s.groups;
    std::vector<float> y;
    for (int64_t n = 0; n < p.s.batch; ++n)
      for (int64_t o = 0; o < p.s.out_channels; ++o)
        for (int64_t row = 0; row < p.oh; ++row)
          for (int64_t column = 0; column < p.ow; ++column) {
            double sum = 0;
            for (int64_t c = 0; c < channels; ++c)
              for (int64_t i = 0; i < p.s.kernel_h; ++i)
                for (int64_t j = 0; j < p.s.kernel_w; ++j) {
                  const int64_t at = ((o * channels + c) * p.s.kernel_h + i) * p.s.kernel_w + j;
                  sum += weight(static_cast<size_t>(at)) *
                         value(n * p.s.channels + o / filters * channels + c,
                               row * p.s.stride_h - p.s.pad_top + i * p.s.dilation_h,
                               column * p.s.stride_w - p.s.pad_left + j * p.s.dilation_w);
                }
            const float plain = static_cast<float>(sum);
            y.push_back(ends ? plain * scale_[static_cast<size_t>(o)] + bias_[static_cast<size_t>(o)] : plain);
          }
    return y;
  }

  int32_t run(const xk_conv_shape& shape, const std::vector<char>& weights, float* y, bool ends = true,
              const xk_parallel* parallel = nullptr) const {
    return xk_sign_conv(&shape, problem_.x.data(), weights.data(), weights.size(), ends ? scale_.data() : nullptr,
                        ends ? bias_.data() : nullptr, y, parallel);
  }

  // The same to the places of a transposed convolution.
  int32_t run_transposed(const xk_interleave& places, float* y, const xk_parallel* parallel = nullptr) const {
    const std::vector<char> weights = this->weights();
    return xk_sign_conv_transposed(&shape(), &places, problem_.x.data(), weights.data(), weights.size(), nullptr, nullptr,
                                   y, parallel);
  }

  std::vector<float> found(bool ends, const xk_parallel* parallel) const {
    std::vector<float> y(static_cast<size_t>(shape().batch * shape().out_channels * problem_.oh * problem_.ow), NAN);
    check(run(shape(), weights(), y.data(), ends, parallel) == XK_OK, "xk_sign_conv");
    return y;
  }

 private:
  double weight(size_t at) const { return planes_ == 1 ? problem_.w[at] : (problem_.w[at] + other_.w[at]) / 2; }
  double value(int64_t image, int64_t y, int64_t x) const {
    const xk_conv_shape& s = problem_.s;
    if (y < 0 || y >= s.height || x < 0 || x >= s.width) return 0;
    return problem_.x[static_cast<size_t>((image * s.height + y) * s.width + x)];
  }

  Problem problem_, other_;  // whose filters are those of the second plane
  int32_t planes_;
  std::vector<float> scale_, bias_;
};

void check_shape(const xk_conv_shape& shape, uint32_t seed, int32_t planes) {
  const FloatProblem problem(shape, seed, planes);
  const std::vector<float> expected = problem.expected(true), sums = problem.expected(false);
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  with_each_kernel([&](const std::string& kernel) {
    const std::string name = name_of(shape, kernel.c_str()) + " of floats, planes: " + std::to_string(planes);
    check(problem.found(true, nullptr) == expected, name);
    check(problem.found(true, &parallel) == expected, name + ", three threads");
    check(problem.found(false, nullptr) == sums, name + ", sums alone");
  });
}

// Of the sums of all phases, [image][2][channels][3] planes of 5 x 6, those that are outputs, 2 and 3 apart.
void check_transposed(int64_t channels, int32_t planes) {
  constexpr int64_t kRows[2][2] = {{1, 0}, {0, 1}}, kColumns[3][2] = {{2, 1}, {0, 0}, {1, 0}}, kHeight = 8, kWidth = 17;
  const FloatProblem problem(square(2, 7, 6 * channels, 4, 2, 1, 1, 1, 1), 9, planes);
  const std::vector<float> sums = problem.expected(false);
  std::vector<float> expected(static_cast<size_t>(2 * channels * kHeight * kWidth), NAN);
  for (int64_t n = 0; n < 2; ++n)
    for (int64_t o = 0; o < 6 * channels; ++o)
      for (int64_t row = 0; row < 5; ++row)
        for (int64_t column = 0; column < 6; ++column) {
          const int64_t i = o / (3 * channels), channel = o / 3 % channels, j = o % 3;
          const int64_t y = kRows[i][0] + (row - kRows[i][1]) * 2, x = kColumns[j][0] + (column - kColumns[j][1]) * 3;
          if (row < kRows[i][1] || column < kColumns[j][1] || y >= kHeight || x >= kWidth) continue;
          expected[static_cast<size_t>(((n * channels + channel) * kHeight + y) * kWidth + x)] =
              sums[static_cast<size_t>(((n * 6 * channels + o) * 5 + row) * 6 + column)];
        }
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  const xk_interleave places{kHeight, kWidth, 2, 3, kRows, kColumns};
  with_each_kernel([&](const std::string& kernel) {
    for (const xk_parallel* run : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
      std::vector<float> y(expected.size(), NAN);
      check(problem.run_transposed(places, y.data(), run) == XK_OK, "xk_sign_conv_transposed");
      check(y == expected, kernel + " transposed, " + std::to_string(channels) + " channels");
    }
  });
  std::vector<float> y(expected.size());
  const auto refused = [&](xk_interleave bad, const char* text) { fails(problem.run_transposed(bad, y.data()), text); };
  refused({kHeight + 1, kWidth, 2, 3, kRows, kColumns}, "phase 1 of the rows has 4 results; too few for an output of 9");
  refused({kHeight, kWidth, 2, 3, nullptr, kColumns}, "rows is NULL");
  refused({kHeight, kWidth, 0, 3, kRows, kColumns}, "step_h is 0");
  refused({0, kWidth, 2, 3, kRows, kColumns}, "the height of y is 0");
  refused({kHeight, kWidth, 1, 3, kRows, kColumns}, "phase 0 of the rows begins at 1");
  constexpr int64_t kTwice[3][2] = {{1, 0}, {0, 0}, {1, 0}};
  refused({kHeight, kWidth, 2, 3, kRows, kTwice}, "phase 2 of the columns begins at 1");
  if (channels % 5) refused({kHeight, kWidth, 2, 5, kRows, kColumns}, "channels of 10 phases");
}

void check_shape(const xk_conv_shape& shape, uint32_t seed) {
  for (int32_t planes : {1, 2}) check_shape(shape, seed, planes);
}

}  // namespace

void test_float_convolutions() {
  uint32_t seed = 1;
  for (int64_t channels : {1, 3, 4, 29, 30, 31, 32, 33, 64, 127, 128, 129})
    for (int64_t filters : {1, 15, 16, 17}) check_shape(square(1, channels, filters, 5, 3, 1, 1, 1, 1), seed++);
  check_shape(square(3, 7, 20, 1, 1, 1, 0, 1, 1), seed++);
  check_shape(square(2, 70, 33, 9, 3, 2, 1, 2, 1), seed++);     // strides, dilations
  check_shape(square(1, 40, 36, 8, 2, 3, 0, 1, 1), seed++);     // pixels that no tap meets
  check_shape(square(2, 24, 54, 6, 3, 1, 1, 1, 3), seed++);     // groups
  check_shape(square(1, 10, 10, 6, 3, 1, 1, 1, 10), seed++);    // of one channel
  check_shape(square(1, 8, 5, 3, 2, 1, 4, 1, 1), seed++);       // windows wholly in the padding
  check_shape(square(1, 5, 300, 6, 3, 1, 1, 1, 1), seed++);     // several parts of filters
  check_shape(square(1, 600, 20, 3, 3, 1, 1, 1, 1), seed++);    // several steps of channels
  check_shape(square(1, 130, 17, 40, 3, 2, 1, 1, 1), seed++);   // several bands of rows
  for (int32_t planes : {1, 2})
    for (int64_t channels : {1, 16, 23}) check_transposed(channels, planes);
  check_shape({1, 6, 3, 150, 5, 2, 3, 1, 2, 2, 1, 0, 3, 2, 0, 1}, seed++);  // several pieces of a row, uneven padding
}

void test_bad_float_convolutions() {
  const FloatProblem problem(square(1, 8, 5, 6, 3, 1, 0, 1, 1), 1);
  const xk_conv_shape shape = problem.shape();
  std::vector<char> weights = problem.weights();
  std::vector<float> y(static_cast<size_t>(5 * 6 * 7));
  size_t size = 0;
  const auto changed = [&](int64_t xk_conv_shape::*size, int64_t value) {
    xk_conv_shape other = shape;
    other.*size = value;
    return other;
  };
  fails(xk_sign_conv_size(nullptr, 1, &size), "shape is NULL");
  fails(xk_sign_conv_size(&shape, 1, nullptr), "bytes is NULL");
  const xk_conv_shape no_stride = changed(&xk_conv_shape::stride_h, 0);
  fails(xk_sign_conv_size(&no_stride, 1, &size), "stride_h is 0");
  for (int32_t planes : {0, 3}) fails(xk_sign_conv_size(&shape, planes, &size), "it must be 1 or 2");
  const std::vector<uint8_t> dense = problem.dense();
  fails(xk_sign_conv_pack(&shape, 2, dense.data(), dense.size(), weights.data(), weights.size()),
        "the dense weights are 45 bytes; this shape needs 90");
  fails(xk_sign_conv_pack(&shape, 1, dense.data(), dense.size() - 1, weights.data(), weights.size()),
        "the dense weights are 44 bytes; this shape needs 45");
  fails(xk_sign_conv_pack(&shape, 1, dense.data(), dense.size(), weights.data(), weights.size() - 1),
        "bytes for the weights; they need");
  fails(xk_sign_conv_pack(&shape, 1, nullptr, dense.size(), weights.data(), weights.size()), "dense is NULL");

  check(problem.run(changed(&xk_conv_shape::height, 3), weights, y.data()) == XK_OK, "an input of the kernel's size");
  fails(problem.run(changed(&xk_conv_shape::height, 2), weights, y.data()),
        "less than the 3 that the dilated kernel spans");
  const int less = sizeof(size_t) > 4 ? 0 : 5;  // sizes of half as many bits have a limit 2^10 times lower
  xk_conv_shape large = changed(&xk_conv_shape::height, 1 << (16 - less));
  large.width = 3 << (14 - less);
  fails(problem.run(large, weights, y.data()), "the size of the tables is over");
  fails(problem.run(shape, weights, nullptr), "y is NULL");
  for (const auto& other : {changed(&xk_conv_shape::channels, 9), changed(&xk_conv_shape::out_channels, 6),
                            changed(&xk_conv_shape::kernel_w, 2), changed(&xk_conv_shape::kernel_h, 1)})
    fails(problem.run(other, weights, y.data()), "of another shape");
  std::vector<char> cut = weights;
  cut.pop_back();
  fails(problem.run(shape, cut, y.data()), "of another shape");
  fails(problem.run(shape, {weights.begin(), weights.begin() + 3}, y.data()), "xk_sign_conv_pack made on this machine");
  std::vector<char> two = weights;
  ++two[7];
  fails(problem.run(shape, two, y.data()), "of another shape");
  for (size_t byte : {size_t{0}, size_t{7}, size_t{8}}) {  // magic, planes, name of the kernel
    std::vector<char> damaged = weights;
    damaged[byte] ^= 0x55;
    fails(problem.run(shape, damaged, y.data()), "xk_sign_conv_pack made on this machine");
  }
}
