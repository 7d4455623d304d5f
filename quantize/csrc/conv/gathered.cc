// Convolution whose windows are first shifted together into dense words, because the channels of a group do
// not start at a word or would leave words partly empty: [pixel][word][group], of one chunk at a time, with
// a mask of the taps that are inside the input.
#include <algorithm>
#include <cstring>
#include <vector>

#include "conv/conv.h"
#include "conv/epilogue.h"
#include "conv/plan.h"

namespace xk {

namespace {

constexpr int64_t kGatherPixels = 64;  // of a chunk: few enough for the buffer to stay in the first cache

// Or-s `count` bits from bit `from` of `source` into `target` at bit `to`, where the bits are 0.
void or_bits(const uint64_t* source, int64_t from, uint64_t* target, int64_t to, int64_t count) {
  while (count > 0) {
    const int from_shift = static_cast<int>(from % kWordBits), to_shift = static_cast<int>(to % kWordBits);
    const int64_t n = std::min(count, static_cast<int64_t>(kWordBits - std::max(from_shift, to_shift)));
    const uint64_t mask = n == kWordBits ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
    target[to / kWordBits] |= (source[from / kWordBits] >> from_shift & mask) << to_shift;
    from += n, to += n, count -= n;
  }
}

// The window of an output pixel: where its first tap is, perhaps in the padding, and which taps the input has.
struct Window {
  int64_t image, row, column;
  Band rows, columns;
  bool has(int64_t ky, int64_t kx) const {
    return ky >= rows.first && ky < rows.last && kx >= columns.first && kx < columns.last;
  }
};

class GatheredConv {
 public:
  explicit GatheredConv(const ConvCall& call)
      : call_(call),
        s_(call.shape),
        words_(word_plan(s_).filter_words),
        rows_(bands(vertical(s_), s_.out_height)),
        columns_(bands(horizontal(s_), s_.out_width)),
        zeros_(static_cast<size_t>(s_.words)) {
    const int64_t bits = s_.group_channels;
    fields_ = s_.groups > 1 && (bits == 8 || bits == 16 || bits == 32) ? kWordBits / bits : 0;
    for (int64_t ky = 0; ky < s_.kernel_h; ++ky)
      for (int64_t kx = 0; kx < s_.kernel_w; ++kx)
        taps_.push_back({ky, kx, (ky * s_.dilation_h * s_.width + kx * s_.dilation_w) * s_.words});
    for (const Band& r : rows_) {
      masks_.emplace_back();
      for (const Band& c : columns_) masks_.back().push_back(window_mask(r, c));
    }
  }

  // The windows of a chunk. All groups of a pixel have its mask and its terms in common.
  struct Windows {
    std::vector<uint64_t> bits, masks;
    std::vector<int32_t> terms;
  };

  Windows gather(int64_t image, const Chunk& chunk) const {
    const size_t pixels = static_cast<size_t>(chunk.pixels()), words = static_cast<size_t>(words_);
    Windows w{std::vector<uint64_t>(pixels * words * static_cast<size_t>(s_.groups) + 1),
              std::vector<uint64_t>(pixels * words), std::vector<int32_t>(pixels)};
    int64_t p = 0;  // in the order of memory: copy_tap() relies on it
    for (int64_t y = chunk.row; y < chunk.row + chunk.rows; ++y)
      for (int64_t x = chunk.column; x < chunk.column + chunk.columns; ++x, ++p) {
        const Band &r = band_of(rows_, y), &c = band_of(columns_, x);
        const auto& mask = masks_[static_cast<size_t>(&r - &rows_[0])][static_cast<size_t>(&c - &columns_[0])];
        std::copy(mask.begin(), mask.end(), w.masks.begin() + p * words_);
        const int64_t taps = (r.last - r.first) * (c.last - c.first);
        w.terms[static_cast<size_t>(p)] = static_cast<int32_t>(taps * s_.group_channels);
        const Window window{image, y * s_.stride_h - s_.pad_top, x * s_.stride_w - s_.pad_left, r, c};
        gather_pixel(window, w.bits.data() + p * words_ * s_.groups);
      }
    return w;
  }

  void block(const Windows& windows, int64_t block, int64_t pixels, int32_t* dots) const {
    const Run run{0, 0, words_};
    Tile<Word> t{};
    t.input = windows.bits.data();
    t.input_stride = words_ * s_.groups;
    t.input_step = s_.groups;
    t.weights = static_cast<const uint64_t*>(call_.weights) + block * words_ * kLanes;
    t.runs = &run;
    t.run_count = 1;
    t.mask_stride = words_;
    t.terms_stride = 1;
    t.dots_stride = kLanes;
    const Band &r = rows_[0], &c = columns_[0];
    const bool whole = rows_.size() == 1 && columns_.size() == 1 && r.last - r.first == s_.kernel_h &&
                       c.last - c.first == s_.kernel_w;  // nothing is padded
    for_each_tile(pixels, [&](int64_t begin, int count) {
      t.origin = begin * t.input_stride + s_.group_of(block);
      t.mask = whole ? nullptr : windows.masks.data() + begin * words_;
      t.terms = windows.terms.data() + begin;
      t.pixels = count;
      t.dots = dots + begin * kLanes;
      call_.kernel->microkernels->dot_words(t);
    });
  }

 private:
  std::vector<uint64_t> window_mask(const Band& r, const Band& c) const {
    const std::vector<uint64_t> ones(static_cast<size_t>(ceil_div(s_.group_channels, kWordBits)), ~uint64_t{0});
    std::vector<uint64_t> mask(static_cast<size_t>(words_));
    for (int64_t ky = r.first; ky < r.last; ++ky)
      for (int64_t kx = c.first; kx < c.last; ++kx)
        or_bits(ones.data(), 0, mask.data(), (ky * s_.kernel_w + kx) * s_.group_channels, s_.group_channels);
    return mask;
  }

  // Where the first tap of a window is, or would be.
  int64_t origin(const Window& w) const {
    return ((w.image * s_.height + w.row) * s_.width + w.column) * s_.words;
  }

  const uint64_t* tap(const Window& w, int64_t ky, int64_t kx) const {
    return call_.bits + origin(w) + taps_[static_cast<size_t>(ky * s_.kernel_w + kx)].offset;
  }

  void gather_pixel(const Window& w, uint64_t* target) const {
    if (fields_ > 0) return gather_fields(w, target);
    for (int64_t ky = w.rows.first; ky < w.rows.last; ++ky)
      for (int64_t kx = w.columns.first; kx < w.columns.last; ++kx) {
        const int64_t to = (ky * s_.kernel_w + kx) * s_.group_channels;
        if (s_.groups == 1 && s_.group_channels % 8 == 0)
          copy_tap(tap(w, ky, kx), target, to / 8);
        else
          for (int64_t g = 0; g < s_.groups; ++g) or_group(tap(w, ky, kx), g, target, to);
      }
  }

  // Copies whole words: the next tap, or the next window, overwrites the zeros at the end of the last.
  void copy_tap(const uint64_t* source, uint64_t* target, int64_t byte) const {
    for (int64_t i = 0; i < s_.words; ++i)
      std::memcpy(reinterpret_cast<char*>(target) + byte + 8 * i, source + i, sizeof *source);
  }

  void or_group(const uint64_t* source, int64_t group, uint64_t* target, int64_t to) const {
    uint64_t window[2];
    for (int64_t done = 0; done < s_.group_channels; done += kWordBits) {
      const int64_t n = std::min<int64_t>(kWordBits, s_.group_channels - done), word = (to + done) / kWordBits;
      window[0] = window[1] = 0;
      or_bits(source, group * s_.group_channels + done, window, (to + done) % kWordBits, n);
      for (int64_t i = 0; i < 2 && word + i < words_; ++i) target[(word + i) * s_.groups + group] |= window[i];
    }
  }

  // The same by fields: the groups of all taps that share a word at once.
  void gather_fields(const Window& w, uint64_t* target) const {
    const int field_bytes = static_cast<int>(s_.group_channels / 8);
    const int64_t first = origin(w);
    const bool whole = (w.rows.last - w.rows.first) * (w.columns.last - w.columns.first) == s_.taps;
    const void* taps[8];
    size_t t = 0;
    for (int64_t word = 0; word < words_; ++word) {
      for (int64_t i = 0; i < fields_; ++i, ++t) {
        const bool inside = t < taps_.size() && (whole || w.has(taps_[t].row, taps_[t].column));
        taps[i] = inside ? call_.bits + first + taps_[t].offset : zeros_.data();
      }
      call_.kernel->microkernels->merge_fields(taps, field_bytes, s_.groups, target + word * s_.groups);
    }
  }

  struct Tap {
    int64_t row, column;  // of the window
    int64_t offset;       // words from its first tap
  };

  const ConvCall& call_;
  const Shape& s_;
  const int64_t words_;
  const std::vector<Band> rows_, columns_;
  const std::vector<uint64_t> zeros_;
  std::vector<Tap> taps_;
  std::vector<std::vector<std::vector<uint64_t>>> masks_;  // [band of rows][band of columns]
  int64_t fields_;  // of a word, where a group has a byte, two or four, else 0
};

}  // namespace

void conv_gathered(const ConvCall& call) {
  const Shape& s = call.shape;
  const Chunks chunks(s, kGatherPixels, s.out_width);
  const GatheredConv conv(call);
  const Epilogues epilogues(call);
  epilogues.for_each_chunk(chunks, 1, [&](int64_t image, const Chunk& chunk, int64_t, int64_t) {
    alignas(64) int32_t dots[kGatherPixels * kLanes];
    const GatheredConv::Windows windows = conv.gather(image, chunk);
    for (int64_t block = 0; block < s.blocks(); ++block) {
      conv.block(windows, block, chunk.pixels(), dots);
      epilogues.store_block(image, block, chunk, dots);
    }
  });
}

}  // namespace xk
