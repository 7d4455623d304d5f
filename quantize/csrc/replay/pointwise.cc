// What networks compute between their layers, one float after the other.
#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

#include "api.h"
#include "channels.h"
#include "parallel.h"

namespace xk {
namespace {

// y[i] = function(x[i], operand of its channel), for the elements of [first, first + count).
template <class Function>
void compute(const xk_elements& e, int64_t first, int64_t count, const float* x, const float* operand, float* y,
             const Function& function) {
  for_each_run(e, first, count, [&](int64_t channel, int64_t i, int64_t n) {
    const float *from = x + first + i, *values = operand + channel;
    float* to = y + first + i;
    if (e.inner == 1) {
      for (int64_t j = 0; j < n; ++j) to[j] = function(from[j], values[j]);
    } else {
      const float value = *values;  // its own: y may lie where the operand does
      for (int64_t j = 0; j < n; ++j) to[j] = function(from[j], value);
    }
  });
}

// x, or `factor` x where the sign of x is set: as integers, which compilers select from in vectors. A comparison of floats
// may trap, so that they branch, on values that no processor foresees.
float prelu(float x, float factor) {
  constexpr float kOne = 1.0f;
  uint32_t bits, one, other;
  std::memcpy(&bits, &x, sizeof bits);
  std::memcpy(&one, &kOne, sizeof one);
  std::memcpy(&other, &factor, sizeof other);
  const uint32_t negative = 0u - (bits >> 31), chosen = (one & ~negative) | (other & negative);
  std::memcpy(&factor, &chosen, sizeof factor);
  return x * factor;
}

void clamp(int64_t count, const float* x, float least, float largest, float* y) {
  for (int64_t i = 0; i < count; ++i) {  // comparisons that a NaN passes
    const float value = x[i] < least ? least : x[i];
    y[i] = value > largest ? largest : value;
  }
}

// One rounding for the product and the sum, as where the processor has an instruction for both. Where it has none, or the
// compiler may not use it here, std::fma does the same, slowly.
void affine_by_function(int64_t count, const float* x, float factor, float offset, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = std::fma(x[i], factor, offset);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void affine_by_instruction(int64_t count, const float* x, float factor,
                                                               float offset, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = __builtin_fmaf(x[i], factor, offset);
}
const auto affine_run = __builtin_cpu_supports("fma") ? affine_by_instruction : affine_by_function;
#else
const auto affine_run = affine_by_function;
#endif

void affine(const xk_elements& e, int64_t first, int64_t count, const float* x, const float* operand, float* y) {
  for_each_run(e, first, count, [&](int64_t channel, int64_t i, int64_t n) {
    const float *factors = operand + channel, *offsets = factors + e.channels, *from = x + first + i;
    float* to = y + first + i;
    if (e.inner != 1) return affine_run(n, from, *factors, *offsets, to);
    for (int64_t j = 0; j < n; ++j) to[j] = std::fma(from[j], factors[j], offsets[j]);
  });
}

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_pointwise(const xk_elements* elements, int32_t kind, const float* x, const float* operand, float* y,
                     const xk_parallel* parallel) {
  return guarded([&] {
    constexpr int64_t kTogether = 1 << 15;  // elements of a task: fewer are done before other threads have begun
    check_elements(elements, {x, operand, y});
    if (elements->dtype != XK_FLOAT32) fail(XK_INVALID_ARGUMENT, "what lies between layers must be float32");
    if (kind < XK_ADD || kind > XK_AFFINE)
      fail(XK_INVALID_ARGUMENT, "kind is %" PRId32 "; it must be between 0 and %d", kind, XK_AFFINE);
    parallel_for(parallel, ceil_div(elements->count, kTogether), [&](int64_t task) {
      const int64_t first = task * kTogether, count = std::min(kTogether, elements->count - first);
      const auto each = [&](const auto& function) { compute(*elements, first, count, x, operand, y, function); };
      switch (kind) {
        case XK_ADD:
          return each([](float a, float b) { return a + b; });
        case XK_SUBTRACT:
          return each([](float a, float b) { return a - b; });
        case XK_MULTIPLY:
          return each([](float a, float b) { return a * b; });
        case XK_PRELU:
          return each([](float a, float b) { return prelu(a, b); });
        case XK_AFFINE:
          return affine(*elements, first, count, x, operand, y);
        default:
          clamp(count, x + first, operand[0], operand[1], y + first);
      }
    });
  });
}
