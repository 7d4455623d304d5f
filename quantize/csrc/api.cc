// The exported functions of kernels, packing, weights and convolutions: they check their arguments.
#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <string>

#include "api.h"
#include "conv/conv.h"
#include "conv/input.h"
#include "conv/plan.h"
#include "conv/weights.h"
#include "error.h"
#include "kernel.h"
#include "xnorkit.h"

namespace xk {
namespace {

thread_local std::string last_error;
thread_local const char* last_kernel = "";

void check_choice(const char* name, int32_t value, int32_t last) {
  if (value < 0 || value > last)
    fail(XK_INVALID_ARGUMENT, "%s is %" PRId32 "; it must be between 0 and %" PRId32, name, value, last);
}

void check_dense_bytes(const Shape& shape, size_t bytes) {
  const size_t needed = static_cast<size_t>(shape.out_channels * shape.filter_bytes);
  if (bytes != needed)
    fail(XK_INVALID_ARGUMENT, "the dense weights are %zu bytes; this shape needs %zu", bytes, needed);
}

// Everything of a call that can be checked before its memory is touched; bits are not set.
ConvCall checked_call(const xk_conv_shape* shape, const void* weights, size_t weights_bytes,
                      const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel) {
  check_pointers({{"shape", shape}, {"output", output}});
  ConvCall call{};
  call.shape = full_shape(*shape);
  if (epilogue) call.epilogue = *epilogue;
  check_output(call.shape, call.epilogue, *output);
  check_weights(call.shape, weights, weights_bytes);
  call.kernel = &kKernels[weights_kernel(weights, weights_bytes)];
  call.weights = static_cast<const char*>(weights) + sizeof(WeightsHeader);
  call.output = *output;
  call.output.shuffle = std::max<int64_t>(output->shuffle, 1);
  call.parallel = parallel;
  call.driver = choose_driver(call);
  return call;
}

void convolve(const ConvCall& call) {
  call.driver.run(call);
  last_kernel = call.kernel->name;
}

}  // namespace

void check_output(const Shape& shape, const xk_epilogue& epilogue, const xk_output& output) {
  check_pointers({{"output data", output.data}});
  check_choice("output kind", output.kind, XK_OUT_BITS);
  check_choice("output layout", output.layout, XK_NHWC);
  if (output.kind == XK_OUT_INT32 && (epilogue.scale || epilogue.bias || epilogue.input_scale || epilogue.relu))
    fail(XK_INVALID_ARGUMENT, "an int32 output holds bare sums: it takes no scale, bias, input_scale or relu");
  if (output.shuffle < 0 || shape.out_channels % std::max<int64_t>(output.shuffle, 1))
    fail(XK_INVALID_ARGUMENT, "shuffle is %" PRId64 "; it must divide the %" PRId64 " output channels", output.shuffle,
         shape.out_channels);
}

int32_t failed(xk_status status, const char* message) {
  last_error = message;
  return status;
}

}  // namespace xk

using namespace xk;

const char* xk_last_error(void) { return last_error.c_str(); }
const char* xk_last_kernel(void) { return last_kernel; }

int32_t xk_kernel_count(void) {
  int32_t count = 0;
  for (int i = 0; i < kKernelCount; ++i) count += kKernels[i].usable();
  return count;
}

const char* xk_kernel_name(int32_t index) {
  for (int i = 0; i < kKernelCount; ++i)
    if (kKernels[i].usable() && index-- == 0) return kKernels[i].name;
  return nullptr;
}

int32_t xk_output_size(const xk_conv_shape* shape, int64_t* out_height, int64_t* out_width) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"out_height", out_height}, {"out_width", out_width}});
    const Shape s = full_shape(*shape);
    *out_height = s.out_height;
    *out_width = s.out_width;
  });
}

int32_t xk_pack(const float* input, int32_t layout, int64_t batch, int64_t channels, int64_t height, int64_t width,
                const xk_binarize* binarize, uint64_t* bits, const xk_parallel* parallel) {
  return guarded([&] {
    check_size("batch", batch, 1);
    check_size("channels", channels, 1);
    check_size("height", height, 1);
    check_size("width", width, 1);
    checked_product("the size of the input", {batch, height, width, ceil_div(channels, kWordBits) * kWordBits, 4});
    check_pointers({{"input", input}, {"bits", bits}});
    check_choice("layout", layout, XK_NHWC);
    const FloatInput floats{input, layout, batch, channels, height * width, binarize};
    pack(floats, machine_microkernels(), {bits, 0, nullptr, nullptr}, parallel);
  });
}

int32_t xk_weights_size(const xk_conv_shape* shape, const char* kernel, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"bytes", bytes}});
    const Shape s = weight_shape(*shape);
    *bytes = weights_bytes(s, kKernels[choose_kernel(kernel, s)]);
  });
}

int32_t xk_weights_pack(const xk_conv_shape* shape, const char* kernel, const uint8_t* dense, size_t dense_bytes,
                        void* weights, size_t bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"dense weights", dense}, {"weights", weights}});
    const Shape s = weight_shape(*shape);
    const int index = choose_kernel(kernel, s);
    check_dense_bytes(s, dense_bytes);
    if (const size_t needed = weights_bytes(s, kKernels[index]); bytes != needed)
      fail(XK_INVALID_ARGUMENT, "the buffer for the weights is %zu bytes; this shape needs %zu", bytes, needed);
    pack_weights(s, index, dense, weights);
  });
}

int32_t xk_weights_unpack(const xk_conv_shape* shape, const void* weights, size_t weights_bytes, uint8_t* dense,
                          size_t dense_bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"dense weights", dense}});
    const Shape s = weight_shape(*shape);
    check_weights(s, weights, weights_bytes);
    check_dense_bytes(s, dense_bytes);
    unpack_weights(s, weights_kernel(weights, weights_bytes), weights, dense);
  });
}

const char* xk_weights_kernel(const void* weights, size_t bytes) {
  const int index = weights_kernel(weights, bytes);
  return index < 0 ? nullptr : kKernels[index].name;
}

int32_t xk_conv(const xk_conv_shape* shape, const uint64_t* bits, const void* weights, size_t weights_bytes,
                const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel) {
  return guarded([&] {
    ConvCall call = checked_call(shape, weights, weights_bytes, epilogue, output, parallel);
    check_pointers({{"bits", bits}});
    call.bits = bits;
    if (call.driver.form == InputForm::kWords) return convolve(call);
    Input input(call);
    input.convert(bits);
    call.bits = input.bits();
    convolve(call);
  });
}

int32_t xk_conv_float(const xk_conv_shape* shape, const float* input, int32_t input_layout,
                      const xk_binarize* binarize, const void* weights, size_t weights_bytes,
                      const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel) {
  return guarded([&] {
    ConvCall call = checked_call(shape, weights, weights_bytes, epilogue, output, parallel);
    check_pointers({{"input", input}});
    check_choice("input layout", input_layout, XK_NHWC);
    Input packed(call);
    packed.pack_floats(input, input_layout, binarize);
    call.bits = packed.bits();
    convolve(call);
  });
}

void xk_openmp_for(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  struct Loop {
    std::atomic<size_t> next;
    size_t count;
    void (*task)(void*, size_t);
    void* argument;
  } loop{{0}, count, task, argument};
  auto body = [](void* data) {
    Loop& l = *static_cast<Loop*>(data);
    for (size_t i; (i = l.next.fetch_add(1, std::memory_order_relaxed)) < l.count;) l.task(l.argument, i);
  };
  const xk_openmp* openmp = static_cast<const xk_openmp*>(context);
  openmp->parallel(body, &loop, openmp->threads, 0);
}

