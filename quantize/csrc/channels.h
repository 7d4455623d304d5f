// A tensor without gaps in memory, element by element, each of one channel.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "api.h"
#include "shape.h"

namespace xk {

inline void check_elements(const xk_elements* e, std::initializer_list<const void*> pointers) {
  check_pointers({{"elements", e}});
  check_size("count", e->count, 1);
  check_size("channels", e->channels, 1);
  check_size("inner", e->inner, 1);
  checked_product("the size of the elements", {e->count, 4});
  if (e->dtype != XK_FLOAT32 && e->dtype != XK_BFLOAT16)
    fail(XK_INVALID_ARGUMENT, "dtype is neither XK_FLOAT32 nor XK_BFLOAT16");
  if (e->count % checked_product("a sample", {e->channels, e->inner}))
    fail(XK_INVALID_ARGUMENT, "count is no multiple of channels * inner");
  for (const void* pointer : pointers) check_pointers({{"a tensor", pointer}});
}

// Cuts the elements [first, first + count) into runs whose channels are one channel, or follow upon each other:
// run(channel of the first, its place behind `first`, elements).
template <class Run>
void for_each_run(const xk_elements& e, int64_t first, int64_t count, const Run& run) {
  const int64_t length = e.inner == 1 ? e.channels : e.inner;
  for (int64_t i = 0; i < count;) {
    const int64_t at = first + i, n = std::min(length - at % length, count - i);
    run(e.inner == 1 ? at % length : at / length % e.channels, i, n);
    i += n;
  }
}

}  // namespace xk
