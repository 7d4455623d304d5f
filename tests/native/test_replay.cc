// Arithmetic between layers against loops, and calls that are written down against the same calls one by one.
#include <cmath>
#include <limits>
#include <random>

#include "testing.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

float expected(int32_t kind, float x, const std::vector<float>& operand, size_t channel, size_t channels) {
  switch (kind) {
    case XK_ADD:
      return x + operand[channel];
    case XK_SUBTRACT:
      return x - operand[channel];
    case XK_MULTIPLY:
      return x * operand[channel];
    case XK_PRELU:
      return x > 0 ? x : operand[channel] * x;
    case XK_CLAMP:
      return std::isnan(x) ? x : std::min(std::max(x, operand[0]), operand[1]);
    default:
      return std::fma(x, operand[channel], operand[channels + channel]);
  }
}

void check_pointwise(const xk_elements& e, int32_t kind) {
  std::mt19937 random(static_cast<uint32_t>(e.count));
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(e.count)), operand(2 * static_cast<size_t>(e.channels) + 2);
  for (float& value : x) value = normal(random);
  for (float& value : operand) value = normal(random);
  if (kind == XK_CLAMP) operand[0] = -0.5f, operand[1] = 0.75f;
  const float special[] = {kNan, kInf, -kInf, 0.0f, -0.0f};
  for (size_t i = 0; i < 5 && i < x.size(); ++i) x[i] = special[i];
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  std::vector<float> in_place = x, y(x.size());
  bool ok = xk_pointwise(&e, kind, x.data(), operand.data(), y.data(), &parallel) == XK_OK &&
            xk_pointwise(&e, kind, in_place.data(), operand.data(), in_place.data(), nullptr) == XK_OK;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t channel = i / static_cast<size_t>(e.inner) % static_cast<size_t>(e.channels);
    const float wanted = expected(kind, x[i], operand, channel, static_cast<size_t>(e.channels));
    for (const float found : {y[i], in_place[i]}) ok &= found == wanted || (std::isnan(found) && std::isnan(wanted));
  }
  check(ok, "pointwise " + std::to_string(kind) + " of " + std::to_string(e.count));
}

xk_argument pointer(const void* p) {
  xk_argument argument;
  argument.pointer = p;
  return argument;
}

xk_argument whole(int64_t value) {
  xk_argument argument;
  argument.whole = value;
  return argument;
}

}  // namespace

void test_pointwise() {
  for (int32_t kind = XK_ADD; kind <= XK_AFFINE; ++kind)
    for (const xk_elements& e : {xk_elements{1, 1, 1, 0}, xk_elements{77, 77, 1, 0}, xk_elements{2 * 6 * 35, 6, 35, 0},
                                 xk_elements{90, 9, 1, 0}, xk_elements{100000, 5, 10000, 0}})
      check_pointwise(e, kind);
}

void test_bad_pointwise() {
  const xk_elements good{6, 3, 2, 0}, ragged{7, 3, 2, 0}, half{6, 3, 2, XK_BFLOAT16};
  float x[6] = {};
  fails(xk_pointwise(nullptr, XK_ADD, x, x, x, nullptr), "elements is NULL");
  fails(xk_pointwise(&good, XK_ADD, x, nullptr, x, nullptr), "is NULL");
  fails(xk_pointwise(&good, 6, x, x, x, nullptr), "kind is 6; it must be between 0 and 5");
  fails(xk_pointwise(&good, -1, x, x, x, nullptr), "kind is -1");
  fails(xk_pointwise(&ragged, XK_ADD, x, x, x, nullptr), "count is no multiple");
  fails(xk_pointwise(&half, XK_ADD, x, x, x, nullptr), "must be float32");
}

// floats -> bits -> convolution -> + 1, written down, and the same called one by one.
void test_written_calls() {
  const xk_conv_shape s = square(2, 70, 20, 6, 3, 1, 1, 1, 1);
  const Problem problem(s, 3);
  const std::vector<char> weights = problem.weights(xk_kernel_name(xk_kernel_count() - 1));
  const size_t outputs = static_cast<size_t>(s.batch * s.out_channels * problem.oh * problem.ow);
  std::vector<uint64_t> bits(static_cast<size_t>(s.batch * s.height * s.width * 2));
  std::vector<float> sums(outputs), ones(20, 1.0f);
  const xk_elements elements{static_cast<int64_t>(outputs), 20, problem.oh * problem.ow, 0};
  const xk_binarize level{problem.threshold.data(), nullptr};
  const xk_output output{sums.data(), XK_OUT_FLOAT, XK_NCHW, {}, 1};
  xk_written_call calls[3] = {};
  calls[0].function = XK_PACK;
  const xk_argument packing[] = {pointer(problem.x.data()), whole(XK_NCHW), whole(s.batch),  whole(s.channels),
                                 whole(s.height),           whole(s.width), pointer(&level), pointer(bits.data())};
  std::copy(std::begin(packing), std::end(packing), calls[0].arguments);
  calls[1].function = XK_CONV;
  const xk_argument convolution[] = {pointer(&s), pointer(bits.data()), pointer(weights.data()),
                                     whole(static_cast<int64_t>(weights.size())), pointer(nullptr), pointer(&output)};
  std::copy(std::begin(convolution), std::end(convolution), calls[1].arguments);
  calls[2].function = XK_POINTWISE;
  const xk_argument addition[] = {pointer(&elements), whole(XK_ADD), pointer(sums.data()), pointer(ones.data()),
                                  pointer(sums.data())};
  std::copy(std::begin(addition), std::end(addition), calls[2].arguments);
  size_t threads = 2;
  const xk_parallel parallel{threads_for, &threads};
  for (const xk_parallel* p : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
    std::fill(sums.begin(), sums.end(), -7.0f);
    check(xk_run(calls, 3, p) == XK_OK, "written calls");
    std::vector<float> wanted(outputs);
    const xk_output direct{wanted.data(), XK_OUT_FLOAT, XK_NCHW, {}, 1};
    check(xk_conv_float(&s, problem.x.data(), XK_NCHW, &level, weights.data(), weights.size(), nullptr, &direct, p) ==
              XK_OK,
          "the same at once");
    for (float& value : wanted) value += 1.0f;
    check(sums == wanted, "written calls compute the same");
  }
  check(xk_run(calls, 0, nullptr) == XK_OK, "no call");
  fails(xk_run(nullptr, 1, nullptr), "calls is NULL");
  fails(xk_run(calls, -1, nullptr), "count is -1");
  calls[1].arguments[3] = whole(static_cast<int64_t>(weights.size()) - 1);
  fails(xk_run(calls, 3, nullptr), "weights");
  calls[1].function = XK_POINTWISE + 1;
  fails(xk_run(calls, 3, nullptr), "call 1 is of function 14; it must be between 0 and 13");
}

// Calls that may be computed part by part, and some that may not: what one writes another reads elsewhere.
void test_written_arithmetic() {
  constexpr size_t kCount = 10000;
  const xk_elements each{kCount, kCount, 1, 0}, channels{kCount, 5, kCount / 5, 0};
  struct Step {
    const xk_elements* elements;
    int32_t kind;
    size_t x, operand, y;  // places in one memory
  };
  const std::vector<std::vector<Step>> series = {
      {{&channels, XK_SUBTRACT, 0, 50000, 10000},
       {&channels, XK_PRELU, 10000, 50005, 20000},
       {&channels, XK_ADD, 20000, 50010, 30000},
       {&each, XK_ADD, 30000, 0, 40000}},
      {{&each, XK_ADD, 0, 10000, 0}, {&each, XK_MULTIPLY, 0, 0, 0}, {&channels, XK_ADD, 0, 50000, 0}},
      {{&each, XK_ADD, 0, 10000, 20000}, {&each, XK_ADD, 17500, 10000, 30000}},    // reads elsewhere what was written
      {{&each, XK_ADD, 0, 10000, 20000}, {&each, XK_ADD, 10000, 0, 2500}},         // writes elsewhere what was read
      {{&each, XK_ADD, 0, 10000, 20000}, {&channels, XK_ADD, 0, 29995, 30000}},    // reads for all what was written last
      {{&channels, XK_ADD, 0, 29995, 10000}, {&each, XK_ADD, 0, 10000, 20000}},    // writes last what was read for all
      {{&each, XK_ADD, 0, 10000, 20000}, {&each, XK_SUBTRACT, 0, 10000, 25000}},  // writes again, elsewhere
  };
  for (size_t i = 0; i < series.size(); ++i) {
    std::mt19937 random(static_cast<uint32_t>(i));
    std::normal_distribution<float> normal;
    std::vector<float> together(50020);
    for (float& value : together) value = normal(random);
    std::vector<float> alone = together;
    std::vector<xk_written_call> calls(series[i].size());
    for (size_t n = 0; n < calls.size(); ++n) {
      const Step& step = series[i][n];
      const xk_argument arguments[] = {pointer(step.elements), whole(step.kind), pointer(&together[step.x]),
                                       pointer(&together[step.operand]), pointer(&together[step.y])};
      calls[n].function = XK_POINTWISE;
      std::copy(std::begin(arguments), std::end(arguments), calls[n].arguments);
      check(xk_pointwise(step.elements, step.kind, &alone[step.x], &alone[step.operand], &alone[step.y], nullptr) ==
                XK_OK,
            "arithmetic alone");
    }
    check(xk_run(calls.data(), static_cast<int64_t>(calls.size()), nullptr) == XK_OK && together == alone,
          "arithmetic together " + std::to_string(i));
  }
}
