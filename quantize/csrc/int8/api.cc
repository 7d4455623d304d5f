// The interface to convolutions of 8-bit numbers. Weights begin with a header, by which they are known again.
#include "api.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

#include "int8/conv.h"
#include "shape.h"

namespace xk::int8 {

namespace {

constexpr char kMagic[8] = {'x', 'n', 'o', 'r', 'k', 'i', '8', '1'};
constexpr int32_t kLargest = 255;

struct Header {
  char magic[8];
  char kernel[8];
  int64_t filters, filter_numbers;
  int64_t runs;  // two shapes of as many numbers may be in different order
  int64_t zero;
  int64_t reserved[2];
};
static_assert(sizeof(Header) == 64, "the payload starts at a cache line");

Header header_of(const xk_conv_shape& shape, int32_t zero) {
  const Shape s = weight_shape(shape);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  std::strncpy(header.kernel, kernel().name, sizeof header.kernel - 1);
  header.filters = s.out_channels, header.filter_numbers = s.filter_bits, header.zero = zero;
  header.runs = s.dilation_w > 1 ? s.kernel_h * s.kernel_w : s.kernel_h;
  return header;
}

void check_zero(int64_t zero) {
  if (zero < 0 || zero > kLargest) fail(XK_INVALID_ARGUMENT, "zero is %" PRId64 "; it must be from 0 to 255", zero);
}

Header checked_header(const xk_conv_shape& shape, const void* weights, size_t bytes) {
  Header header{};
  if (bytes == sizeof header + Weights::size(shape)) std::memcpy(&header, weights, sizeof header);
  const Header expected = header_of(shape, static_cast<int32_t>(header.zero));
  if (std::memcmp(&header, &expected, sizeof header))
    fail(XK_INVALID_ARGUMENT, "these are not weights that xk_int8_pack made on this machine for this shape");
  check_zero(header.zero);
  return header;
}

}  // namespace
}  // namespace xk::int8

using namespace xk;

int32_t xk_int8_size(const xk_conv_shape* shape, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"bytes", bytes}});
    *bytes = sizeof(int8::Header) + int8::Weights::size(*shape);
  });
}

int32_t xk_int8_pack(const xk_conv_shape* shape, const uint8_t* numbers, size_t numbers_bytes, int32_t zero,
                     void* weights, size_t bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"numbers", numbers}, {"weights", weights}});
    int8::check_zero(zero);
    const size_t size = sizeof(int8::Header) + int8::Weights::size(*shape);
    if (bytes != size) fail(XK_INVALID_ARGUMENT, "there are %zu bytes for the weights; they need %zu", bytes, size);
    const Shape s = weight_shape(*shape);
    const size_t count = static_cast<size_t>(s.out_channels * s.filter_bits);
    if (numbers_bytes != count)
      fail(XK_INVALID_ARGUMENT, "there are %zu numbers; the shape needs %zu", numbers_bytes, count);
    if (const void* least = std::memchr(numbers, 0, count))
      fail(XK_INVALID_ARGUMENT, "number %td is 0, which is -128; the least is 1",
           static_cast<const uint8_t*>(least) - numbers);
    const int8::Header header = int8::header_of(*shape, zero);
    std::memcpy(weights, &header, sizeof header);
    int8::Weights::order(*shape, numbers, zero, static_cast<uint8_t*>(weights) + sizeof header);
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
    const int8::Header header = int8::checked_header(*shape, weights, weights_bytes);
    const int8::Weights ordered(*shape, static_cast<const uint8_t*>(weights) + sizeof header);
    int8::conv(*shape, x, {inverse, static_cast<int32_t>(header.zero)}, ordered, *epilogue, *output, parallel);
  });
}
