// Max pooling of bits against the maximum of floats, written out in loops.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>

#include "testing.h"

namespace {

std::string name_of(const xk_pool_shape& s) {
  char text[256];
  std::snprintf(text, sizeof text,
                "pool n%" PRId64 " %" PRId64 " %" PRId64 "x%" PRId64 " k%" PRId64 "x%" PRId64 " s%" PRId64 " p%" PRId64
                " d%" PRId64, s.batch, s.channels, s.height, s.width, s.kernel_h, s.kernel_w, s.stride_h, s.pad_top,
                s.dilation_h);
  return text;
}

struct Input {
  std::vector<float> x, threshold;  // [n][c][h][w], [c]
  std::vector<uint8_t> flip;

  Input(int64_t images, int64_t channels, int64_t pixels, uint32_t seed) {
    std::mt19937 random(seed);
    x.resize(static_cast<size_t>(images * channels * pixels));
    for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 9) - 4);
    for (int64_t c = 0; c < channels; ++c) {
      threshold.push_back(static_cast<float>(static_cast<int>(random() % 5) - 2));
      flip.push_back(random() % 3 ? 0 : static_cast<uint8_t>(1 + random() % 255));
    }
  }
};

float maximum(const xk_pool_shape& s, const float* plane, int64_t oy, int64_t ox) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t ky = 0; ky < s.kernel_h; ++ky)
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t y = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
      const int64_t x = ox * s.stride_w - s.pad_left + kx * s.dilation_w;
      if (y >= 0 && y < s.height && x >= 0 && x < s.width) most = std::max(most, plane[y * s.width + x]);
    }
  return most;
}

std::vector<uint64_t> expected(const xk_pool_shape& s, const Input& input, bool flipped) {
  const int64_t words = (s.channels + 63) / 64;
  std::vector<uint64_t> bits(static_cast<size_t>(s.batch * s.out_height * s.out_width * words));
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t y = 0; y < s.out_height; ++y)
        for (int64_t x = 0; x < s.out_width; ++x) {
          const float most = maximum(s, input.x.data() + (n * s.channels + c) * s.height * s.width, y, x);
          const size_t i = static_cast<size_t>(c), at = static_cast<size_t>(((n * s.out_height + y) * s.out_width + x));
          const bool bit = flipped && input.flip[i] ? most <= input.threshold[i] : most >= input.threshold[i];
          bits[at * static_cast<size_t>(words) + i / 64] |= uint64_t{bit} << (i % 64);
        }
  return bits;
}

void check_pool(const xk_pool_shape& s, uint32_t seed) {
  const Input input(s.batch, s.channels, s.height * s.width, seed);
  size_t threads = 3;
  const xk_parallel parallel{threads_for, &threads};
  for (bool flipped : {false, true}) {
    const uint8_t* flip = flipped ? input.flip.data() : nullptr;
    const xk_binarize b{input.threshold.data(), flip};
    std::vector<uint64_t> bits(static_cast<size_t>(s.batch * s.height * s.width * ((s.channels + 63) / 64)));
    check(xk_pack(input.x.data(), XK_NCHW, s.batch, s.channels, s.height, s.width, &b, bits.data(), nullptr) == XK_OK,
          "xk_pack");
    const std::vector<uint64_t> wanted = expected(s, input, flipped);
    size_t words = 0;
    check(xk_max_pool_size(&s, &words) == XK_OK && words == wanted.size(), name_of(s) + " has a size");
    for (const xk_parallel* p : {static_cast<const xk_parallel*>(nullptr), &parallel}) {
      std::vector<uint64_t> output(wanted.size(), 0xfeed);
      check(xk_max_pool(&s, bits.data(), flip, output.data(), p) == XK_OK, name_of(s));
      check(output == wanted, name_of(s) + (flipped ? " flipped" : ""));
    }
  }
}

void check_maximum(const xk_pool_shape& s, uint32_t seed) {
  const Input input(s.batch, s.channels, s.height * s.width, seed);
  std::vector<float> wanted;
  for (int64_t plane = 0; plane < s.batch * s.channels; ++plane)
    for (int64_t oy = 0; oy < s.out_height; ++oy)
      for (int64_t ox = 0; ox < s.out_width; ++ox)
        wanted.push_back(maximum(s, input.x.data() + plane * s.height * s.width, oy, ox));
  size_t count = 3;
  const xk_parallel threads{threads_for, &count};
  for (const xk_parallel* p : {static_cast<const xk_parallel*>(nullptr), &threads}) {
    std::vector<float> output(wanted.size());
    check(xk_max_pool_float(&s, input.x.data(), output.data(), p) == XK_OK && output == wanted, "maxima " + name_of(s));
  }
}

const xk_pool_shape kGood{1, 64, 8, 8, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 4, 4};

}  // namespace

void test_max_pool() {
  uint32_t seed = 1;
  for (int64_t c : {1, 63, 64, 65, 192})
    for (const xk_pool_shape& s : {
             xk_pool_shape{2, c, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 4, 5},
             xk_pool_shape{1, c, 8, 7, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 4, 3},
             xk_pool_shape{1, c, 8, 7, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 4, 4},   // ceil_mode
             xk_pool_shape{3, c, 5, 6, 3, 2, 1, 3, 2, 1, 1, 0, 1, 1, 3, 2},   // dilation
             xk_pool_shape{1, c, 6, 6, 3, 3, 2, 2, 1, 1, 0, 1, 2, 0, 3, 3},   // uneven padding
             xk_pool_shape{2, c, 3, 4, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 3, 4},
             xk_pool_shape{1, c, 5, 5, 5, 5, 5, 5, 1, 1, 0, 0, 0, 0, 1, 1},   // all of it
             xk_pool_shape{1, c, 4, 5, 9, 9, 1, 1, 1, 1, 4, 4, 4, 4, 4, 5}})  // windows larger than the input
      check_pool(s, seed), check_maximum(s, seed++);
}

// Small whole numbers, whose sums are exact in any order.
void check_average(const xk_pool_shape& s, uint32_t seed) {
  const Input input(s.batch, s.channels, s.height * s.width, seed);
  const float area = static_cast<float>(s.kernel_h * s.kernel_w);
  std::vector<float> wanted;
  for (int64_t plane = 0; plane < s.batch * s.channels; ++plane)
    for (int64_t oy = 0; oy < s.out_height; ++oy)
      for (int64_t ox = 0; ox < s.out_width; ++ox) {
        float sum = 0;
        for (int64_t ky = 0; ky < s.kernel_h; ++ky)
          for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
            const int64_t y = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
            const int64_t x = ox * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
            sum += input.x[static_cast<size_t>((plane * s.height + y) * s.width + x)];
          }
        wanted.push_back(sum / area);
      }
  size_t count = 3;
  const xk_parallel threads{threads_for, &count};
  for (const xk_parallel* p : {static_cast<const xk_parallel*>(nullptr), &threads}) {
    std::vector<float> output(wanted.size());
    check(xk_average_pool(&s, input.x.data(), output.data(), p) == XK_OK && output == wanted, "average " + name_of(s));
  }
}

void test_average_pool() {
  uint32_t seed = 1;
  for (int64_t c : {1, 5})
    for (const xk_pool_shape& s : {
             xk_pool_shape{2, c, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 4, 5},
             xk_pool_shape{1, c, 8, 7, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 4, 3},
             xk_pool_shape{3, c, 5, 6, 3, 2, 1, 3, 2, 1, 1, 0, 1, 1, 3, 2},  // dilation
             xk_pool_shape{1, c, 6, 6, 3, 3, 1, 2, 1, 1, 0, 1, 2, 0, 6, 3},  // uneven padding
             xk_pool_shape{2, c, 3, 4, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 3, 4},
             xk_pool_shape{1, c, 4, 5, 9, 9, 1, 1, 1, 1, 4, 4, 4, 4, 4, 5}})  // windows larger than the input
      check_average(s, seed++);
}

void test_bad_pools() {
  uint64_t* const nowhere = reinterpret_cast<uint64_t*>(64);
  const int64_t huge = int64_t{1} << 39, most = std::numeric_limits<int64_t>::max();
  std::vector<xk_pool_shape> bad(24, kGood);
  bad[0].batch = 0, bad[1].channels = 0, bad[2].height = -1, bad[3].width = 0, bad[4].kernel_h = 0;
  bad[5].kernel_w = -1, bad[6].stride_h = 0, bad[7].stride_w = 0, bad[8].dilation_h = 0, bad[9].dilation_w = most;
  bad[10].pad_top = -1, bad[11].pad_left = -1, bad[12].pad_bottom = -1, bad[13].pad_right = -1;
  bad[14].out_height = 3, bad[15].out_width = 6, bad[16].out_height = 0, bad[17].out_width = most;
  bad[18].batch = bad[18].height = huge, bad[19].channels = most, bad[20].kernel_h = 12;
  bad[21].pad_top = 3, bad[21].out_height = 5;                           // the first window
  bad[22].pad_bottom = 5, bad[22].out_height = 6;                        // the last one
  bad[23].dilation_w = 9, bad[23].pad_left = 1, bad[23].pad_right = 18;  // taps on both sides of the input
  bad[23].stride_w = 1, bad[23].out_width = 9;
  for (size_t i = 0; i < bad.size(); ++i) {
    const std::string name = "bad pool " + std::to_string(i);
    check(xk_max_pool(&bad[i], nowhere, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, name);
    check(std::strlen(xk_last_error()) > 10, name + " says why");
    size_t words;
    check(xk_max_pool_size(&bad[i], &words) == XK_INVALID_ARGUMENT, name + " has no size");
  }
  float* const no_floats = reinterpret_cast<float*>(nowhere);
  for (size_t i = 0; i < bad.size(); ++i)
    check(xk_average_pool(&bad[i], no_floats, no_floats, nullptr) == XK_INVALID_ARGUMENT,
          "bad average " + std::to_string(i));
  const xk_pool_shape past{1, 4, 8, 7, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 4, 4};  // ceil_mode: right for a maximum
  check(xk_average_pool(&past, no_floats, no_floats, nullptr) == XK_INVALID_ARGUMENT, "a window past the padding");
  check(std::strstr(xk_last_error(), "the output width is 4"), "the error says which size it is");
  check(xk_average_pool(&kGood, nullptr, no_floats, nullptr) == XK_INVALID_ARGUMENT, "NULL input");
  const xk_parallel* const alone = nullptr;
  check(xk_max_pool(nullptr, nowhere, nullptr, nowhere, alone) == XK_INVALID_ARGUMENT, "NULL shape");
  check(xk_max_pool(&kGood, nullptr, nullptr, nowhere, alone) == XK_INVALID_ARGUMENT, "NULL bits");
  check(xk_max_pool(&kGood, nowhere, nullptr, nullptr, alone) == XK_INVALID_ARGUMENT, "NULL output");
  check(xk_max_pool_size(&kGood, nullptr) == XK_INVALID_ARGUMENT, "NULL words");
}
