// Floats times signs by look-up, against sums written out in loops.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "testing.h"

namespace {

struct Rows {
  int64_t rows, inputs, outputs;
  std::vector<float> x;
  std::vector<uint8_t> dense;

  Rows(int64_t r, int64_t i, int64_t o, uint32_t seed) : rows(r), inputs(i), outputs(o) {
    std::mt19937 random(seed);
    for (int64_t k = 0; k < r * i; ++k) x.push_back(static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 256);
    for (int64_t k = 0; k < o * bytes(); ++k) dense.push_back(static_cast<uint8_t>(random()));
  }
  int64_t bytes() const { return (inputs + 7) / 8; }
  double sum(int64_t row, int64_t output) const {
    double total = 0.0;
    for (int64_t i = 0; i < inputs; ++i) {
      const bool bit = dense[static_cast<size_t>(output * bytes() + i / 8)] >> (i % 8) & 1;
      total += bit ? x[static_cast<size_t>(row * inputs + i)] : -x[static_cast<size_t>(row * inputs + i)];
    }
    return total;
  }
  std::vector<char> weights() const {
    size_t size = 0;
    check(xk_lookup_size(inputs, outputs, &size) == XK_OK, "xk_lookup_size");
    std::vector<char> packed(size);
    check(xk_lookup_pack(inputs, outputs, dense.data(), dense.size(), packed.data(), size) == XK_OK, "xk_lookup_pack");
    return packed;
  }
};

void check_rows(const Rows& r, const std::string& kernel) {
  const std::vector<char> weights = r.weights();
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  for (const xk_parallel* p : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
    std::vector<float> y(static_cast<size_t>(r.rows * r.outputs), NAN);
    check(xk_lookup(r.rows, r.inputs, r.outputs, r.x.data(), weights.data(), weights.size(), y.data(), p) == XK_OK,
          kernel + " xk_lookup");
    for (int64_t row = 0; row < r.rows; ++row)
      for (int64_t o = 0; o < r.outputs; ++o) {
        // Of 256ths below 4: sums of this length are exact in float, in whatever order.
        char name[128];
        std::snprintf(name, sizeof name, "%s %" PRId64 " x %" PRId64 " -> %" PRId64, kernel.c_str(), r.rows, r.inputs,
                      r.outputs);
        check(y[static_cast<size_t>(row * r.outputs + o)] == r.sum(row, o), name);
      }
  }
}

}  // namespace

void test_lookup() {
  with_each_kernel([](const std::string& kernel) {
    uint32_t seed = 1;
    for (int64_t inputs : {1, 2, 3, 4, 5, 29, 30, 31, 32, 33, 64, 100, 2100})
      for (int64_t outputs : {1, 15, 16, 17, 40})
        for (int64_t rows : {1, 2, 3, 4, 5, 9}) check_rows(Rows(rows, inputs, outputs, seed++), kernel);
    check_rows(Rows(2, 300, 300, seed), kernel);  // several tasks
  });
}

void test_bad_lookups() {
  const Rows r(2, 10, 20, 1);
  std::vector<char> weights = r.weights();
  std::vector<float> y(40);
  size_t size = 0;
  fails(xk_lookup_size(0, 20, &size), "inputs is 0");
  fails(xk_lookup_size(10, int64_t{1} << 41, &size), "outputs is");
  fails(xk_lookup_size(int64_t{1} << 29, int64_t{1} << 29, &size), "the size of the weights");
  fails(xk_lookup_size(10, 20, nullptr), "bytes is NULL");
  fails(xk_lookup_pack(10, 20, r.dense.data(), r.dense.size() - 1, weights.data(), weights.size()),
        "the dense weights are 39 bytes; these sizes need 40");
  fails(xk_lookup_pack(10, 20, r.dense.data(), r.dense.size(), weights.data(), weights.size() - 1),
        "which is not their size");
  const auto look_up = [&](int64_t rows, int64_t inputs, const char* w, size_t bytes) {
    return xk_lookup(rows, inputs, 20, r.x.data(), w, bytes, y.data(), nullptr);
  };
  fails(look_up(0, 10, weights.data(), weights.size()), "rows is 0");
  fails(look_up(2, 11, weights.data(), weights.size()), "the weights are of 10 inputs");
  fails(look_up(2, 10, weights.data(), weights.size() - 1), "which is not their size");
  fails(look_up(2, 10, weights.data(), 3), "the weights are 3 bytes");
  fails(look_up(2, 10, nullptr, weights.size()), "weights is NULL");
  for (size_t byte : {size_t{0}, size_t{8}, size_t{40}}) {  // magic, name, index of the kernel
    std::vector<char> damaged = weights;
    damaged[byte] ^= 0x55;
    fails(look_up(2, 10, damaged.data(), damaged.size()), "xk_lookup_pack made on this machine");
  }
  const Problem conv(square(1, 64, 16, 3, 1, 1, 0, 1, 1), 1);
  const std::vector<char> others = conv.weights("scalar");
  fails(look_up(2, 10, others.data(), others.size()), "xk_lookup_pack made on this machine");
}
