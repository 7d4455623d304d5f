#include "levels/filters.h"

#include <algorithm>
#include <cinttypes>
#include <numeric>

#include "api.h"
#include "error.h"

namespace xk::levels {

namespace {

bool bit_of(const uint8_t* bits, int64_t i) { return bits[i / 8] >> (i % 8) & 1; }

// The bits of some taps of a filter, one behind the other.
void select_taps(const Weight& w, const uint8_t* filter, const std::vector<int64_t>& rows,
                 const std::vector<int64_t>& columns, uint8_t* to) {
  int64_t place = 0;
  for (int64_t y : rows)
    for (int64_t x : columns)
      for (int64_t c = 0; c < w.channels; ++c, ++place)
        to[place / 8] = static_cast<uint8_t>(to[place / 8] |
                                             bit_of(filter, (y * w.kernel_w + x) * w.channels + c) << (place % 8));
}

// `count` taps from `first` on.
std::vector<int64_t> taps_from(int64_t first, int64_t count) {
  std::vector<int64_t> taps(static_cast<size_t>(count));
  std::iota(taps.begin(), taps.end(), first);
  return taps;
}

}  // namespace

Filters::Filters(const Weight& w, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                 const xk_conv_shape& window)
    : planes_(w.planes), a_group_(w.outputs / w.groups), shape_(window) {
  shape_.batch = 0;
  shape_.groups = w.groups, shape_.channels = w.groups * w.channels, shape_.out_channels = w.planes * w.outputs;
  shape_.kernel_h = static_cast<int64_t>(rows.size()), shape_.kernel_w = static_cast<int64_t>(columns.size());
  const Shape full = weight_shape(shape_);
  std::vector<uint8_t> dense(static_cast<size_t>(full.out_channels * full.filter_bytes));
  const bool all = rows == taps_from(0, w.kernel_h) && columns == taps_from(0, w.kernel_w);
  for (int j = 0; j < w.planes; ++j)
    for (int64_t o = 0; o < w.outputs; ++o) {
      const uint8_t* filter = w.dense + (j * w.outputs + o) * w.filter_bytes();
      uint8_t* to = dense.data() + place(o, j) * full.filter_bytes;
      all ? static_cast<void>(std::copy_n(filter, full.filter_bytes, to)) : select_taps(w, filter, rows, columns, to);
    }
  size_t bytes = 0;
  check_call(xk_weights_size(&shape_, nullptr, &bytes));
  prepared_ = PreparedBits(bytes);
  check_call(xk_weights_pack(&shape_, nullptr, dense.data(), dense.size(), prepared_.data(), bytes));
  make_totals(w, rows, columns);
}

Filters::Filters(const Weight& weight, const xk_conv_shape& window)
    : Filters(weight, taps_from(0, weight.kernel_h), taps_from(0, weight.kernel_w), window) {}

Filters::Filters(const xk_conv_shape& layer, int planes, const void* weights, size_t bytes, const int32_t* totals)
    : planes_(planes), a_group_(layer.out_channels / layer.groups), shape_(layer), lent_(weights), lent_bytes_(bytes),
      lent_totals_(totals) {
  shape_.out_channels = checked_product("the filters of all planes", {planes, layer.out_channels});
}

void Filters::make_totals(const Weight& w, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  const size_t width = columns.size() + 1;
  totals_.resize(static_cast<size_t>(w.outputs) * (rows.size() + 1) * width);
  for (int64_t o = 0; o < w.outputs; ++o) {
    int32_t* before = totals_.data() + static_cast<size_t>(o) * (rows.size() + 1) * width;
    for (size_t r = 0; r < rows.size(); ++r, before += width)
      for (size_t k = 0; k < columns.size(); ++k) {
        int32_t total = 0;
        for (int j = 0; j < w.planes; ++j) {
          const uint8_t* filter = w.dense + (j * w.outputs + o) * w.filter_bytes();
          const int64_t first = (rows[r] * w.kernel_w + columns[k]) * w.channels;
          int32_t ones = 0;
          for (int64_t c = 0; c < w.channels; ++c) ones += bit_of(filter, first + c);
          total += (2 * ones - static_cast<int32_t>(w.channels)) * (1 << j);
        }
        before[width + k + 1] = total + before[width + k] + before[k + 1] - before[k];
      }
  }
}

xk_conv_shape Filters::shape(int64_t images, int64_t height, int64_t width) const {
  xk_conv_shape shape = shape_;
  shape.batch = images, shape.height = height, shape.width = width;
  return shape;
}

Weight slice_weight(const Weight& w, int64_t depth, const std::vector<int64_t>& slices, std::vector<uint8_t>* dense) {
  const int64_t count = static_cast<int64_t>(slices.size()), rows = w.kernel_h / depth, a_group = w.outputs / w.groups;
  Weight result{nullptr, w.planes, count * w.outputs, w.groups, rows, w.kernel_w, w.channels};
  dense->assign(static_cast<size_t>(result.planes * result.outputs * result.filter_bytes()), 0);
  const std::vector<int64_t> columns = taps_from(0, w.kernel_w);
  uint8_t* to = dense->data();
  for (int j = 0; j < w.planes; ++j)
    for (int64_t group = 0; group < w.groups; ++group)
      for (int64_t slice : slices)
        for (int64_t o = 0; o < a_group; ++o, to += result.filter_bytes()) {
          const uint8_t* const filter = w.dense + (j * w.outputs + group * a_group + o) * w.filter_bytes();
          select_taps(w, filter, taps_from(slice * rows, rows), columns, to);
        }
  result.dense = dense->data();
  return result;
}

void check_sums(int64_t filter_bits, int planes, const Input& input) {
  const int64_t largest = (int64_t{1} << planes) - 1, of_input = std::max(1, input.largest());
  if (filter_bits > INT32_MAX / (2 * largest * of_input))
    fail(XK_INVALID_ARGUMENT, "a filter has %" PRId64 " weights; sums of their products do not fit in 32 bits",
         filter_bits);
}

}  // namespace xk::levels
