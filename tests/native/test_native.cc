// Tests of the bit engine in C++, to be built with -fsanitize=address,undefined. Every kernel of this machine
// against a convolution of +-1 values written out in loops; bad arguments; concurrent calls.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "xnorkit.h"

namespace {

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s (last error: %s)\n", what.c_str(), xk_last_error());
}

xk_conv_shape square(int64_t n, int64_t c, int64_t oc, int64_t size, int64_t k, int64_t stride, int64_t pad,
                     int64_t dilation, int64_t groups) {
  return {n, c, size, size + 1, oc, k, k, stride, stride, dilation, dilation, pad, pad, pad, pad, groups};
}

std::string name_of(const xk_conv_shape& s, const char* kernel) {
  char text[256];
  std::snprintf(text, sizeof text,
                "%s n%" PRId64 " %" PRId64 "->%" PRId64 " %" PRId64 "x%" PRId64 " k%" PRId64 "x%" PRId64 " s%" PRId64 " p%" PRId64 ",%" PRId64 " d%" PRId64 " g%" PRId64,
                kernel, s.batch, s.channels, s.out_channels, s.height, s.width, s.kernel_h, s.kernel_w, s.stride_h,
                s.pad_top, s.pad_bottom, s.dilation_h, s.groups);
  return text;
}

struct Problem {
  xk_conv_shape s;
  int64_t oh, ow;
  std::vector<float> x, threshold;
  std::vector<int32_t> w;      // +-1 [oc][c/g][kh][kw]
  std::vector<int32_t> signs;  // of x
  std::vector<uint8_t> flip;
  std::vector<uint8_t> dense;

  Problem(const xk_conv_shape& shape, uint32_t seed) : s(shape) {
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

  int32_t tap(int64_t n, int64_t c, int64_t y, int64_t xx) const {
    if (y < 0 || y >= s.height || xx < 0 || xx >= s.width) return 0;
    return signs[static_cast<size_t>(((n * s.channels + c) * s.height + y) * s.width + xx)];
  }

  std::vector<int32_t> sums() const {
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

  std::vector<uint64_t> packed(int layout) const {
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

  std::vector<char> weights(const char* kernel) const {
    size_t bytes = 0;
    check(xk_weights_size(&s, kernel, &bytes) == XK_OK, "xk_weights_size");
    std::vector<char> packed(bytes);
    check(xk_weights_pack(&s, kernel, dense.data(), dense.size(), packed.data(), bytes) == XK_OK, "xk_weights_pack");
    check(!std::strcmp(xk_weights_kernel(packed.data(), bytes), kernel), "xk_weights_kernel");
    return packed;
  }
};

void threads_for(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  const size_t n = *static_cast<size_t*>(context);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < n; ++t)
    threads.emplace_back([=] {
      for (size_t i = t; i < count; i += n) task(argument, i);
    });
  for (std::thread& thread : threads) thread.join();
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

void test_kernels() {
  uint32_t seed = 1;
  for (const xk_conv_shape& shape : shapes()) {
    const Problem problem(shape, seed++);
    const std::vector<int32_t> expected = problem.sums();
    for (int32_t i = 0; i < xk_kernel_count(); ++i) check_outputs(problem, xk_kernel_name(i), expected);
  }
}

void test_special_values() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const float x[] = {0.0f, -0.0f, nan, -nan, inf, -inf, 1e-45f, -1e-45f};
  uint64_t bits = ~uint64_t{0};
  for (int layout : {XK_NCHW, XK_NHWC}) {
    check(xk_pack(x, layout, 1, 8, 1, 1, nullptr, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b01010011, "sign(0) = +1, NaN is -1");
    const uint8_t flip[] = {1, 1, 1, 1, 1, 1, 1, 1};
    const xk_binarize flipped{nullptr, flip};
    check(xk_pack(x, layout, 1, 8, 1, 1, &flipped, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b10100011, "flipped: x <= 0, NaN is -1");
    const float always[] = {-inf, -inf, -inf, -inf, -inf, -inf, inf, inf};
    const xk_binarize constant{always, nullptr};
    check(xk_pack(x, layout, 1, 8, 1, 1, &constant, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b00110011, "infinite thresholds");
  }
}

// Every function must refuse without touching the pointers, which lead nowhere.
void test_bad_arguments() {
  uint64_t* const nowhere = reinterpret_cast<uint64_t*>(64);
  const int64_t huge = int64_t{1} << 39;
  const xk_conv_shape good = square(1, 64, 16, 8, 3, 1, 1, 1, 1);
  std::vector<xk_conv_shape> bad(22, good);
  bad[0].batch = 0, bad[1].batch = -1, bad[2].channels = 0, bad[3].height = 0, bad[4].width = -5;
  bad[5].out_channels = 0, bad[6].kernel_h = 0, bad[7].stride_w = 0, bad[8].dilation_h = 0, bad[9].pad_top = -1;
  bad[10].groups = 0, bad[11].groups = 3, bad[12].kernel_h = 11, bad[13].dilation_w = 6;
  bad[14].batch = bad[14].height = huge, bad[15].channels = std::numeric_limits<int64_t>::max();
  bad[16].kernel_h = bad[16].kernel_w = huge, bad[17].height = bad[17].width = int64_t{1} << 32;
  bad[18].pad_left = bad[18].pad_top = huge, bad[19].dilation_h = std::numeric_limits<int64_t>::max();
  bad[20].stride_h = std::numeric_limits<int64_t>::max(), bad[21].out_channels = huge;
  const xk_output output{nowhere, XK_OUT_FLOAT, XK_NCHW, {}};
  for (size_t i = 0; i < bad.size(); ++i) {
    const std::string name = "bad shape " + std::to_string(i);
    check(xk_conv(&bad[i], nowhere, nowhere, 1 << 20, nullptr, &output, nullptr) == XK_INVALID_ARGUMENT, name);
    check(std::strlen(xk_last_error()) > 10, name + " says why");
  }
  const Problem problem(good, 1);
  std::vector<char> weights = problem.weights("scalar");
  auto refused = [&](const xk_conv_shape& s, size_t bytes, const xk_epilogue* e, const xk_output* o) {
    return xk_conv(&s, nowhere, weights.data(), bytes, e, o, nullptr) == XK_INVALID_ARGUMENT;
  };
  check(refused(good, weights.size() - 8, nullptr, &output), "truncated weights");
  check(refused(good, 10, nullptr, &output), "weights without a header");
  check(refused(square(1, 128, 16, 8, 3, 1, 1, 1, 1), weights.size(), nullptr, &output), "weights of another shape");
  const xk_output no_data{nullptr, XK_OUT_FLOAT, XK_NCHW, {}};
  const xk_output bad_kind{nowhere, 3, XK_NCHW, {}}, bad_layout{nowhere, XK_OUT_FLOAT, 2, {}};
  check(refused(good, weights.size(), nullptr, &no_data), "NULL output");
  check(refused(good, weights.size(), nullptr, &bad_kind), "unknown kind");
  check(refused(good, weights.size(), nullptr, &bad_layout), "unknown layout");
  check(refused(good, weights.size(), nullptr, nullptr), "no output");
  const xk_epilogue relu{nullptr, nullptr, nullptr, 1};
  const xk_output integers{nowhere, XK_OUT_INT32, XK_NCHW, {}};
  check(refused(good, weights.size(), &relu, &integers), "int32 with an epilogue");
  for (size_t byte = 0; byte < 64; ++byte) {
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
    check(refused(good, weights.size(), nullptr, &output), "header byte " + std::to_string(byte) + " flipped");
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
  }
  size_t bytes;
  check(xk_weights_size(&good, "sse", &bytes) == XK_UNSUPPORTED, "unknown kernel");
  check(std::strstr(xk_last_error(), "scalar"), "the error names the kernels there are");
  check(xk_weights_pack(&good, "scalar", problem.dense.data(), 5, weights.data(), weights.size()) ==
            XK_INVALID_ARGUMENT, "short dense weights");
  check(xk_pack(nullptr, 0, 1, 1, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "NULL input");
  check(xk_pack(problem.x.data(), 0, huge, huge, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "huge input");
  check(xk_pack(problem.x.data(), 0, 1, std::numeric_limits<int64_t>::max(), 1, 1, nullptr, nowhere, nullptr) ==
            XK_INVALID_ARGUMENT, "more channels than any tensor has");
  check(xk_pack(problem.x.data(), 0, 0, 1, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "empty input");
}

void test_forced_kernel() {
  const xk_conv_shape shape = square(1, 64, 16, 8, 3, 1, 1, 1, 1);
  size_t bytes;
  for (int32_t i = 0; i < xk_kernel_count(); ++i) {
    setenv("XNORKIT_KERNEL", xk_kernel_name(i), 1);
    check(xk_weights_size(&shape, nullptr, &bytes) == XK_OK, "xk_weights_size");
    std::vector<char> weights(bytes);
    const std::vector<uint8_t> dense(16 * 72, 0xff);
    check(xk_weights_pack(&shape, nullptr, dense.data(), dense.size(), weights.data(), bytes) == XK_OK, "forced");
    check(!std::strcmp(xk_weights_kernel(weights.data(), bytes), xk_kernel_name(i)), "XNORKIT_KERNEL took effect");
  }
  setenv("XNORKIT_KERNEL", "nonsense", 1);
  check(xk_weights_size(&shape, nullptr, &bytes) == XK_UNSUPPORTED, "a kernel that does not exist");
  unsetenv("XNORKIT_KERNEL");
}

void test_concurrent_calls() {
  const Problem problem(square(2, 128, 48, 9, 3, 1, 1, 1, 1), 5);
  const std::vector<int32_t> expected = problem.sums();
  const std::vector<uint64_t> bits = problem.packed(XK_NCHW);
  for (int32_t i = 0; i < xk_kernel_count(); ++i) {
    const std::vector<char> weights = problem.weights(xk_kernel_name(i));
    std::vector<std::thread> threads;
    std::vector<std::vector<int32_t>> results(6, std::vector<int32_t>(expected.size()));
    for (std::vector<int32_t>& result : results)
      threads.emplace_back([&] {
        const xk_output output{result.data(), XK_OUT_INT32, XK_NCHW, {}};
        for (int repeat = 0; repeat < 5; ++repeat)
          xk_conv(&problem.s, bits.data(), weights.data(), weights.size(), nullptr, &output, nullptr);
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::vector<int32_t>& result : results) check(result == expected, "concurrent calls");
  }
}

}  // namespace

int main() {
  test_kernels();
  test_special_values();
  test_bad_arguments();
  test_forced_kernel();
  test_concurrent_calls();
  std::printf("kernels:");
  for (int32_t i = 0; i < xk_kernel_count(); ++i) std::printf(" %s", xk_kernel_name(i));
  std::printf("\n%s\n", failures ? "FAILED" : "all passed");
  return failures != 0;
}
