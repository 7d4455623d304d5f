// Convolutions of floats with signs: sums are looked up, as in linear/lookup.cc.
//
// Of four channels of a pixel there are 16 sums with signs. They are formed once, as a table, and serve all filters and all
// taps that meet the pixel: a filter takes the sum that four of its bits point to, one permutation and one addition for 16
// filters and four channels, where a product takes four multiplications with additions.
//
// A weight of -1, 0 and 1 is the mean of two signs, which look up the same sums: two planes of bits, added up together.
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <vector>

#include "api.h"
#include "kernel.h"
#include "levels/sums.h"
#include "linear/tables.h"
#include "parallel.h"
#include "shape.h"

namespace xk::levels {

namespace {

constexpr char kMagic[8] = {'x', 'n', 'o', 'r', 'k', 's', 'c', '0'};  // and the number of planes
constexpr int kMostPlanes = kMostSignedPlanes;

struct Header {
  char magic[8];
  char kernel[16];
  int64_t out_channels, channels, groups, kernel_h, kernel_w;
};
static_assert(sizeof(Header) == 64, "the payload starts at a cache line");

Header header_of(const Shape& s, int planes, const char* kernel) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.magic[7] = static_cast<char>(kMagic[7] + planes);
  std::strncpy(header.kernel, kernel, sizeof header.kernel - 1);
  header.out_channels = s.out_channels, header.channels = s.channels, header.groups = s.groups;
  header.kernel_h = s.kernel_h, header.kernel_w = s.kernel_w;
  return header;
}

// The bits of filters in the order of a kernel, behind the header: [plane][block][tap][word][lane].
struct BitOrder {
  LookUpPlan plan;  // of the channels of a group, at one tap
  int64_t taps, blocks;
  int planes;

  BitOrder(const Shape& s, int planes, const Microkernels& kernels)
      : plan(kernels, s.group_channels), taps(s.taps), blocks(s.blocks()), planes(planes) {}
  int64_t tap_words() const { return plan.words * kLanes; }
  int64_t plane_words() const { return blocks * taps * tap_words(); }
  size_t bytes() const { return sizeof(Header) + static_cast<size_t>(planes * plane_words()) * sizeof(uint32_t); }

  void fill(const Shape& s, const uint8_t* dense, uint32_t* to) const {
    for (int j = 0; j < planes; ++j, dense += s.out_channels * s.filter_bytes, to += plane_words()) fill_plane(s, dense, to);
  }

 private:
  void fill_plane(const Shape& s, const uint8_t* dense, uint32_t* to) const {
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t tap = 0; tap < taps; ++tap, to += tap_words())
        for (int lane = 0; lane < s.lanes(block); ++lane) {
          const uint8_t* const bits = dense + (s.first_channel(block) + lane) * s.filter_bytes;
          for (int64_t c = 0, i = tap * s.group_channels; c < s.group_channels; ++c, ++i)
            plan.set_bit(c, bits[i / 8] >> (i % 8) & 1, kLanes, to + lane);
        }
  }
};

// Who computes with weights: the kernel that they are for, and the number of their planes.
struct Reader {
  const Microkernels& kernels;
  int planes;
};
// Of weights that have to be of this shape.
Reader reader_of(const Shape& s, const void* weights, size_t bytes) {
  Header header{};
  if (bytes >= sizeof header) std::memcpy(&header, weights, sizeof header);
  const Kernel* const end = kKernels + kKernelCount;
  const Kernel* const kernel = std::find_if(kKernels, end, [&](const Kernel& k) {
    return !std::strncmp(k.name, header.kernel, sizeof header.kernel) && k.usable();
  });
  const int planes = header.magic[7] - kMagic[7];
  if (std::memcmp(header.magic, kMagic, sizeof kMagic - 1) || planes < 1 || planes > kMostPlanes || kernel == end)
    fail(XK_INVALID_ARGUMENT, "these are not weights that xk_sign_conv_pack made on this machine");
  const Header expected = header_of(s, planes, kernel->name);
  if (std::memcmp(&header, &expected, sizeof header) || bytes != BitOrder(s, planes, *kernel->microkernels).bytes())
    fail(XK_INVALID_ARGUMENT, "the weights are of another shape than this convolution's");
  return {*kernel->microkernels, planes};
}

void check_planes(int32_t planes) {
  if (planes < 1 || planes > kMostPlanes)
    fail(XK_INVALID_ARGUMENT, "planes is %d; it must be 1 or %d", static_cast<int>(planes), kMostPlanes);
}

constexpr int64_t kBandFloats = 1 << 17;  // of the tables of a band of rows: half of a usual second cache
constexpr int64_t kStepFloats = 4096;     // of those that blocks of filters use one after the other: half of the first
constexpr int64_t kPartBlocks = 16;       // blocks of filters of a task
constexpr int64_t kPiece = 64;            // outputs of a row whose sums are held

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

// What becomes of the sums, and where they go. Without `places` outputs are those of the convolution.
struct FloatOutput {
  const float *scale, *bias;  // NULL: 1, and 0
  float* y;
  const xk_interleave* places;

  int64_t channels(const Shape& s) const { return places ? s.out_channels / (places->step_h * places->step_w) : s.out_channels; }
  int64_t row_phase(const Shape& s, int64_t o) const { return o / (channels(s) * places->step_w); }
  // Whether a row of some output of a block of filters is one of y.
  bool has_row(const Shape& s, int64_t block, int64_t row) const {
    if (!places) return true;
    const int64_t o = s.first_channel(block);
    for (int64_t i = row_phase(s, o); i <= row_phase(s, o + s.lanes(block) - 1); ++i) {
      const auto [first, skip] = places->rows[i];
      if (row >= skip && first + (row - skip) * places->step_h < places->height) return true;
    }
    return false;
  }
  int64_t image(const Shape& s) const {
    return channels(s) * (places ? places->height * places->width : s.out_height * s.out_width);
  }
};

// Fails unless the phases of one direction have all of `size` outputs, each once.
void check_phases(const char* name, const int64_t (*phases)[2], int64_t step, int64_t size, int64_t results) {
  std::vector<bool> seen(static_cast<size_t>(step));
  for (int64_t i = 0; i < step; ++i) {
    const auto [first, skip] = phases[i];
    if (first < 0 || first >= step || seen[static_cast<size_t>(first)] || skip < 0)
      fail(XK_INVALID_ARGUMENT, "phase %" PRId64 " of the %s begins at %" PRId64 " with result %" PRId64
           "; each output must be in one phase", i, name, first, skip);
    if (first < size && results - skip < ceil_div(size - first, step))
      fail(XK_INVALID_ARGUMENT, "phase %" PRId64 " of the %s has %" PRId64 " results; too few for an output of %" PRId64, i,
           name, results - skip, size);
    seen[static_cast<size_t>(first)] = true;
  }
}

void check_places(const Shape& s, const xk_interleave& p) {
  check_pointers({{"rows", p.rows}, {"columns", p.columns}});
  check_size("the height of y", p.height, 1);
  check_size("the width of y", p.width, 1);
  check_size("step_h", p.step_h, 1);
  check_size("step_w", p.step_w, 1);
  const int64_t phases = checked_product("step_h * step_w", {p.step_h, p.step_w});
  if (s.groups != 1 || s.out_channels % phases)
    fail(XK_INVALID_ARGUMENT, "there are %" PRId64 " groups and %" PRId64 " output channels; it takes one group, and channels of %"
         PRId64 " phases", s.groups, s.out_channels, phases);
  checked_product("the size of the output", {s.batch, s.out_channels / phases, p.height, p.width, 4});
  check_phases("rows", p.rows, p.step_h, p.height, s.out_height);
  check_phases("columns", p.columns, p.step_w, p.width, s.out_width);
}

class FloatConv {
 public:
  FloatConv(const Shape& shape, const Reader& reader, const uint32_t* weights, const FloatOutput& output)
      : s_(shape), kernels_(reader.kernels), order_(shape, reader.planes, reader.kernels), plan_(order_.plan),
        weights_(weights), output_(output) {
    checked_product("the size of the tables", {s_.height, s_.width, pixel_floats(), 4});
  }

  void compute(const float* x, const xk_parallel* parallel) const;

 private:
  // Of output rows, and the tables of the input rows that they see.
  struct Band {
    int64_t first_row;    // of the input
    const float* tables;  // [row][column][pixel_floats()]
  };
  // Up to kSignedRows neighbours of an output row.
  struct Pixels {
    int64_t row, column, count;
  };

  const uint32_t* weights(int64_t block, int64_t tap) const {  // of the first plane
    return weights_ + (block * s_.taps + tap) * order_.tap_words();
  }
  // A cache line more than the tables: pixels that are a power of two apart would share lines of the first cache.
  int64_t pixel_floats() const { return s_.groups * plan_.words * plan_.word_floats() + kLanes; }
  void form_row(const float* x, const std::vector<uint8_t>& columns, float* tables) const;
  void sum_row(const Band& band, int64_t row, int64_t first, int64_t blocks, float* y) const;
  void add_tap(const Band& band, const Pixels& pixels, int64_t tap, int64_t first, int64_t blocks, int64_t block,
               float* sums) const;
  void store(int64_t o, const Pixels& pixels, const float* sums, float* y) const;

  const Shape s_;
  const Microkernels& kernels_;
  const BitOrder order_;
  const LookUpPlan& plan_;
  const uint32_t* const weights_;
  const FloatOutput output_;
};

void FloatConv::compute(const float* x, const xk_parallel* parallel) const {
  const int64_t row_floats = s_.width * pixel_floats(), span = (s_.kernel_h - 1) * s_.dilation_h + 1;
  const int64_t rows = std::clamp<int64_t>((kBandFloats / row_floats - span) / s_.stride_h + 1, 1, s_.out_height);
  const auto tables = array_of<float>(std::min((rows - 1) * s_.stride_h + span, s_.height) * row_floats);
  const std::vector<uint8_t> columns = places_seen(horizontal(s_), 0, s_.out_width);
  const int64_t parts = ceil_div(s_.group_blocks, kPartBlocks);
  const int64_t x_image = s_.channels * s_.height * s_.width, y_image = output_.image(s_);
  float* y = output_.y;
  for (int64_t n = 0; n < s_.batch; ++n, x += x_image, y += y_image)
    for (int64_t first = 0; first < s_.out_height; first += rows) {
      const int64_t count = std::min(rows, s_.out_height - first), top = first * s_.stride_h - s_.pad_top;
      const Band band{std::clamp<int64_t>(top, 0, s_.height), tables.get()};
      const int64_t last = std::clamp<int64_t>(top + (count - 1) * s_.stride_h + span, 0, s_.height);
      const std::vector<uint8_t> seen = places_seen(vertical(s_), first, count);
      parallel_for(parallel, last - band.first_row, [&](int64_t row) {
        if (seen[static_cast<size_t>(band.first_row + row)])
          form_row(x + (band.first_row + row) * s_.width, columns, tables.get() + row * row_floats);
      });
      parallel_for(parallel, count * s_.groups * parts, [&](int64_t task) {
        const int64_t block = task % parts * kPartBlocks, group = task / parts % s_.groups;
        sum_row(band, first + task / parts / s_.groups, group * s_.group_blocks + block,
                std::min(kPartBlocks, s_.group_blocks - block), y);
      });
    }
}

// The tables of the pixels of a row of the input, of all fields of channels.
void FloatConv::form_row(const float* x, const std::vector<uint8_t>& columns, float* tables) const {
  const int64_t plane = s_.height * s_.width, fields = plan_.words * plan_.fields;
  for (int64_t field = 0; field < s_.groups * fields; ++field) {
    const int64_t first = field % fields * plan_.field_inputs;
    const int64_t there = std::clamp<int64_t>(s_.group_channels - first, 0, plan_.field_inputs);
    const float* const from = x + (field / fields * s_.group_channels + first) * plane;
    float* table = tables + field * plan_.entries();
    for (int64_t column = 0; column < s_.width; ++column, table += pixel_floats()) {
      if (!columns[static_cast<size_t>(column)]) continue;
      float inputs[4] = {};
      for (int i = 0; i < there; ++i) inputs[i] = from[i * plane + column];
      form_table(inputs, plan_.field_inputs, table);
    }
  }
}

// Outputs of a row: those of `blocks` blocks of filters of a group, from `first` on.
void FloatConv::sum_row(const Band& band, int64_t row, int64_t first, int64_t blocks, float* y) const {
  while (blocks && !output_.has_row(s_, first, row)) ++first, --blocks;
  while (blocks && !output_.has_row(s_, first + blocks - 1, row)) --blocks;
  const int64_t piece = std::min(kPiece, ceil_div(s_.out_width, kSignedRows) * kSignedRows), block = piece * kLanes;
  std::vector<float> sums(static_cast<size_t>(blocks * block));
  for (int64_t start = 0; start < s_.out_width; start += piece) {
    const int64_t count = std::min(piece, s_.out_width - start);
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t pixel = 0; pixel < count; pixel += kSignedRows)
      for (int64_t tap = 0; tap < s_.taps; ++tap)
        add_tap(band, {row, start + pixel, std::min<int64_t>(kSignedRows, count - pixel)}, tap, first, blocks, block,
                sums.data() + pixel * kLanes);
    for (int64_t b = 0; b < blocks; ++b)
      for (int lane = 0; lane < s_.lanes(first + b); ++lane)
        store(s_.first_channel(first + b) + lane, {row, start, count}, sums.data() + b * block + lane, y);
  }
}

// Puts what neighbours in a row have of filter o, kLanes apart, where it belongs in an image.
void FloatConv::store(int64_t o, const Pixels& pixels, const float* sums, float* y) const {
  const xk_interleave* const p = output_.places;
  const int64_t phase = p ? output_.row_phase(s_, o) : 0, channel = p ? o / p->step_w % output_.channels(s_) : o;
  const float scale = (output_.scale ? output_.scale[channel] : 1.0f) / static_cast<float>(order_.planes);
  const float bias = output_.bias ? output_.bias[channel] : 0.0f;
  if (!p) {
    float* const to = y + (o * s_.out_height + pixels.row) * s_.out_width + pixels.column;
    for (int64_t i = 0; i < pixels.count; ++i) to[i] = sums[i * kLanes] * scale + bias;
    return;
  }
  const auto [first_row, skipped_rows] = p->rows[phase];
  const auto [first, skipped] = p->columns[o % p->step_w];
  const int64_t row = first_row + (pixels.row - skipped_rows) * p->step_h;
  if (pixels.row < skipped_rows || row >= p->height || first >= p->width) return;
  const int64_t begin = std::max<int64_t>(skipped - pixels.column, 0);
  const int64_t end = std::min(pixels.count, ceil_div(p->width - first, p->step_w) + skipped - pixels.column);
  float* to = y + (channel * p->height + row) * p->width + first + (pixels.column + begin - skipped) * p->step_w;
  for (int64_t i = begin; i < end; ++i, to += p->step_w) *to = sums[i * kLanes] * scale + bias;
}

// Adds what neighbours in a row have of a tap. The sums of a block of filters are `block` behind those of the one before.
void FloatConv::add_tap(const Band& band, const Pixels& pixels, int64_t tap, int64_t first,
                        int64_t blocks, int64_t block, float* sums) const {
  const int64_t row = pixels.row * s_.stride_h - s_.pad_top + tap / s_.kernel_w * s_.dilation_h;
  const int64_t column = pixels.column * s_.stride_w - s_.pad_left + tap % s_.kernel_w * s_.dilation_w;
  int64_t from = 0, to = pixels.count;  // of those whose tap lies inside the image
  while (from < to && column + from * s_.stride_w < 0) ++from;
  while (from < to && column + (to - 1) * s_.stride_w >= s_.width) --to;
  if (row < 0 || row >= s_.height || from == to) return;
  const int64_t word_floats = plan_.word_floats();
  const float* const tables = band.tables +
                              ((row - band.first_row) * s_.width + column + from * s_.stride_w) * pixel_floats() +
                              s_.group_of(first) * plan_.words * word_floats;
  const int64_t step = std::max<int64_t>(kStepFloats / (kSignedRows * word_floats), 1);
  for (int64_t word = 0; word < plan_.words; word += step)
    for (int64_t b = 0; b < blocks; ++b)
      kernels_.sum_signed({tables + word * word_floats, s_.stride_w * pixel_floats(), static_cast<int>(to - from),
                           weights(first + b, tap) + word * kLanes, std::min(step, plan_.words - word),
                           sums + b * block + from * kLanes, order_.planes, order_.plane_words()});
}

// The convolution, as all functions of the library begin it.
void convolve(const xk_conv_shape* shape, const float* x, const void* weights, size_t bytes, const FloatOutput& output,
              const xk_parallel* parallel) {
  check_pointers({{"shape", shape}, {"x", x}, {"weights", weights}, {"y", output.y}});
  const Shape s = full_shape(*shape);
  const Reader reader = reader_of(s, weights, bytes);
  if (output.places) check_places(s, *output.places);
  const char* const payload = static_cast<const char*>(weights) + sizeof(Header);
  FloatConv(s, reader, reinterpret_cast<const uint32_t*>(payload), output).compute(x, parallel);
}

}  // namespace
}  // namespace xk::levels

using namespace xk;

int32_t xk_sign_conv_is_fast(void) {
  return std::any_of(kKernels, kKernels + kKernelCount,
                     [](const Kernel& k) { return k.microkernels->permutes_floats && k.usable(); });
}

int32_t xk_sign_conv_size(const xk_conv_shape* shape, int32_t planes, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"bytes", bytes}});
    levels::check_planes(planes);
    *bytes = levels::BitOrder(weight_shape(*shape), planes, machine_microkernels()).bytes();
  });
}

int32_t xk_sign_conv_pack(const xk_conv_shape* shape, int32_t planes, const uint8_t* dense, size_t dense_bytes,
                          void* weights, size_t bytes) {
  return guarded([&] {
    check_pointers({{"shape", shape}, {"dense", dense}, {"weights", weights}});
    levels::check_planes(planes);
    const Shape s = weight_shape(*shape);
    const size_t needed = static_cast<size_t>(planes * s.out_channels * s.filter_bytes);
    if (dense_bytes != needed)
      fail(XK_INVALID_ARGUMENT, "the dense weights are %zu bytes; this shape needs %zu", dense_bytes, needed);
    const Kernel& kernel = kKernels[choose_kernel(nullptr, Shape{})];
    const levels::BitOrder order(s, planes, *kernel.microkernels);
    if (bytes != order.bytes())
      fail(XK_INVALID_ARGUMENT, "there are %zu bytes for the weights; they need %zu", bytes, order.bytes());
    const levels::Header header = levels::header_of(s, planes, kernel.name);
    std::memset(weights, 0, bytes);
    std::memcpy(weights, &header, sizeof header);
    order.fill(s, dense, reinterpret_cast<uint32_t*>(static_cast<char*>(weights) + sizeof header));
  });
}

int32_t xk_sign_conv(const xk_conv_shape* shape, const float* x, const void* weights, size_t weights_bytes,
                     const float* scale, const float* bias, float* y, const xk_parallel* parallel) {
  return guarded([&] {
    levels::convolve(shape, x, weights, weights_bytes, {scale, bias, y, nullptr}, parallel);
  });
}

int32_t xk_sign_conv_transposed(const xk_conv_shape* shape, const xk_interleave* places, const float* x,
                                const void* weights, size_t weights_bytes, const float* scale, const float* bias,
                                float* y, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"places", places}});
    levels::convolve(shape, x, weights, weights_bytes, {scale, bias, y, places}, parallel);
  });
}
