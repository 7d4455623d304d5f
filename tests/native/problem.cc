#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <random>

#include "testing.h"

xk_conv_shape square(int64_t n, int64_t c, int64_t oc, int64_t size, int64_t k, int64_t stride, int64_t pad,
                     int64_t dilation, int64_t groups) {
  return {n, c, size, size + 1, oc, k, k, stride, stride, dilation, dilation, pad, pad, pad, pad, groups};
}

std::string name_of(const xk_conv_shape& s, const char* kernel) {
  char text[256];
  std::snprintf(text, sizeof text,
                "%s n%" PRId64 " %" PRId64 "->%" PRId64 " %" PRId64 "x%" PRId64 " k%" PRId64 "x%" PRId64 " s%" PRId64
                " p%" PRId64 ",%" PRId64 " d%" PRId64 " g%" PRId64,
                kernel, s.batch, s.channels, s.out_channels, s.height, s.width, s.kernel_h, s.kernel_w, s.stride_h,
                s.pad_top, s.pad_bottom, s.dilation_h, s.groups);
  return text;
}

Problem::Problem(const xk_conv_shape& shape, uint32_t seed) : s(shape) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  check(xk_output_size(&s, &oh, &ow) == XK_OK, "xk_output_size");
  x.resize(static_cast<size_t>(s.batch * s.channels * s.height * s.width));
  for (float& v : x) v = random() % 50 ? normal(random) : 0.0f;
  for (int64_t c = 0; c < s.channels; ++c) {
    threshold.push_back(random() % 4 ? normal(random) * 0.5f : 0.0f);
    flip.push_back(random() % 3 == 0);
  }
  const int64_t plane = s.height * s.width;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i / static_cast<size_t>(plane) % static_cast<size_t>(s.channels);
    signs.push_back((flip[c] ? x[i] <= threshold[c] : x[i] >= threshold[c]) ? 1 : -1);
  }
  const int64_t cg = s.channels / s.groups, taps = s.kernel_h * s.kernel_w;
  w.resize(static_cast<size_t>(s.out_channels * cg * taps));
  for (int32_t& v : w) v = random() & 1 ? 1 : -1;
  const size_t bytes = static_cast<size_t>((cg * taps + 7) / 8);
  dense.resize(static_cast<size_t>(s.out_channels) * bytes);
  for (int64_t o = 0; o < s.out_channels; ++o)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < cg; ++c)
        if (w[static_cast<size_t>((o * cg + c) * taps + t)] > 0)
          dense[static_cast<size_t>(o) * bytes + static_cast<size_t>((t * cg + c) / 8)] |=
              static_cast<uint8_t>(1 << ((t * cg + c) % 8));
}

int32_t Problem::tap(int64_t n, int64_t c, int64_t y, int64_t xx) const {
  if (y < 0 || y >= s.height || xx < 0 || xx >= s.width) return 0;
  return signs[static_cast<size_t>(((n * s.channels + c) * s.height + y) * s.width + xx)];
}

std::vector<int32_t> Problem::sums() const {
  std::vector<int32_t> out;
  const int64_t cg = s.channels / s.groups, og = s.out_channels / s.groups;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t y = 0; y < oh; ++y)
        for (int64_t xx = 0; xx < ow; ++xx) {
          int32_t sum = 0;
          for (int64_t c = 0; c < cg; ++c)
            for (int64_t ky = 0; ky < s.kernel_h; ++ky)
              for (int64_t kx = 0; kx < s.kernel_w; ++kx)
                sum += tap(n, o / og * cg + c, y * s.stride_h - s.pad_top + ky * s.dilation_h,
                           xx * s.stride_w - s.pad_left + kx * s.dilation_w) *
                       w[static_cast<size_t>(((o * cg + c) * s.kernel_h + ky) * s.kernel_w + kx)];
          out.push_back(sum);
        }
  return out;
}

std::vector<uint64_t> Problem::packed(int layout) const {
  const size_t pixels = static_cast<size_t>(s.batch * s.height * s.width);
  std::vector<uint64_t> bits(pixels * static_cast<size_t>((s.channels + 63) / 64), 0xdeadbeef);
  std::vector<float> input = x;
  if (layout == XK_NHWC)
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t c = 0; c < s.channels; ++c)
        for (int64_t p = 0; p < s.height * s.width; ++p)
          input[static_cast<size_t>((n * s.height * s.width + p) * s.channels + c)] =
              x[static_cast<size_t>((n * s.channels + c) * s.height * s.width + p)];
  const xk_binarize b{threshold.data(), flip.data()};
  check(xk_pack(input.data(), layout, s.batch, s.channels, s.height, s.width, &b, bits.data(), nullptr) == XK_OK,
        "xk_pack");
  return bits;
}

std::vector<char> Problem::weights(const char* kernel) const {
  size_t bytes = 0;
  check(xk_weights_size(&s, kernel, &bytes) == XK_OK, "xk_weights_size");
  std::vector<char> packed(bytes);
  check(xk_weights_pack(&s, kernel, dense.data(), dense.size(), packed.data(), bytes) == XK_OK, "xk_weights_pack");
  check(!std::strcmp(xk_weights_kernel(packed.data(), bytes), kernel), "xk_weights_kernel");
  return packed;
}
