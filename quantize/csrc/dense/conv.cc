// The input becomes numbers, [row][column][channel] with its padding, so that a row of a window is one run of bytes: no
// window is copied. A run that does not end at a step reads what stands behind it, by weights that are 0.
#include "dense/conv.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "conv/epilogue.h"
#include "error.h"
#include "parallel.h"

namespace xk::dense {

namespace {

constexpr int64_t kLargestProduct = 255 * 127;
constexpr int32_t kWeightZero = 128;
constexpr int kFloatBytes = sizeof(float);

// Runs of a window: its rows, or its taps where these are apart.
struct Runs {
  int64_t count, taps;  // taps of a run
  explicit Runs(const xk_conv_shape& s) : count(s.kernel_h), taps(s.kernel_w) {
    if (s.dilation_w > 1) count *= taps, taps = 1;
  }
};

int64_t steps_of(int64_t numbers, const Kernel& kernel) { return ceil_div(numbers * kernel.number_bytes, kStepBytes); }

// How a kernel orders the weights of a shape.
struct Order {
  Shape s;
  int64_t length, run_steps, steps;  // length: numbers of a run

  Order(const xk_conv_shape& options, const Kernel& kernel) : s(weight_shape(options)) {
    if (s.groups != 1) fail(XK_INVALID_ARGUMENT, "groups is %" PRId64 "; it must be 1", s.groups);
    if (kernel.number_bytes < kFloatBytes && s.filter_bits > std::numeric_limits<int32_t>::max() / kLargestProduct)
      fail(XK_INVALID_ARGUMENT, "a filter has %" PRId64 " weights; sums of 32 bits hold %" PRId64, s.filter_bits,
           std::numeric_limits<int32_t>::max() / kLargestProduct);
    const Runs runs(s);
    length = runs.taps * s.channels;
    run_steps = steps_of(length, kernel);
    steps = runs.count * run_steps;
    checked_product("the size of the weights", {s.blocks(), steps + 1, kLanes, kStepBytes});
  }
  int64_t filter_bytes() const { return s.blocks() * steps * kLanes * kStepBytes; }
  size_t bytes() const { return static_cast<size_t>(filter_bytes() + s.blocks() * kLanes * kStepBytes); }
  // Where number i of filter o lies, each of `bytes`.
  int64_t place(int64_t o, int64_t i, int bytes) const {
    const int64_t byte = i % length * bytes;
    const int64_t step = o / kLanes * steps + i / length * run_steps + byte / kStepBytes;
    return (step * kLanes + o % kLanes) * kStepBytes + byte % kStepBytes;
  }
};

// The products of a window, each by its place in [kernel_h][kernel_w][channels], in the order in which they are added.
std::vector<int64_t> sequence_of(const Shape& s, Sequence sequence) {
  std::vector<int64_t> products;
  products.reserve(static_cast<size_t>(s.filter_bits));
  for (int64_t i = 0; i < s.filter_bits; ++i)
    products.push_back(sequence == Sequence::kTaps ? i : i % s.taps * s.channels + i / s.taps);
  return products;
}

}  // namespace

size_t Weights::size(const xk_conv_shape& shape, const Kernel& kernel) { return Order(shape, kernel).bytes(); }

void Weights::order(const xk_conv_shape& shape, const uint8_t* numbers, int32_t zero, uint8_t* memory) {
  const int bytes = int8_kernel().number_bytes;
  const Order order(shape, int8_kernel());
  std::memset(memory, 0, order.bytes());
  for (int64_t o = 0; o < order.s.out_channels; ++o) {
    int32_t start = 0;
    for (int64_t i = 0; i < order.s.filter_bits; ++i) {
      const int32_t weight = numbers[o * order.s.filter_bits + i] - kWeightZero;
      const int16_t number = static_cast<int16_t>(weight);  // the low byte comes first wherever this runs
      std::memcpy(memory + order.place(o, i, bytes), &number, static_cast<size_t>(bytes));
      start -= zero * weight;
    }
    std::memcpy(memory + order.filter_bytes() + o * static_cast<int64_t>(sizeof start), &start, sizeof start);
  }
}

void Weights::order(const xk_conv_shape& shape, const float* values, Sequence sequence, uint8_t* memory) {
  const Order order(shape, float_kernel());
  const std::vector<int64_t> products = sequence_of(order.s, sequence);
  std::memset(memory, 0, order.bytes());
  for (int64_t o = 0; o < order.s.out_channels; ++o, values += order.s.filter_bits)
    for (int64_t step = 0; step < order.s.filter_bits; ++step)
      std::memcpy(memory + order.place(o, step, kFloatBytes), values + products[static_cast<size_t>(step)], kFloatBytes);
}

Weights::Weights(const xk_conv_shape& shape, const Kernel& kernel, const uint8_t* memory, Sequence sequence)
    : kernel_(kernel), sequence_(sequence), filters_(memory) {
  const Order order(shape, kernel);
  run_steps_ = order.run_steps, steps_ = order.steps;
  start_ = reinterpret_cast<const int32_t*>(memory + order.filter_bytes());
}

namespace {

// What numbers the floats of an input become, here of 8 bits.
struct ToLevels {
  Levels levels;
  uint32_t padding() const { return static_cast<uint32_t>(levels.zero); }
  uint32_t operator()(float x) const {
    const float low = static_cast<float>(-levels.zero), high = low + 255.0f;
    float value = x * levels.inverse;
    value = value > low ? value : low;  // a NaN is the lowest
    value = value < high ? value : high;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its sums with less than 2^22 have no fractions
    return static_cast<uint32_t>(static_cast<int32_t>((value + kRound) - kRound) + levels.zero);
  }
};

// Floats: the bits of them.
struct ToFloats {
  uint32_t padding() const { return 0; }
  uint32_t operator()(float x) const {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
};

// The numbers of an input, and the sums of its windows.
class Windows {
 public:
  Windows(const Shape& shape, const Weights& weights)
      : s_(shape),
        weights_(weights),
        rows_(s_.height + s_.pad_top + s_.pad_bottom),
        row_numbers_((s_.width + s_.pad_left + s_.pad_right) * s_.channels),
        row_bytes_(row_numbers_ * weights.kernel().number_bytes),
        numbers_(new uint8_t[static_cast<size_t>(s_.batch * rows_ * row_bytes_ + kStepBytes)]) {
    std::memset(numbers_.get() + s_.batch * rows_ * row_bytes_, 0, kStepBytes);
    make_offsets();
  }

  template <class To>
  void fill(const float* input, const To& to, const xk_parallel* parallel) {
    parallel_for(parallel, s_.batch * rows_, [&](int64_t index) {
      uint8_t* const row = numbers_.get() + index * row_bytes_;
      switch (weights_.kernel().number_bytes) {
        case 1: return fill_row(input, index, to, row);
        case 2: return fill_row(input, index, to, reinterpret_cast<int16_t*>(row));
        default: return fill_row(input, index, to, reinterpret_cast<uint32_t*>(row));
      }
    });
  }

  // Sums of one or two blocks of filters, [block][kChunkPixels][kLanes].
  void sum(int64_t image, int64_t block, int blocks, const Chunk& chunk, int32_t* sums) const {
    const int64_t pixel_bytes = s_.stride_w * s_.channels * weights_.kernel().number_bytes;
    Tile t{};
    t.pixel_bytes = pixel_bytes;
    t.offsets = offsets_.data(), t.steps = weights_.steps();
    t.weights = weights_.filters(block), t.start = weights_.start(block), t.blocks = blocks;
    t.sums = sums, t.sums_pitch = kChunkPixels;
    for (int64_t row = chunk.row; row < chunk.row + chunk.rows; ++row) {
      const uint8_t* input = numbers_.get() + (image * rows_ + row * s_.stride_h) * row_bytes_;
      for (int64_t column = chunk.column; column < chunk.column + chunk.columns; column += t.pixels) {
        t.pixels = static_cast<int>(std::min<int64_t>(kTilePixels, chunk.column + chunk.columns - column));
        t.input = input + column * pixel_bytes;
        weights_.kernel().sum(t);
        t.sums += t.pixels * kLanes;
      }
    }
  }

 private:
  void make_offsets() {
    const Runs runs(s_);
    const int64_t runs_a_row = runs.count / s_.kernel_h;
    offsets_.reserve(static_cast<size_t>(weights_.steps()));
    const int64_t tap_bytes = s_.dilation_w * s_.channels * weights_.kernel().number_bytes;
    for (int64_t run = 0; run < runs.count; ++run)
      for (int64_t i = 0; i < weights_.run_steps(); ++i)
        offsets_.push_back(run / runs_a_row * s_.dilation_h * row_bytes_ + run % runs_a_row * tap_bytes +
                           i * kStepBytes);
    if (weights_.sequence() == Sequence::kTaps) return;
    const std::vector<int64_t> taps = offsets_;  // of floats: a step each
    const std::vector<int64_t> products = sequence_of(s_, weights_.sequence());
    for (size_t step = 0; step < taps.size(); ++step) offsets_[step] = taps[static_cast<size_t>(products[step])];
  }

  // A row of an image, padding and all.
  template <class Number, class To>
  void fill_row(const float* input, int64_t index, const To& to, Number* row) const {
    const int64_t image = index / rows_, y = index % rows_ - s_.pad_top, plane = s_.height * s_.width;
    std::fill_n(row, row_numbers_, static_cast<Number>(to.padding()));
    if (y < 0 || y >= s_.height) return;
    const float* from = input + image * s_.channels * plane + y * s_.width;
    row += s_.pad_left * s_.channels;
    if (plane == 1) {  // rows of a linear layer
      for (int64_t c = 0; c < s_.channels; ++c) row[c] = static_cast<Number>(to(from[c]));
      return;
    }
    constexpr int kTogether = kStepBytes / sizeof(Number);
    for (int64_t x = 0; x < s_.width; x += kPart, from += kPart, row += kPart * s_.channels) {
      const int64_t count = std::min(kPart, s_.width - x);
      int64_t c = 0;
      for (; c + kTogether <= s_.channels; c += kTogether)
        fill_part<kTogether>(from + c * plane, plane, count, to, row + c);
      for (; c < s_.channels; ++c) fill_part<1>(from + c * plane, plane, count, to, row + c);
    }
  }

  // So many pixels get all their channels before the next: the lines that they lie in, which may belong to few sets of the
  // first cache, stay there.
  static constexpr int64_t kPart = kPiecePixels;

  // Pixels of `kTogether` channels, whose numbers are written in one piece.
  template <int kTogether, class Number, class To>
  void fill_part(const float* from, int64_t plane, int64_t count, const To& to, Number* row) const {
    constexpr int kBits = 8 * sizeof(Number);
    uint32_t pieces[kPart];
    if constexpr (std::is_same_v<To, ToLevels> && sizeof(Number) == 1 && kTogether == 4) {
      weights_.kernel().four_numbers(from, plane, count, to.levels, pieces);
    } else {
      for (int64_t x = 0; x < count; ++x) pieces[x] = to(from[x]);
      for (int c = 1; c < kTogether; ++c)
        for (int64_t x = 0; x < count; ++x) pieces[x] |= to(from[c * plane + x]) << (kBits * c % 32);
    }
    for (int64_t x = 0; x < count; ++x)
      std::memcpy(row + x * s_.channels, &pieces[x], kTogether * sizeof(Number));
  }

  const Shape& s_;
  const Weights& weights_;
  const int64_t rows_, row_numbers_, row_bytes_;  // of a padded image
  const std::unique_ptr<uint8_t[]> numbers_;
  std::vector<int64_t> offsets_;
};

// The same with the pixels in one row, where windows are pixels.
xk_conv_shape flattened(xk_conv_shape s) {
  const bool pixels = s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 &&
                      !(s.pad_top || s.pad_left || s.pad_bottom || s.pad_right);
  if (pixels) s.width = checked_product("the size of the input", {s.height, s.width}), s.height = 1;
  return s;
}

template <class To>
void compute(const xk_conv_shape& options, const float* input, const To& to, const Weights& weights,
             const xk_epilogue& epilogue, const xk_output& output, const xk_parallel* parallel) {
  ConvCall call{};
  call.shape = full_shape(flattened(options));
  checked_product("the size of the padded input", {options.batch, options.height + options.pad_top + options.pad_bottom,
                                                   options.width + options.pad_left + options.pad_right,
                                                   options.channels, kMostBytes});
  const Shape s = call.shape;
  call.floats = weights.kernel().number_bytes == kFloatBytes;
  if (!call.floats) call.shape.filter_bits *= kLargestProduct;  // the largest sum, as the epilogue has it
  call.kernel = &kKernels[choose_kernel(nullptr, s)];
  call.epilogue = epilogue, call.output = output, call.parallel = parallel;
  if (call.output.shuffle == 0) call.output.shuffle = 1;
  Windows windows(s, weights);
  windows.fill(input, to, parallel);
  const Epilogues epilogues(call);
  const auto task = [&](int64_t image, const Chunk& chunk, int64_t begin, int64_t end) {
    alignas(64) int32_t sums[kTileBlocks * kChunkPixels * kLanes];
    for (int64_t block = begin; block < end; block += kTileBlocks) {
      const int blocks = static_cast<int>(std::min<int64_t>(kTileBlocks, end - block));
      windows.sum(image, block, blocks, chunk, sums);
      for (int b = 0; b < blocks; ++b)
        epilogues.store_block(image, block + b, chunk, sums + b * kChunkPixels * kLanes);
    }
  };
  epilogues.for_each_chunk(Chunks(s, kChunkPixels, s.out_width), s.blocks(), task, kTileBlocks);
}

}  // namespace

void conv(const xk_conv_shape& shape, const float* input, const Levels& levels, const Weights& weights,
          const xk_epilogue& epilogue, const xk_output& output, const xk_parallel* parallel) {
  compute(shape, input, ToLevels{levels}, weights, epilogue, output, parallel);
}

void conv(const xk_conv_shape& shape, const float* input, const Weights& weights, const xk_epilogue& epilogue,
          const xk_output& output, const xk_parallel* parallel) {
  compute(shape, input, ToFloats{}, weights, epilogue, output, parallel);
}

}  // namespace xk::dense
