// Signs, kept bits and gradients of training against loops in double precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "testing.h"

namespace {

// Around the bounds, special values among them.
std::vector<float> numbers(int64_t count, uint32_t seed) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> special = {0.0f, -0.0f, 1.0f, -1.0f, NAN, infinity, -infinity, 1e-45f, -1e-45f};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = i % 7 == 3 ? special[i / 7 % special.size()] : normal(random);
  return x;
}

bool bit(const std::vector<uint64_t>& bits, size_t i) { return bits[i / 64] >> (i % 64) & 1; }

void test_signs_of(int64_t count, bool closed, const xk_parallel* parallel) {
  const std::vector<float> x = numbers(count, 1), gradient = numbers(count, 2);
  const size_t n = x.size(), words = (n + 63) / 64;
  std::vector<float> values(n), again(n), passed(n);
  std::vector<uint64_t> positive(words, ~uint64_t{0}), inside(words, ~uint64_t{0});
  bool ok = xk_sign(x.data(), count, closed, values.data(), positive.data(), inside.data(), parallel) == XK_OK;
  ok &= xk_signs(positive.data(), count, again.data(), parallel) == XK_OK;
  ok &= xk_pass_inside(gradient.data(), inside.data(), count, passed.data(), parallel) == XK_OK;
  for (size_t i = 0; i < n; ++i) {
    const bool near = closed ? std::fabs(x[i]) <= 1.0f : std::fabs(x[i]) < 1.0f;
    ok &= values[i] == (x[i] >= 0.0f ? 1.0f : -1.0f) && again[i] == values[i];
    ok &= bit(positive, i) == (x[i] >= 0.0f) && bit(inside, i) == near;
    ok &= near ? passed[i] == gradient[i] || (passed[i] != passed[i] && gradient[i] != gradient[i]) : passed[i] == 0.0f;
  }
  std::vector<uint64_t> alone(words);
  ok &= xk_sign(x.data(), count, closed, nullptr, alone.data(), nullptr, parallel) == XK_OK && alone == positive;
  for (size_t i = n; i < words * 64; ++i) ok &= !bit(positive, i) && !bit(inside, i);
  check(ok, "signs of " + std::to_string(count) + (closed ? ", closed" : ""));
}

// One filter by the formulas, elements [input][tap].
struct Expected {
  double alpha = 0.0;
  std::vector<double> centred, gradient;

  Expected(const std::vector<double>& w, const std::vector<double>& g, int64_t inputs, int64_t taps, bool center)
      : centred(w), gradient(w.size()) {
    const size_t step = static_cast<size_t>(taps);
    if (center && inputs > 1) subtract_means(centred, step);
    const double n = static_cast<double>(w.size());
    double products = 0.0;
    for (size_t i = 0; i < w.size(); ++i) {
      alpha += (center ? std::min(std::fabs(centred[i]), 1.0) : std::fabs(centred[i])) / n;
      products += g[i] * (centred[i] >= 0.0 ? 1.0 : -1.0) / n;
    }
    for (size_t i = 0; i < w.size(); ++i) {
      const double through_scale = centred[i] >= 0.0 ? products : -products;
      const double inside = std::fabs(centred[i]) <= 1.0 ? 1.0 : 0.0;
      gradient[i] = center ? inside * (through_scale + alpha * g[i]) : through_scale + inside * alpha * g[i];
    }
    if (center && inputs > 1) subtract_means(gradient, step);
  }

  static void subtract_means(std::vector<double>& values, size_t taps) {
    for (size_t t = 0; t < taps; ++t) {
      double sum = 0.0;
      for (size_t i = t; i < values.size(); i += taps) sum += values[i];
      for (size_t i = t; i < values.size(); i += taps)
        values[i] -= sum / static_cast<double>(values.size() / taps);
    }
  }
};

void test_filters(const xk_filters& f, const xk_parallel* parallel) {
  const size_t size = static_cast<size_t>(f.inputs * f.taps), count = static_cast<size_t>(f.count);
  const size_t words = (size + 63) / 64;
  std::mt19937 random(static_cast<uint32_t>(size));
  std::normal_distribution<float> normal;
  std::vector<float> w(size * count), g(w.size()), y(w.size()), result(w.size()), scale(count);
  for (float& v : w) v = normal(random);
  for (float& v : g) v = normal(random);
  std::vector<uint64_t> positive(words * count), inside(words * count);
  bool ok = xk_scaled_sign(&f, w.data(), y.data(), scale.data(), positive.data(), inside.data(), parallel) == XK_OK;
  ok &= xk_scaled_sign_gradient(&f, g.data(), scale.data(), positive.data(), inside.data(), result.data(),
                                parallel) == XK_OK;
  for (size_t k = 0; k < count; ++k) {
    const auto place = [&](size_t i) {  // in memory, of element i of [input][tap]
      const size_t inputs = static_cast<size_t>(f.inputs), taps = static_cast<size_t>(f.taps);
      return k * size + (f.inputs_last ? i % taps * inputs + i / taps : i);
    };
    std::vector<double> filter(size), gradient(size);
    for (size_t i = 0; i < size; ++i) filter[i] = w[place(i)], gradient[i] = g[place(i)];
    const Expected expected(filter, gradient, f.inputs, f.taps, f.center);
    ok &= std::fabs(scale[k] - expected.alpha) < 1e-5;
    for (size_t i = 0; i < size; ++i) {
      if (std::fabs(expected.centred[i]) < 1e-6 || std::fabs(std::fabs(expected.centred[i]) - 1.0) < 1e-6) continue;
      ok &= y[place(i)] == (expected.centred[i] >= 0.0 ? scale[k] : -scale[k]);
      ok &= std::fabs(result[place(i)] - expected.gradient[i]) < 1e-5;
    }
  }
  check(ok, "filters " + std::to_string(f.count) + "x" + std::to_string(f.inputs) + "x" + std::to_string(f.taps) +
                (f.inputs_last ? ", inputs last" : "") + (f.center ? ", centred" : ""));
}

}  // namespace

void test_straight_through() {
  size_t threads = 3;
  const xk_parallel pool = {threads_for, &threads};
  for (const xk_parallel* parallel : {static_cast<const xk_parallel*>(nullptr), &pool})
    for (const bool closed : {false, true})
      for (const int64_t count : {1, 63, 64, 65, 1000, 16384, 40000}) test_signs_of(count, closed, parallel);
  for (const int32_t center : {0, 1})
    for (const int32_t inputs_last : {0, 1})
      for (const int64_t inputs : {1, 2, 17, 64, 100})
        for (const int64_t taps : {1, 6, 9, 25}) test_filters({4, inputs, taps, inputs_last, center}, &pool);
}

void test_bad_elements() {
  float x[64] = {};
  uint64_t bits[1] = {};
  for (const int64_t count : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::max() / 2})
    check(xk_signs(bits, count, x, nullptr) == XK_INVALID_ARGUMENT, "count " + std::to_string(count));
  check(xk_sign(nullptr, 1, 0, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "no input");
  check(xk_pass_inside(x, bits, 1, nullptr, nullptr) == XK_INVALID_ARGUMENT, "no output");
  check(xk_scaled_sign(nullptr, x, x, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "no filters");
  for (const xk_filters& f : {xk_filters{0, 1, 1, 0, 0}, xk_filters{1, -1, 1, 0, 0}, xk_filters{1, 1, 0, 0, 0},
                              xk_filters{int64_t{1} << 31, int64_t{1} << 31, 9, 0, 0}})
    check(xk_scaled_sign(&f, x, x, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "sizes of filters");
}
