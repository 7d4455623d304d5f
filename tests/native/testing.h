// What all files of the tests of the bit engine share.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "xnorkit.h"

extern int failures;
void check(bool ok, const std::string& what);
// That a call was refused as an invalid argument, in words with these among them.
void fails(int32_t status, const char* text);
// Runs with XNORKIT_KERNEL as each of this machine's kernels.
void with_each_kernel(const std::function<void(const std::string& kernel)>& run);

// A convolution of `size` x `size` + 1 with the same options in both directions.
xk_conv_shape square(int64_t n, int64_t c, int64_t oc, int64_t size, int64_t k, int64_t stride, int64_t pad,
                     int64_t dilation, int64_t groups);

std::string name_of(const xk_conv_shape& s, const char* kernel);

// Random floats and filters, and their convolution written out in loops.
struct Problem {
  xk_conv_shape s;
  int64_t oh, ow;
  std::vector<float> x, threshold;
  std::vector<int32_t> w;      // +-1 [oc][c/g][kh][kw]
  std::vector<int32_t> signs;  // of x
  std::vector<uint8_t> flip;
  std::vector<uint8_t> dense;

  Problem(const xk_conv_shape& shape, uint32_t seed);
  int32_t tap(int64_t n, int64_t c, int64_t y, int64_t xx) const;
  std::vector<int32_t> sums() const;
  std::vector<uint64_t> packed(int layout) const;
  std::vector<char> weights(const char* kernel) const;
};

// An xk_parallel_for over as many threads of its own as the size_t `context` says.
void threads_for(void* context, size_t count, void (*task)(void*, size_t), void* argument);

void test_kernels();
void test_shuffles();
void test_extreme_sums();
void test_special_values();
void test_bad_arguments();
void test_max_pool();
void test_average_pool();
void test_bad_pools();
void test_pointwise();
void test_bad_pointwise();
void test_written_calls();
void test_written_arithmetic();
void test_training();
void test_bad_elements();
void test_int8();
void test_bad_int8();
void test_floats();
void test_bad_floats();
void test_lookup();
void test_bad_lookups();
void test_level_planes();
void test_level_filters();
void test_level_layers();
void test_bad_levels();
void test_float_convolutions();
void test_bad_float_convolutions();
void test_weights();
void test_lookup_choice();
void test_bad_weights();
void test_forced_kernel();
void test_concurrent_calls();
