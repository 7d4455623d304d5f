// AMX int8: tiles of 32 output pixels by 32 output channels, 64 products a step.
//
// The input becomes bytes of -1, 0 (padding) and +1, [block of channels][phase][row][column][channel] with its
// padding: a quarter of the float input, and a tile's 16 pixels lie side by side. The phase of a padded position,
// (Y mod stride_h, X mod stride_w), makes a strided window dense: 16 consecutive positions are a tile's 16 rows
// whatever the stride. Positions run over the padded width; those past the output's are computed and dropped.
// Weights stay bits in memory and become bytes just before their use, one instruction for 64 of them, in the
// shadow of the matrix unit. (Bytes kept for all tiles of a chunk were slower: they crowd the first cache.)
#if defined(__x86_64__) && defined(__linux__)
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "arch/amx.h"
#include "conv/conv.h"
#include "parallel.h"

namespace xk {
namespace amx {

struct Step {
  int64_t input;  // bytes from a pixel's origin
  bool whole;     // or the last of a run, whose weights beyond the run's length are 0
};

class TileConv {
 public:
  explicit TileConv(const ConvCall& call)
      : call_(call),
        s_(call.shape),
        plan_(tile_plan(s_)),
        phase_rows_(ceil_div(s_.height + s_.pad_top + s_.pad_bottom, s_.stride_h)),
        phase_columns_(ceil_div(s_.width + s_.pad_left + s_.pad_right, s_.stride_w)),
        phase_bytes_(phase_rows_ * phase_columns_ * plan_.block_channels),
        block_bytes_(phase_bytes_ * s_.stride_h * s_.stride_w),
        bytes_(static_cast<int8_t*>(std::aligned_alloc(64, buffer_size()))) {
    if (!bytes_) throw std::bad_alloc();
    make_steps();
  }

  // Rows of bytes to fill: [image][block of channels][phase][row].
  int64_t rows() const { return s_.batch * all_blocks() * s_.stride_h * s_.stride_w * phase_rows_; }
  XK_TARGET void expand_row(int64_t index) const;
  int64_t row_pitch() const { return phase_columns_; }  // of positions
  // Sums of two blocks of channels (or one, twice), [block][pixel][kLanes].
  XK_TARGET void chunk(int64_t image, const int64_t (&blocks)[2], const Chunk& chunk, int32_t* dots) const;

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  int64_t all_blocks() const { return s_.groups * plan_.channel_blocks; }

  // The last tile reads up to 31 pixels and one step past the last window.
  size_t buffer_size() const {
    return static_cast<size_t>(ceil_div(s_.batch * all_blocks() * block_bytes_ + 33 * 64, 64) * 64);
  }

  void make_steps() {
    const int64_t taps_a_run = plan_.row_runs ? s_.kernel_w : 1;
    for (int64_t block = 0; block < plan_.channel_blocks; ++block)
      for (int64_t ky = 0; ky < s_.kernel_h; ++ky)
        for (int64_t kx = 0; kx < s_.kernel_w; kx += taps_a_run) {
          const int64_t y = ky * s_.dilation_h, x = kx * s_.dilation_w;
          const int64_t phase = y % s_.stride_h * s_.stride_w + x % s_.stride_w;
          const int64_t position = y / s_.stride_h * phase_columns_ + x / s_.stride_w;
          const int64_t start = block * block_bytes_ + phase * phase_bytes_ + position * plan_.block_channels;
          for (int64_t done = 0; done < plan_.run_length; done += 64)
            steps_.push_back({start + done, plan_.run_length - done >= 64});
        }
    for (int k = 0; k < 16; ++k) {
      const int64_t weights = std::clamp<int64_t>(plan_.run_length % 64 - 4 * k, 0, 4);  // of row k, a channel
      tail_masks_[k] = 0x1111111111111111u * ((1u << weights) - 1);
    }
  }

  XK_TARGET void expand_weights(const uint64_t* const (&words)[2], size_t step, int8_t* tiles) const;
  template <int kPixelTiles>
  XK_TARGET size_t tile(const int8_t* input, const uint64_t* const (&words)[2], int8_t* ring, size_t slot,
                        int32_t* const (&sums)[2]) const;

  const ConvCall& call_;
  const Shape& s_;
  const TilePlan plan_;
  const int64_t phase_rows_, phase_columns_, phase_bytes_, block_bytes_;
  const std::unique_ptr<int8_t, Free> bytes_;
  std::vector<Step> steps_;
  uint64_t tail_masks_[16];
};

// `count` <= 64 bits from bit `first` of a pixel.
static inline uint64_t pixel_bits(const uint64_t* pixel, int64_t first, int64_t count) {
  const int shift = static_cast<int>(first % kWordBits);
  const uint64_t low = pixel[first / kWordBits] >> shift;
  return shift + count <= kWordBits ? low : low | pixel[first / kWordBits + 1] << (kWordBits - shift);
}

XK_TARGET void TileConv::expand_row(int64_t index) const {
  const int64_t row = index % phase_rows_, phase = index / phase_rows_ % (s_.stride_h * s_.stride_w);
  const int64_t image_block = index / phase_rows_ / (s_.stride_h * s_.stride_w);
  const int64_t image = image_block / all_blocks(), block = image_block % all_blocks();
  const int64_t y = row * s_.stride_h + phase / s_.stride_w - s_.pad_top;
  const int64_t pitch = plan_.block_channels;
  int8_t* target = bytes_.get() + index * phase_columns_ * pitch;
  if (y < 0 || y >= s_.height) {
    std::memset(target, 0, static_cast<size_t>(phase_columns_ * pitch));
    return;
  }
  const int64_t before = block % plan_.channel_blocks * pitch, count = std::min(pitch, s_.group_channels - before);
  const int64_t first = block / plan_.channel_blocks * s_.group_channels + before;
  const __mmask64 valid = ~uint64_t{0} >> (64 - count), stored = ~uint64_t{0} >> (64 - pitch);
  const uint64_t* source = call_.bits + (image * s_.height + y) * s_.width * s_.words;
  for (int64_t column = 0; column < phase_columns_; ++column, target += pitch) {
    const int64_t x = column * s_.stride_w + phase % s_.stride_w - s_.pad_left;
    __m512i bytes = _mm512_setzero_si512();
    if (x >= 0 && x < s_.width)
      bytes = _mm512_maskz_mov_epi8(valid, signs(pixel_bits(source + x * s_.words, first, count)));
    _mm512_mask_storeu_epi8(target, stored, bytes);
  }
}

XK_TARGET inline void TileConv::expand_weights(const uint64_t* const (&words)[2], size_t step, int8_t* tiles) const {
  const uint64_t *first = words[0] + 16 * step, *second = words[1] + 16 * step;
  if (steps_[step].whole) {
    expand_whole(first, tiles);
    expand_whole(second, tiles + kTileBytes);
  } else {
    expand_masked(first, tail_masks_, tiles);
    expand_masked(second, tail_masks_, tiles + kTileBytes);
  }
}

// Weights are bytes in a ring of steps, expanded some steps before their use for the stores to finish.
constexpr size_t kRing = 4, kAhead = 2;
// More than about 24 steps between two tile stores run a third slower on Sapphire Rapids: store one now and then.
constexpr size_t kStoreEvery = 4;

// Sums of 16 or 32 pixels, [block][pixel][kLanes]. The ring goes around tile after tile: the steps of the next
// one, which has the same weights, follow the last of this one. Returns the slot of the next step.
template <int kPixelTiles>
XK_TARGET size_t TileConv::tile(const int8_t* input, const uint64_t* const (&words)[2], int8_t* ring, size_t slot,
                                int32_t* const (&sums)[2]) const {
  const int64_t pitch = plan_.block_channels;
  const size_t steps = steps_.size();
  size_t ahead = kAhead % steps;
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  for (size_t i = 0; i < steps; ++i, ++slot) {
    const int8_t* weights = ring + slot % kRing * 2 * kTileBytes;
    const int8_t* pixels = input + steps_[i].input;
    expand_weights(words, ahead, ring + (slot + kAhead) % kRing * 2 * kTileBytes);
    if (++ahead == steps) ahead = 0;
    TILE_LOAD(4, pixels, pitch);
    TILE_LOAD(6, weights, 64);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, weights + kTileBytes, 64);
    TILE_DOT(1, 4, 7);
    if (i % kStoreEvery == kStoreEvery - 1) TILE_STORE(0, sums[0]);
    if (kPixelTiles == 1) continue;
    TILE_LOAD(5, pixels + 16 * pitch, pitch);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_STORE(0, sums[0]);
  TILE_STORE(1, sums[1]);
  if (kPixelTiles == 2) {
    TILE_STORE(2, sums[0] + 256);
    TILE_STORE(3, sums[1] + 256);
  }
  return slot;
}

XK_TARGET void TileConv::chunk(int64_t image, const int64_t (&blocks)[2], const Chunk& chunk, int32_t* dots) const {
  alignas(64) int8_t ring[kRing * 2 * kTileBytes];
  const int64_t filter_words = static_cast<int64_t>(steps_.size()) * 16;
  const uint64_t* const all = static_cast<const uint64_t*>(call_.weights);
  const uint64_t* const words[2] = {all + blocks[0] * filter_words, all + blocks[1] * filter_words};
  const int64_t pitch = plan_.block_channels;
  const int8_t* input = bytes_.get() +
                        (image * s_.groups + s_.group_of(blocks[0])) * plan_.channel_blocks * block_bytes_ +
                        (chunk.row * phase_columns_ + chunk.column) * pitch;
  const int64_t positions = (chunk.rows - 1) * phase_columns_ + chunk.columns;
  for (size_t i = 0; i < kAhead; ++i) expand_weights(words, i % steps_.size(), ring + i * 2 * kTileBytes);
  size_t slot = 0;
  for (int64_t p = 0; p < positions; p += 32) {
    int32_t* const sums[2] = {dots + p * kLanes, dots + (kChunkPixels + p) * kLanes};
    slot = positions - p > 16 ? tile<2>(input + p * pitch, words, ring, slot, sums)
                              : tile<1>(input + p * pitch, words, ring, slot, sums);
  }
  // Close the gaps between rows. Not tile by tile: loads would wait for the tiles' stores.
  for (int b = 0; b < 2; ++b, dots += kChunkPixels * kLanes)
    for (int64_t row = 1; row < chunk.rows && phase_columns_ > chunk.columns; ++row)
      for (int64_t column = 0; column < chunk.columns; ++column)
        _mm512_store_si512(dots + (row * chunk.columns + column) * kLanes,
                           _mm512_load_si512(dots + (row * phase_columns_ + column) * kLanes));
}

static void conv_tiles(const ConvCall& call) {
  const Shape& s = call.shape;
  const TileConv conv(call);
  const Epilogues epilogues(call);
  constexpr int64_t kRows = 32;
  parallel_for(call.parallel, ceil_div(conv.rows(), kRows), [&](int64_t index) {
    for (int64_t row = index * kRows; row < std::min(conv.rows(), (index + 1) * kRows); ++row) conv.expand_row(row);
  });
  const Chunks chunks(s, kChunkPixels, conv.row_pitch());
  const int64_t group_pairs = ceil_div(s.group_blocks, 2), pairs = s.groups * group_pairs;
  const int64_t together = call.output.kind == XK_OUT_BITS ? pairs : 1, parts = pairs / together;
  parallel_for(call.parallel, s.batch * chunks.count() * parts, [&](int64_t index) {
    alignas(64) int32_t dots[2 * kChunkPixels * kLanes];
    const TilesInUse tiles;
    const int64_t image = index / parts / chunks.count();
    const Chunk chunk = chunks[index / parts % chunks.count()];
    epilogues.clear_bits(image, chunk);
    for (int64_t pair = index % parts * together; pair < (index % parts + 1) * together; ++pair) {
      const int64_t first = pair / group_pairs * s.group_blocks + pair % group_pairs * 2;
      const bool two = pair % group_pairs * 2 + 1 < s.group_blocks;
      const int64_t blocks[2] = {first, first + two};
      conv.chunk(image, blocks, chunk, dots);
      for (int b = 0; b <= two; ++b) epilogues.store_block(image, blocks[b], chunk, dots + b * kChunkPixels * kLanes);
    }
  });
}

}  // namespace amx

extern const Kernel kAvx512;
extern const Parts kAvx512Parts;

static bool amx_usable() {
  static const bool usable = kAvx512.usable() && amx::granted();
  return usable;
}

// Where tiles are well filled: 16 pixels (all of them, where the size is not known), 16 channels, 64 bytes a step.
static bool amx_preferred(const Shape& s) {
  if (s.channels == 0) return false;
  const TilePlan plan = tile_plan(s);
  const bool pixels = s.height * s.width == 0 || s.height * s.width >= 16;
  return pixels && s.group_outputs >= kLanes && 5 * plan.run_length >= 4 * 64 * plan.run_steps;
}

extern const Kernel kAmx = {"amx",           amx_usable,   amx_preferred, WeightOrder::kTiles,
                            amx::conv_tiles, &kAvx512Parts};

}  // namespace xk
#endif
