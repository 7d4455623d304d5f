// Max pooling of bits; maxima and averages of floats.
#include <algorithm>
#include <cinttypes>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "api.h"
#include "kernel.h"
#include "parallel.h"
#include "shape.h"

namespace xk {

namespace {

struct Pool : xk_pool_shape {
  int64_t words;                    // of a pixel
  std::vector<Band> rows, columns;  // of the output
};

std::vector<Band> checked_bands(const Axis& a, int64_t outputs) {
  const int64_t whole = output_extent(a), most = output_extent(a, a.stride - 1);
  if (outputs != whole && outputs != most)
    fail(XK_INVALID_ARGUMENT,
         "the output %s is %" PRId64 "; windows over an input of %" PRId64 " give %" PRId64 ", or %" PRId64
         " with ceil_mode",
         a.name, outputs, a.size, whole, most);
  std::vector<Band> result = bands(a, outputs);
  for (const Band& band : result)
    if (band.first == band.last)
      fail(XK_INVALID_ARGUMENT, "window %" PRId64 " of the output %s lies in the padding: a maximum needs a value",
           band.begin, a.name);
  return result;
}

// The bits that are flipped in a row of pixels.
std::vector<uint64_t> flipped_row(const Pool& p, const uint8_t* flip) {
  std::vector<uint64_t> row(static_cast<size_t>(p.width * p.words));
  if (!flip) return row;
  for (int64_t c = 0; c < p.channels; ++c)
    row[static_cast<size_t>(c / kWordBits)] |= uint64_t{flip[c] != 0} << (c % kWordBits);
  for (size_t i = static_cast<size_t>(p.words); i < row.size(); ++i) row[i] = row[i - static_cast<size_t>(p.words)];
  return row;
}

// Checks everything: sizes of all buffers fit in int64 bytes, and every window has a tap inside the input.
Pool full_pool(const xk_pool_shape& options) {
  Pool p{options, {}, {}, {}};
  check_size("batch", p.batch, 1);
  check_size("channels", p.channels, 1);
  check_size("height", p.height, 1);
  check_size("width", p.width, 1);
  check_window(p);
  check_size("out_height", p.out_height, 1);
  check_size("out_width", p.out_width, 1);
  p.words = ceil_div(p.channels, kWordBits);
  checked_product("the size of the input", {p.batch, p.height, p.width, p.words, 8});
  checked_product("the size of the output", {p.batch, p.out_height, p.out_width, p.words, 8});
  p.rows = checked_bands(vertical(p), p.out_height);
  p.columns = checked_bands(horizontal(p), p.out_width);
  return p;
}

// The bit of a channel is x >= t: that of the maximum is the or of the bits. Where it is x <= t, it is their and: the
// or of the flipped bits, flipped. Rows of a window first, then columns.
void max_pool(const Pool& p, const uint64_t* bits, const uint8_t* flip, uint64_t* output,
              const xk_parallel* parallel) {
  const Microkernels& micro = machine_microkernels();
  const std::vector<uint64_t> flipped = flipped_row(p, flip);
  parallel_for(parallel, p.batch * p.out_height, [&](int64_t index) {
    const int64_t image = index / p.out_height, y = index % p.out_height;
    const Band& band = band_of(p.rows, y);
    std::vector<const uint64_t*> rows;
    for (int64_t ky = band.first; ky < band.last; ++ky)
      rows.push_back(bits + (image * p.height + y * p.stride_h - p.pad_top + ky * p.dilation_h) * p.width * p.words);
    const std::unique_ptr<uint64_t[]> any(new uint64_t[flipped.size()]);
    const PoolRow row{rows.data(),    band.last - band.first, static_cast<int64_t>(flipped.size()),
                      flipped.data(), p.words,                any.get()};
    micro.pool_rows(row);
    for (const Band& c : p.columns) {
      PoolColumns columns{};
      columns.first = (c.begin * p.stride_w - p.pad_left + c.first * p.dilation_w) * p.words;
      columns.step = p.stride_w * p.words;
      columns.taps = c.last - c.first, columns.tap_step = p.dilation_w * p.words;
      columns.pixels = c.end - c.begin;
      columns.output = output + (index * p.out_width + c.begin) * p.words;
      micro.pool_columns(row, columns);
    }
  });
}

Pool full_float_pool(const xk_pool_shape& options) {
  Pool p = full_pool(options);
  checked_product("the size of the input", {p.batch, p.channels, p.height + p.kernel_h, p.width + p.kernel_w, 4});
  checked_product("the size of the output", {p.batch, p.channels, p.out_height, p.out_width, 4});
  return p;
}

Pool full_average(const xk_pool_shape& options) {
  Pool p = full_float_pool(options);
  for (const auto& [axis, outputs] : {std::pair(vertical(p), p.out_height), std::pair(horizontal(p), p.out_width)})
    if (outputs != output_extent(axis))
      fail(XK_INVALID_ARGUMENT,
           "the output %s is %" PRId64 "; windows that do not reach past the padding give %" PRId64, axis.name, outputs,
           output_extent(axis));
  return p;
}

// Whether the windows are of 2x2, side by side and inside the input.
bool is_of_pairs(const xk_pool_shape& p) {
  const int64_t sizes[] = {p.kernel_h, p.kernel_w, p.stride_h, p.stride_w};
  return std::all_of(std::begin(sizes), std::end(sizes), [](int64_t size) { return size == 2; }) && p.dilation_h == 1 &&
         p.dilation_w == 1 && p.pad_top == 0 && p.pad_left == 0 && 2 * p.out_height <= p.height &&
         2 * p.out_width <= p.width;
}

// Maxima or averages.
void pool_planes(const Pool& p, bool maxima, const float* input, float* output, const xk_parallel* parallel) {
  constexpr int64_t kTogether = 8;  // planes of a task
  const Microkernels& micro = machine_microkernels();
  const int64_t planes = p.batch * p.channels, plane = p.height * p.width, out_plane = p.out_height * p.out_width;
  const float area = static_cast<float>(p.kernel_h * p.kernel_w);
  FloatPool common{};
  static_cast<xk_pool_shape&>(common) = p;
  common.maxima = maxima;
  common.rows = p.out_height + (p.kernel_h - 1) * p.dilation_h / p.stride_h + 1;
  common.pitch = p.out_width + (p.kernel_w - 1) * p.dilation_w / p.stride_w + 1;
  const bool pairs = is_of_pairs(p);
  const int64_t phase = (common.rows + 1) * common.pitch, phases = p.stride_h * p.stride_w;
  parallel_for(parallel, ceil_div(planes, kTogether), [&](int64_t task) {
    // Of numbers in the order of their floats the least is that of no float.
    const int32_t start = maxima ? std::numeric_limits<int32_t>::min() : 0;
    std::vector<int32_t> values(static_cast<size_t>(pairs ? 0 : phase * phases), start);
    std::vector<int32_t> joined(static_cast<size_t>(pairs ? 0 : p.out_height * common.pitch));
    FloatPool pool = common;
    pool.phases = values.data(), pool.joined = joined.data();
    for (int64_t i = task * kTogether; i < std::min(planes, (task + 1) * kTogether); ++i) {
      pool.input = input + i * plane, pool.output = output + i * out_plane;
      if (pairs) {
        micro.pool_pairs(pool);
      } else {
        std::fill(joined.begin(), joined.end(), start);
        micro.pool_floats(pool);
      }
      for (int64_t o = 0; !maxima && o < out_plane; ++o) pool.output[o] /= area;
    }
  });
}

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_average_pool(const xk_pool_shape* shape, const float* input, float* output, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}});
    const Pool p = full_average(*shape);
    check_pointers({{"input", input}, {"output", output}});
    pool_planes(p, false, input, output, parallel);
  });
}

int32_t xk_max_pool_float(const xk_pool_shape* shape, const float* input, float* output, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}});
    const Pool p = full_float_pool(*shape);
    check_pointers({{"input", input}, {"output", output}});
    pool_planes(p, true, input, output, parallel);
  });
}

int32_t xk_max_pool_size(const xk_pool_shape* shape, size_t* words) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"words", words}});
    const Pool pool = full_pool(*shape);
    *words = static_cast<size_t>(pool.batch * pool.out_height * pool.out_width * pool.words);
  });
}

int32_t xk_max_pool(const xk_pool_shape* shape, const uint64_t* bits, const uint8_t* flip, uint64_t* output,
                    const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"shape", shape}});
    const Pool pool = full_pool(*shape);
    check_pointers({{"bits", bits}, {"output", output}});
    max_pool(pool, bits, flip, output, parallel);
  });
}
