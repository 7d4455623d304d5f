// Direct convolution over words, or halves of them: an output pixel reads those of its window where they are.
//
// Pixels that see the same taps form rectangles (the inside, the edges, the corners); a tile is a row or a
// column of up to kMaxTilePixels of them, so that padded taps cost nothing and need no third value.
#include <algorithm>
#include <vector>

#include "conv/conv.h"
#include "conv/epilogue.h"
#include "conv/plan.h"

namespace xk {

namespace {

void dot(const Microkernels& micro, const Tile<Word>& tile) { micro.dot_words(tile); }
void dot(const Microkernels& micro, const Tile<Half>& tile) { micro.dot_halves(tile); }

// Output pixels that see the same taps, and the runs of these in input and weights.
struct Rectangle {
  Band rows, columns;
  std::vector<Run> runs;
  int32_t terms;
};

template <class Unit>
class DirectConv {
 public:
  // The input is [pixel][units]; a group has `group_units` of the units of a pixel.
  DirectConv(const ConvCall& call, const Unit* input, int64_t group_units, bool chained)
      : call_(call),
        s_(call.shape),
        input_(input),
        group_units_(group_units),
        pixel_units_(s_.words * static_cast<int64_t>(sizeof(Word) / sizeof(Unit))),
        row_units_(s_.width * pixel_units_),
        chained_(chained) {
    const auto columns = bands(horizontal(s_), s_.out_width);
    for (const Band& r : bands(vertical(s_), s_.out_height))
      for (const Band& c : columns) {
        const int64_t terms = (r.last - r.first) * (c.last - c.first) * s_.group_channels;
        rectangles_.push_back({r, c, window_runs(r, c), static_cast<int32_t>(terms)});
      }
  }

  void chunk(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const {
    for (const Rectangle& rectangle : rectangles_) {
      const Band r = clip(rectangle.rows, chunk.row, chunk.rows);
      const Band c = clip(rectangle.columns, chunk.column, chunk.columns);
      if (r.begin < r.end && c.begin < c.end)
        tiles(image, block, r, c, rectangle, chunk.columns,
              dots + ((r.begin - chunk.row) * chunk.columns + c.begin - chunk.column) * kLanes);
    }
  }

 private:
  static Band clip(const Band& band, int64_t begin, int64_t size) {
    return {std::max(band.begin, begin), std::min(band.end, begin + size), band.first, band.last};
  }

  std::vector<Run> window_runs(const Band& r, const Band& c) const {
    // Taps side by side are one run where nothing lies between them.
    const bool together = !chained_ && s_.dilation_w == 1 && group_units_ == pixel_units_;
    const int64_t taps = together ? c.last - c.first : 1;
    std::vector<Run> runs;
    for (int64_t y = r.first; y < r.last; ++y)
      for (int64_t x = c.first; x < c.last; x += taps)
        runs.push_back({y * s_.dilation_h * row_units_ + x * s_.dilation_w * pixel_units_,
                        (y * s_.kernel_w + x) * group_units_, taps * group_units_});
    return runs;
  }

  // Computes the part of a rectangle that has the rows `r` and the columns `c`.
  void tiles(int64_t image, int64_t block, const Band& r, const Band& c, const Rectangle& rectangle, int64_t pitch,
             int32_t* dots) const {
    const int64_t down = s_.stride_h * row_units_, right = s_.stride_w * pixel_units_;
    const int64_t height = r.end - r.begin, width = c.end - c.begin;
    const int64_t origin = image * s_.height * row_units_ + r.begin * down - s_.pad_top * row_units_ +
                           c.begin * right - s_.pad_left * pixel_units_ + s_.group_of(block) * group_units_;
    // Tiles lie along the side that needs fewer of them.
    const bool by_row = height * ceil_div(width, kMaxTilePixels) <= width * ceil_div(height, kMaxTilePixels);
    const int64_t along = by_row ? 1 : pitch, across = by_row ? pitch : 1;
    Tile<Unit> t{};
    t.input = input_;
    t.input_stride = by_row ? right : down;
    t.input_step = 1;
    t.weights = static_cast<const Unit*>(call_.weights) + block * s_.taps * group_units_ * kLanes;
    t.runs = rectangle.runs.data();
    t.run_count = rectangle.runs.size();
    t.chained = chained_;
    t.terms = &rectangle.terms;
    t.dots_stride = along * kLanes;
    for (int64_t line = 0; line < (by_row ? height : width); ++line)
      for_each_tile(by_row ? width : height, [&](int64_t begin, int pixels) {
        t.origin = origin + line * (by_row ? down : right) + begin * t.input_stride;
        t.pixels = pixels;
        t.dots = dots + (line * across + begin * along) * kLanes;
        dot(*call_.kernel->microkernels, t);
      });
  }

  const ConvCall& call_;
  const Shape& s_;
  const Unit* const input_;
  const int64_t group_units_, pixel_units_, row_units_;
  const bool chained_;
  std::vector<Rectangle> rectangles_;
};

// Pixels a multiple of 2 KB apart begin in one of two sets of the first cache: the lines of a block for a few of them are
// all that it holds.
int64_t chunk_pixels(const ConvCall& call) {
  constexpr int64_t kFew = 32, kApart = 2048 / sizeof(float);
  const bool rows = call.output.kind != XK_OUT_BITS && call.output.layout == XK_NHWC;
  return rows && call.shape.out_channels % kApart == 0 ? kFew : kChunkPixels;
}

template <class Unit>
void convolve(const ConvCall& call, const DirectConv<Unit>& conv) {
  const Epilogues epilogues(call);
  const Chunks chunks(call.shape, chunk_pixels(call), call.shape.out_width);
  const auto task = [&](int64_t image, const Chunk& chunk, int64_t begin, int64_t end) {
    alignas(64) int32_t dots[kChunkPixels * kLanes];
    for (int64_t block = begin; block < end; ++block) {
      conv.chunk(image, block, chunk, dots);
      epilogues.store_block(image, block, chunk, dots);
    }
  };
  epilogues.for_each_chunk(chunks, call.shape.blocks(), task);
}

}  // namespace

void conv_words(const ConvCall& call) {
  convolve(call, DirectConv<Word>(call, call.bits, ceil_div(call.shape.group_channels, kWordBits), false));
}

void conv_halves(const ConvCall& call) {
  const ChainPlan plan = chain_plan(call.shape);
  convolve(call, DirectConv<Half>(call, reinterpret_cast<const Half*>(call.bits), plan.halves, plan.chained()));
}

}  // namespace xk
