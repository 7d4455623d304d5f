// Every kernel of this machine against a convolution of +-1 values written out in loops.
#include <cstring>

#include "testing.h"

namespace {

// What a convolution is told besides its shape and its bits.
struct Arguments {
  std::vector<float> scale, bias, k, limit;
  std::vector<uint8_t> flip;

  explicit Arguments(const Problem& p) : k(static_cast<size_t>(p.s.batch * p.s.groups * p.oh * p.ow)) {
    for (int64_t o = 0; o < p.s.out_channels; ++o) {
      scale.push_back(0.01f * static_cast<float>(o % 7 + 1));
      bias.push_back(static_cast<float>(o % 5) - 2.0f);
      limit.push_back(static_cast<float>(o % 3) * 0.5f);
      flip.push_back(o % 4 == 1);
    }
    for (size_t i = 0; i < k.size(); ++i) k[i] = 0.5f + static_cast<float>(i % 11) * 0.1f;
  }

  float epilogue(const Problem& p, int32_t sum, int64_t n, int64_t o, int64_t pixel) const {
    const int64_t g = o / (p.s.out_channels / p.s.groups);
    const size_t c = static_cast<size_t>(o);
    const float y = static_cast<float>(sum) * scale[c] *
                        k[static_cast<size_t>((n * p.s.groups + g) * p.oh * p.ow + pixel)] + bias[c];
    return y < 0 ? 0 : y;
  }
  bool bit(float y, int64_t o) const {
    const size_t c = static_cast<size_t>(o);
    return flip[c] ? y <= limit[c] : y >= limit[c];
  }
};

// The convolution's channel that is at each place of the output: `groups` groups, interleaved.
std::vector<int64_t> shuffled(int64_t channels, int64_t groups) {
  std::vector<int64_t> order;
  for (int64_t within = 0; within < channels / groups; ++within)
    for (int64_t group = 0; group < groups; ++group) order.push_back(group * (channels / groups) + within);
  return order;
}

struct Outputs {
  int64_t words;
  std::vector<int32_t> sums, sums_nhwc;
  std::vector<float> y;
  std::vector<uint64_t> bits;

  Outputs(const Problem& p, const char* kernel, int64_t shuffle, const Arguments& a)
      : words((p.s.out_channels + 63) / 64),
        sums(static_cast<size_t>(p.s.batch * p.s.out_channels * p.oh * p.ow)),
        sums_nhwc(sums.size()),
        y(sums.size()),
        bits(static_cast<size_t>(p.s.batch * p.oh * p.ow * words), 0xfeed) {
    const std::string name = name_of(p.s, kernel);
    const std::vector<char> weights = p.weights(kernel);
    const std::vector<uint64_t> input = p.packed(XK_NCHW);
    check(input == p.packed(XK_NHWC), name + ": NCHW and NHWC input pack alike");
    size_t threads = 3;
    const xk_parallel parallel{threads_for, &threads};
    auto run = [&](const xk_epilogue* e, void* data, int kind, int layout) {
      const xk_output output{data, kind, layout, {a.limit.data(), a.flip.data()}, shuffle};
      check(xk_conv(&p.s, input.data(), weights.data(), weights.size(), e, &output, layout ? &parallel : nullptr) ==
                XK_OK, name);
      check(!std::strcmp(xk_last_kernel(), kernel), name + ": ran " + xk_last_kernel());
    };
    const xk_epilogue epilogue{a.scale.data(), a.bias.data(), a.k.data(), 1};
    run(nullptr, sums.data(), XK_OUT_INT32, XK_NCHW);
    run(nullptr, sums_nhwc.data(), XK_OUT_INT32, XK_NHWC);
    run(&epilogue, y.data(), XK_OUT_FLOAT, XK_NCHW);
    run(&epilogue, bits.data(), XK_OUT_BITS, XK_NHWC);
  }

  bool bit(const Problem& p, int64_t n, int64_t place, int64_t pixel) const {
    return bits[static_cast<size_t>((n * p.oh * p.ow + pixel) * words + place / 64)] >> (place % 64) & 1;
  }
};

void check_outputs(const Problem& p, const char* kernel, const std::vector<int32_t>& expected, int64_t shuffle) {
  const Arguments a(p);
  const Outputs out(p, kernel, shuffle, a);
  const int64_t channels = p.s.out_channels, pixels = p.oh * p.ow;
  const std::vector<int64_t> order = shuffled(channels, shuffle ? shuffle : 1);
  bool same_nchw = true, same_nhwc = true, same_float = true, same_bits = true;
  for (int64_t n = 0; n < p.s.batch; ++n)
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t place = 0; place < channels; ++place) {
        const int64_t o = order[static_cast<size_t>(place)];
        const size_t nchw = static_cast<size_t>((n * channels + place) * pixels + pixel);
        const int32_t sum = expected[static_cast<size_t>((n * channels + o) * pixels + pixel)];
        const float y = a.epilogue(p, sum, n, o, pixel);
        same_nchw &= out.sums[nchw] == sum;
        same_nhwc &= out.sums_nhwc[static_cast<size_t>((n * pixels + pixel) * channels + place)] == sum;
        same_float &= out.y[nchw] == y;
        same_bits &= out.bit(p, n, place, pixel) == a.bit(y, o);
      }
      for (int64_t place = channels; place < out.words * 64; ++place) same_bits &= !out.bit(p, n, place, pixel);
    }
  const std::string name = name_of(p.s, kernel) + " shuffle " + std::to_string(shuffle);
  check(same_nchw, name + ": int32 NCHW");
  check(same_nhwc, name + ": int32 NHWC");
  check(same_float, name + ": float epilogue");
  check(same_bits, name + ": bits");
}

// Those that a channel shuffle can have.
std::vector<int64_t> divisors(int64_t channels) {
  std::vector<int64_t> all;
  for (int64_t i = 1; i <= channels; ++i)
    if (channels % i == 0) all.push_back(i);
  return all;
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
  all.push_back({1, 5000, 1, 3, 20, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1});  // sums of many slices of look-ups
  all.push_back({1, 33000, 1, 2, 20, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1});  // and of more than 16 bits hold
  all.push_back(square(1, 40, 210, 6, 3, 2, 2, 1, 1));    // three full blocks of look-ups and a part
  all.push_back(square(2, 48, 210, 5, 3, 1, 1, 1, 3));    // groups of 16, two blocks of look-ups each
  all.push_back(square(1, 32, 40, 66, 3, 1, 1, 1, 1));    // rows wider than a chunk of look-ups
  all.push_back({1, 2000, 1, 5, 48, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1});  // linear
  all.push_back({1, 64, 6, 7, 32, 2, 4, 2, 1, 1, 3, 1, 2, 0, 4, 2});
  // Wide enough that pixels lie side by side in vectors: see conv/planes.cc.
  all.push_back(square(2, 64, 40, 17, 3, 1, 1, 1, 1));
  all.push_back(square(1, 31, 21, 20, 3, 1, 1, 1, 1));
  all.push_back(square(1, 256, 33, 9, 1, 1, 0, 1, 1));
  all.push_back(square(2, 192, 20, 16, 3, 1, 2, 2, 2));  // dilation, chains in groups
  all.push_back({1, 96, 20, 16, 18, 2, 5, 1, 1, 1, 1, 0, 4, 3, 0, 1});   // more rows than the input has
  all.push_back({1, 64, 3, 16, 16, 5, 7, 1, 1, 1, 1, 4, 5, 4, 1, 1});    // taller than the image
  all.push_back({1, 160, 1, 40, 48, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1});
  return all;
}

}  // namespace

void test_kernels() {
  uint32_t seed = 1;
  for (const xk_conv_shape& shape : shapes()) {
    const Problem problem(shape, seed++);
    const std::vector<int32_t> expected = problem.sums();
    for (int32_t i = 0; i < xk_kernel_count(); ++i)
      for (int64_t shuffle : {int64_t{0}, divisors(shape.out_channels)[1]})
        check_outputs(problem, xk_kernel_name(i), expected, shuffle);
  }
}

// By all group counts: lanes of a block in one group or several, in one word of bits or several.
void test_shuffles() {
  for (const xk_conv_shape& shape : {square(2, 64, 96, 3, 1, 1, 0, 1, 1), square(1, 120, 120, 5, 3, 1, 1, 1, 3),
                                     square(1, 8, 1000, 2, 1, 1, 0, 1, 1), square(1, 1, 130, 19, 3, 1, 1, 1, 1)}) {
    const Problem problem(shape, 7);
    const std::vector<int32_t> expected = problem.sums();
    for (int32_t i = 0; i < xk_kernel_count(); ++i)
      for (int64_t shuffle : divisors(shape.out_channels))
        check_outputs(problem, xk_kernel_name(i), expected, shuffle);
  }
}

// Counters are fullest where all products are -1: of every pixel, of every other one, of none.
void test_extreme_sums() {
  for (int64_t channels : {64, 240, 252, 256, 1000, 4096, 32767})
    for (uint8_t filters : {uint8_t{0}, uint8_t{255}})
      for (int32_t k = 0; k < xk_kernel_count(); ++k) {
        Problem problem(square(1, channels, 70, 3, 1, 1, 0, 1, 1), 1);
        const int used = static_cast<int>(channels % 8);
        for (size_t byte = 0; byte < problem.dense.size(); ++byte) {
          const bool last = used && (byte + 1) % static_cast<size_t>((channels + 7) / 8) == 0;
          problem.dense[byte] = static_cast<uint8_t>(filters & (last ? (1 << used) - 1 : 255));
        }
        const int64_t words = (channels + 63) / 64;
        const size_t pixels = static_cast<size_t>(problem.oh * problem.ow);
        for (int pattern : {0, 1, 2}) {  // pixels of +1: none, every other one, all
          std::vector<uint64_t> bits(pixels * static_cast<size_t>(words));
          std::vector<int32_t> expected;
          for (size_t p = 0; p < pixels; ++p) {
            const bool positive = pattern == 2 || (pattern == 1 && p % 2);
            for (int64_t c = 0; c < channels; ++c)
              bits[p * static_cast<size_t>(words) + static_cast<size_t>(c / 64)] |= uint64_t{positive} << c % 64;
            const int64_t sum = positive == (filters != 0) ? channels : -channels;
            expected.insert(expected.end(), 70, static_cast<int32_t>(sum));
          }
          const std::vector<char> weights = problem.weights(xk_kernel_name(k));
          std::vector<int32_t> sums(expected.size());
          const xk_output output{sums.data(), XK_OUT_INT32, XK_NHWC, {}, 1};
          const std::string name = name_of(problem.s, xk_kernel_name(k)) + " pattern " + std::to_string(pattern);
          check(xk_conv(&problem.s, bits.data(), weights.data(), weights.size(), nullptr, &output, nullptr) == XK_OK,
                name);
          check(sums == expected, name + ": extreme sums");
        }
      }
}
