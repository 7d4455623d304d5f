// What networks compute between their layers, one float after the other.
#include "replay/pointwise.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>
#include <functional>

#include "api.h"
#include "channels.h"
#include "parallel.h"

namespace xk {
namespace {

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

// Elements with an operand each, or with the same one; those of an affine map have an offset too.
struct Run {
  const float *x, *operand, *offset;
  float* y;
  int64_t count;
  bool each;  // operand and offset
};

namespace plain {
#define XK_TARGET
#define XK_FMA std::fma
#include "replay/pointwise_loops.inc"
#undef XK_TARGET
#undef XK_FMA
}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
#define XK_TARGET __attribute__((target("avx2,fma")))
#define XK_FMA __builtin_fmaf
#include "replay/pointwise_loops.inc"
#undef XK_TARGET
#undef XK_FMA
}  // namespace avx2
const bool kHasAvx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
const auto compute_run = kHasAvx2 ? avx2::compute : plain::compute;
#else
const auto compute_run = plain::compute;
#endif

void compute_part(const Pointwise& p, int64_t first, int64_t count) {
  if (p.kind == XK_CLAMP)
    return compute_run(p.kind, {p.x + first, p.operand, p.operand + 1, p.y + first, count, false});
  const int64_t to_offset = p.kind == XK_AFFINE ? p.elements.channels : 0;
  for_each_run(p.elements, first, count, [&](int64_t channel, int64_t i, int64_t n) {
    const float* const operand = p.operand + channel;
    compute_run(p.kind, {p.x + first + i, operand, operand + to_offset, p.y + first + i, n, p.elements.inner == 1});
  });
}

int64_t operands(const Pointwise& p) {
  if (p.kind == XK_CLAMP) return 2;
  return p.kind == XK_AFFINE ? 2 * p.elements.channels : p.elements.channels;
}

bool has_one_each(const Pointwise& p) { return p.kind < XK_CLAMP && p.elements.channels == p.elements.count; }

bool apart(const float* a, int64_t a_count, const float* b, int64_t b_count) {
  const std::less_equal<const float*> before;  // of pointers into two objects too
  return before(a + a_count, b) || before(b + b_count, a);
}

// Whether what `writer` writes is, of all that `reader` reads, the same elements in the same places, or nothing.
bool writes_in_place(const Pointwise& writer, const Pointwise& reader) {
  const int64_t count = writer.elements.count;
  const bool x = writer.y == reader.x || apart(writer.y, count, reader.x, count);
  return x && ((has_one_each(reader) && writer.y == reader.operand) ||
               apart(writer.y, count, reader.operand, operands(reader)));
}

}  // namespace

Pointwise checked_pointwise(const xk_elements* elements, int32_t kind, const float* x, const float* operand, float* y) {
  check_elements(elements, {x, operand, y});
  if (elements->dtype != XK_FLOAT32) fail(XK_INVALID_ARGUMENT, "what lies between layers must be float32");
  if (kind < XK_ADD || kind > XK_AFFINE)
    fail(XK_INVALID_ARGUMENT, "kind is %" PRId32 "; it must be between 0 and %d", kind, XK_AFFINE);
  return {*elements, kind, x, operand, y};
}

bool part_by_part(const Pointwise& earlier, const Pointwise& next) {
  const int64_t count = next.elements.count;
  return count == earlier.elements.count && writes_in_place(earlier, next) && writes_in_place(next, earlier) &&
         (next.y == earlier.y || apart(next.y, count, earlier.y, count));
}

void compute(const Pointwise* calls, int64_t count, const xk_parallel* parallel) {
  constexpr int64_t kPart = 1 << 11;   // elements: a part of four tensors is in the first cache
  constexpr int64_t kTogether = 1 << 15;  // of a task: fewer are done before other threads have begun
  const int64_t elements = calls->elements.count;
  parallel_for(parallel, ceil_div(elements, kTogether), [&](int64_t task) {
    const int64_t end = std::min(elements, (task + 1) * kTogether);
    for (int64_t first = task * kTogether; first < end; first += kPart)
      for (int64_t i = 0; i < count; ++i) compute_part(calls[i], first, std::min(kPart, end - first));
  });
}

}  // namespace xk

using namespace xk;

int32_t xk_pointwise(const xk_elements* elements, int32_t kind, const float* x, const float* operand, float* y,
                     const xk_parallel* parallel) {
  return guarded([&] {
    const Pointwise call = checked_pointwise(elements, kind, x, operand, y);
    compute(&call, 1, parallel);
  });
}
