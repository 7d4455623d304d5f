// Training: from kept bits, in the order of memory, to the words of pixels that a convolution of bits takes.
#include <algorithm>

#include "api.h"
#include "parallel.h"
#include "shape.h"
#include "training/bit_matrix.h"

namespace xk {

namespace {

struct Tensor {
  const uint64_t* bits;
  int64_t channels, pixels;  // of an image
  int64_t words;             // of a pixel

  // [pixel][channel]
  void gather(int64_t image, int64_t first, int64_t count, uint64_t* output) const {
    for (int64_t p = first; p < first + count; ++p)
      for (int64_t c = 0; c < channels; c += kWordBits)
        *output++ = read_bits(bits, (image * pixels + p) * channels + c, std::min<int64_t>(channels - c, kWordBits));
  }

  // [channel][pixel], up to 64 pixels
  void turn(int64_t image, int64_t first, int64_t count, uint64_t* output) const {
    for (int64_t w = 0; w < words; ++w) {
      uint64_t rows[kWordBits] = {};
      const int64_t c = w * kWordBits, there = std::min<int64_t>(channels - c, kWordBits);
      for (int64_t i = 0; i < there; ++i) rows[i] = read_bits(bits, (image * channels + c + i) * pixels + first, count);
      transpose(rows);
      for (int64_t p = 0; p < count; ++p) output[p * words + w] = rows[p];
    }
  }
};

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_pixel_words(const uint64_t* bits, int32_t layout, int64_t batch, int64_t channels, int64_t pixels,
                       uint64_t* words, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"bits", bits}, {"words", words}});
    check_size("batch", batch, 1);
    check_size("channels", channels, 1);
    check_size("pixels", pixels, 1);
    if (layout != XK_NCHW && layout != XK_NHWC) fail(XK_INVALID_ARGUMENT, "layout is neither XK_NCHW nor XK_NHWC");
    checked_product("the size of the elements", {batch, channels, pixels, 4});
    const Tensor x{bits, channels, pixels, ceil_div(channels, kWordBits)};
    const int64_t blocks = ceil_div(pixels, kWordBits);  // of an image
    parallel_for(parallel, batch * blocks, [&](int64_t task) {
      const int64_t image = task / blocks, first = task % blocks * kWordBits;
      const int64_t count = std::min<int64_t>(kWordBits, pixels - first);
      uint64_t* output = words + (image * pixels + first) * x.words;
      layout == XK_NHWC ? x.gather(image, first, count, output) : x.turn(image, first, count, output);
    });
  });
}
