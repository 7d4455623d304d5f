// Direct convolution with pixels side by side in a vector: the input is [half][pixel], a plane for each half of a
// pixel's bits, and 16 consecutive pixels of a plane, whatever rows they are in, meet one weight. Sums come out as
// the output needs them, [channel][pixel]: nothing is transposed. Taps outside the image read the neighbouring
// row, or memory around the planes, and are masked. Only for convolutions that move over every pixel of a row.
#include <algorithm>
#include <cstring>
#include <vector>

#include "conv/conv.h"
#include "conv/epilogue.h"
#include "conv/plan.h"
#include "parallel.h"

namespace xk {

namespace {

constexpr int64_t kTaskBlocks = 4;  // blocks of channels of a task

class PlaneConv {
 public:
  explicit PlaneConv(const ConvCall& call)
      : call_(call), s_(call.shape), layout_(plane_layout(s_)), halves_(chain_plan(s_).halves) {
    for (int64_t ky = 0; ky < s_.kernel_h; ++ky)
      for (int64_t kx = 0; kx < s_.kernel_w; ++kx)
        taps_.push_back({(ky * s_.dilation_h - s_.pad_top) * s_.width + kx * s_.dilation_w - s_.pad_left,
                         (ky * s_.kernel_w + kx) * halves_});
    for (int64_t kx = 0; kx < s_.kernel_w; ++kx) inside_row_.push_back(row_mask(kx * s_.dilation_w - s_.pad_left));
  }

  int64_t vectors() const { return ceil_div(s_.out_height * s_.out_width, kLanes); }

  // Computes `count` vectors of output pixels from `first` on, for `blocks` blocks of channels.
  void run(int64_t image, int64_t first, int64_t count, int64_t first_block, int64_t blocks) const {
    const std::vector<uint16_t> masks = tap_masks(first, count);
    const int64_t pixels = s_.out_height * s_.out_width, pixel = first * kLanes;
    PlaneTile t{};
    t.plane = layout_.plane;
    t.taps = taps_.data();
    t.tap_count = s_.taps;
    t.masks = masks.data();
    t.halves = halves_;
    t.chained = chain_plan(s_).chained();
    t.tap_terms = static_cast<int32_t>(s_.group_channels);
    t.pixels = std::min(count * kLanes, pixels - pixel);
    t.output_pitch = pixels;
    for (int64_t block = first_block; block < first_block + blocks; ++block) {
      t.weights = static_cast<const Half*>(call_.weights) + block * s_.taps * halves_ * kLanes;
      t.input = reinterpret_cast<const Half*>(call_.bits) + layout_.before +
                (image * s_.groups + s_.group_of(block)) * halves_ * layout_.plane + pixel;
      t.output = static_cast<int32_t*>(call_.output.data) +
                 (image * s_.out_channels + s_.first_channel(block)) * pixels + pixel;
      call_.kernel->microkernels->convolve_planes(t, epilogue_of(call_, image, block, pixel));
    }
  }

 private:
  // Whole vectors of bits: bit p tells whether the tap of pixel p, `shift` columns away, lies in the same row.
  std::vector<uint16_t> row_mask(int64_t shift) const {
    std::vector<uint16_t> mask(static_cast<size_t>(vectors()), 0xffff);
    const auto clear = [&](int64_t p) {
      uint16_t& bits = mask[static_cast<size_t>(p / kLanes)];
      bits = static_cast<uint16_t>(bits & ~(1u << p % kLanes));
    };
    const int64_t begin = std::min(s_.width, std::max<int64_t>(0, -shift));
    const int64_t end = std::max(begin, std::min(s_.width, s_.width - shift));
    for (int64_t y = 0; y < s_.out_height; ++y) {
      for (int64_t x = 0; x < begin; ++x) clear(y * s_.width + x);
      for (int64_t x = end; x < s_.width; ++x) clear(y * s_.width + x);
    }
    return mask;
  }

  // [vector][tap]: the pixels of a vector whose tap lies inside the image.
  std::vector<uint16_t> tap_masks(int64_t first, int64_t count) const {
    std::vector<uint16_t> masks;
    masks.reserve(static_cast<size_t>(count * s_.taps));
    for (int64_t v = first; v < first + count; ++v)
      for (int64_t ky = 0; ky < s_.kernel_h; ++ky) {
        // The tap lies in a row of the image for rows y with 0 <= y + shift < height: a range of pixels.
        const int64_t shift = ky * s_.dilation_h - s_.pad_top;
        const int64_t begin = std::max<int64_t>(0, -shift) * s_.width - v * kLanes;
        const int64_t end = std::min(s_.out_height, s_.height - shift) * s_.width - v * kLanes;
        const uint32_t from = 0xffffu << std::clamp<int64_t>(begin, 0, kLanes);
        const uint32_t to = ~(0xffffffffu << std::clamp<int64_t>(end, 0, kLanes));
        for (const auto& inside : inside_row_)
          masks.push_back(static_cast<uint16_t>(inside[static_cast<size_t>(v)] & from & to));
      }
    return masks;
  }

  const ConvCall& call_;
  const Shape& s_;
  const PlaneLayout layout_;
  const int64_t halves_;
  std::vector<PlaneTap> taps_;
  std::vector<std::vector<uint16_t>> inside_row_;  // [kx][vector]
};

}  // namespace

void conv_planes(const ConvCall& call) {
  const Shape& s = call.shape;
  const PlaneConv conv(call);
  const int64_t chunks = ceil_div(conv.vectors(), kPlaneVectors), parts = ceil_div(s.blocks(), kTaskBlocks);
  parallel_for(call.parallel, s.batch * chunks * parts, [&](int64_t index) {
    const int64_t first = index / parts % chunks * kPlaneVectors, block = index % parts * kTaskBlocks;
    conv.run(index / parts / chunks, first, std::min(kPlaneVectors, conv.vectors() - first), block,
             std::min(kTaskBlocks, s.blocks() - block));
  });
}

}  // namespace xk
