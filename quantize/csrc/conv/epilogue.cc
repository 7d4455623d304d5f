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

void store_bits(const ConvCall& call, const Epilogue& f, int64_t first_channel, int64_t pixel, int64_t pixels,
                int32_t* dots) {
  const Shape& s = call.shape;
  uint16_t signs[kChunkPixels];
  call.kernel->microkernels->store_signs(f, pixels, dots, signs);
  const uint64_t valid = (uint64_t{1} << f.lanes) - 1;
  const int shift = static_cast<int>(first_channel % kWordBits);
  uint64_t* words = static_cast<uint64_t*>(call.output.data) + pixel * s.out_words + first_channel / kWordBits;
  for (int64_t p = 0; p < pixels; ++p, words += s.out_words) {
    const uint64_t bits = signs[p] & valid;
    words[0] |= bits << shift;
    if (shift + f.lanes > kWordBits) words[1] |= bits >> (kWordBits - shift);
  }
}

Epilogue limits_epilogue(int lanes, const SignLimits* limits) {
  Epilogue f{};
  f.lanes = lanes;
  f.limits = limits;
  return f;
}

bool all_finite(const float* values, int64_t count) {
  return !values || std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

// Finding a limit takes as long as some pixels.
bool worth_limits(const ConvCall& call) {
  constexpr int64_t kPixels = 128;
  constexpr int64_t kExact = int64_t{1} << 24;  // sums that floats hold
  const Shape& s = call.shape;
  return call.output.kind == XK_OUT_BITS && s.batch * s.out_height * s.out_width >= kPixels &&
         s.filter_bits <= kExact && !call.epilogue.input_scale && all_finite(call.epilogue.scale, s.out_channels) &&
         all_finite(call.epilogue.bias, s.out_channels);
}

}  // namespace

Epilogues::Epilogues(const ConvCall& call) : call_(call) {
  if (!worth_limits(call)) return;
  limits_.resize(static_cast<size_t>(call.shape.blocks()));
  for (int64_t block = 0; block < call.shape.blocks(); ++block)
    call.kernel->microkernels->find_limits(epilogue_of(call, 0, block, 0), static_cast<int32_t>(call.shape.filter_bits),
                                    &limits_[static_cast<size_t>(block)]);
}

void Epilogues::clear_bits(int64_t image, const Chunk& chunk) const {
  const Shape& s = call_.shape;
  const int64_t pixel = (image * s.out_height + chunk.row) * s.out_width + chunk.column;
  std::memset(static_cast<uint64_t*>(call_.output.data) + pixel * s.out_words, 0,
              static_cast<size_t>(chunk.pixels() * s.out_words) * sizeof(uint64_t));
}

void Epilogues::store_block(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const {
  const ConvCall& call = call_;
  const Shape& s = call.shape;
  const int64_t position = chunk.row * s.out_width + chunk.column, plane = s.out_height * s.out_width;
  const int64_t pixels = chunk.pixels(), first = s.first_channel(block);
  const Epilogue f = limits_.empty() ? epilogue_of(call, image, block, position)
                                   : limits_epilogue(s.lanes(block), &limits_[static_cast<size_t>(block)]);
  const Microkernels& micro = *call.kernel->microkernels;
  if (call.output.shuffle > 1) return store_shuffled(call, f, image, position, first, pixels, dots);
  if (call.output.kind == XK_OUT_BITS) return store_bits(call, f, first, image * plane + position, pixels, dots);
  int32_t* output = static_cast<int32_t*>(call.output.data);  // or floats: 32-bit values
  if (call.output.layout == XK_NCHW)
    micro.store_planes(f, pixels, dots, output + (image * s.out_channels + first) * plane + position, plane);
  else
    micro.store_rows(f, pixels, dots, output + (image * plane + position) * s.out_channels + first, s.out_channels);
}

}  // namespace xk
