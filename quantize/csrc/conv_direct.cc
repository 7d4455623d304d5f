// Direct convolution over 64-bit words: an output pixel reads the words of its window where they are.
//
// Pixels that see the same taps form rectangles (the inside, the edges, the corners); a tile is a row or a
// column of up to kMaxTilePixels of them, so that padded taps cost nothing and need no third value.
#include <algorithm>
#include <vector>

#include "conv.h"

namespace xk {

namespace {

class DirectConv {
 public:
  explicit DirectConv(const ConvCall& call)
      : call_(call),
        s_(call.shape),
        group_words_(ceil_div(s_.group_channels, kWordBits)),
        row_words_(s_.width * s_.words),
        rows_(bands(s_.out_height, s_.height, s_.kernel_h, s_.stride_h, s_.dilation_h, s_.pad_top)),
        columns_(bands(s_.out_width, s_.width, s_.kernel_w, s_.stride_w, s_.dilation_w, s_.pad_left)) {}

  void chunk(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const {
    std::vector<Run> runs;
    for (const Band& rows : rows_)
      for (const Band& columns : columns_) {
        const Band r = clip(rows, chunk.row, chunk.rows), c = clip(columns, chunk.column, chunk.columns);
        if (r.begin >= r.end || c.begin >= c.end) continue;
        window_runs(r, c, &runs);
        rectangle(image, block, r, c, runs, chunk.columns,
                  dots + ((r.begin - chunk.row) * chunk.columns + c.begin - chunk.column) * kLanes);
      }
  }

 private:
  static Band clip(const Band& band, int64_t begin, int64_t size) {
    return {std::max(band.begin, begin), std::min(band.end, begin + size), band.first, band.last};
  }

  void window_runs(const Band& r, const Band& c, std::vector<Run>* runs) const {
    // Taps side by side are one run where nothing lies between them.
    const bool together = s_.groups == 1 && s_.dilation_w == 1;
    const int64_t taps = together ? c.last - c.first : 1;
    runs->clear();
    for (int64_t y = r.first; y < r.last; ++y)
      for (int64_t x = c.first; x < c.last; x += taps)
        runs->push_back({y * s_.dilation_h * row_words_ + x * s_.dilation_w * s_.words,
                         (y * s_.kernel_w + x) * group_words_, taps * group_words_});
  }

  void rectangle(int64_t image, int64_t block, const Band& r, const Band& c, const std::vector<Run>& runs,
                 int64_t pitch, int32_t* dots) const {
    const int32_t terms = static_cast<int32_t>((r.last - r.first) * (c.last - c.first) * s_.group_channels);
    const int64_t down = s_.stride_h * row_words_, right = s_.stride_w * s_.words;
    const int64_t height = r.end - r.begin, width = c.end - c.begin;
    const int64_t origin = image * s_.height * row_words_ + r.begin * down - s_.pad_top * row_words_ +
                           c.begin * right - s_.pad_left * s_.words + s_.group_of(block) * group_words_;
    // Tiles along the side that needs fewer of them.
    const bool by_row = height * ceil_div(width, kMaxTilePixels) <= width * ceil_div(height, kMaxTilePixels);
    const int64_t along = by_row ? 1 : pitch, across = by_row ? pitch : 1;
    Tile t{};
    t.input = call_.bits;
    t.input_stride = by_row ? right : down;
    t.input_step = 1;
    t.weights = static_cast<const uint64_t*>(call_.weights) + block * s_.taps * group_words_ * kLanes;
    t.runs = runs.data();
    t.run_count = runs.size();
    t.terms = &terms;
    t.dots_stride = along * kLanes;
    for (int64_t line = 0; line < (by_row ? height : width); ++line)
      for_each_tile(by_row ? width : height, [&](int64_t begin, int pixels) {
        t.origin = origin + line * (by_row ? down : right) + begin * t.input_stride;
        t.pixels = pixels;
        t.dots = dots + (line * across + begin * along) * kLanes;
        call_.kernel->parts->dot_tile(t);
      });
  }

  const ConvCall& call_;
  const Shape& s_;
  const int64_t group_words_, row_words_;
  const std::vector<Band> rows_, columns_;
};

}  // namespace

void conv_direct(const ConvCall& call) {
  const Shape& s = call.shape;
  const Chunks chunks(s, kChunkPixels, s.out_width);
  const DirectConv conv(call);
  const int64_t together = blocks_a_task(call), parts = s.blocks() / together;
  parallel_for(call.parallel, s.batch * chunks.count() * parts, [&](int64_t index) {
    alignas(64) int32_t dots[kChunkPixels * kLanes];
    const int64_t image = index / parts / chunks.count();
    const Chunk chunk = chunks[index / parts % chunks.count()];
    if (call.output.kind == XK_OUT_BITS) clear_bits(call, image, chunk);
    for (int64_t block = index % parts * together; block < (index % parts + 1) * together; ++block) {
      conv.chunk(image, block, chunk, dots);
      store_block(call, image, block, chunk, dots);
    }
  });
}

void conv_words(const ConvCall& call) { word_plan(call.shape).gathered ? conv_gathered(call) : conv_direct(call); }

}  // namespace xk
