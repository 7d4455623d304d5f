#include "shape.h"

#include <algorithm>
#include <cinttypes>

#include "error.h"

namespace xk {

namespace {

// Sums and products of two sizes stay inside int64, and bytes of them inside a pointer.
constexpr int kMaxBits = sizeof(size_t) > 4 ? 40 : 30;
constexpr int64_t kMaxSize = int64_t{1} << kMaxBits;

void check_options(const xk_conv_shape& s) {
  check_size("channels", s.channels, 1);
  check_size("out_channels", s.out_channels, 1);
  check_window(s);
  check_size("groups", s.groups, 1);
  if (s.channels % s.groups || s.out_channels % s.groups)
    fail(XK_INVALID_ARGUMENT,
         "channels (%" PRId64 ") and out_channels (%" PRId64 ") must be multiples of groups (%" PRId64 ")", s.channels,
         s.out_channels, s.groups);
}

// Part i of `total` cut into `parts` that differ by at most one.
void even_part(int64_t total, int64_t parts, int64_t i, int64_t* begin, int64_t* size) {
  const int64_t each = total / parts, longer = total % parts;
  *begin = i * each + std::min(i, longer);
  *size = each + (i < longer);
}

}  // namespace

void check_size(const char* name, int64_t value, int64_t low) {
  if (value < low || value > kMaxSize)
    fail(XK_INVALID_ARGUMENT, "%s is %" PRId64 "; it must be between %" PRId64 " and 2^%d", name, value, low,
         kMaxBits);
}

int64_t checked_product(const char* what, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product) || product > kMaxSize)
      fail(XK_INVALID_ARGUMENT, "%s is over 2^%d: the sizes are not those of a real tensor", what, kMaxBits);
  return product;
}

int64_t output_extent(const Axis& a, int64_t more) {
  const int64_t span = checked_product("dilation * (kernel - 1)", {a.dilation, a.kernel - 1}) + 1;
  const int64_t padded = a.size + a.before + a.after + more;
  if (padded < span)
    fail(XK_INVALID_ARGUMENT,
         "the padded input %s is %" PRId64 ", less than the %" PRId64 " that the dilated kernel spans", a.name, padded,
         span);
  return (padded - span) / a.stride + 1;
}

Shape weight_shape(const xk_conv_shape& options) {
  check_options(options);
  Shape s{};
  static_cast<xk_conv_shape&>(s) = options;
  s.words = ceil_div(s.channels, kWordBits);
  s.out_words = ceil_div(s.out_channels, kWordBits);
  s.group_channels = s.channels / s.groups;
  s.group_outputs = s.out_channels / s.groups;
  s.group_blocks = ceil_div(s.group_outputs, kLanes);
  s.taps = checked_product("kernel_h * kernel_w", {s.kernel_h, s.kernel_w});
  s.filter_bits = checked_product("the number of weights of a filter", {s.taps, s.group_channels});
  if (s.filter_bits > INT32_MAX)
    fail(XK_INVALID_ARGUMENT, "a filter has %" PRId64 " weights; sums of more than 2^31 - 1 are not supported",
         s.filter_bits);
  s.filter_bytes = ceil_div(s.filter_bits, 8);
  // Worst case of any weight layout: every tap in words of its own (or 64 bytes of bits), whole blocks.
  checked_product("the size of the weights", {s.groups, s.group_blocks, kLanes, s.taps, s.group_channels + 64});
  return s;
}

Shape full_shape(const xk_conv_shape& options) {
  Shape s = weight_shape(options);
  check_size("batch", s.batch, 1);
  check_size("height", s.height, 1);
  check_size("width", s.width, 1);
  s.out_height = output_extent(vertical(s));
  s.out_width = output_extent(horizontal(s));
  // With padding and a spare row for each phase of the stride, in bytes: the largest temporary of any kernel.
  checked_product("the size of the padded input",
                  {s.batch, s.height + s.pad_top + s.pad_bottom + s.stride_h,
                   s.width + s.pad_left + s.pad_right + s.stride_w, s.channels + kWordBits});
  checked_product("the size of the output", {s.batch, s.out_height, s.out_width, s.out_channels + kWordBits, 4});
  return s;
}

std::vector<Band> bands(const Axis& a, int64_t outputs) {
  std::vector<Band> result;
  for (int64_t o = 0; o < outputs; ++o) {
    // Kernel position k reads start + k * dilation, which must be in [0, size).
    const int64_t start = o * a.stride - a.before, left = a.size - start;
    const int64_t first = start >= 0 ? 0 : std::min(a.kernel, ceil_div(-start, a.dilation));
    const int64_t last = std::max(first, left <= 0 ? 0 : std::min(a.kernel, ceil_div(left, a.dilation)));
    if (!result.empty() && result.back().first == first && result.back().last == last)
      result.back().end = o + 1;
    else
      result.push_back({o, o + 1, first, last});
  }
  return result;
}

const Band& band_of(const std::vector<Band>& all, int64_t position) {
  return *std::lower_bound(all.begin(), all.end(), position, [](const Band& b, int64_t p) { return b.end <= p; });
}

Chunks::Chunks(const Shape& s, int64_t pixels, int64_t pitch) : height_(s.out_height), width_(s.out_width) {
  const int64_t rows = std::max<int64_t>(0, pixels - width_) / pitch + 1;  // (rows - 1) * pitch + width <= pixels
  bands_ = ceil_div(height_, rows);
  pieces_ = ceil_div(width_, pixels);
}

Chunk Chunks::operator[](int64_t index) const {
  Chunk chunk;
  even_part(height_, bands_, index / pieces_, &chunk.row, &chunk.rows);
  even_part(width_, pieces_, index % pieces_, &chunk.column, &chunk.columns);
  return chunk;
}

}  // namespace xk
