// Convolutions of floats with signs, looked up, against sums written out in loops.
#include <cmath>

#include "api.h"
#include "levels/floats.h"
#include "testing.h"

namespace {

using xk::levels::FloatConv;

class FloatProblem {
 public:
  explicit FloatProblem(const xk_conv_shape& shape, uint32_t seed) : problem_(shape, seed) {
    // Of 256ths below 8: sums of this length are exact in float, in whatever order.
    for (float& value : problem_.x) value = std::nearbyint(std::fmin(std::fmax(value, -8.0f), 8.0f) * 256.0f) / 256.0f;
    for (int64_t o = 0; o < shape.out_channels; ++o) {
      scale_.push_back(o % 2 ? -0.5f : 2.0f);
      bias_.push_back(static_cast<float>(o % 5) - 1.5f);
    }
  }

  FloatConv conv() const {
    const xk_conv_shape& s = problem_.s;
    return {{problem_.dense.data(), 1, s.out_channels, s.groups, s.kernel_h, s.kernel_w, s.channels / s.groups}, s,
            {scale_, bias_}};
  }

  std::vector<float> expected() const {
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
                  sum += p.w[static_cast<size_t>(at)] *
                         value(n * p.s.channels + o / filters * channels + c,
                               row * p.s.stride_h - p.s.pad_top + i * p.s.dilation_h,
                               column * p.s.stride_w - p.s.pad_left + j * p.s.dilation_w);
                }
            y.push_back(static_cast<float>(sum) * scale_[static_cast<size_t>(o)] + bias_[static_cast<size_t>(o)]);
          }
    return y;
  }

  std::vector<float> found(const xk_parallel* parallel) const {
    const xk_conv_shape& s = problem_.s;
    const FloatConv convolution = conv();
    const FloatConv::Size out = convolution.output_size({s.height, s.width});
    std::vector<float> y(static_cast<size_t>(s.batch * s.out_channels * out[0] * out[1]), NAN);
    convolution.compute(problem_.x.data(), s.batch, {s.height, s.width}, y.data(), parallel);
    return y;
  }

 private:
  double value(int64_t image, int64_t y, int64_t x) const {
    const xk_conv_shape& s = problem_.s;
    if (y < 0 || y >= s.height || x < 0 || x >= s.width) return 0;
    return problem_.x[static_cast<size_t>((image * s.height + y) * s.width + x)];
  }

  Problem problem_;
  std::vector<float> scale_, bias_;
};

void check_shape(const xk_conv_shape& shape, uint32_t seed) {
  const FloatProblem problem(shape, seed);
  const std::vector<float> expected = problem.expected();
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  with_each_kernel([&](const std::string& kernel) {
    const std::string name = name_of(shape, kernel.c_str()) + " of floats";
    check(problem.found(nullptr) == expected, name);
    check(problem.found(&parallel) == expected, name + ", three threads");
  });
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
  check_shape({1, 6, 3, 150, 5, 2, 3, 1, 2, 2, 1, 0, 3, 2, 0, 1}, seed++);  // several pieces of a row, uneven padding
}

void test_bad_float_convolutions() {
  const FloatConv conv = FloatProblem(square(1, 8, 5, 6, 3, 1, 0, 1, 1), 1).conv();
  const auto output_of = [&](int64_t height, int64_t width) {
    return xk::guarded([&] { conv.output_size({height, width}); });
  };
  check(output_of(3, 3) == XK_OK, "an input of the kernel's size");
  fails(output_of(2, 3), "less than the 3 that the dilated kernel spans");
  fails(output_of(1 << 16, 3 << 14), "the size of the tables is over");
}
