// Which kernel a call takes, and calls at the same time.
#include <cstdlib>
#include <cstring>
#include <thread>

#include "testing.h"

void test_forced_kernel() {
  const xk_conv_shape shape = square(1, 64, 16, 8, 3, 1, 1, 1, 1);
  size_t bytes;
  for (int32_t i = 0; i < xk_kernel_count(); ++i) {
    setenv("XNORKIT_KERNEL", xk_kernel_name(i), 1);
    check(xk_weights_size(&shape, nullptr, &bytes) == XK_OK, "xk_weights_size");
    std::vector<char> weights(bytes);
    const std::vector<uint8_t> dense(16 * 72, 0xff);
    check(xk_weights_pack(&shape, nullptr, dense.data(), dense.size(), weights.data(), bytes) == XK_OK, "forced");
    check(!std::strcmp(xk_weights_kernel(weights.data(), bytes), xk_kernel_name(i)), "XNORKIT_KERNEL took effect");
  }
  setenv("XNORKIT_KERNEL", "nonsense", 1);
  check(xk_weights_size(&shape, nullptr, &bytes) == XK_UNSUPPORTED, "a kernel that does not exist");
  unsetenv("XNORKIT_KERNEL");
}

void test_concurrent_calls() {
  const Problem problem(square(2, 128, 48, 9, 3, 1, 1, 1, 1), 5);
  const std::vector<int32_t> expected = problem.sums();
  const std::vector<uint64_t> bits = problem.packed(XK_NCHW);
  for (int32_t i = 0; i < xk_kernel_count(); ++i) {
    const std::vector<char> weights = problem.weights(xk_kernel_name(i));
    std::vector<std::thread> threads;
    std::vector<std::vector<int32_t>> results(6, std::vector<int32_t>(expected.size()));
    for (std::vector<int32_t>& result : results)
      threads.emplace_back([&] {
        const xk_output output{result.data(), XK_OUT_INT32, XK_NCHW, {}, 1};
        for (int repeat = 0; repeat < 5; ++repeat)
          xk_conv(&problem.s, bits.data(), weights.data(), weights.size(), nullptr, &output, nullptr);
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::vector<int32_t>& result : results) check(result == expected, "concurrent calls");
  }
}
