#include "levels/sums.h"

#include <algorithm>

#include "api.h"

namespace xk::levels {

ImageSums::ImageSums(const Filters& filters, const Input& input, int64_t height, int64_t width, const uint64_t* words,
                     int64_t plane_words, const xk_parallel* parallel)
    : filters_(filters), images_(input.planes()), largest_(input.largest()) {
  const bool adjoin = plane_words == height * width * ceil_div(filters.shape(1, height, width).channels, kWordBits);
  const int calls = adjoin ? 1 : images_;
  const xk_conv_shape shape = filters.shape(images_ / calls, height, width);
  shape_ = full_shape(shape);
  const int64_t a_call = shape_.batch * shape_.out_channels * count();
  planes_ = array_of<int32_t>(calls * a_call);
  for (int i = 0; i < calls; ++i) {
    xk_output output{};
    output.data = planes_.get() + i * a_call, output.kind = XK_OUT_INT32;
    check_call(xk_conv(&shape, words + i * plane_words, filters.weights(), filters.weights_bytes(), nullptr, &output,
                       parallel));
  }
  if (!largest_) return;
  rows_ = bands(vertical(shape_), shape_.out_height), columns_ = bands(horizontal(shape_), shape_.out_width);
}

void ImageSums::read(int64_t o, int64_t begin, int64_t count, int32_t* sums) const {
  fill_inside(o, begin, count, sums);
  for (int i = 0; i < images_; ++i)
    for (int j = 0; j < filters_.planes(); ++j)
      add_plane(planes_.get() + (i * shape_.out_channels + filters_.place(o, j)) * this->count() + begin, count,
                i + j, sums);
}

// What the taps inside the image add up to, times the largest number. Rows of a band are alike: the first row's length of
// them is made, the others are copies.
void ImageSums::fill_inside(int64_t o, int64_t begin, int64_t count, int32_t* sums) const {
  if (!largest_) return static_cast<void>(std::fill_n(sums, count, 0));
  const int64_t width = shape_.out_width;
  const Band* rows = &band_of(rows_, begin / width);
  for (int64_t done = 0; done < count; ++rows) {
    const int64_t end = std::min(count, rows->end * width - begin), made = std::min(end, done + width);
    int64_t column = (begin + done) % width;
    const Band* columns = &band_of(columns_, column);
    for (int64_t at = done; at < made;) {
      const int64_t run = std::min(columns->end - column, made - at);
      std::fill_n(sums + at, run, largest_ * filters_.total(o, *rows, *columns));
      at += run, column += run, ++columns;
      if (column == width) column = 0, columns = columns_.data();
    }
    for (int64_t at = made, run; at < end; at += run) {  // twice as many each time
      run = std::min(at - done, end - at);
      std::copy_n(sums + done, run, sums + at);
    }
    done = end;
  }
}

}  // namespace xk::levels
