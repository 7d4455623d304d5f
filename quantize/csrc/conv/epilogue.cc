// Epilogues: sums of one block of channels to floats, integers or bits in their place.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "conv/epilogue.h"

namespace xk {

Epilogue epilogue_of(const ConvCall& call, int64_t image, int64_t block, int64_t position) {
  const Shape& s = call.shape;
  Epilogue f{};
  f.lanes = s.lanes(block);
  f.relu = call.epilogue.relu != 0;
  f.integers = call.output.kind == XK_OUT_INT32;
  f.floats = call.floats;
  const int64_t first = s.first_channel(block);
  for (int l = 0; l < f.lanes; ++l) {
    f.scale[l] = call.epilogue.scale ? call.epilogue.scale[first + l] : 1.0f;
    f.bias[l] = call.epilogue.bias ? call.epilogue.bias[first + l] : 0.0f;
    const xk_binarize& b = call.output.binarize;
    const bool flip = b.flip && b.flip[first + l];
    f.flip[l] = flip ? 0x80000000u : 0u;
    f.threshold[l] = (b.threshold ? b.threshold[first + l] : 0.0f) * (flip ? -1.0f : 1.0f);
  }
  if (call.epilogue.input_scale)
    f.input_scale = call.epilogue.input_scale +
                    (image * s.groups + s.group_of(block)) * s.out_height * s.out_width + position;
  return f;
}

namespace {

Epilogue limits_epilogue(int lanes, const SignLimits* limits) {
  Epilogue f{};
  f.lanes = lanes;
  f.limits = limits;
  return f;
}

bool all_finite(const float* values, int64_t count) {
  return !values || std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

// Whether comparing sums with limits pays: finding the limits takes as long as comparing some pixels.
bool worth_limits(const ConvCall& call) {
  constexpr int64_t kPixels = 128;
  constexpr int64_t kExact = int64_t{1} << 24;  // floats hold all sums up to it
  const Shape& s = call.shape;
  return !call.floats && call.output.kind == XK_OUT_BITS && s.batch * s.out_height * s.out_width >= kPixels &&
         s.filter_bits <= kExact && !call.epilogue.input_scale && all_finite(call.epilogue.scale, s.out_channels) &&
         all_finite(call.epilogue.bias, s.out_channels);
}

// The channels of the output that the lanes of a block become: `first` and those behind it or, where the output is
// shuffled, `channel`, which then has lanes of one group `groups` channels apart.
struct Places {
  int lanes;
  int64_t groups, first, channel[kLanes];

  Places(const ConvCall& call, int64_t first_channel, int count)
      : lanes(count), groups(call.output.shuffle), first(first_channel) {
    if (groups == 1) return;
    const int64_t size = call.shape.out_channels / groups;
    int64_t group = first_channel / size, within = first_channel % size;
    for (int l = 0; l < lanes; ++l) {
      channel[l] = within * groups + group;
      if (++within == size) within = 0, ++group;
    }
    first = channel[0];
  }
  // Whether all lanes are `groups` channels apart.
  bool even() const { return groups == 1 || channel[lanes - 1] - first == (lanes - 1) * groups; }
  // Whether each of them has a whole element of `groups` bits to itself.
  bool are_elements() const {
    return lanes == kLanes && even() && (groups == 16 || groups == 32 || groups == 64);
  }
};

// Makes a Spread for each series of shuffled lanes that go to a word of the output upwards; returns how many.
int spreads_of(const Places& places, Spread* spreads) {
  int count = 0;
  for (int l = 0; l < places.lanes; ++l) {
    const int64_t word = places.channel[l] / kWordBits;
    const bool up = l > 0 && places.channel[l] > places.channel[l - 1];
    if (!up || word != spreads[count - 1].word) spreads[count++] = {word, 0, l};
    spreads[count - 1].mask |= uint64_t{1} << (places.channel[l] % kWordBits);
  }
  return count;
}

void store_bits(const Microkernels& micro, const Epilogue& epilogue, const Places& places, int64_t pixels,
                int32_t* dots, uint64_t* words, int64_t pitch) {
  uint16_t signs[kChunkPixels];
  micro.store_signs(epilogue, pixels, dots, signs);
  if (places.groups > 1) {
    if (places.are_elements()) return micro.interleave_signs(signs, pixels, places.groups, places.first, words, pitch);
    Spread spreads[kLanes];
    return micro.spread_signs(signs, pixels, spreads, spreads_of(places, spreads), words, pitch);
  }
  const uint64_t valid = (uint64_t{1} << places.lanes) - 1;
  const int shift = static_cast<int>(places.first % kWordBits);
  words += places.first / kWordBits;
  for (int64_t p = 0; p < pixels; ++p, words += pitch) {
    const uint64_t bits = signs[p] & valid;
    words[0] |= bits << shift;
    if (shift + places.lanes > kWordBits) words[1] |= bits >> (kWordBits - shift);
  }
}

void store_planes(const Microkernels& micro, const Epilogue& epilogue, const Places& places, int64_t pixels,
                  int32_t* dots, int32_t* output, int64_t plane) {
  if (places.even())
    return micro.store_planes(epilogue, pixels, dots, output + places.first * plane, places.groups * plane);
  int32_t planes[kLanes * kChunkPixels];
  micro.store_planes(epilogue, pixels, dots, planes, kChunkPixels);
  for (int l = 0; l < places.lanes; ++l)
    std::copy_n(planes + l * kChunkPixels, pixels, output + places.channel[l] * plane);
}

void store_rows(const Microkernels& micro, const Epilogue& epilogue, const Places& places, int64_t pixels,
                int32_t* dots, int32_t* output, int64_t pitch) {
  if (places.groups == 1) return micro.store_rows(epilogue, pixels, dots, output + places.first, pitch);
  int32_t rows[kChunkPixels * kLanes];
  micro.store_rows(epilogue, pixels, dots, rows, kLanes);
  if (places.lanes == kLanes && places.even()) {  // of one distance, and known to be so many
    int32_t* const first = output + places.first;
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t l = 0; l < kLanes; ++l) first[p * pitch + l * places.groups] = rows[p * kLanes + l];
    return;
  }
  for (int64_t p = 0; p < pixels; ++p, output += pitch)
    for (int l = 0; l < places.lanes; ++l) output[places.channel[l]] = rows[p * kLanes + l];
}

}  // namespace

Epilogues::Epilogues(const ConvCall& call) : call_(call) {
  const Shape& s = call.shape;
  const size_t blocks = static_cast<size_t>(s.blocks());
  epilogues_.reserve(blocks);
  for (int64_t block = 0; block < s.blocks(); ++block) epilogues_.push_back(epilogue_of(call, 0, block, 0));
  if (!worth_limits(call)) return;
  limits_.resize(blocks);
  for (size_t block = 0; block < blocks; ++block) {
    const int lanes = epilogues_[block].lanes;
    call.kernel->microkernels->find_limits(epilogues_[block], static_cast<int32_t>(s.filter_bits), &limits_[block]);
    epilogues_[block] = limits_epilogue(lanes, &limits_[block]);
  }
}

void Epilogues::clear_bits(int64_t image, const Chunk& chunk) const {
  const Shape& s = call_.shape;
  const int64_t pixel = (image * s.out_height + chunk.row) * s.out_width + chunk.column;
  std::memset(static_cast<uint64_t*>(call_.output.data) + pixel * s.out_words, 0,
              static_cast<size_t>(chunk.pixels() * s.out_words) * sizeof(uint64_t));
}

void Epilogues::store_block(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const {
  const Shape& s = call_.shape;
  const int64_t position = chunk.row * s.out_width + chunk.column, plane = s.out_height * s.out_width;
  const int64_t pixels = chunk.pixels(), pixel = image * plane + position;
  const Epilogue* chosen = &epilogues_[static_cast<size_t>(block)];
  Epilogue scaled;
  if (chosen->input_scale) {
    scaled = *chosen;
    scaled.input_scale += image * s.groups * plane + position;
    chosen = &scaled;
  }
  const Epilogue& epilogue = *chosen;
  const Microkernels& micro = *call_.kernel->microkernels;
  const Places places(call_, s.first_channel(block), epilogue.lanes);
  if (call_.output.kind == XK_OUT_BITS) {
    uint64_t* words = static_cast<uint64_t*>(call_.output.data) + pixel * s.out_words;
    return store_bits(micro, epilogue, places, pixels, dots, words, s.out_words);
  }
  int32_t* output = static_cast<int32_t*>(call_.output.data);  // 32-bit values: integers or floats
  if (call_.output.layout == XK_NCHW)
    store_planes(micro, epilogue, places, pixels, dots, output + image * s.out_channels * plane + position, plane);
  else
    store_rows(micro, epilogue, places, pixels, dots, output + pixel * s.out_channels, s.out_channels);
}

}  // namespace xk
