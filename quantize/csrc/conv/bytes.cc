// Convolution on a matrix unit that multiplies bytes.
//
// The input becomes bytes of -1, 0 (padding) and +1, [block of channels][phase][row][column][channel] with its
// padding: a quarter of the float input, and a tile's 16 pixels lie side by side. The phase of a padded position,
// (Y mod stride_h, X mod stride_w), makes a strided window dense: 16 consecutive positions are a tile's 16 rows
// whatever the stride. Positions run over the padded width; those past the output's are computed and dropped.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "conv/conv.h"
#include "conv/epilogue.h"
#include "conv/plan.h"
#include "parallel.h"

namespace xk {

namespace {

class ByteConv {
 public:
  explicit ByteConv(const ConvCall& call)
      : call_(call),
        s_(call.shape),
        plan_(byte_plan(s_)),
        phase_rows_(ceil_div(s_.height + s_.pad_top + s_.pad_bottom, s_.stride_h)),
        phase_columns_(ceil_div(s_.width + s_.pad_left + s_.pad_right, s_.stride_w)),
        phase_bytes_(phase_rows_ * phase_columns_ * plan_.block_channels),
        block_bytes_(phase_bytes_ * s_.stride_h * s_.stride_w),
        buffer_(new CacheLine[buffer_lines()]),
        bytes_(buffer_[0].bytes) {
    make_steps();
  }

  // The rows of bytes, [image][block of channels][phase][row], all of which must be expanded before the first chunk.
  int64_t rows() const { return s_.batch * all_blocks() * s_.stride_h * s_.stride_w * phase_rows_; }
  int64_t row_pitch() const { return phase_columns_; }  // of positions

  void expand_row(int64_t index) const {
    const int64_t row = index % phase_rows_, phase = index / phase_rows_ % (s_.stride_h * s_.stride_w);
    const int64_t image_block = index / phase_rows_ / (s_.stride_h * s_.stride_w);
    const int64_t image = image_block / all_blocks(), block = image_block % all_blocks();
    const int64_t y = row * s_.stride_h + phase / s_.stride_w - s_.pad_top;
    const int64_t pitch = plan_.block_channels, before = block % plan_.channel_blocks * pitch;
    int8_t* const target = bytes_ + index * phase_columns_ * pitch;
    if (y < 0 || y >= s_.height) {
      std::memset(target, 0, static_cast<size_t>(phase_columns_ * pitch));
      return;
    }
    ByteRow r{};
    r.bits = call_.bits + (image * s_.height + y) * s_.width * s_.words;
    r.words = s_.words, r.width = s_.width;
    r.channel = block / plan_.channel_blocks * s_.group_channels + before;
    r.channels = std::min(pitch, s_.group_channels - before);
    r.first = phase % s_.stride_w - s_.pad_left, r.step = s_.stride_w;
    r.bytes = target;
    r.count = phase_columns_, r.pitch = pitch;
    call_.kernel->bytes->expand_row(r);
  }

  // Sums of two blocks of channels (or one, twice), [block][pixel][kLanes].
  void chunk(int64_t image, const int64_t (&blocks)[2], const Chunk& chunk, int32_t* dots) const {
    const int64_t first_block = (image * s_.groups + s_.group_of(blocks[0])) * plan_.channel_blocks;
    const int64_t position = chunk.row * phase_columns_ + chunk.column;
    ByteTile t{};
    t.input = bytes_ + first_block * block_bytes_ + position * plan_.block_channels;
    t.pitch = plan_.block_channels;
    t.steps = steps_.data(), t.step_count = steps_.size();
    t.tail_masks = tail_masks_;
    t.rows = chunk.rows, t.columns = chunk.columns, t.row_pitch = phase_columns_;
    for (int b = 0; b < 2; ++b) {
      t.weights[b] = static_cast<const uint64_t*>(call_.weights) + blocks[b] * plan_.steps() * 16;
      t.dots[b] = dots + b * kChunkPixels * kLanes;
    }
    call_.kernel->bytes->dot_bytes(t);
  }

 private:
  struct alignas(64) CacheLine {
    int8_t bytes[64];
  };

  int64_t all_blocks() const { return s_.groups * plan_.channel_blocks; }

  // The last tile reads up to 31 pixels and one step past the last window.
  size_t buffer_lines() const {
    return static_cast<size_t>(ceil_div(s_.batch * all_blocks() * block_bytes_ + 33 * 64, 64));
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
      const int64_t weights = std::clamp<int64_t>(plan_.run_length % 64 - 4 * k, 0, 4);  // of a channel, in row k
      tail_masks_[k] = 0x1111111111111111u * ((1u << weights) - 1);
    }
  }

  const ConvCall& call_;
  const Shape& s_;
  const BytePlan plan_;
  const int64_t phase_rows_, phase_columns_, phase_bytes_, block_bytes_;
  const std::unique_ptr<CacheLine[]> buffer_;
  int8_t* const bytes_;
  std::vector<ByteStep> steps_;
  uint64_t tail_masks_[16];
};

}  // namespace

void conv_bytes(const ConvCall& call) {
  const Shape& s = call.shape;
  const ByteConv conv(call);
  const Epilogues epilogues(call);
  constexpr int64_t kRows = 32;
  parallel_for(call.parallel, ceil_div(conv.rows(), kRows), [&](int64_t index) {
    for (int64_t row = index * kRows; row < std::min(conv.rows(), (index + 1) * kRows); ++row) conv.expand_row(row);
  });
  const int64_t group_pairs = ceil_div(s.group_blocks, 2);
  const auto task = [&](int64_t image, const Chunk& chunk, int64_t begin, int64_t end) {
    alignas(64) int32_t dots[2 * kChunkPixels * kLanes];
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t first = pair / group_pairs * s.group_blocks + pair % group_pairs * 2;
      const bool two = pair % group_pairs * 2 + 1 < s.group_blocks;
      const int64_t blocks[2] = {first, first + two};
      conv.chunk(image, blocks, chunk, dots);
      for (int b = 0; b <= two; ++b) epilogues.store_block(image, blocks[b], chunk, dots + b * kChunkPixels * kLanes);
    }
  };
  epilogues.for_each_chunk(Chunks(s, kChunkPixels, conv.row_pitch()), s.groups * group_pairs, task);
}

}  // namespace xk
