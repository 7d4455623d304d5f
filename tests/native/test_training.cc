// Signs, kept bits and gradients of training against loops in double precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
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
  const xk_elements e = {count, 1, count, XK_FLOAT32};
  bool ok = xk_sign(&e, x.data(), nullptr, closed, values.data(), positive.data(), inside.data(), parallel) == XK_OK;
  ok &= xk_signs(&e, positive.data(), again.data(), parallel) == XK_OK;
  ok &= xk_pass_inside(&e, gradient.data(), inside.data(), passed.data(), nullptr, parallel) == XK_OK;
  for (size_t i = 0; i < n; ++i) {
    const bool near = closed ? std::fabs(x[i]) <= 1.0f : std::fabs(x[i]) < 1.0f;
    ok &= values[i] == (x[i] >= 0.0f ? 1.0f : -1.0f) && again[i] == values[i];
    ok &= bit(positive, i) == (x[i] >= 0.0f) && bit(inside, i) == near;
    ok &= near ? passed[i] == gradient[i] || (passed[i] != passed[i] && gradient[i] != gradient[i]) : passed[i] == 0.0f;
  }
  std::vector<uint64_t> alone(words);
  ok &= xk_sign(&e, x.data(), nullptr, closed, nullptr, alone.data(), nullptr, parallel) == XK_OK && alone == positive;
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

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bfloat16(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

bool same(float a, float b) { return a == b || (a != a && b != b); }

// With thresholds, sums over channels, and the triangle, in both types.
void test_levels(int64_t samples, int64_t channels, int64_t inner, bool half, const xk_parallel* parallel) {
  const int64_t count = samples * channels * inner;
  const size_t n = static_cast<size_t>(count);
  std::vector<float> x = numbers(count, 3), gradient(n), threshold = numbers(channels, 4);
  for (float& t : threshold) t = std::isfinite(t) ? t : 0.25f;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (float& g : gradient) g = normal(random);
  std::vector<uint16_t> short_x(n), short_gradient(n), short_result(n);
  if (half)
    for (size_t i = 0; i < n; ++i) {
      x[i] = from_bfloat16(short_x[i] = to_bfloat16(x[i]));
      gradient[i] = from_bfloat16(short_gradient[i] = to_bfloat16(gradient[i]));
    }
  const xk_elements e = {count, channels, inner, half ? XK_BFLOAT16 : XK_FLOAT32};
  std::vector<uint64_t> positive((n + 63) / 64), inside(positive.size());
  std::vector<float> result(n), sums(static_cast<size_t>(channels));
  const void *source = half ? static_cast<const void*>(short_x.data()) : x.data();
  const void *slope = half ? static_cast<const void*>(short_gradient.data()) : gradient.data();
  void* target = half ? static_cast<void*>(short_result.data()) : result.data();
  bool ok = true;
  const auto finish = [&](const auto& expected) {
    std::vector<double> totals(sums.size());
    for (size_t i = 0; i < n; ++i) {
      const size_t c = i / static_cast<size_t>(inner) % static_cast<size_t>(channels);
      const float d = x[i] - threshold[c], wanted = expected(i, d);
      const float got = half ? from_bfloat16(short_result[i]) : result[i];
      ok &= same(got, half ? from_bfloat16(to_bfloat16(wanted)) : wanted);
      totals[c] += wanted;
    }
    for (size_t c = 0; c < sums.size(); ++c)
      ok &= totals[c] != totals[c] ? sums[c] != sums[c]
                                   : std::fabs(sums[c] - totals[c]) <= 1e-4 * std::sqrt(static_cast<double>(n)) + 1e-4;
  };
  ok &= xk_sign(&e, source, threshold.data(), 0, target, positive.data(), inside.data(), parallel) == XK_OK;
  for (size_t i = 0; i < n; ++i) {
    const float d = x[i] - threshold[i / static_cast<size_t>(inner) % static_cast<size_t>(channels)];
    ok &= bit(positive, i) == (d >= 0.0f) && bit(inside, i) == (std::fabs(d) < 1.0f);
    ok &= (half ? from_bfloat16(short_result[i]) : result[i]) == (d >= 0.0f ? 1.0f : -1.0f);
  }
  ok &= xk_pass_inside(&e, slope, inside.data(), target, sums.data(), parallel) == XK_OK;
  finish([&](size_t i, float d) { return std::fabs(d) < 1.0f ? gradient[i] : 0.0f; });
  ok &= xk_pass_triangle(&e, slope, source, threshold.data(), target, sums.data(), parallel) == XK_OK;
  finish([&](size_t i, float d) {
    const float height = 2.0f - 2.0f * std::fabs(d);
    return gradient[i] * (height < 0.0f ? 0.0f : height);
  });
  check(ok, "levels of " + std::to_string(samples) + "x" + std::to_string(channels) + "x" + std::to_string(inner) +
                (half ? ", bfloat16" : ""));
}

void test_pixel_words(int64_t batch, int64_t channels, int64_t pixels, int32_t layout, const xk_parallel* parallel) {
  const size_t n = static_cast<size_t>(batch * channels * pixels), words = static_cast<size_t>((channels + 63) / 64);
  std::mt19937_64 random(n);
  std::vector<uint64_t> bits((n + 63) / 64);
  for (uint64_t& word : bits) word = random();
  std::vector<uint64_t> output(static_cast<size_t>(batch * pixels) * words, ~uint64_t{0});
  bool ok = xk_pixel_words(bits.data(), layout, batch, channels, pixels, output.data(), parallel) == XK_OK;
  const size_t c_count = static_cast<size_t>(channels), p_count = static_cast<size_t>(pixels);
  for (size_t i = 0; i < static_cast<size_t>(batch); ++i)
    for (size_t p = 0; p < p_count; ++p)
      for (size_t c = 0; c < words * 64; ++c) {
        const size_t at = layout == XK_NHWC ? (i * p_count + p) * c_count + c : (i * c_count + c) * p_count + p;
        const bool expected = c < c_count && bit(bits, at);
        ok &= (output[(i * p_count + p) * words + c / 64] >> (c % 64) & 1) == expected;
      }
  check(ok, "words of " + std::to_string(batch) + "x" + std::to_string(channels) + "x" + std::to_string(pixels) +
                (layout == XK_NHWC ? ", channels last" : ""));
}

void test_filter_signs(const xk_filters& f, const xk_parallel* parallel) {
  const size_t size = static_cast<size_t>(f.inputs * f.taps), count = static_cast<size_t>(f.count);
  const size_t inputs = static_cast<size_t>(f.inputs), taps = static_cast<size_t>(f.taps), bytes = (size + 7) / 8;
  std::mt19937 random(static_cast<uint32_t>(size));
  std::vector<float> values(size * count), scale(count);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = (random() & 1 ? 1.0f : -1.0f) * (0.5f + static_cast<float>(i / size));
  std::vector<uint8_t> dense(bytes * count, 0xff);
  int32_t valid = 0;
  bool ok = xk_filter_signs(&f, values.data(), dense.data(), scale.data(), &valid, parallel) == XK_OK && valid;
  for (size_t k = 0; k < count; ++k) {
    ok &= scale[k] == 0.5f + static_cast<float>(k);
    for (size_t i = 0; i < bytes * 8; ++i) {
      const size_t place = f.inputs_last ? i : i % inputs * taps + i / inputs;
      const bool expected = i < size && values[k * size + place] > 0.0f;
      ok &= (dense[k * bytes + i / 8] >> (i % 8) & 1) == expected;
    }
  }
  values.back() *= 3.0f;
  ok &= xk_filter_signs(&f, values.data(), dense.data(), scale.data(), &valid, parallel) == XK_OK;
  ok &= valid == (size == 1);
  check(ok, "signs of filters " + std::to_string(f.inputs) + "x" + std::to_string(f.taps) +
                (f.inputs_last ? ", inputs last" : ""));
}

}  // namespace

void test_training() {
  size_t threads = 3;
  const xk_parallel pool = {threads_for, &threads};
  for (const xk_parallel* parallel : {static_cast<const xk_parallel*>(nullptr), &pool})
    for (const bool closed : {false, true})
      for (const int64_t count : {1, 63, 64, 65, 1000, 16384, 40000}) test_signs_of(count, closed, parallel);
  for (const bool half : {false, true})
    for (const int64_t channels : {1, 3, 64, 200})
      for (const int64_t inner : {1, 35, 1024}) test_levels(7, channels, inner, half, inner == 35 ? nullptr : &pool);
  for (const int32_t layout : {XK_NCHW, XK_NHWC})
    for (const int64_t channels : {1, 63, 64, 130})
      for (const int64_t pixels : {1, 49, 64, 200}) test_pixel_words(3, channels, pixels, layout, &pool);
  for (const int32_t inputs_last : {0, 1})
    for (const int64_t inputs : {1, 5, 64, 130})
      for (const int64_t taps : {1, 9, 121}) test_filter_signs({3, inputs, taps, inputs_last, 0}, &pool);
  for (const int32_t center : {0, 1})
    for (const int32_t inputs_last : {0, 1})
      for (const int64_t inputs : {1, 2, 17, 64, 100})
        for (const int64_t taps : {1, 6, 9, 25}) test_filters({4, inputs, taps, inputs_last, center}, &pool);
}

void test_bad_elements() {
  float x[64] = {};
  uint64_t bits[1] = {};
  for (const int64_t count : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::max() / 2}) {
    const xk_elements e = {count, 1, 1, XK_FLOAT32};
    check(xk_signs(&e, bits, x, nullptr) == XK_INVALID_ARGUMENT, "count " + std::to_string(count));
  }
  const xk_elements one = {1, 1, 1, XK_FLOAT32};
  for (const xk_elements& e : {xk_elements{64, 3, 1, XK_FLOAT32}, xk_elements{64, 0, 1, XK_FLOAT32},
                               xk_elements{64, 1, -1, XK_FLOAT32}, xk_elements{64, 1, 1, 2}})
    check(xk_signs(&e, bits, x, nullptr) == XK_INVALID_ARGUMENT, "channels, inner or dtype");
  check(xk_signs(nullptr, bits, x, nullptr) == XK_INVALID_ARGUMENT, "no elements");
  check(xk_sign(&one, nullptr, nullptr, 0, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "no input");
  check(xk_pass_inside(&one, x, bits, nullptr, nullptr, nullptr) == XK_INVALID_ARGUMENT, "no output");
  check(xk_pass_triangle(&one, x, nullptr, nullptr, x, nullptr, nullptr) == XK_INVALID_ARGUMENT, "no input");
  check(xk_pixel_words(bits, 2, 1, 1, 1, bits, nullptr) == XK_INVALID_ARGUMENT, "no such layout");
  check(xk_pixel_words(bits, XK_NCHW, 1, 0, 1, bits, nullptr) == XK_INVALID_ARGUMENT, "no channels");
  check(xk_pixel_words(bits, XK_NCHW, 1, 1, 1, nullptr, nullptr) == XK_INVALID_ARGUMENT, "no words");
  check(xk_filter_signs(nullptr, x, nullptr, x, nullptr, nullptr) == XK_INVALID_ARGUMENT, "no filters");
  check(xk_scaled_sign(nullptr, x, x, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "no filters");
  for (const xk_filters& f : {xk_filters{0, 1, 1, 0, 0}, xk_filters{1, -1, 1, 0, 0}, xk_filters{1, 1, 0, 0, 0},
                              xk_filters{int64_t{1} << 31, int64_t{1} << 31, 9, 0, 0}})
    check(xk_scaled_sign(&f, x, x, x, bits, bits, nullptr) == XK_INVALID_ARGUMENT, "sizes of filters");
}
