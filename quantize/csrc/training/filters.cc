// Training: scaled signs of filters, and the gradients that pass straight through them, with bits kept for each.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "api.h"
#include "parallel.h"
#include "shape.h"
#include "training/bit_matrix.h"
#include "training/elements.h"

namespace xk {

namespace {

// Adds factor * x to y where the bit is set.
void add_inside(const uint64_t* inside, int64_t count, float factor, const float* x, float* y) {
  float part[16 * kWordBits];
  constexpr int64_t kPart = sizeof part / sizeof *part;
  for (int64_t first = 0; first < count; first += kPart) {
    const int64_t n = std::min(kPart, count - first);
    elements::keep(inside + first / kWordBits, n, x + first, part);
    for (int64_t i = 0; i < n; ++i) y[first + i] += factor * part[i];
  }
}

// Subtracts from each element the mean over the input channels at its tap, from x to y, which may be x.
class Centering {
 public:
  explicit Centering(const xk_filters& filters)
      : inputs_(filters.inputs), taps_(filters.taps), wide_(filters.inputs_last || filters.taps == 1) {
    if (!wide_) means_.resize(static_cast<size_t>(taps_ * elements::kSums));
  }

  void operator()(const float* x, float* y) { wide_ ? rows(x, y) : columns(x, y); }

 private:
  // [tap][input]
  void rows(const float* x, float* y) const {
    for (int64_t t = 0; t < taps_; ++t, x += inputs_, y += inputs_) {
      const float mean = static_cast<float>(elements::sum(inputs_, [&](int64_t i) { return x[i]; }) / inputs_);
      for (int64_t i = 0; i < inputs_; ++i) y[i] = x[i] - mean;
    }
  }

  // [input][tap], elements::kSums inputs at a time
  void columns(const float* x, float* y) {
    const int64_t count = inputs_ * taps_, period = static_cast<int64_t>(means_.size());
    std::fill(means_.begin(), means_.end(), 0.0f);
    for (int64_t first = 0; first < count; first += period)
      for (int64_t i = 0, n = std::min(period, count - first); i < n; ++i) means_[i] += x[first + i];
    for (int64_t t = 0; t < taps_; ++t) {
      double total = 0.0;
      for (int64_t i = t; i < period; i += taps_) total += means_[i];
      for (int64_t i = t; i < period; i += taps_) means_[i] = static_cast<float>(total / inputs_);
    }
    for (int64_t first = 0; first < count; first += period)
      for (int64_t i = 0, n = std::min(period, count - first); i < n; ++i) y[first + i] = x[first + i] - means_[i];
  }

  int64_t inputs_, taps_;
  bool wide_;
  std::vector<float> means_;
};

void check_filters(const xk_filters* filters, std::initializer_list<const void*> pointers) {
  check_pointers({{"filters", filters}});
  check_size("filters", filters->count, 1);
  check_size("inputs", filters->inputs, 1);
  check_size("taps", filters->taps, 1);
  checked_product("the size of the filters", {filters->count, filters->inputs, filters->taps, 4});
  for (const void* pointer : pointers) check_pointers({{"a tensor", pointer}});
}

// Runs task(f, size, words) for every filter f, which has `size` elements, and as many bits in `words` words.
template <class Task>
void for_each_filter(const xk_parallel* parallel, const xk_filters& filters, const Task& task) {
  const int64_t size = filters.inputs * filters.taps, words = ceil_div(size, kWordBits);
  parallel_for(parallel, filters.count, [&](int64_t f) { task(f, size, words); });
}

// The bits of a filter, [input][tap], in the order [tap][input]; `turned` is zero before.
void turn(const uint64_t* bits, int64_t inputs, int64_t taps, uint64_t* turned) {
  for (int64_t t = 0; t < taps; t += kWordBits)
    for (int64_t i = 0; i < inputs; i += kWordBits) {
      uint64_t rows[kWordBits] = {};
      const int64_t width = std::min<int64_t>(taps - t, kWordBits), height = std::min<int64_t>(inputs - i, kWordBits);
      for (int64_t r = 0; r < height; ++r) rows[r] = read_bits(bits, (i + r) * taps + t, width);
      transpose(rows);
      for (int64_t r = 0; r < width; ++r) {
        const int64_t first = (t + r) * inputs + i, shift = first % kWordBits;
        turned[first / kWordBits] |= rows[r] << shift;
        if (shift + height > kWordBits) turned[first / kWordBits + 1] |= rows[r] >> (kWordBits - shift);
      }
    }
}

bool centers(const xk_filters& filters) { return filters.center && filters.inputs > 1; }

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_scaled_sign(const xk_filters* filters, const float* weight, float* values, float* scale, uint64_t* positive,
                       uint64_t* inside, const xk_parallel* parallel) {
  return guarded([&] {
    check_filters(filters, {weight, values, scale, positive, inside});
    for_each_filter(parallel, *filters, [&](int64_t f, int64_t size, int64_t words) {
      const float* w = weight + f * size;
      float* y = values + f * size;
      if (centers(*filters)) {
        Centering{*filters}(w, y);
        w = y;
      }
      // Centred weights are clamped to [-1, 1]: their sizes are, their signs stay.
      const float most = filters->center ? 1.0f : INFINITY;
      const double total = elements::sum(size, [&](int64_t i) { return std::min(std::fabs(w[i]), most); });
      scale[f] = static_cast<float>(total / size);
      elements::compare(w, size, true, positive + f * words, inside + f * words);
      elements::choose(positive + f * words, size, scale[f], y);
    });
  });
}

// G the gradient of alpha B, i where the weight is inside. dW = B sum(G B) / n + i alpha G for plain weights. Clamped
// ones pass nothing outside: dC = i (B sum(G B) / n + alpha G), and dW = dC - mean of dC over the input channels.
int32_t xk_scaled_sign_gradient(const xk_filters* filters, const float* gradient, const float* scale,
                                const uint64_t* positive, const uint64_t* inside, float* result,
                                const xk_parallel* parallel) {
  return guarded([&] {
    check_filters(filters, {gradient, scale, positive, inside, result});
    for_each_filter(parallel, *filters, [&](int64_t f, int64_t size, int64_t words) {
      const float *g = gradient + f * size, alpha = scale[f];
      float* y = result + f * size;
      elements::choose(positive + f * words, size, 1.0f, y);
      const float mean = static_cast<float>(elements::sum(size, [&](int64_t i) { return g[i] * y[i]; }) / size);
      if (!filters->center) {
        elements::choose(positive + f * words, size, mean, y);
        add_inside(inside + f * words, size, alpha, g, y);
        return;
      }
      for (int64_t i = 0; i < size; ++i) y[i] = y[i] * mean + alpha * g[i];
      elements::keep(inside + f * words, size, y, y);
      if (centers(*filters)) Centering{*filters}(y, y);
    });
  });
}

int32_t xk_filter_signs(const xk_filters* filters, const float* values, uint8_t* dense, float* scale, int32_t* valid,
                        const xk_parallel* parallel) {
  return guarded([&] {
    check_filters(filters, {values, dense, scale, valid});
    std::atomic<bool> all{true};
    for_each_filter(parallel, *filters, [&](int64_t f, int64_t size, int64_t words) {
      const float *x = values + f * size, alpha = std::fabs(*x);
      int others = 0;
      for (int64_t i = 0; i < size; ++i) others |= std::fabs(x[i]) != alpha;
      if (others) all = false;
      scale[f] = alpha;
      const bool in_order = filters->inputs_last || filters->taps == 1;
      std::vector<uint64_t> bits(static_cast<size_t>(in_order ? 2 * words : 3 * words));
      uint64_t *unwanted = bits.data() + words, *turned = unwanted + words;
      elements::compare(x, size, true, bits.data(), unwanted);
      if (!in_order) turn(bits.data(), filters->inputs, filters->taps, turned);
      const int64_t bytes = ceil_div(size, 8);
      std::memcpy(dense + f * bytes, in_order ? bits.data() : turned, static_cast<size_t>(bytes));
    });
    *valid = all;
  });
}
