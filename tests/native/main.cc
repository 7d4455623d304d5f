// Tests of the bit engine in C++, to be built with -fsanitize=address,undefined.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "testing.h"

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s (last error: %s)\n", what.c_str(), xk_last_error());
}

void fails(int32_t status, const char* text) {
  check(status == XK_INVALID_ARGUMENT && std::strstr(xk_last_error(), text), std::string("fails with ") + text);
}

void with_each_kernel(const std::function<void(const std::string& kernel)>& run) {
  const char* before = std::getenv("XNORKIT_KERNEL");
  const std::string kept = before ? before : "";
  for (int32_t k = 0; k < xk_kernel_count(); ++k) {
    setenv("XNORKIT_KERNEL", xk_kernel_name(k), 1);
    run(xk_kernel_name(k));
  }
  before ? setenv("XNORKIT_KERNEL", kept.c_str(), 1) : unsetenv("XNORKIT_KERNEL");
}

void threads_for(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  const size_t n = *static_cast<size_t*>(context);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < n; ++t)
    threads.emplace_back([=] {
      for (size_t i = t; i < count; i += n) task(argument, i);
    });
  for (std::thread& thread : threads) thread.join();
}

int main() {
  test_kernels();
  test_shuffles();
  test_extreme_sums();
  test_special_values();
  test_bad_arguments();
  test_max_pool();
  test_average_pool();
  test_bad_pools();
  test_pointwise();
  test_bad_pointwise();
  test_written_calls();
  test_written_arithmetic();
  test_training();
  test_bad_elements();
  test_int8();
  test_bad_int8();
  test_floats();
  test_bad_floats();
  test_lookup();
  test_bad_lookups();
  test_level_planes();
  test_level_filters();
  test_level_layers();
  test_bad_levels();
  test_float_convolutions();
  test_bad_float_convolutions();
  test_weights();
  test_lookup_choice();
  test_bad_weights();
  test_forced_kernel();
  test_concurrent_calls();
  std::printf("kernels:");
  for (int32_t i = 0; i < xk_kernel_count(); ++i) std::printf(" %s", xk_kernel_name(i));
  std::printf("\n%s\n", failures ? "FAILED" : "all passed");
  return failures != 0;
}
