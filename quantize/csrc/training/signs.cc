// Training: signs of activations, and the gradients that pass straight through them, with one bit an element kept.
#include <algorithm>
#include <vector>

#include "api.h"
#include "channels.h"
#include "parallel.h"
#include "shape.h"
#include "training/elements.h"

namespace xk {

namespace {

constexpr int64_t kBlock = 1 << 14;  // elements of a task: whole words
constexpr int64_t kPart = 1 << 10;   // and of those that it works on at once, which stay in the first cache
constexpr int64_t kSumTasks = 64;    // at most, where each has sums of its own

// Elements of a tensor as floats, part by part, less the level of their channel.
class Source {
 public:
  Source(const xk_elements& e, const void* data, const float* level = nullptr) : e_(e), data_(data), level_(level) {}

  // `buffer` has room for them; they may also lie elsewhere.
  const float* read(int64_t first, int64_t count, float* buffer) const {
    const float* x = static_cast<const float*>(data_) + first;
    if (e_.dtype == XK_BFLOAT16) {
      elements::widen(static_cast<const uint16_t*>(data_) + first, count, buffer);
      x = buffer;
    }
    if (!level_) return x;
    for_each_run(e_, first, count, [&](int64_t channel, int64_t i, int64_t n) {
      elements::lower(x + i, level_ + channel, e_.inner != 1, n, buffer + i);
    });
    return buffer;
  }

 private:
  const xk_elements& e_;
  const void* data_;
  const float* level_;
};

// A tensor that is written part by part: write(float* place) puts floats there.
class Target {
 public:
  Target(const xk_elements& e, void* data) : e_(e), data_(data) {}

  template <class Write>
  void write(int64_t first, int64_t count, const Write& write) const {
    if (e_.dtype == XK_FLOAT32) return write(static_cast<float*>(data_) + first);
    float part[kPart];
    write(part);
    elements::narrow(part, count, static_cast<uint16_t*>(data_) + first);
  }

 private:
  const xk_elements& e_;
  void* data_;
};

// run(first, count) of the parts of the blocks [begin, end).
template <class Run>
void for_each_part(const xk_elements& e, int64_t begin, int64_t end, const Run& run) {
  const int64_t last = std::min(end * kBlock, e.count);
  for (int64_t first = begin * kBlock; first < last; first += kPart) run(first, std::min(kPart, last - first));
}

template <class Run>
void for_each_part(const xk_parallel* parallel, const xk_elements& e, const Run& run) {
  parallel_for(parallel, ceil_div(e.count, kBlock),
               [&](int64_t block) { for_each_part(e, block, block + 1, run); });
}

// Adds values of [first, first + count) to the sums of their channels.
void add_to_channels(const xk_elements& e, int64_t first, int64_t count, const float* values, float* sums) {
  for_each_run(e, first, count, [&](int64_t channel, int64_t i, int64_t n) {
    const float* x = values + i;
    float* y = sums + channel;
    if (e.inner != 1) {
      *y += static_cast<float>(elements::sum(n, [&](int64_t j) { return x[j]; }));
    } else {
      for (int64_t j = 0; j < n; ++j) y[j] += x[j];
    }
  });
}

// Writes pass(first, count, gradient, place) to `result`, and its sums over the channels where they are asked for. How
// the elements are shared out does not depend on the threads, so that the sums do not either.
template <class Pass>
void pass_gradient(const xk_elements& e, const void* gradient, void* result, float* sums, const xk_parallel* parallel,
                   const Pass& pass) {
  const Source source(e, gradient);
  const Target target(e, result);
  const int64_t blocks = ceil_div(e.count, kBlock), tasks = std::min(blocks, kSumTasks);
  std::vector<float> partial(sums ? static_cast<size_t>(tasks * e.channels) : 0);
  parallel_for(parallel, tasks, [&](int64_t task) {
    float* own = partial.data() + task * e.channels;
    for_each_part(e, blocks * task / tasks, blocks * (task + 1) / tasks, [&](int64_t first, int64_t count) {
      float buffer[kPart];
      const float* g = source.read(first, count, buffer);
      target.write(first, count, [&](float* place) {
        pass(first, count, g, place);
        if (sums) add_to_channels(e, first, count, place, own);
      });
    });
  });
  for (int64_t c = 0; sums && c < e.channels; ++c)
    sums[c] = static_cast<float>(elements::sum(tasks, [&](int64_t t) { return partial[t * e.channels + c]; }));
}

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_sign(const xk_elements* e, const void* x, const float* threshold, int32_t closed, void* values,
                uint64_t* positive, uint64_t* inside, const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(e, {x, positive});
    const Source source(*e, x, threshold);
    const Target target(*e, values);
    for_each_part(parallel, *e, [&](int64_t first, int64_t count) {
      float buffer[kPart];
      uint64_t unwanted[kPart / kWordBits];
      uint64_t *bits = positive + first / kWordBits, *near = inside ? inside + first / kWordBits : unwanted;
      elements::compare(source.read(first, count, buffer), count, closed != 0, bits, near);
      if (values) target.write(first, count, [&](float* place) { elements::choose(bits, count, 1.0f, place); });
    });
  });
}

int32_t xk_signs(const xk_elements* e, const uint64_t* positive, void* values, const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(e, {positive, values});
    const Target target(*e, values);
    for_each_part(parallel, *e, [&](int64_t first, int64_t count) {
      target.write(first, count,
                   [&](float* place) { elements::choose(positive + first / kWordBits, count, 1.0f, place); });
    });
  });
}

int32_t xk_pass_inside(const xk_elements* e, const void* gradient, const uint64_t* inside, void* result, float* sums,
                       const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(e, {gradient, inside, result});
    pass_gradient(*e, gradient, result, sums, parallel,
                  [&](int64_t first, int64_t count, const float* g, float* place) {
                    elements::keep(inside + first / kWordBits, count, g, place);
                  });
  });
}

int32_t xk_pass_triangle(const xk_elements* e, const void* gradient, const void* x, const float* threshold,
                         void* result, float* sums, const xk_parallel* parallel) {
  return guarded([&] {
    check_elements(e, {gradient, x, result});
    const Source input(*e, x, threshold);
    pass_gradient(*e, gradient, result, sums, parallel,
                  [&](int64_t first, int64_t count, const float* g, float* place) {
                    float buffer[kPart];
                    elements::fade(g, input.read(first, count, buffer), count, place);
                  });
  });
}
