// Every kernel of this machine against a convolution of +-1 values written out in loops.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "testing.h"

namespace {

std::string name_of(const xk_conv_shape& s, const char* kernel) {
  char text[256];
  std::snprintf(text, sizeof text,
                "%s n%" PRId64 " %" PRId64 "->%" PRId64 " %" PRId64 "x%" PRId64 " k%" PRId64 "x%" PRId64 " s%" PRId64 " p%" PRId64 ",%" PRId64 " d%" PRId64 " g%" PRId64,
                kernel, s.batch, s.channels, s.out_channels, s.height, s.width, s.kernel_h, s.kernel_w, s.stride_h,
                s.pad_top, s.pad_bottom, s.dilation_h, s.groups);
  return text;
}

size_t nchw(const Problem& p, int64_t n, int64_t o, int64_t pixel) {
  return static_cast<size_t>((n * p.s.out_channels + o) * p.oh * p.ow + pixel);
}
size_t nhwc(const Problem& p, int64_t n, int64_t o, int64_t pixel) {
  return static_cast<size_t>((n * p.oh * p.ow + pixel) * p.s.out_channels + o);
}

void check_outputs(const Problem& p, const char* kernel, const std::vector<int32_t>& expected) {
  const std::string name = name_of(p.s, kernel);
  const std::vector<char> weights = p.weights(kernel);
  const std::vector<uint64_t> bits = p.packed(XK_NCHW);
  check(bits == p.packed(XK_NHWC), name + ": NCHW and NHWC input pack alike");
  const size_t size = expected.size();
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  auto run = [&](const xk_epilogue* e, void* data, int kind, int layout, const xk_binarize& b = {}) {
    const xk_output output{data, kind, layout, b};
    check(xk_conv(&p.s, bits.data(), weights.data(), weights.size(), e, &output, layout ? &parallel : nullptr) == XK_OK,
          name);
    check(!std::strcmp(xk_last_kernel(), kernel), name + ": ran " + xk_last_kernel());
  };

  std::vector<int32_t> sums(size), sums_nhwc(size);
  run(nullptr, sums.data(), XK_OUT_INT32, XK_NCHW);
  run(nullptr, sums_nhwc.data(), XK_OUT_INT32, XK_NHWC);
  check(sums == expected, name + ": int32 NCHW");

  std::vector<float> scale, bias, k(static_cast<size_t>(p.s.batch * p.s.groups * p.oh * p.ow)), y(size), limit;
  std::vector<uint8_t> flip;
  for (int64_t o = 0; o < p.s.out_channels; ++o) {
    scale.push_back(0.01f * static_cast<float>(o % 7 + 1));
    bias.push_back(static_cast<float>(o % 5) - 2.0f);
    limit.push_back(static_cast<float>(o % 3) * 0.5f);
    flip.push_back(o % 4 == 1);
  }
  for (size_t i = 0; i < k.size(); ++i) k[i] = 0.5f + static_cast<float>(i % 11) * 0.1f;
  const xk_epilogue epilogue{scale.data(), bias.data(), k.data(), 1};
  run(&epilogue, y.data(), XK_OUT_FLOAT, XK_NCHW);
  const int64_t words = (p.s.out_channels + 63) / 64;
  std::vector<uint64_t> out_bits(static_cast<size_t>(p.s.batch * p.oh * p.ow * words), 0xfeed);
  run(&epilogue, out_bits.data(), XK_OUT_BITS, XK_NHWC, {limit.data(), flip.data()});

  bool same_nhwc = true, same_float = true, same_bits = true;
  for (int64_t n = 0; n < p.s.batch; ++n)
    for (int64_t o = 0; o < words * 64; ++o)
      for (int64_t pixel = 0; pixel < p.oh * p.ow; ++pixel) {
        const size_t word = static_cast<size_t>((n * p.oh * p.ow + pixel) * words + o / 64);
        const bool bit = out_bits[word] >> (o % 64) & 1;
        if (o >= p.s.out_channels) {
          same_bits &= !bit;
          continue;
        }
        const size_t c = static_cast<size_t>(o), i = nchw(p, n, o, pixel);
        const int64_t g = o / (p.s.out_channels / p.s.groups);
        same_nhwc &= sums_nhwc[nhwc(p, n, o, pixel)] == expected[i];
        const float value = static_cast<float>(expected[i]) * scale[c] *
                                k[static_cast<size_t>((n * p.s.groups + g) * p.oh * p.ow + pixel)] + bias[c];
        const float relu = value < 0 ? 0 : value;
        same_float &= y[i] == relu;
        same_bits &= bit == (flip[c] ? relu <= limit[c] : relu >= limit[c]);
      }
  check(same_nhwc, name + ": int32 NHWC");
  check(same_float, name + ": float epilogue");
  check(same_bits, name + ": bits");
}

std::vector<xk_conv_shape> shapes() {
  std::vector<xk_conv_shape> all;
  for (int64_t c : {1, 3, 31, 63, 64, 65, 192, 256, 1000})
    for (int64_t k : {1, 3, 5}) all.push_back(square(1, c, 17, 7, k, 1, k / 2, 1, 1));
  all.push_back(square(2, 3, 5, 24, 11, 4, 2, 1, 1));     // a first layer
  all.push_back(square(2, 70, 33, 9, 3, 2, 1, 2, 1));     // stride, dilation
  all.push_back(square(1, 64, 64, 8, 3, 3, 0, 1, 2));     // groups of 32
  all.push_back(square(2, 256, 512, 6, 3, 1, 1, 1, 16));  // groups of 16
  all.push_back(square(1, 24, 12, 6, 3, 1, 1, 1, 4));     // groups of 6
  all.push_back(square(1, 130, 26, 5, 3, 2, 1, 1, 2));    // groups of 65
  all.push_back(square(1, 256, 96, 6, 3, 2, 1, 2, 2));    // groups of two words
  all.push_back(square(2, 40, 40, 8, 5, 1, 2, 1, 40));    // depthwise
  all.push_back(square(1, 64, 20, 4, 3, 1, 5, 1, 1));     // windows wholly in the padding
  all.push_back(square(1, 96, 40, 300, 1, 1, 0, 1, 1));   // rows wider than a chunk
  all.push_back({1, 64, 1, 37, 100, 1, 4, 1, 2, 1, 1, 0, 3, 0, 0, 1});   // one-dimensional, uneven padding
  all.push_back({1, 2000, 1, 5, 48, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1});  // linear
  all.push_back({1, 64, 6, 7, 32, 2, 4, 2, 1, 1, 3, 1, 2, 0, 4, 2});
  return all;
}

}  // namespace

void test_kernels() {
  uint32_t seed = 1;
  for (const xk_conv_shape& shape : shapes()) {
    const Problem problem(shape, seed++);
    const std::vector<int32_t> expected = problem.sums();
    for (int32_t i = 0; i < xk_kernel_count(); ++i) check_outputs(problem, xk_kernel_name(i), expected);
  }
}
