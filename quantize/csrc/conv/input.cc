#include "conv/input.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "conv/plan.h"
#include "parallel.h"

namespace xk {

namespace {

constexpr int64_t kPartPixels = 256;  // pixels of a task
constexpr int64_t kWordOffsets = kWordBits / 4;
constexpr int64_t kSpareWords = 4;  // behind offsets, of which join_offsets() reads too many

struct Thresholds {
  std::vector<float> threshold;
  std::vector<uint32_t> flip;
  bool flips;
};

// x <= t is -x >= -t: where flipped, both signs are, so that one comparison serves all channels.
Thresholds thresholds_of(const xk_binarize* binarize, int64_t channels) {
  const size_t count = static_cast<size_t>(channels);
  Thresholds t{std::vector<float>(count), std::vector<uint32_t>(count), false};
  for (size_t c = 0; binarize && c < count; ++c) {
    const bool flip = binarize->flip && binarize->flip[c];
    t.flips |= flip;
    t.flip[c] = flip ? 0x80000000u : 0;
    t.threshold[c] = (binarize->threshold ? binarize->threshold[c] : 0.0f) * (flip ? -1.0f : 1.0f);
  }
  return t;
}

std::unique_ptr<uint64_t[]> words_of(int64_t count) {
  return std::unique_ptr<uint64_t[]>(new uint64_t[static_cast<size_t>(count)]);
}

bool uses_chains(const ConvCall& call) {
  const InputForm form = call.driver.form;
  return (form == InputForm::kChains || form == InputForm::kPlanes) && chain_plan(call.shape).chained();
}

}  // namespace

void pack(const FloatInput& input, const Microkernels& micro, const PackTarget& target, const xk_parallel* parallel) {
  const int64_t channels = input.channels, pixels = input.pixels;
  const bool planes = input.layout == XK_NCHW;
  const Thresholds t = thresholds_of(input.binarize, channels);
  const int64_t words = ceil_div(channels, kWordBits), tasks = ceil_div(pixels, kPartPixels);
  parallel_for(parallel, input.batch * tasks, [&](int64_t index) {
    const int64_t image = index / tasks, first = index % tasks * kPartPixels;
    Packing p{};
    p.input = input.values + image * channels * pixels + first * (planes ? 1 : channels);
    p.plane = pixels;
    p.pixels = std::min(kPartPixels, pixels - first);
    p.channels = channels;
    p.threshold = t.threshold.data();
    p.flip = t.flip.data();
    p.flips = t.flips;
    p.words = words;
    p.chain = target.chain;
    if (target.planes)
      p.planes = target.planes + image * ceil_div(channels, kHalfBits) * pixels + first;
    else if (!target.offsets)
      p.bits = target.bits + (image * pixels + first) * words;
    const std::unique_ptr<uint64_t[]> bits = target.offsets ? words_of(p.pixels * words) : nullptr;
    if (target.offsets) p.bits = bits.get();
    planes ? micro.pack_planes(p) : micro.pack_rows(p);
    if (target.offsets)
      micro.offsets_of(p.bits, p.pixels * words, target.offsets + (image * pixels + first) * words * kWordOffsets);
  });
}

Input::Input(const ConvCall& call)
    : call_(call),
      s_(call.shape),
      chain_(uses_chains(call) ? chain_plan(s_).halves : 0) {
  const int64_t words = s_.batch * pixels() * s_.words;
  if (call.driver.form == InputForm::kOffsets) {
    buffer_ = words_of(words * kWordOffsets / 4 + kSpareWords);
    offsets_ = reinterpret_cast<uint16_t*>(buffer_.get());
    return;
  }
  if (call.driver.form != InputForm::kPlanes) {
    buffer_ = words_of(words);
    return;
  }
  const PlaneLayout layout = plane_layout(s_);
  buffer_ = words_of(ceil_div(layout.size(s_), 2));
  planes_ = reinterpret_cast<Half*>(buffer_.get()) + layout.before;
}

void Input::pack_floats(const float* input, int32_t layout, const xk_binarize* binarize) {
  const bool rows_to_planes = planes_ && layout == XK_NHWC;
  const std::unique_ptr<uint64_t[]> words = rows_to_planes ? words_of(s_.batch * pixels() * s_.words) : nullptr;
  const PackTarget target = rows_to_planes ? PackTarget{words.get(), 0, nullptr, nullptr}
                                           : PackTarget{buffer_.get(), chain_, planes_, offsets_};
  const FloatInput floats{input, layout, s_.batch, s_.channels, pixels(), binarize};
  pack(floats, *call_.kernel->microkernels, target, call_.parallel);
  if (rows_to_planes) form_planes(words.get());
}

void Input::convert(const uint64_t* bits) {
  if (planes_) return form_planes(bits);
  return offsets_ ? form_offsets(bits) : form_all_chains(bits);
}

void Input::form_offsets(const uint64_t* bits) {
  const int64_t all = s_.batch * pixels() * s_.words, part = kPartPixels * s_.words;
  parallel_for(call_.parallel, ceil_div(all, part), [&](int64_t index) {
    const int64_t first = index * part;
    call_.kernel->microkernels->offsets_of(bits + first, std::min(part, all - first), offsets_ + first * kWordOffsets);
  });
}

void Input::form_all_chains(const uint64_t* bits) {
  const int64_t all = s_.batch * pixels();
  parallel_for(call_.parallel, ceil_div(all, kPartPixels), [&](int64_t index) {
    const int64_t first = index * kPartPixels, count = std::min(kPartPixels, all - first);
    uint64_t* target = buffer_.get() + first * s_.words;
    std::copy_n(bits + first * s_.words, count * s_.words, target);
    for (int64_t group = 0; group < s_.groups; ++group)
      form_chains(reinterpret_cast<Half*>(target) + group * chain_, count, chain_, 2 * s_.words);
  });
}

// Planes from bits [pixel][words]. Chains are formed from plane to plane.
void Input::form_planes(const uint64_t* bits) {
  const int64_t halves = chain_plan(s_).halves, step = 2 * s_.words;
  parallel_for(call_.parallel, s_.batch * s_.groups, [&](int64_t index) {
    const int64_t image = index / s_.groups, group = index % s_.groups;
    const Half* source = reinterpret_cast<const Half*>(bits) + image * pixels() * step + group * halves;
    Half* plane = planes_ + index * halves * pixels();
    for (int64_t h = 0; h < halves; ++h, ++source, plane += pixels()) {
      for (int64_t p = 0; p < pixels(); ++p) plane[p] = source[p * step];
      if (chain_ && h && h % 2 == 0)
        for (int64_t p = 0; p < pixels(); ++p) plane[p] ^= plane[p - pixels()] ^ plane[p - 2 * pixels()];
    }
  });
}

}  // namespace xk
