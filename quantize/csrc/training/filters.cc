// Training: signs, and the gradients that pass straight through them, with one bit an element kept for each.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "api.h"
#include "parallel.h"
#include "shape.h"
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

constexpr int64_t kBlock = 1 << 14;  // elements of a task: whole words, which stay in the first cache

// Runs run(first, n) for every block of `count` elements: those from `first` on, n of them.
template <class Run>
void for_each_block(const xk_parallel* parallel, int64_t count, const Run& run) {
  parallel_for(parallel, ceil_div(count, kBlock), [&](int64_t index) {
    const int64_t first = index * kBlock;
    run(first, std::min(kBlock, count - first));
  });
}

// So many sums are formed at once, so that a compiler may use vectors for them.
constexpr int64_t kSums = 16;

template <class Term>
double sum(int64_t count, const Term& term) {
  float sums[kSums] = {};
  const int64_t whole = count - count % kSums;
  for (int64_t i = 0; i < whole; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  double total = 0.0;
  for (const float part : sums) total += part;
  for (int64_t i = whole; i < count; ++i) total += term(i);
  return total;
}

// Subtracts from each element the mean over the input channels at its tap, from x to y, which may be x.
class Centering {
 public:
  explicit Centering(const xk_filters& filters)
      : inputs_(filters.inputs), taps_(filters.taps), wide_(filters.inputs_last || filters.taps == 1) {
    if (!wide_) means_.resize(static_cast<size_t>(taps_ * kSums));
  }

  void operator()(const float* x, float* y) { wide_ ? rows(x, y) : columns(x, y); }

 private:
  // [tap][input]
  void rows(const float* x, float* y) const {
    for (int64_t t = 0; t < taps_; ++t, x += inputs_, y += inputs_) {
      const float mean = static_cast<float>(sum(inputs_, [&](int64_t i) { return x[i]; }) / inputs_);
      for (int64_t i = 0; i < inputs_; ++i) y[i] = x[i] - mean;
    }
  }

  // [input][tap], kSums inputs at a time
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

void check_elements(int64_t count, std::initializer_list<const void*> pointers) {
  check_size("count", count, 1);
  checked_product("the size of the elements", {count, 4});
  for (const void* pointer : pointers) check_pointers({{"a tensor", pointer}});
}

void check_filters(const xk_filters* filters, std::initializer_list<const void*> pointers) {
  check_pointers({{"filters", filters}});
  check_size("filters", filters->count, 1);
  check_size("inputs", filters->inputs, 1);
  check_size("taps", filters->taps, 1);
  checked_product("the size of the filters", {filters->count, filters->inputs, filters->taps, 4});
  check_elements(filters->count * filters->inputs * filters->taps, pointers);
}

// Runs task(f, size, words) for every filter f, which has `size` elements, and as many bits in `words` words.
template <class Task>
void for_each_filter(const xk_parallel* parallel, const xk_filters& filters, const Task& task) {
  const int64_t size = filters.inputs * filters.taps, words = ceil_div(size, kWordBits);
  parallel_for(parallel, filters.count, [&](int64_t f) { task(f, size, words); });
}

bool centers(const xk_filters& filters) { return filters.center && filters.inputs > 1; }

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_sign(const float* x, int64_t count, int32_t closed, float* values, uint64_t* positive, uint64_t* inside,
                const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(count, {x, positive});
    for_each_block(parallel, count, [&](int64_t first, int64_t n) {
      const int64_t word = first / kWordBits;
      uint64_t unwanted[kBlock / kWordBits];
      elements::compare(x + first, n, closed != 0, positive + word, inside ? inside + word : unwanted);
      if (values) elements::choose(positive + word, n, 1.0f, values + first);
    });
  });
}

int32_t xk_signs(const uint64_t* positive, int64_t count, float* values, const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(count, {positive, values});
    for_each_block(parallel, count, [&](int64_t first, int64_t n) {
      elements::choose(positive + first / kWordBits, n, 1.0f, values + first);
    });
  });
}

int32_t xk_pass_inside(const float* gradient, const uint64_t* inside, int64_t count, float* result,
                       const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(count, {gradient, inside, result});
    for_each_block(parallel, count, [&](int64_t first, int64_t n) {
      elements::keep(inside + first / kWordBits, n, gradient + first, result + first);
    });
  });
}

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
      const double total = sum(size, [&](int64_t i) { return std::min(std::fabs(w[i]), most); });
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
      const float mean = static_cast<float>(sum(size, [&](int64_t i) { return g[i] * y[i]; }) / size);
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
