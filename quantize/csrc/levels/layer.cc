#include "levels/layer.h"

#include <algorithm>
#include <cinttypes>
#include <utility>

#include "api.h"
#include "error.h"
#include "parallel.h"

namespace xk::levels {

namespace {

constexpr Places kAll{0, 1, 0};

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Every stride-th output of a transposed convolution, in one direction, which r of the taps make: r, r + stride, ...
//
// Output o = stride m + r - before is sum_u x[m - u] w[r + stride u]: a convolution with the taps in reverse order.
struct Phase {
  std::vector<int64_t> taps;  // of the kernel, in the order of the convolution
  int64_t before, after;      // zeros around the input
  Places places;
};

std::vector<Phase> phases(const TransposedAxis& a) {
  std::vector<Phase> result;
  for (int64_t r = 0; r < std::min(a.kernel, a.stride); ++r) {
    Phase phase;
    for (int64_t tap = r; tap < a.kernel; tap += a.stride) phase.taps.insert(phase.taps.begin(), tap);
    const int64_t lowest = -floor_div(r - a.before, a.stride);  // m of the first output
    const int64_t before = static_cast<int64_t>(phase.taps.size()) - 1 - lowest;
    phase.before = std::max<int64_t>(before, 0);
    phase.after = std::max<int64_t>(floor_div(a.kernel - 1 - a.after - r + a.output_padding, a.stride), 0);
    phase.places = {a.stride * lowest + r - a.before, a.stride, std::max<int64_t>(-before, 0)};
    result.push_back(std::move(phase));
  }
  return result;
}

}  // namespace

int64_t TransposedAxis::output_size(int64_t size) const {
  const int64_t whole = checked_product("(size - 1) * stride", {size - 1, stride}) + kernel + output_padding;
  if (whole <= before + after)
    fail(XK_INVALID_ARGUMENT, "the %s of the output is %" PRId64 " less a padding of %" PRId64 "; nothing is left", name,
         whole, before + after);
  return whole - before - after;
}

// An image of the output, and the sizes of its input and of a plane of that.
struct Conv::Image {
  float* y;
  int64_t out_height, out_width, height, width, plane_words;
};

Conv::Conv(const Input& input, const Weight& weight, const xk_conv_shape& window, ScaleBias end)
    : input_(input), channels_(weight.groups * weight.channels), end_(std::move(end)) {
  check_sums(weight, input);
  parts_.push_back({Filters(weight, window), kAll, kAll});
}

Conv::Conv(const Input& input, Filters filters, int64_t channels, ScaleBias end)
    : input_(input), channels_(channels), end_(std::move(end)) {
  parts_.push_back({std::move(filters), kAll, kAll});
}

Conv::Conv(const Input& input, const Weight& weight, const TransposedAxis& vertical, const TransposedAxis& horizontal,
           ScaleBias end)
    : input_(input), channels_(weight.groups * weight.channels), end_(std::move(end)), transposed_(true),
      has_gaps_(vertical.stride > vertical.kernel || horizontal.stride > horizontal.kernel), vertical_(vertical),
      horizontal_(horizontal) {
  check_sums(weight, input);
  for (const Phase& row : phases(vertical))
    for (const Phase& column : phases(horizontal)) {
      xk_conv_shape window{};
      window.stride_h = window.stride_w = window.dilation_h = window.dilation_w = 1;
      window.pad_top = row.before, window.pad_bottom = row.after;
      window.pad_left = column.before, window.pad_right = column.after;
      parts_.push_back({Filters(weight, row.taps, column.taps, window), row.places, column.places});
    }
}

Conv::Size Conv::output_size(const Size& size) const {
  if (transposed_) {
    const Size out{vertical_.output_size(size[0]), horizontal_.output_size(size[1])};
    checked_product("the size of the output", {outputs(), out[0], out[1], 4});
    return out;
  }
  const Shape full = full_shape(parts_[0].filters.shape(1, size[0], size[1]));
  return {full.out_height, full.out_width};
}

void Conv::compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const {
  const auto [height, width] = size;
  const auto [out_height, out_width] = output_size(size);
  const int64_t pixels = height * width, plane_words = pixels * ceil_div(channels_, kWordBits);
  Image image{y, out_height, out_width, height, width, plane_words};
  checked_product("the size of the input", {batch, height, width, channels_ + kWordBits, 4});
  const int64_t words = input_.planes() * plane_words;
  const auto bits = array_of<uint64_t>(batch * words);
  pack_images(input_, x, batch, channels_, pixels, bits.get(), parallel);
  const int64_t plane = image.out_height * image.out_width;
  for (int64_t n = 0; n < batch; ++n, image.y += outputs() * plane) {
    for (int64_t o = 0; has_gaps_ && o < outputs(); ++o) {
      constexpr int32_t kNothing = 0;  // a sum of no taps, which a scale that is not finite makes NaN
      float of_nothing;
      end_of(end_, input_, o).store(&kNothing, 1, &of_nothing);
      std::fill_n(image.y + o * plane, plane, of_nothing);
    }
    for (const Part& part : parts_) add_part(part, image, bits.get() + n * words, parallel);
  }
}

namespace {

// The places of a part's results in an image, row by row.
struct Target {
  Places vertical, horizontal;
  int64_t height, width;  // of the image
  int64_t columns;        // of the results
  bool all;               // results are the image

  // Puts results [begin, begin + count) where they belong in the plane.
  void store(const float* results, int64_t begin, int64_t count, float* plane) const {
    if (all) return static_cast<void>(std::copy_n(results, count, plane + begin));
    for (int64_t p = begin; p < begin + count;) {
      const int64_t row = p / columns, column = p % columns, run = std::min(columns - column, begin + count - p);
      const int64_t y = vertical.first + (row - vertical.skip) * vertical.step;
      if (row >= vertical.skip && y < height) store_row(results + (p - begin), column, run, plane + y * width);
      p += run;
    }
  }

 private:
  void store_row(const float* results, int64_t column, int64_t count, float* row) const {
    const int64_t first = std::max(column, horizontal.skip);
    const int64_t left = ceil_div(width - horizontal.first, horizontal.step) + horizontal.skip;  // past the last
    float* to = row + horizontal.first + (first - horizontal.skip) * horizontal.step;
    for (int64_t c = first; c < std::min(column + count, left); ++c, to += horizontal.step) *to = results[c - column];
  }
};

}  // namespace

void Conv::add_part(const Part& part, const Image& image, const uint64_t* words, const xk_parallel* parallel) const {
  if (part.vertical.first >= image.out_height || part.horizontal.first >= image.out_width) return;
  const ImageSums all_sums(part.filters, input_, image.height, image.width, words, image.plane_words, parallel);
  const bool all = part.vertical.step == 1 && part.horizontal.step == 1 &&
                   all_sums.out_height() == image.out_height && all_sums.out_width() == image.out_width;
  const Target target{part.vertical, part.horizontal, image.out_height, image.out_width, all_sums.out_width(), all};
  parallel_for(parallel, outputs(), [&](int64_t o) {
    const End end = end_of(end_, input_, o);
    for (int64_t begin = 0; begin < all_sums.count(); begin += kBlock) {
      const int64_t count = std::min(kBlock, all_sums.count() - begin);
      int32_t sums[kBlock];
      float y[kBlock];
      all_sums.read(o, begin, count, sums);
      end.store(sums, count, y);
      target.store(y, begin, count, image.y + o * image.out_height * image.out_width);
    }
  });
}

namespace {

// A linear layer as a convolution of one pixel.
xk_conv_shape pixel_window(int64_t width) {
  xk_conv_shape window{};
  window.stride_h = window.stride_w = window.dilation_h = window.dilation_w = 1;
  window.height = 1, window.width = width;
  return window;
}

}  // namespace

Linear::Linear(const Input& input, const Weight& weight, ScaleBias end)
    : input_(input), end_(std::move(end)), filters_(weight, pixel_window(input.planes())) {
  check_sums(weight, input);
}

Linear::Linear(const Input& input, Filters filters, ScaleBias end)
    : input_(input), end_(std::move(end)), filters_(std::move(filters)) {}

void Linear::compute(const float* x, int64_t rows, float* y, const xk_parallel* parallel) const {
  const int64_t images = input_.planes(), outputs = static_cast<int64_t>(end_.scale.size());
  const xk_conv_shape shape = filters_.shape(1, 1, checked_product("the rows of all planes", {images, rows}));
  const Shape full = full_shape(shape);
  const auto words = array_of<uint64_t>(shape.width * full.words);
  pack_rows(input_, x, rows, full.channels, words.get(), parallel);
  const auto planes = array_of<int32_t>(shape.width * full.out_channels);
  xk_output output{};
  output.data = planes.get(), output.kind = XK_OUT_INT32, output.layout = XK_NHWC;
  check_call(xk_conv(&shape, words.get(), filters_.weights(), filters_.weights_bytes(), nullptr, &output, parallel));
  constexpr Band kTap{0, 1, 0, 1};
  parallel_for(parallel, rows, [&](int64_t row) {
    for (int64_t first = 0; first < outputs; first += kBlock) {
      const int64_t count = std::min(kBlock, outputs - first);
      int32_t sums[kBlock];
      for (int64_t o = 0; o < count; ++o) sums[o] = input_.largest() * filters_.total(first + o, kTap, kTap);
      for (int64_t i = 0; i < images; ++i)
        for (int j = 0; j < filters_.planes(); ++j)
          add_plane(planes.get() + (i * rows + row) * full.out_channels + filters_.place(first, j), count, i + j, sums);
      store_outputs(end_, input_, first, sums, count, y + row * outputs + first);
    }
  });
}

}  // namespace xk::levels
