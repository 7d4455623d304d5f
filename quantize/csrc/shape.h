// Sizes that have been checked, and what follows from them: shapes, where windows lie, chunks of the output.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "xnorkit.h"

namespace xk {

constexpr int kWordBits = 64;
constexpr int kHalfBits = 32;
constexpr int kLanes = 16;  // output channels that a kernel computes together

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Fails, with the size's name, unless low <= value <= 2^40, or 2^30 where pointers have 32 bits.
void check_size(const char* name, int64_t value, int64_t low);

// Checks the size of a window and how it moves, in an xk_conv_shape or an xk_pool_shape.
template <class Sizes>
void check_window(const Sizes& s) {
  check_size("kernel_h", s.kernel_h, 1);
  check_size("kernel_w", s.kernel_w, 1);
  check_size("stride_h", s.stride_h, 1);
  check_size("stride_w", s.stride_w, 1);
  check_size("dilation_h", s.dilation_h, 1);
  check_size("dilation_w", s.dilation_w, 1);
  check_size("pad_top", s.pad_top, 0);
  check_size("pad_left", s.pad_left, 0);
  check_size("pad_bottom", s.pad_bottom, 0);
  check_size("pad_right", s.pad_right, 0);
}

// The product, or an error with its name where it is over that. Nothing is read or written before sizes pass here.
int64_t checked_product(const char* what, std::initializer_list<int64_t> factors);

struct Shape : xk_conv_shape {
  int64_t out_height, out_width;
  int64_t words;           // 64-bit words of a pixel of the input
  int64_t out_words;       // and of a pixel of the output, where that is bits
  int64_t group_channels;  // input channels a group
  int64_t group_outputs;   // output channels a group
  int64_t group_blocks;    // blocks of kLanes output channels a group; the last may be partly empty
  int64_t taps;            // kernel_h * kernel_w
  int64_t filter_bits;     // taps * group_channels
  int64_t filter_bytes;    // of a filter in dense weights

  // Where a block's channels are: block b of group g holds first_channel() + [0, lanes()).
  int64_t blocks() const { return groups * group_blocks; }
  int64_t group_of(int64_t block) const { return block / group_blocks; }
  int64_t first_channel(int64_t block) const {
    return group_of(block) * group_outputs + block % group_blocks * kLanes;
  }
  int lanes(int64_t block) const {
    const int64_t left = group_outputs - block % group_blocks * kLanes;
    return static_cast<int>(left < kLanes ? left : kLanes);
  }
};

// One direction of a convolution or a pooling, from its xk_conv_shape or xk_pool_shape.
struct Axis {
  const char* name;
  int64_t size, kernel, stride, dilation, before, after;  // padding before and after
};
template <class Sizes>
Axis vertical(const Sizes& s) {
  return {"height", s.height, s.kernel_h, s.stride_h, s.dilation_h, s.pad_top, s.pad_bottom};
}
template <class Sizes>
Axis horizontal(const Sizes& s) {
  return {"width", s.width, s.kernel_w, s.stride_w, s.dilation_w, s.pad_left, s.pad_right};
}

// The size of the output with `more` padding, or an error where the input is too small.
int64_t output_extent(const Axis& axis, int64_t more = 0);

// Checks the sizes that weights depend on; batch, height and width may be 0 (unknown).
Shape weight_shape(const xk_conv_shape& shape);
// Checks all sizes: the bytes of every buffer fit in int64.
Shape full_shape(const xk_conv_shape& shape);

// Output positions that see the same taps. Padded taps contribute nothing and are left out: an output
// position in [begin, end) uses kernel positions [first, last), which may be none.
struct Band {
  int64_t begin, end, first, last;
};
std::vector<Band> bands(const Axis& axis, int64_t outputs);
const Band& band_of(const std::vector<Band>& all, int64_t position);

// The output is computed in chunks of whole rows, or pieces of one wide row: contiguous in an output plane,
// small enough that their sums stay in the first cache.
struct Chunk {
  int64_t row, rows, column, columns;
  int64_t pixels() const { return rows * columns; }
};
constexpr int64_t kChunkPixels = 256;

class Chunks {
 public:
  // Chunks of at most `pixels` positions where rows are `pitch` >= out_width apart.
  Chunks(const Shape& shape, int64_t pixels, int64_t pitch);
  int64_t count() const { return bands_ * pieces_; }
  Chunk operator[](int64_t index) const;

 private:
  int64_t height_, width_, bands_, pieces_;  // bands of rows, pieces of a row
};

}  // namespace xk
