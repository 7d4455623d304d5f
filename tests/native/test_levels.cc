// Layers of a few bits, plane by plane, against sums written out in loops over 64-bit integers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "api.h"
#include "levels/layer.h"
#include "levels/volume.h"
#include "testing.h"

namespace {

using namespace xk::levels;

// Floats on, between and outside the bounds of levels, and some that are no numbers.
std::vector<float> floats(int64_t count, std::mt19937& random) {
  constexpr float kOdd[] = {NAN, INFINITY, -INFINITY, -0.0f, std::numeric_limits<float>::denorm_min(), 0.5f, 1.0f};
  std::vector<float> x;
  for (int64_t i = 0; i < count; ++i)
    x.push_back(random() % 20 ? static_cast<float>(static_cast<int>(random() % 1000) - 200) / 600 : kOdd[random() % 7]);
  return x;
}

// The number that a float is, or its sign.
int64_t number(const Input& input, float x) {
  if (!input.bits) return x >= 0 ? 1 : -1;
  return static_cast<int64_t>(std::nearbyint((x > 0 ? std::min(x, 1.0f) : 0.0f) * static_cast<float>(input.largest())));
}

// Whether bit i of a number is set; that of a sign is whether it is positive.
bool bit_of(const Input& input, float x, int i) {
  return input.bits ? number(input, x) >> i & 1 : number(input, x) > 0;
}

void check_planes(const Input& input, int64_t batch, int64_t channels, int64_t pixels, const std::string& kernel) {
  std::mt19937 random(static_cast<uint32_t>(channels * 1000 + pixels));
  const std::vector<float> x = floats(batch * channels * pixels, random);
  const int64_t words = (channels + 63) / 64, planes = input.planes();
  std::vector<uint64_t> images(static_cast<size_t>(batch * planes * pixels * words), 0xdeadbeef), rows = images;
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  pack_images(input, x.data(), batch, channels, pixels, images.data(), &parallel);
  pack_rows(input, x.data(), batch * pixels, channels, rows.data(), nullptr);
  size_t wrong_images = 0, wrong_rows = 0;
  for (int64_t n = 0; n < batch; ++n)
    for (int i = 0; i < planes; ++i)
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < words * 64; ++c) {
          const auto bit = [&](const std::vector<uint64_t>& all, int64_t at) {
            return (all[static_cast<size_t>(at * words + c / 64)] >> (c % 64) & 1) != 0;
          };
          const auto expected = [&](int64_t at) { return c < channels && bit_of(input, x[static_cast<size_t>(at)], i); };
          wrong_images += bit(images, (n * planes + i) * pixels + p) != expected((n * channels + c) * pixels + p);
          wrong_rows += bit(rows, i * batch * pixels + n * pixels + p) != expected((n * pixels + p) * channels + c);
        }
  const std::string name = kernel + " " + std::to_string(input.bits) + " bits of " + std::to_string(channels) +
                           " channels, " + std::to_string(pixels) + " pixels";
  check(!wrong_images, name + ": images");
  check(!wrong_rows, name + ": rows");
}

// One direction of a layer.
struct Side {
  int64_t size, kernel, stride, dilation, before, after, output_padding = 0;

  int64_t outputs(bool transposed) const {
    if (transposed) return (size - 1) * stride + kernel + output_padding - before - after;
    return (size + before + after - dilation * (kernel - 1) - 1) / stride + 1;
  }
  // The input that an output has of a tap; -1 where there is none.
  int64_t input(bool transposed, int64_t output, int64_t tap) const {
    const int64_t at = transposed ? output + before - tap : output * stride - before + tap * dilation;
    if (!transposed) return at < 0 || at >= size ? -1 : at;
    return at < 0 || at % stride || at / stride >= size ? -1 : at / stride;
  }
};

struct Layer {
  bool transposed;
  int64_t batch, channels, outputs, groups;  // channels of a group
  Side rows, columns, depths{1, 1, 1, 1, 0, 0};

  // Of the input and of the output, depth by height by width.
  Volume::Size size() const { return {depths.size, rows.size, columns.size}; }
  Volume::Size out_size() const {
    return {depths.outputs(transposed), rows.outputs(transposed), columns.outputs(transposed)};
  }
  int64_t filter_bits() const { return depths.kernel * rows.kernel * columns.kernel * channels; }
};

int64_t product(const Volume::Size& size) { return size[0] * size[1] * size[2]; }

// A layer with a random weight and input, and what it computes. Scales are powers of 2, so that all of it is exact.
class LevelProblem {
 public:
  LevelProblem(const Layer& layer, int weight_bits, const Input& input, uint32_t seed)
      : layer_(layer), input_(input), weight_bits_(weight_bits) {
    std::mt19937 random(seed);
    const int64_t filter = layer.filter_bits(), bytes = (filter + 7) / 8;
    weights_.resize(static_cast<size_t>(layer.outputs * filter));
    dense_.resize(static_cast<size_t>(weight_bits * layer.outputs * bytes));
    for (int j = 0; j < weight_bits; ++j)
      for (int64_t o = 0; o < layer.outputs; ++o)
        for (int64_t i = 0; i < filter; ++i) {
          const bool bit = random() & 1;
          weights_[static_cast<size_t>(o * filter + i)] += bit ? 1 << j : -(1 << j);
          dense_[static_cast<size_t>((j * layer.outputs + o) * bytes + i / 8)] |= static_cast<uint8_t>(bit << i % 8);
        }
    for (int64_t o = 0; o < layer.outputs; ++o) {
      end_.scale.push_back(o % 2 ? -0.5f : 2.0f);
      end_.bias.push_back(static_cast<float>(o % 5) - 1.5f);
    }
    x_ = floats(layer.batch * layer.groups * layer.channels * product(layer.size()), random);
  }

  Weight weight() const {
    const int64_t rows = layer_.depths.kernel * layer_.rows.kernel;
    return {dense_.data(), weight_bits_, layer_.outputs, layer_.groups, rows, layer_.columns.kernel, layer_.channels};
  }

  Conv conv() const {
    const Side &r = layer_.rows, &c = layer_.columns;
    if (!layer_.transposed) return {input_, weight(), window(), end_};
    return {input_, weight(), TransposedAxis{"height", r.kernel, r.stride, r.before, r.after, r.output_padding},
            TransposedAxis{"width", c.kernel, c.stride, c.before, c.after, c.output_padding}, end_};
  }

  Volume volume() const {
    const Side& d = layer_.depths;
    return {input_, weight(), {"depth", 0, d.kernel, d.stride, d.dilation, d.before, d.after}, window(), end_};
  }

  std::vector<float> expected(float divisor = 1) const {
    const Volume::Size out = layer_.out_size();
    std::vector<float> y;
    for (int64_t n = 0; n < layer_.batch; ++n)
      for (int64_t o = 0; o < layer_.outputs; ++o)
        for (int64_t depth = 0; depth < out[0]; ++depth)
          for (int64_t row = 0; row < out[1]; ++row)
            for (int64_t column = 0; column < out[2]; ++column) {
              const size_t at = static_cast<size_t>(o);
              const float sum = static_cast<float>(this->sum(n, o, {depth, row, column}));
              y.push_back(sum / divisor * end_.scale[at] + end_.bias[at]);
            }
    return y;
  }

  // What a convolution of this machine writes.
  std::vector<float> found(const xk_parallel* parallel) const {
    const Conv convolution = conv();
    const Conv::Size out = convolution.output_size({layer_.rows.size, layer_.columns.size});
    std::vector<float> y(static_cast<size_t>(layer_.batch * layer_.outputs * out[0] * out[1]), NAN);
    convolution.compute(x_.data(), layer_.batch, {layer_.rows.size, layer_.columns.size}, y.data(), parallel);
    return y;
  }

  // The same of one of volumes.
  std::vector<float> found_of_volumes(const xk_parallel* parallel) const {
    const Volume convolution = volume();
    const int64_t count = layer_.batch * layer_.outputs * product(convolution.output_size(layer_.size()));
    std::vector<float> y(static_cast<size_t>(count), NAN);
    convolution.compute(x_.data(), layer_.batch, layer_.size(), y.data(), parallel);
    return y;
  }

  // The same of a linear layer, whose rows are the images.
  std::vector<float> found_of_rows(const xk_parallel* parallel) const {
    std::vector<float> y(static_cast<size_t>(layer_.batch * layer_.outputs), NAN);
    Linear(input_, weight(), end_).compute(x_.data(), layer_.batch, y.data(), parallel);
    return y;
  }

  // What xk_level_conv or xk_level_linear writes.
  std::vector<float> found_by_function(bool rows, float divisor, const xk_parallel* parallel) const {
    xk_conv_shape shape = window();
    shape.batch = layer_.batch, shape.channels = layer_.groups * layer_.channels, shape.out_channels = layer_.outputs;
    shape.height = layer_.rows.size, shape.width = layer_.columns.size, shape.groups = layer_.groups;
    const std::vector<char> weights = weights_of_planes(shape);
    const std::vector<int32_t> totals = totals_before();
    const xk_level_layer layer{input_.bits, weight_bits_, weights.data(), weights.size(), totals.data(), divisor,
                               end_.scale.data(), layer_.outputs, end_.bias.data()};
    const Volume::Size out = layer_.out_size();
    std::vector<float> y(static_cast<size_t>(layer_.batch * layer_.outputs * product(out)), NAN);
    if (rows) xk::check_call(xk_level_linear(layer_.batch, shape.channels, layer_.outputs, &layer, x_.data(), y.data(), parallel));
    else xk::check_call(xk_level_conv(&shape, &layer, x_.data(), y.data(), parallel));
    return y;
  }

 private:
  // The bits of all planes as filters, plane by plane inside a group, for the kernel of this machine.
  std::vector<char> weights_of_planes(xk_conv_shape shape) const {
    const int64_t bytes = (layer_.filter_bits() + 7) / 8, a_group = layer_.outputs / layer_.groups;
    std::vector<uint8_t> dense;
    for (int64_t group = 0; group < layer_.groups; ++group)
      for (int j = 0; j < weight_bits_; ++j) {
        const auto from = dense_.begin() + (j * layer_.outputs + group * a_group) * bytes;
        dense.insert(dense.end(), from, from + a_group * bytes);
      }
    shape.batch = shape.height = shape.width = 0, shape.out_channels *= weight_bits_;
    size_t count = 0;
    xk::check_call(xk_weights_size(&shape, nullptr, &count));
    std::vector<char> weights(count);
    xk::check_call(xk_weights_pack(&shape, nullptr, dense.data(), dense.size(), weights.data(), count));
    return weights;
  }

  std::vector<int32_t> totals_before() const {
    const int64_t height = layer_.rows.kernel, width = layer_.columns.kernel;
    std::vector<int32_t> totals;
    for (int64_t o = 0; o < layer_.outputs; ++o)
      for (int64_t below = 0; below <= height; ++below)
        for (int64_t right = 0; right <= width; ++right) {
          int64_t total = 0;
          for (int64_t i = 0; i < below; ++i)
            for (int64_t j = 0; j < right; ++j)
              for (int64_t c = 0; c < layer_.channels; ++c)
                total += weights_[static_cast<size_t>(((o * height + i) * width + j) * layer_.channels + c)];
          totals.push_back(static_cast<int32_t>(total));
        }
    return totals;
  }

  xk_conv_shape window() const {
    const Side &r = layer_.rows, &c = layer_.columns;
    xk_conv_shape window{};
    window.kernel_h = r.kernel, window.kernel_w = c.kernel, window.stride_h = r.stride, window.stride_w = c.stride;
    window.dilation_h = r.dilation, window.dilation_w = c.dilation;
    window.pad_top = r.before, window.pad_bottom = r.after, window.pad_left = c.before, window.pad_right = c.after;
    return window;
  }

  int64_t sum(int64_t n, int64_t o, const Volume::Size& place) const {
    const Layer& l = layer_;
    const int64_t first = o / (l.outputs / l.groups) * l.channels;
    int64_t total = 0;
    for (int64_t k = 0; k < l.depths.kernel; ++k)
      for (int64_t i = 0; i < l.rows.kernel; ++i)
        for (int64_t j = 0; j < l.columns.kernel; ++j) {
          const int64_t z = l.depths.input(l.transposed, place[0], k), y = l.rows.input(l.transposed, place[1], i),
                        x = l.columns.input(l.transposed, place[2], j);
          if (z < 0 || y < 0 || x < 0) continue;
          for (int64_t c = 0; c < l.channels; ++c) {
            const int64_t image = n * l.groups * l.channels + first + c;
            const int64_t at = ((image * l.depths.size + z) * l.rows.size + y) * l.columns.size + x;
            const int64_t tap = (((o * l.depths.kernel + k) * l.rows.kernel + i) * l.columns.kernel + j) * l.channels + c;
            total += weights_[static_cast<size_t>(tap)] * number(input_, x_[static_cast<size_t>(at)]);
          }
        }
    return total;
  }

  Layer layer_;
  Input input_;
  int weight_bits_;
  std::vector<int64_t> weights_;  // [outputs][kernel_d][kernel_h][kernel_w][channels]
  std::vector<uint8_t> dense_;
  ScaleBias end_;
  std::vector<float> x_;
};

std::string name_of(const Layer& l, int weight_bits, const Input& input) {
  return std::string(l.transposed ? "transposed " : "") + std::to_string(l.groups) + " times " +
         std::to_string(l.channels) + " channels, " + std::to_string(l.outputs) + " outputs, kernel " +
         std::to_string(l.depths.kernel) + "x" + std::to_string(l.rows.kernel) + "x" + std::to_string(l.columns.kernel) + ", " + std::to_string(weight_bits) +
         " bits a weight, " + std::to_string(input.bits) + " an input";
}

void check_layer(const Layer& layer, int weight_bits, const Input& input, uint32_t seed) {
  const LevelProblem problem(layer, weight_bits, input, seed);
  constexpr float kDivisor = 7;
  const std::vector<float> expected = problem.expected(), divided = problem.expected(kDivisor);
  const bool is_image = layer.depths.size == 1 && layer.depths.kernel == 1, is_volume = !layer.transposed;
  const bool is_row = is_volume && layer.groups == 1 && product(layer.size()) == 1;
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  with_each_kernel([&](const std::string& kernel) {
    const std::string name = kernel + " " + name_of(layer, weight_bits, input);
    for (const xk_parallel* run : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
      if (is_image) check(problem.found(run) == expected, name);
      if (is_volume) check(problem.found_of_volumes(run) == expected, name + ", of volumes");
      if (is_row) check(problem.found_of_rows(run) == expected, name + ", linear");
      if (is_image && is_volume) check(problem.found_by_function(false, kDivisor, run) == divided, name + ", xk_level_conv");
      if (is_row) check(problem.found_by_function(true, kDivisor, run) == divided, name + ", xk_level_linear");
    }
  });
}

// Layers of so many channels a group: borders, strides, dilations, groups, gaps between outputs.
std::vector<Layer> layers(int64_t channels) {
  return {
      {false, 3, channels, 19, 1, {1, 1, 1, 1, 0, 0}, {1, 1, 1, 1, 0, 0}},
      {false, 1, channels, 9, 1, {4, 3, 1, 1, 1, 1}, {5, 3, 1, 1, 1, 1}},
      {false, 2, channels, 6, 3, {6, 3, 2, 1, 2, 0}, {5, 2, 1, 2, 0, 3}},
      {false, 1, channels, 2, 1, {1, 2, 3, 1, 4, 4}, {2, 2, 3, 1, 4, 4}},  // windows that only see padding
      {true, 1, channels, 6, 2, {3, 4, 2, 1, 1, 1}, {2, 4, 2, 1, 1, 1}},
      {true, 2, channels, 3, 1, {2, 3, 2, 1, 0, 2, 1}, {3, 2, 3, 1, 1, 0, 2}},  // with outputs that no tap reaches
      {true, 1, channels, 2, 1, {6, 2, 1, 1, 3, 2}, {7, 2, 2, 1, 4, 3}},        // results that the padding hides
      {false, 2, channels, 3, 1, {4, 3, 1, 1, 1, 1}, {3, 2, 1, 1, 0, 1}, {4, 3, 1, 1, 1, 1}},
      {false, 1, channels, 4, 2, {3, 2, 2, 1, 0, 0}, {4, 1, 1, 1, 0, 0}, {7, 3, 2, 1, 0, 2}},
      {false, 1, channels, 2, 1, {3, 1, 1, 1, 0, 0}, {2, 2, 1, 1, 1, 0}, {5, 2, 3, 2, 4, 5}},  // slices between the taps
  };
}

// What the bits of some taps of a filter add up to, in `rows` and `columns`.
void check_totals(const std::vector<int64_t>& rows, const std::vector<int64_t>& columns, int64_t groups) {
  constexpr int kBits = 3;
  constexpr int64_t kOutputs = 6, kHeight = 4, kWidth = 3, kChannels = 67, kFilter = kHeight * kWidth * kChannels;
  std::mt19937 random(5);
  std::vector<uint8_t> dense(static_cast<size_t>(kBits * kOutputs * ((kFilter + 7) / 8)));
  for (uint8_t& byte : dense) byte = static_cast<uint8_t>(random());
  const Weight weight{dense.data(), kBits, kOutputs, groups, kHeight, kWidth, kChannels};
  xk_conv_shape window{};
  window.stride_h = window.stride_w = window.dilation_h = window.dilation_w = 1;
  const Filters filters(weight, rows, columns, window);
  const auto value = [&](int64_t o, int64_t y, int64_t x, int64_t c) {
    int64_t sum = 0;
    for (int j = 0; j < kBits; ++j) {
      const int64_t bit = (y * kWidth + x) * kChannels + c;
      const uint8_t byte = dense[static_cast<size_t>((j * kOutputs + o) * weight.filter_bytes() + bit / 8)];
      sum += (byte >> (bit % 8) & 1 ? 1 : -1) * (int64_t{1} << j);
    }
    return sum;
  };
  size_t wrong = 0;
  const int64_t height = static_cast<int64_t>(rows.size()), width = static_cast<int64_t>(columns.size());
  for (int64_t o = 0; o < kOutputs; ++o)
    for (int64_t top = 0; top <= height; ++top)
      for (int64_t bottom = top; bottom <= height; ++bottom)
        for (int64_t left = 0; left <= width; ++left)
          for (int64_t right = left; right <= width; ++right) {
            int64_t sum = 0;
            for (int64_t r = top; r < bottom; ++r)
              for (int64_t k = left; k < right; ++k)
                for (int64_t c = 0; c < kChannels; ++c)
                  sum += value(o, rows[static_cast<size_t>(r)], columns[static_cast<size_t>(k)], c);
            wrong += filters.total(o, {0, 1, top, bottom}, {0, 1, left, right}) != sum;
          }
  check(!wrong, "totals of " + std::to_string(height) + "x" + std::to_string(width) + " taps");
  std::vector<int64_t> places;
  for (int64_t o = 0; o < kOutputs; ++o)
    for (int j = 0; j < kBits; ++j) {
      places.push_back(filters.place(o, j));
      check(places.back() / (kBits * kOutputs / groups) == o / (kOutputs / groups), "a plane is in its group");
    }
  std::sort(places.begin(), places.end());
  for (size_t i = 0; i < places.size(); ++i) check(places[i] == static_cast<int64_t>(i), "each plane has a place");
}

// What the functions of the library refuse.
void check_bad_functions() {
  constexpr int64_t kInputs = 9, kOutputs = 2;
  const std::vector<float> x(kInputs), scale(3, 1.0f);
  const std::vector<int32_t> totals(4 * kOutputs);
  std::vector<float> y(kOutputs);
  std::vector<char> weights(64);
  const xk_level_layer good{2, 1, weights.data(), weights.size(), totals.data(), 3, nullptr, 0, nullptr};
  const auto called = [&](const xk_level_layer& layer) {
    return xk_level_linear(1, kInputs, kOutputs, &layer, x.data(), y.data(), nullptr);
  };
  xk_level_layer bad = good;
  fails(called(bad), "weights");  // not those of a kernel
  bad.input_bits = 5;
  fails(called(bad), "input_bits is 5; it must be 0 to 4");
  bad = good, bad.weight_bits = 0;
  fails(called(bad), "weight_bits is 0; it must be 1 to 4");
  bad = good, bad.totals = nullptr;
  fails(called(bad), "totals is NULL");
  bad = good, bad.weights = nullptr;
  fails(called(bad), "weights is NULL");
  bad = good, bad.scale = scale.data(), bad.scales = 3;
  fails(called(bad), "there are 3 scales of 2 outputs");
  fails(xk_level_linear(0, kInputs, kOutputs, &good, x.data(), y.data(), nullptr), "width is 0");
  fails(xk_level_linear(1, kInputs, kOutputs, nullptr, x.data(), y.data(), nullptr), "layer is NULL");
  fails(xk_level_conv(nullptr, &good, x.data(), y.data(), nullptr), "shape is NULL");
}

}  // namespace

void test_level_planes() {
  with_each_kernel([](const std::string& kernel) {
    for (int bits = 0; bits <= kMostBits; ++bits) {
      for (int64_t channels : {1, 7, 8, 63, 64, 65, 127, 128, 129}) check_planes({bits}, 2, channels, 5, kernel);
      check_planes({bits}, 1, 9, 256, kernel);  // as many as are made together
      check_planes({bits}, 2, 300, 259, kernel);
    }
  });
}

void test_level_filters() {
  check_totals({0, 1, 2, 3}, {0, 1, 2}, 1);
  check_totals({2, 0}, {1}, 3);
  check_totals({3}, {2, 1, 0}, 2);
}

void test_level_layers() {
  uint32_t seed = 1;
  for (int weight_bits = 1; weight_bits <= kMostBits; ++weight_bits)
    for (int bits = 0; bits <= kMostBits; ++bits)
      for (const Layer& layer : layers(10)) check_layer(layer, weight_bits, {bits}, seed++);
  for (int64_t channels : {1, 63, 64, 65, 127, 128, 129})
    for (int bits : {0, 2})
      for (const Layer& layer : layers(channels)) check_layer(layer, 2, {bits}, seed++);
  const Layer wide{false, 1, 3, 2, 1, {40, 3, 1, 1, 1, 1}, {37, 3, 1, 1, 1, 1}};  // more than are added up together
  check_layer(wide, 1, {2}, seed);
  check_layer({false, 5, 70, 1100, 1, {1, 1, 1, 1, 0, 0}, {1, 1, 1, 1, 0, 0}}, 1, {2}, seed);
}

void test_bad_levels() {
  const Layer layer{false, 1, 3, 4, 1, {4, 3, 1, 1, 0, 0}, {4, 3, 1, 1, 0, 0}};
  const LevelProblem problem(layer, 2, {2}, 1);
  const auto output_of = [](const Conv& conv, int64_t height, int64_t width) {
    return xk::guarded([&] { conv.output_size({height, width}); });
  };
  check(output_of(problem.conv(), 3, 3) == XK_OK, "an input of the kernel's size");
  fails(output_of(problem.conv(), 2, 3), "less than the 3 that the dilated kernel spans");
  fails(output_of(problem.conv(), int64_t{1} << 29, int64_t{1} << 29), "the size of the");
  const LevelProblem up({true, 1, 3, 4, 1, {4, 2, 2, 1, 3, 3}, {4, 2, 2, 1, 3, 3}}, 1, {1}, 1);
  check(output_of(up.conv(), 4, 4) == XK_OK, "an input of more than the padding");
  fails(output_of(up.conv(), 4, 3), "the width of the output is 6 less a padding of 6; nothing is left");
  const Layer deep{false, 1, 3, 4, 1, {4, 3, 1, 1, 0, 0}, {4, 3, 1, 1, 0, 0}, {5, 3, 2, 2, 0, 0}};
  const LevelProblem deep_problem(deep, 1, {2}, 1);
  const auto output_of_volume = [&](int64_t depth, int64_t height) {
    return xk::guarded([&] { deep_problem.volume().output_size({depth, height, 4}); });
  };
  check(output_of_volume(5, 4) == XK_OK, "a volume of the kernel's size");
  fails(output_of_volume(4, 4), "the padded input depth is 4, less than the 5 that the dilated kernel spans");
  fails(output_of_volume(5, 2), "the padded input height is 2");
  Layer bad = deep;
  const auto made = [&] { return xk::guarded([&] { LevelProblem(bad, 1, {2}, 1).volume(); }); };
  bad.depths.stride = 0;
  fails(made(), "stride_d is 0");
  bad = deep, bad.depths.dilation = 0;
  fails(made(), "dilation_d is 0");
  bad = deep, bad.depths.before = -1;
  fails(made(), "pad_front is -1");
  bad = deep, bad.depths.after = -1;
  fails(made(), "pad_back is -1");
  bad = deep, bad.depths.dilation = int64_t{1} << (sizeof(size_t) > 4 ? 40 : 30);
  fails(made(), "dilation_d * kernel_d is over");
  Weight weight = problem.weight();
  weight.kernel_h = weight.kernel_w = 1, weight.channels = int64_t{1} << 28;
  fails(xk::guarded([&] { check_sums(weight, {2}); }), "sums of their products do not fit in 32 bits");
  weight.channels = 1 << 20;
  check(xk::guarded([&] { check_sums(weight, {2}); }) == XK_OK, "sums that fit in 32 bits");
  check_bad_functions();
}
