// Convolution by look-up of nibbles: filters side by side in a vector of bytes, whose nibbles are the index into a row
// of a table that two output pixels choose (see arch/nibbles.inc).
//
// The input is an offset for each nibble of a pixel, 16 times the nibble. The windows of a chunk's pixels are gathered
// two by two: the sum of an offset of the first and 17 times that of the second is where the row of both is. A tap in
// the padding has an offset of its own, whose rows count nothing. So any two pixels make a pair, as long as they see
// the same rows of taps, which are consecutive weights; rows of taps that lie in the padding are left out.
//
// Weights are bits in memory; the nibbles of a slice of a block of filters become bytes just before its pairs use them.
#include <algorithm>
#include <memory>
#include <vector>

#include "conv/conv.h"
#include "conv/epilogue.h"
#include "conv/plan.h"

namespace xk {

namespace {

constexpr int64_t kChunkBytes = 32 << 10;  // of the offsets of a chunk's pairs, for them to stay in the first cache
constexpr int64_t kMinPixels = 16, kMaxPixels = 64;  // of a chunk
constexpr int64_t kDotsPitch = (kMaxPixels + kLanes) * kLanes;  // a pair's second pixel may not be there
constexpr int64_t kTasks = 64;  // at least, where there are several threads and as many blocks
constexpr int64_t kBlocks = kLookupLanes / kLanes;

// Consecutive pixels of a chunk that see the same rows of taps, two by two.
struct Strip {
  int64_t pixel, pixels;  // from the chunk's first pixel on
  int64_t first_row, last_row;  // of taps
  int64_t first_octet, octets;  // and their weights
  int64_t offsets, pitch;  // of its pairs; nibbles of a pair, a multiple of kNibblesTogether
  int64_t pairs() const { return ceil_div(pixels, 2); }
};

// The windows of a chunk with the channels of a group.
struct Windows {
  std::vector<Strip> strips;
  std::unique_ptr<uint16_t[]> offsets;
  std::vector<int16_t> terms;  // [pair][2]
};

// What a task writes before it reads it.
struct Scratch {
  alignas(64) int32_t dots[kBlocks * kDotsPitch];
  alignas(64) uint8_t nibbles[(kLookupNibbles + kNibblesTogether) * kLookupLanes];
  alignas(64) uint16_t counts[kMaxPixels * kLookupLanes];
};

int64_t chunk_pixels(const Shape& s) {
  return std::clamp(kChunkBytes / (lookup_plan(s).octets * s.taps * 2), kMinPixels, kMaxPixels);
}

class LookupConv {
 public:
  explicit LookupConv(const ConvCall& call)
      : call_(call),
        s_(call.shape),
        plan_(lookup_plan(s_)),
        micro_(*call.kernel->microkernels),
        input_(reinterpret_cast<const uint16_t*>(call.bits)),
        tap_nibbles_(2 * plan_.octets),
        pixel_nibbles_(s_.words * (kWordBits / 4)),
        rows_(bands(vertical(s_), s_.out_height)),
        columns_(bands(horizontal(s_), s_.out_width)),
        padding_(static_cast<size_t>(tap_nibbles_ + kSpare), kPaddedOffset) {
    for (const Band& band : columns_) columns_of_.resize(static_cast<size_t>(band.end), &band);
  }

  int64_t blocks() const { return s_.groups * plan_.group_blocks; }
  int64_t group_of(int64_t block) const { return block / plan_.group_blocks; }

  Windows gather(int64_t image, int64_t group, const Chunk& chunk) const {
    Windows w;
    add_strips(chunk, &w);
    std::vector<OffsetRun> runs(static_cast<size_t>(s_.taps));
    int16_t* terms = w.terms.data();
    for (const Strip& strip : w.strips) {
      uint16_t* target = w.offsets.get() + strip.offsets;
      Place place{image, group, chunk.row + strip.pixel / chunk.columns, chunk.column};
      for (int64_t left = strip.pixels; left > 0; left -= 2, terms += 2, target += strip.pitch) {
        const Window first = window(strip, chunk, &place), second = left > 1 ? window(strip, chunk, &place) : Window{};
        terms[0] = terms_of(strip, first), terms[1] = terms_of(strip, second);
        gather_pair(strip, first, second, runs.data(), target);
      }
    }
    return w;
  }

  // Computes a block of kLookupLanes channels.
  void block(const Windows& windows, int64_t block, Scratch* scratch) const {
    const uint8_t* weights = static_cast<const uint8_t*>(call_.weights) + block * s_.taps * plan_.octets * kLookupLanes;
    const int64_t left = s_.group_outputs - block % plan_.group_blocks * kLookupLanes;
    PairTile t{};
    t.nibbles = scratch->nibbles;
    t.lanes = static_cast<int>(std::min<int64_t>(kLookupLanes, left));
    t.counts = scratch->counts;
    t.terms = windows.terms.data();
    t.dots_pitch = kDotsPitch;
    for (const Strip& strip : windows.strips) {
      t.pairs = strip.pairs(), t.offset_pitch = strip.pitch;
      t.single = strip.pixels == 1;
      t.dots = scratch->dots + strip.pixel * kLanes;
      for (int64_t nibble = 0; nibble < strip.pitch; nibble += kLookupNibbles) {
        t.octets = weights + (strip.first_octet + nibble / 2) * kLookupLanes;
        t.octet_count = std::min<int64_t>(kLookupNibbles / 2, strip.octets - nibble / 2);
        if (!t.single) micro_.split_nibbles(t.octets, t.octet_count, scratch->nibbles);
        t.offsets = windows.offsets.get() + strip.offsets + nibble;
        t.count = std::min<int64_t>(kLookupNibbles, strip.pitch - nibble);
        t.first = nibble == 0, t.last = nibble + t.count == strip.pitch;
        micro_.count_pairs(t);
      }
      t.terms += 2 * strip.pairs();
    }
  }

  // Stores what block() has computed.
  void store(const Epilogues& epilogues, int64_t image, int64_t block, const Chunk& chunk, Scratch* scratch) const {
    const int64_t within = block % plan_.group_blocks * kBlocks, first = group_of(block) * s_.group_blocks + within;
    for (int64_t b = 0; b < std::min(kBlocks, s_.group_blocks - within); ++b)
      epilogues.store_block(image, first + b, chunk, scratch->dots + b * kDotsPitch);
  }

 private:
  static constexpr int64_t kSpare = 16;  // join_offsets() reads and writes fewer offsets too many

  // The taps of an output pixel: the first one's place in the input, were it there, and the columns that the input has.
  struct Window {
    int64_t origin, first_column, last_column;
  };

  // An output pixel.
  struct Place {
    int64_t image, group, row, column;
  };

  void add_strips(const Chunk& chunk, Windows* w) const {
    int64_t size = 0, terms = 0;
    for (const Band& band : rows_) {
      const int64_t begin = std::max(band.begin, chunk.row), end = std::min(band.end, chunk.row + chunk.rows);
      if (begin >= end) continue;
      Strip strip{};
      strip.pixel = (begin - chunk.row) * chunk.columns;
      strip.pixels = (end - begin) * chunk.columns;
      strip.first_row = band.first, strip.last_row = band.last;
      strip.first_octet = band.first * s_.kernel_w * plan_.octets;
      strip.octets = (band.last - band.first) * s_.kernel_w * plan_.octets;
      strip.pitch = ceil_div(std::max<int64_t>(1, 2 * strip.octets), kNibblesTogether) * kNibblesTogether;
      strip.offsets = size;
      size += strip.pairs() * strip.pitch;
      terms += strip.pairs() * 2;
      w->strips.push_back(strip);
    }
    w->offsets.reset(new uint16_t[static_cast<size_t>(size + kSpare)]);  // not zeroed
    w->terms.resize(static_cast<size_t>(terms));
  }

  // The window of a pixel, which moves on to the chunk's next.
  Window window(const Strip& strip, const Chunk& chunk, Place* p) const {
    const int64_t row = p->image * s_.height + p->row * s_.stride_h - s_.pad_top + strip.first_row * s_.dilation_h;
    const int64_t column = p->column * s_.stride_w - s_.pad_left;
    const Band& band = *columns_of_[static_cast<size_t>(p->column)];
    if (++p->column == chunk.column + chunk.columns) p->column = chunk.column, ++p->row;
    return {(row * s_.width + column) * pixel_nibbles_ + p->group * tap_nibbles_, band.first, band.last};
  }

  int16_t terms_of(const Strip& strip, const Window& w) const {
    return static_cast<int16_t>((strip.last_row - strip.first_row) * (w.last_column - w.first_column) *
                                s_.group_channels);
  }

  bool all_columns(const Window& w) const { return w.last_column - w.first_column == s_.kernel_w; }

  const uint16_t* tap(const Window& w, int64_t row, int64_t kx) const {
    if (kx < w.first_column || kx >= w.last_column) return padding_.data();
    return input_ + w.origin + (row * s_.dilation_h * s_.width + kx * s_.dilation_w) * pixel_nibbles_;
  }

  void gather_pair(const Strip& strip, const Window& first, const Window& second, OffsetRun* runs,
                   uint16_t* target) const {
    // Taps side by side are one run where nothing lies between them.
    const bool together = s_.dilation_w == 1 && tap_nibbles_ == pixel_nibbles_ && all_columns(first) &&
                          all_columns(second);
    const int64_t taps = together ? s_.kernel_w : 1;
    int64_t count = 0;
    for (int64_t row = 0; row < strip.last_row - strip.first_row; ++row)
      for (int64_t kx = 0; kx < s_.kernel_w; kx += taps) runs[count++] = {tap(first, row, kx), tap(second, row, kx)};
    micro_.join_offsets(runs, count, taps * tap_nibbles_, target);
    std::fill(target + 2 * strip.octets, target + strip.pitch, uint16_t{18 * kPaddedOffset});
  }

  const ConvCall& call_;
  const Shape& s_;
  const LookupPlan plan_;
  const Microkernels& micro_;
  const uint16_t* const input_;
  const int64_t tap_nibbles_, pixel_nibbles_;
  const std::vector<Band> rows_, columns_;
  std::vector<const Band*> columns_of_;  // [output column]
  const std::vector<uint16_t> padding_;
};

}  // namespace

void conv_lookup(const ConvCall& call) {
  const Shape& s = call.shape;
  const LookupConv conv(call);
  const Epilogues epilogues(call);
  const Chunks chunks(s, chunk_pixels(s), s.out_width);
  // A task gathers windows for all of its blocks.
  const int64_t parts = call.parallel ? ceil_div(kTasks, s.batch * chunks.count()) : 1;
  const auto task = [&](int64_t image, const Chunk& chunk, int64_t begin, int64_t end) {
    Scratch scratch;
    std::fill_n(scratch.nibbles, sizeof scratch.nibbles, uint8_t{0});
    Windows windows;
    for (int64_t block = begin; block < end; ++block) {
      if (block == begin || conv.group_of(block) != conv.group_of(block - 1))
        windows = conv.gather(image, conv.group_of(block), chunk);
      conv.block(windows, block, &scratch);
      conv.store(epilogues, image, block, chunk, &scratch);
    }
  };
  epilogues.for_each_chunk(chunks, conv.blocks(), task, ceil_div(conv.blocks(), parts));
}

}  // namespace xk
