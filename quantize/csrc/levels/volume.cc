#include "levels/volume.h"

#include <algorithm>
#include <map>
#include <utility>

#include "error.h"
#include "parallel.h"
#include "shape.h"

namespace xk::levels {

Volume::Volume(const Input& input, const Weight& weight, const Axis& depth, const xk_conv_shape& window, ScaleBias end)
    : input_(input), channels_(weight.groups * weight.channels), groups_(weight.groups), depth_(depth),
      end_(std::move(end)) {
  check_sums(weight, input);
  check_size("stride_d", depth.stride, 1);
  check_size("dilation_d", depth.dilation, 1);
  check_size("pad_front", depth.before, 0);
  check_size("pad_back", depth.after, 0);
  checked_product("dilation_d * kernel_d", {depth.dilation, depth.kernel});
  std::map<int64_t, std::vector<int64_t>> taps;
  for (int64_t k = 0; k < depth.kernel; ++k) taps[k * depth.dilation % depth.stride].push_back(k);
  for (const auto& [remainder, of_slices] : taps) {
    std::vector<uint8_t> dense;
    const Weight slices = slice_weight(weight, depth.kernel, of_slices, &dense);
    parts_.push_back({remainder, of_slices, Filters(slices, window)});
  }
}

Volume::Size Volume::output_size(const Size& size) const {
  Axis depth = depth_;
  depth.size = size[0];
  const Shape slice = full_shape(parts_[0].filters.shape(1, size[1], size[2]));
  const Size out{output_extent(depth), slice.out_height, slice.out_width};
  checked_product("the size of the output", {outputs(), out[0], out[1], out[2], 4});
  return out;
}

void Volume::compute(const float* x, int64_t batch, const Size& size, float* y, const xk_parallel* parallel) const {
  const Size out = output_size(size);
  const auto [depth, height, width] = size;
  checked_product("the size of the input", {batch, depth, height, width, channels_ + kWordBits, 4});
  const int64_t slice_words = height * width * ceil_div(channels_, kWordBits), plane_words = depth * slice_words;
  const int64_t out_size = out[0] * out[1] * out[2];
  const auto bits = array_of<uint64_t>(input_.planes() * plane_words);
  const auto totals = array_of<int32_t>(outputs() * out_size);
  for (int64_t n = 0; n < batch; ++n, x += channels_ * depth * height * width, y += outputs() * out_size) {
    pack_images(input_, x, 1, channels_, depth * height * width, bits.get(), parallel);
    std::fill_n(totals.get(), outputs() * out_size, 0);
    for (const Part& part : parts_) {
      const int64_t first = (part.remainder + depth_.stride - depth_.before % depth_.stride) % depth_.stride;
      for (int64_t slice = first; slice < depth; slice += depth_.stride) {
        const ImageSums sums(part.filters, input_, height, width, bits.get() + slice * slice_words, plane_words,
                             parallel);
        add_slice(part, slice, sums, out[0], totals.get(), parallel);
      }
    }
    parallel_for(parallel, outputs(), [&](int64_t o) {
      end_of(end_, input_, o).store(totals.get() + o * out_size, out_size, y + o * out_size);
    });
  }
}

void Volume::add_slice(const Part& part, int64_t slice, const ImageSums& sums, int64_t out_depth, int32_t* totals,
                       const xk_parallel* parallel) const {
  const int64_t taps = static_cast<int64_t>(part.taps.size()), a_group = outputs() / groups_;
  parallel_for(parallel, outputs(), [&](int64_t o) {
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t start = slice + depth_.before - part.taps[static_cast<size_t>(t)] * depth_.dilation;
      if (start < 0 || start / depth_.stride >= out_depth) continue;
      int32_t* const to = totals + (o * out_depth + start / depth_.stride) * sums.count();
      const int64_t filter = (o / a_group * taps + t) * a_group + o % a_group;
      for (int64_t begin = 0; begin < sums.count(); begin += kBlock) {
        const int64_t count = std::min(kBlock, sums.count() - begin);
        int32_t of_tap[kBlock];
        sums.read(filter, begin, count, of_tap);
        add_plane(of_tap, count, 0, to + begin);
      }
    }
  });
}

}  // namespace xk::levels
