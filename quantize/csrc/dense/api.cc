// The interface to convolutions of 8-bit numbers and of floats. Weights begin with a header, by which they are known again.
#include "api.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

#include "dense/conv.h"
#include "shape.h"

namespace xk::dense {

namespace {

struct Header {
  char magic[8];
  char kernel[8];
  int64_t filters, filter_numbers;
  int64_t runs;  // two shapes of as many numbers may be in different order
  int64_t option;  // the zero of 8-bit numbers, the sequence of floats
  int64_t reserved[2];
};
static_assert(sizeof(Header) == 64, "the payload starts at a cache line");

// Weights of one of the two kinds of numbers.
struct Kind {
  char magic[9];
  const char* made_by;
  int64_t largest_option;
  const Kernel& (*kernel)();

  size_t bytes(const xk_conv_shape& shape) const { return sizeof(Header) + Weights::size(shape, kernel()); }

  Header header(const xk_conv_shape& shape, int64_t option) const {
    const Shape s = weight_shape(shape);
    Header header{};
    std::memcpy(header.magic, magic, sizeof header.magic);
    std::strncpy(header.kernel, kernel().name, sizeof header.kernel - 1);
    header.filters = s.out_channels, header.filter_numbers = s.filter_bits, header.option = option;
    header.runs = s.dilation_w > 1 ? s.kernel_h * s.kernel_w : s.kernel_h;
    return header;
  }

  // Writes the header of weights whose sizes are right, and returns where they go.
  uint8_t* begin(const xk_conv_shape& shape, size_t count, int64_t option, void* weights, size_t size) const {
    if (size != bytes(shape))
      fail(XK_INVALID_ARGUMENT, "there are %zu bytes for the weights; they need %zu", size, bytes(shape));
    const Shape s = weight_shape(shape);
    const size_t needed = static_cast<size_t>(s.out_channels * s.filter_bits);
    if (count != needed) fail(XK_INVALID_ARGUMENT, "there are %zu numbers; the shape needs %zu", count, needed);
    const Header written = header(shape, option);
    std::memcpy(weights, &written, sizeof written);
    return static_cast<uint8_t*>(weights) + sizeof written;
  }

  Header checked(const xk_conv_shape& shape, const void* weights, size_t size) const {
    Header found{};
    if (size == bytes(shape)) std::memcpy(&found, weights, sizeof found);
    const Header expected = header(shape, std::clamp<int64_t>(found.option, 0, largest_option));
    if (std::memcmp(&found, &expected, sizeof found))
      fail(XK_INVALID_ARGUMENT, "these are not weights that %s made on this machine for this shape", made_by);
    return found;
  }

};

const uint8_t* payload(const void* weights) { return static_cast<const uint8_t*>(weights) + sizeof(Header); }

Sequence sequence(int64_t by_channels) { return by_channels ? Sequence::kChannels : Sequence::kTaps; }

constexpr Kind kInt8 = {"xnorki81", "xk_int8_pack", 255, int8_kernel};
constexpr Kind kFloat = {"xnorkf32", "xk_float_pack", 1, float_kernel};

}  // namespace
}  // namespace xk::dense

using namespace xk;

int32_t xk_int8_size(const xk_conv_shape* shape, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"bytes", bytes}});
    *bytes = dense::kInt8.bytes(*shape);
  });
}

int32_t xk_int8_pack(const xk_conv_shape* shape, const uint8_t* numbers, size_t numbers_bytes, int32_t zero,
                     void* weights, size_t bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"numbers", numbers}, {"weights", weights}});
    if (zero < 0 || zero > dense::kInt8.largest_option)
      fail(XK_INVALID_ARGUMENT, "zero is %" PRId32 "; it must be from 0 to 255", zero);
    if (const void* least = std::memchr(numbers, 0, numbers_bytes))
      fail(XK_INVALID_ARGUMENT, "number %td is 0, which is -128; the least is 1",
           static_cast<const uint8_t*>(least) - numbers);
    dense::Weights::order(*shape, numbers, zero, dense::kInt8.begin(*shape, numbers_bytes, zero, weights, bytes));
  });
}

int32_t xk_int8_conv(const xk_conv_shape* shape, const float* x, float inverse, const void* weights,
                     size_t weights_bytes, const xk_epilogue* epilogue, const xk_output* output,
                     const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"x", x}, {"weights", weights}, {"epilogue", epilogue}, {"output", output}});
    check_output(full_shape(*shape), *epilogue, *output);
    if (!(inverse > 0) || !std::isfinite(inverse))
      fail(XK_INVALID_ARGUMENT, "inverse is %g; it must be over 0 and finite", static_cast<double>(inverse));
    const int64_t zero = dense::kInt8.checked(*shape, weights, weights_bytes).option;
    const dense::Weights ordered(*shape, dense::int8_kernel(), dense::payload(weights));
    dense::conv(*shape, x, {inverse, static_cast<int32_t>(zero)}, ordered, *epilogue, *output, parallel);
  });
}

int32_t xk_float_size(const xk_conv_shape* shape, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"bytes", bytes}});
    *bytes = dense::kFloat.bytes(*shape);
  });
}

int32_t xk_float_pack(const xk_conv_shape* shape, const float* values, size_t count, int32_t by_channels, void* weights,
                      size_t bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"values", values}, {"weights", weights}});
    dense::Weights::order(*shape, values, dense::sequence(by_channels),
                          dense::kFloat.begin(*shape, count, by_channels != 0, weights, bytes));
  });
}

int32_t xk_float_conv(const xk_conv_shape* shape, const float* x, const void* weights, size_t weights_bytes,
                      const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"x", x}, {"weights", weights}, {"epilogue", epilogue}, {"output", output}});
    check_output(full_shape(*shape), *epilogue, *output);
    if (output->kind == XK_OUT_INT32) fail(XK_INVALID_ARGUMENT, "sums of floats are no int32 output");
    const dense::Sequence sequence = dense::sequence(dense::kFloat.checked(*shape, weights, weights_bytes).option);
    const dense::Weights ordered(*shape, dense::float_kernel(), dense::payload(weights), sequence);
    dense::conv(*shape, x, ordered, *epilogue, *output, parallel);
  });
}
