// Tests of the bit engine in C++, to be built with -fsanitize=address,undefined.
#include <cstdio>
#include <thread>

#include "testing.h"

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s (last error: %s)\n", what.c_str(), xk_last_error());
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
  test_training();
  test_bad_elements();
  test_int8();
  test_bad_int8();
  test_lookup();
  test_bad_lookups();
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
