// Calls that are written down and carried out together: what stands between two of them is the library's own loop.
#include <algorithm>
#include <cinttypes>
#include <tuple>
#include <type_traits>
#include <utility>

#include "api.h"
#include "replay/pointwise.h"

namespace xk {
namespace {

template <class Value>
Value value_of(const xk_argument& argument) {
  if constexpr (std::is_pointer_v<Value>)
    return static_cast<Value>(const_cast<void*>(argument.pointer));
  else if constexpr (std::is_same_v<Value, float>)
    return argument.number;
  else
    return static_cast<Value>(argument.whole);
}

// `parallel` is the last of a function's arguments: one fewer is written.
template <class... Arguments, size_t... I>
int32_t apply(int32_t (*function)(Arguments...), const xk_argument* written, const xk_parallel* parallel,
              std::index_sequence<I...>) {
  static_assert(sizeof...(I) <= sizeof(xk_written_call::arguments) / sizeof(xk_argument), "too many to be written");
  return function(value_of<std::tuple_element_t<I, std::tuple<Arguments...>>>(written[I])..., parallel);
}

template <class... Arguments>
int32_t apply(int32_t (*function)(Arguments...), const xk_argument* written, const xk_parallel* parallel) {
  return apply(function, written, parallel, std::make_index_sequence<sizeof...(Arguments) - 1>());
}

template <auto function>
int32_t carry_out(const xk_argument* written, const xk_parallel* parallel) {
  return apply(function, written, parallel);
}

// In the order of xk_function, but for the last, arithmetic, of which several calls are carried out together.
constexpr int32_t (*kFunctions[])(const xk_argument*, const xk_parallel*) = {
    carry_out<xk_pack>,
    carry_out<xk_conv>,
    carry_out<xk_conv_float>,
    carry_out<xk_max_pool>,
    carry_out<xk_max_pool_float>,
    carry_out<xk_average_pool>,
    carry_out<xk_level_conv>,
    carry_out<xk_level_linear>,
    carry_out<xk_lookup>,
    carry_out<xk_sign_conv>,
    carry_out<xk_sign_conv_transposed>,
    carry_out<xk_int8_conv>,
    carry_out<xk_float_conv>,
};
static_assert(sizeof(kFunctions) / sizeof(*kFunctions) == XK_POINTWISE, "every function of xk_function has its place");

Pointwise pointwise_of(const xk_written_call& call) {
  const xk_argument* a = call.arguments;
  return checked_pointwise(value_of<const xk_elements*>(a[0]), value_of<int32_t>(a[1]), value_of<const float*>(a[2]),
                           value_of<const float*>(a[3]), value_of<float*>(a[4]));
}

// Carries out the calls of arithmetic that begin at calls[0] and go part by part; returns how many.
int64_t carry_out_pointwise(const xk_written_call* calls, int64_t count, const xk_parallel* parallel) {
  constexpr int64_t kMost = 8;
  Pointwise together[kMost];
  int64_t n = 0;
  for (; n < std::min(count, kMost) && calls[n].function == XK_POINTWISE; ++n) {
    together[n] = pointwise_of(calls[n]);
    const auto fits = [&](const Pointwise& earlier) { return part_by_part(earlier, together[n]); };
    if (!std::all_of(together, together + n, fits)) break;
  }
  compute(together, n, parallel);
  return n;
}

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_run(const xk_written_call* calls, int64_t count, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"calls", calls}});
    check_size("count", count, 0);
    for (int64_t i = 0; i < count;) {
      const int32_t function = calls[i].function;
      if (function < 0 || function > XK_POINTWISE)
        fail(XK_INVALID_ARGUMENT, "call %" PRId64 " is of function %" PRId32 "; it must be between 0 and %d", i, function,
             XK_POINTWISE);
      if (function == XK_POINTWISE) {
        i += carry_out_pointwise(calls + i, count - i, parallel);
      } else {
        check_call(kFunctions[function](calls[i].arguments, parallel));
        ++i;
      }
    }
  });
}
