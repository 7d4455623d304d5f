// Weights of a few even levels, bit plane by bit plane, as weights of signs.
//
// An input is a number q of k bits, in 0 to A = 2^k - 1, or a sign; a weight is the odd number w = sum_j 2^j t_j of the
// signs t_j of its bits (Zhou et al., DoReFa-Net, 2016, eq. 5 and 9). The signs s_i of the bits of q give
// 2 q = sum_i 2^i s_i + A, so that
//
//   2 (q * w) = sum_ij 2^(i+j) (s_i * t_j)  +  A (1 * w).
//
// The k l convolutions of signs are one call of the kernels, with the planes of the input as images and those of the
// weight as filters. The last sum is that of the weights whose taps lie inside the image. All are whole numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "levels/planes.h"
#include "prepared.h"
#include "shape.h"

namespace xk::levels {

// A weight as a file has it: the bits of plane 0, [outputs][kernel_h][kernel_w][channels a group], each filter padded
// to bytes as in xnorkit.h, then those of the next plane.
struct Weight {
  const uint8_t* dense;
  int planes;
  int64_t outputs, groups, kernel_h, kernel_w, channels;
  int64_t filter_bits() const { return kernel_h * kernel_w * channels; }
  int64_t filter_bytes() const { return ceil_div(filter_bits(), 8); }
};

// All planes of some taps of a weight, as the filters of a convolution of signs: plane by plane inside a group.
class Filters {
 public:
  // `window` says how these taps, `rows` times `columns` of the weight's, move; its height and width are a hint of the
  // image's size, or 0. What it says of channels is replaced.
  Filters(const Weight& weight, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
          const xk_conv_shape& window);

  // All taps.
  Filters(const Weight& weight, const xk_conv_shape& window);

  // All taps of a weight whose bits are in the order of a kernel already, and stay the caller's, as their totals do: sums of
  // w over the channels of a filter and over the taps above and left of each, [outputs][rows + 1][columns + 1]. `layer` is
  // the whole layer's convolution.
  Filters(const xk_conv_shape& layer, int planes, const void* weights, size_t bytes, const int32_t* totals);

  // The convolution of `images` images of height times width signs.
  xk_conv_shape shape(int64_t images, int64_t height, int64_t width) const;
  const void* weights() const { return lent_ ? lent_ : prepared_.data(); }
  size_t weights_bytes() const { return lent_ ? lent_bytes_ : prepared_.size(); }
  // Where plane j of output o is among the convolution's outputs.
  int64_t place(int64_t o, int j) const { return (o / a_group_ * planes_ + j) * a_group_ + o % a_group_; }
  int planes() const { return planes_; }
  // sum of w over the channels of filter o and over the taps of these rows and columns.
  int32_t total(int64_t o, const Band& rows, const Band& columns) const {
    const int64_t width = shape_.kernel_w + 1;
    const int32_t* const all = (lent_totals_ ? lent_totals_ : totals_.data()) + o * (shape_.kernel_h + 1) * width;
    const int32_t *top = all + rows.first * width, *bottom = all + rows.last * width;
    return bottom[columns.last] - bottom[columns.first] - top[columns.last] + top[columns.first];
  }

 private:
  void make_totals(const Weight& weight, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns);

  int planes_;
  int64_t a_group_;  // outputs of a group
  xk_conv_shape shape_;
  PreparedBits prepared_;
  std::vector<int32_t> totals_;  // [outputs][rows + 1][columns + 1], of all taps before
  const void* lent_ = nullptr;   // what the caller has, in the place of both
  size_t lent_bytes_ = 0;
  const int32_t* lent_totals_ = nullptr;
};

// The weight of some slices of one whose rows are those of `depth` slices: the filters of these slices are outputs, slice by
// slice inside a group. Its bits are `dense`.
Weight slice_weight(const Weight& weight, int64_t depth, const std::vector<int64_t>& slices, std::vector<uint8_t>* dense);

// Fails where 32 bits do not hold the sums of filters of so many weights, of so many planes, with such an input.
void check_sums(int64_t filter_bits, int planes, const Input& input);
inline void check_sums(const Weight& weight, const Input& input) {
  check_sums(weight.filter_bits(), weight.planes, input);
}

}  // namespace xk::levels
