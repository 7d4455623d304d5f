// Epilogues of convolutions whose output channels are shuffled: as in epilogue.cc, but lanes do not lie side by side.
#include <algorithm>

#include "conv/epilogue.h"

namespace xk {

namespace {

// The channel of the output that each lane becomes.
struct Places {
  int lanes;
  int64_t groups, channel[kLanes];

  Places(const ConvCall& call, int64_t first_channel, int count) : lanes(count), groups(call.output.shuffle) {
    const int64_t size = call.shape.out_channels / groups;
    int64_t group = first_channel / size, within = first_channel % size;
    for (int l = 0; l < lanes; ++l) {
      channel[l] = within * groups + group;
      if (++within == size) within = 0, ++group;
    }
  }
  bool even() const { return channel[lanes - 1] - channel[0] == (lanes - 1) * groups; }
};

// One for each word of the output that lanes reach one after the other, upwards.
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

void store_bits(const Microkernels& micro, const Epilogue& f, const Places& places, int64_t pixels, int32_t* dots,
                uint64_t* words, int64_t pitch) {
  uint16_t signs[kChunkPixels];
  Spread spreads[kLanes];
  micro.store_signs(f, pixels, dots, signs);
  micro.spread_signs(signs, pixels, spreads, spreads_of(places, spreads), words, pitch);
}

void store_planes(const Microkernels& micro, const Epilogue& f, const Places& places, int64_t pixels, int32_t* dots,
                  int32_t* output, int64_t plane) {
  if (places.even())
    return micro.store_planes(f, pixels, dots, output + places.channel[0] * plane, places.groups * plane);
  int32_t planes[kLanes * kChunkPixels];
  micro.store_planes(f, pixels, dots, planes, kChunkPixels);
  for (int l = 0; l < f.lanes; ++l)
    std::copy_n(planes + l * kChunkPixels, pixels, output + places.channel[l] * plane);
}

void store_rows(const Microkernels& micro, const Epilogue& f, const Places& places, int64_t pixels, int32_t* dots,
                int32_t* output, int64_t pitch) {
  int32_t rows[kChunkPixels * kLanes];
  micro.store_rows(f, pixels, dots, rows, kLanes);
  for (int64_t p = 0; p < pixels; ++p, output += pitch)
    for (int l = 0; l < f.lanes; ++l) output[places.channel[l]] = rows[p * kLanes + l];
}

}  // namespace

void store_shuffled(const ConvCall& call, const Epilogue& epilogue, int64_t image, int64_t position,
                    int64_t first_channel, int64_t pixels, int32_t* dots) {
  const Shape& s = call.shape;
  const Microkernels& micro = *call.kernel->microkernels;
  const Places places(call, first_channel, epilogue.lanes);
  const int64_t plane = s.out_height * s.out_width, pixel = image * plane + position;
  if (call.output.kind == XK_OUT_BITS) {
    uint64_t* words = static_cast<uint64_t*>(call.output.data) + pixel * s.out_words;
    return store_bits(micro, epilogue, places, pixels, dots, words, s.out_words);
  }
  int32_t* output = static_cast<int32_t*>(call.output.data);  // or floats: 32-bit values
  if (call.output.layout == XK_NCHW)
    store_planes(micro, epilogue, places, pixels, dots, output + image * s.out_channels * plane + position, plane);
  else
    store_rows(micro, epilogue, places, pixels, dots, output + pixel * s.out_channels, s.out_channels);
}

}  // namespace xk
