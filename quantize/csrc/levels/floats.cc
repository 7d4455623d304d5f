#include "levels/floats.h"

#include <algorithm>
#include <utility>

#include "parallel.h"

namespace xk::levels {

namespace {

constexpr int64_t kBandFloats = 1 << 17;  // of the tables of a band of rows: half of a usual second cache
constexpr int64_t kStepFloats = 4096;     // of those that blocks of filters use one after the other: half of the first
constexpr int64_t kPartBlocks = 16;       // blocks of filters of a task
constexpr int64_t kPiece = 64;            // outputs of a row whose sums are held

Shape shape_of(const Weight& weight, xk_conv_shape window) {
  window.batch = 0;
  window.groups = weight.groups, window.channels = weight.groups * weight.channels;
  window.out_channels = weight.outputs, window.kernel_h = weight.kernel_h, window.kernel_w = weight.kernel_w;
  return weight_shape(window);
}

// Which places of the input some tap meets.
std::vector<uint8_t> places_seen(const Axis& axis, int64_t first_output, int64_t outputs) {
  std::vector<uint8_t> seen(static_cast<size_t>(axis.size));
  for (int64_t o = first_output; o < first_output + outputs; ++o)
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t at = o * axis.stride - axis.before + k * axis.dilation;
      if (at >= 0 && at < axis.size) seen[static_cast<size_t>(at)] = 1;
    }
  return seen;
}

}  // namespace

struct FloatConv::Band {
  int64_t first_row;    // of the input
  const float* tables;  // [row][column][pixel_floats()]
};

// Up to kSignedRows neighbours of an output row.
struct FloatConv::Pixels {
  int64_t row, column, count;
};

bool FloatConv::is_fast() {
  // Kernels that count whole words have no permutations.
  return std::any_of(kKernels, kKernels + kKernelCount, [](const Kernel& k) {
    return k.order != WeightOrder::kWords && k.microkernels->sum_signed_inputs == 4 && k.usable();
  });
}

FloatConv::FloatConv(const Weight& weight, const xk_conv_shape& window, ScaleBias end)
    : shape_(shape_of(weight, window)), kernels_(machine_microkernels()), plan_(kernels_, weight.channels),
      end_(std::move(end)) {
  const Shape& s = shape_;
  const int64_t tap_words = plan_.words * kLanes;
  weights_ = PreparedBits(
      static_cast<size_t>(checked_product("the size of the weights", {s.blocks(), s.taps, tap_words, sizeof(uint32_t)})));
  uint32_t* to = static_cast<uint32_t*>(weights_.data());
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t tap = 0; tap < s.taps; ++tap, to += tap_words)
      for (int lane = 0; lane < s.lanes(block); ++lane) {
        const uint8_t* const bits = weight.dense + (s.first_channel(block) + lane) * s.filter_bytes;
        for (int64_t c = 0, i = tap * s.group_channels; c < s.group_channels; ++c, ++i)
          plan_.set_bit(c, bits[i / 8] >> (i % 8) & 1, kLanes, to + lane);
      }
}

const uint32_t* FloatConv::weights(int64_t block, int64_t tap) const {
  return static_cast<const uint32_t*>(weights_.data()) + (block * shape_.taps + tap) * plan_.words * kLanes;
}

// A cache line more than the tables: pixels that are a power of two apart would share lines of the first cache.
int64_t FloatConv::pixel_floats() const { return shape_.groups * plan_.words * plan_.word_floats() + kLanes; }

Shape FloatConv::full(const Size& size) const {
  xk_conv_shape shape = shape_;
  shape.batch = 1, shape.height = size[0], shape.width = size[1];
  const Shape s = full_shape(shape);
  checked_product("the size of the tables", {s.height, s.width, pixel_floats(), 4});
  return s;
}

FloatConv::Size FloatConv::output_size(const Size& size) const {
  const Shape s = full(size);
  return {s.out_height, s.out_width};
}

void FloatConv::compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const {
  const Shape s = full(size);
  const int64_t row_floats = s.width * pixel_floats(), span = (s.kernel_h - 1) * s.dilation_h + 1;
  const int64_t rows = std::clamp<int64_t>((kBandFloats / row_floats - span) / s.stride_h + 1, 1, s.out_height);
  const auto tables = array_of<float>(std::min((rows - 1) * s.stride_h + span, s.height) * row_floats);
  const std::vector<uint8_t> columns = places_seen(horizontal(s), 0, s.out_width);
  const int64_t parts = ceil_div(s.group_blocks, kPartBlocks);
  for (int64_t n = 0; n < batch; ++n, x += s.channels * s.height * s.width, y += outputs() * s.out_height * s.out_width)
    for (int64_t first = 0; first < s.out_height; first += rows) {
      const int64_t count = std::min(rows, s.out_height - first), top = first * s.stride_h - s.pad_top;
      const Band band{std::clamp<int64_t>(top, 0, s.height), tables.get()};
      const int64_t last = std::clamp<int64_t>(top + (count - 1) * s.stride_h + span, 0, s.height);
      const std::vector<uint8_t> seen = places_seen(vertical(s), first, count);
      parallel_for(parallel, last - band.first_row, [&](int64_t row) {
        if (seen[static_cast<size_t>(band.first_row + row)])
          form_row(s, x + (band.first_row + row) * s.width, columns, tables.get() + row * row_floats);
      });
      parallel_for(parallel, count * s.groups * parts, [&](int64_t task) {
        const int64_t block = task % parts * kPartBlocks, group = task / parts % s.groups;
        sum_row(s, band, first + task / parts / s.groups, group * s.group_blocks + block,
                std::min(kPartBlocks, s.group_blocks - block), y);
      });
    }
}

// The tables of the pixels of a row of the input, of all fields of channels.
void FloatConv::form_row(const Shape& s, const float* x, const std::vector<uint8_t>& columns, float* tables) const {
  const int64_t plane = s.height * s.width, fields = plan_.words * plan_.fields;
  for (int64_t field = 0; field < s.groups * fields; ++field) {
    const int64_t first = field % fields * plan_.field_inputs;
    const int64_t there = std::clamp<int64_t>(s.group_channels - first, 0, plan_.field_inputs);
    const float* const from = x + (field / fields * s.group_channels + first) * plane;
    float* table = tables + field * plan_.entries();
    for (int64_t column = 0; column < s.width; ++column, table += pixel_floats()) {
      if (!columns[static_cast<size_t>(column)]) continue;
      float inputs[4] = {};
      for (int i = 0; i < there; ++i) inputs[i] = from[i * plane + column];
      form_table(inputs, plan_.field_inputs, table);
    }
  }
}

// Outputs of a row: those of `blocks` blocks of filters of a group, from `first` on.
void FloatConv::sum_row(const Shape& s, const Band& band, int64_t row, int64_t first, int64_t blocks, float* y) const {
  const int64_t piece = std::min(kPiece, ceil_div(s.out_width, kSignedRows) * kSignedRows), block = piece * kLanes;
  std::vector<float> sums(static_cast<size_t>(blocks * block));
  for (int64_t start = 0; start < s.out_width; start += piece) {
    const int64_t count = std::min(piece, s.out_width - start);
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t pixel = 0; pixel < count; pixel += kSignedRows)
      for (int64_t tap = 0; tap < s.taps; ++tap)
        add_tap(s, band, {row, start + pixel, std::min<int64_t>(kSignedRows, count - pixel)}, tap, first, blocks, block,
                sums.data() + pixel * kLanes);
    for (int64_t b = 0; b < blocks; ++b)
      for (int lane = 0; lane < s.lanes(first + b); ++lane) {
        const int64_t o = s.first_channel(first + b) + lane;
        const float scale = end_.scale[static_cast<size_t>(o)], bias = end_.bias[static_cast<size_t>(o)];
        const float* const of_filter = sums.data() + b * block + lane;
        float* const to = y + (o * s.out_height + row) * s.out_width + start;
        for (int64_t pixel = 0; pixel < count; ++pixel) to[pixel] = of_filter[pixel * kLanes] * scale + bias;
      }
  }
}

// Adds what neighbours in a row have of a tap. The sums of a block of filters are `block` behind those of the one before.
void FloatConv::add_tap(const Shape& s, const Band& band, const Pixels& pixels, int64_t tap, int64_t first,
                        int64_t blocks, int64_t block, float* sums) const {
  const int64_t row = pixels.row * s.stride_h - s.pad_top + tap / s.kernel_w * s.dilation_h;
  const int64_t column = pixels.column * s.stride_w - s.pad_left + tap % s.kernel_w * s.dilation_w;
  int64_t from = 0, to = pixels.count;  // of those whose tap lies inside the image
  while (from < to && column + from * s.stride_w < 0) ++from;
  while (from < to && column + (to - 1) * s.stride_w >= s.width) --to;
  if (row < 0 || row >= s.height || from == to) return;
  const int64_t word_floats = plan_.word_floats();
  const float* const tables = band.tables +
                              ((row - band.first_row) * s.width + column + from * s.stride_w) * pixel_floats() +
                              s.group_of(first) * plan_.words * word_floats;
  const int64_t step = std::max<int64_t>(kStepFloats / (kSignedRows * word_floats), 1);
  for (int64_t word = 0; word < plan_.words; word += step)
    for (int64_t b = 0; b < blocks; ++b)
      kernels_.sum_signed({tables + word * word_floats, s.stride_w * pixel_floats(), static_cast<int>(to - from),
                           weights(first + b, tap) + word * kLanes, std::min(step, plan_.words - word),
                           sums + b * block + from * kLanes});
}

}  // namespace xk::levels
