#include "weights.h"

#include <cinttypes>
#include <cstring>

#include "error.h"

namespace xk {

WordPlan word_plan(const Shape& s) {
  const int64_t direct = s.taps * ceil_div(s.group_channels, kWordBits);
  const int64_t dense = ceil_div(s.filter_bits, kWordBits);
  const bool aligned = s.groups == 1 || s.group_channels % kWordBits == 0;
  // Shifting bytes is cheap beside the words it saves; shifting bits is done only where groups need it.
  const bool gathered = !aligned || (dense < direct && s.group_channels % 8 == 0);
  return {gathered, gathered ? dense : direct};
}

TilePlan tile_plan(const Shape& s) {
  TilePlan plan{};
  plan.channel_blocks = ceil_div(s.group_channels, 64);
  plan.block_channels = ceil_div(s.group_channels, plan.channel_blocks);
  plan.row_runs = s.dilation_w == 1 && s.stride_w == 1;
  plan.runs = plan.channel_blocks * (plan.row_runs ? s.kernel_h : s.taps);
  plan.run_length = plan.block_channels * (plan.row_runs ? s.kernel_w : 1);
  plan.run_steps = ceil_div(plan.run_length, 64);
  return plan;
}

namespace {

constexpr char kMagic[8] = {'x', 'n', 'o', 'r', 'k', 'i', 't', '1'};

bool bit_of(const uint8_t* bits, int64_t index) { return bits[index / 8] >> (index % 8) & 1; }

// [block][word][kLanes]: the words of kLanes filters side by side.
void pack_words(const Shape& s, const uint8_t* dense, uint64_t* words) {
  const WordPlan plan = word_plan(s);
  const int64_t tap_words = ceil_div(s.group_channels, kWordBits);
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int lane = 0; lane < s.lanes(block); ++lane) {
      const uint8_t* filter = dense + (s.first_channel(block) + lane) * s.filter_bytes;
      uint64_t* target = words + block * plan.filter_words * kLanes + lane;
      for (int64_t i = 0; i < s.filter_bits; ++i) {
        const int64_t tap = i / s.group_channels, channel = i % s.group_channels;
        const int64_t at = plan.gathered ? i : tap * tap_words * kWordBits + channel;
        target[at / kWordBits * kLanes] |= static_cast<uint64_t>(bit_of(filter, i)) << (at % kWordBits);
      }
    }
}

// [block][step][16] words. Word k is row k of a weight tile: its byte 4 l + j is weight 4 k + j of the step's 64,
// of lane l. Byte b of the row is bit b / 8 of byte b % 8 of the word, see weight_signs() in conv_amx.cc.
void pack_tiles(const Shape& s, const uint8_t* dense, uint64_t* words) {
  const TilePlan plan = tile_plan(s);
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int lane = 0; lane < s.lanes(block); ++lane) {
      const uint8_t* filter = dense + (s.first_channel(block) + lane) * s.filter_bytes;
      for (int64_t i = 0; i < s.filter_bits; ++i) {
        const int64_t tap = i / s.group_channels, channel = i % s.group_channels;
        const int64_t within = channel % plan.block_channels;
        const int64_t run = channel / plan.block_channels * (plan.runs / plan.channel_blocks) +
                            (plan.row_runs ? tap / s.kernel_w : tap);
        const int64_t byte = (plan.row_runs ? tap % s.kernel_w * plan.block_channels : 0) + within;
        const int64_t step = block * plan.steps() + run * plan.run_steps + byte / 64, b = 4 * lane + byte % 4;
        words[step * 16 + byte % 64 / 4] |= static_cast<uint64_t>(bit_of(filter, i)) << (b % 8 * 8 + b / 8);
      }
    }
}

WeightsHeader header_of(const Shape& s, int kernel) {
  WeightsHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.kernel = kernel;
  std::strncpy(h.name, kKernels[kernel]->name, sizeof h.name - 1);
  h.channels = s.channels;
  h.out_channels = s.out_channels;
  h.groups = s.groups;
  h.kernel_h = static_cast<int32_t>(s.kernel_h);
  h.kernel_w = static_cast<int32_t>(s.kernel_w);
  h.row_runs = kKernels[kernel]->order == WeightOrder::kTiles && tile_plan(s).row_runs;
  return h;
}

}  // namespace

size_t weights_bytes(const Shape& s, const Kernel& kernel) {
  const bool tiles = kernel.order == WeightOrder::kTiles;
  const int64_t words = tiles ? tile_plan(s).steps() * 16 : word_plan(s).filter_words * kLanes;
  return sizeof(WeightsHeader) + static_cast<size_t>(s.blocks() * words) * sizeof(uint64_t);
}

void pack_weights(const Shape& s, int kernel, const uint8_t* dense, void* weights) {
  std::memset(weights, 0, weights_bytes(s, *kKernels[kernel]));
  const WeightsHeader header = header_of(s, kernel);
  std::memcpy(weights, &header, sizeof header);
  uint64_t* words = reinterpret_cast<uint64_t*>(static_cast<char*>(weights) + sizeof header);
  kKernels[kernel]->order == WeightOrder::kTiles ? pack_tiles(s, dense, words) : pack_words(s, dense, words);
}

int weights_kernel(const void* weights, size_t bytes) {
  WeightsHeader h;
  if (!weights || bytes < sizeof h) return -1;
  std::memcpy(&h, weights, sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) || h.kernel < 0 || h.kernel >= kKernelCount) return -1;
  const Kernel& kernel = *kKernels[h.kernel];
  return !std::strncmp(h.name, kernel.name, sizeof h.name) && kernel.usable() ? static_cast<int>(h.kernel) : -1;
}

void check_weights(const Shape& s, const void* weights, size_t bytes) {
  const int kernel = weights_kernel(weights, bytes);
  if (kernel < 0)
    fail(XK_INVALID_ARGUMENT, "the weights were not packed by this library for a kernel of this machine");
  const WeightsHeader expected = header_of(s, kernel);
  if (std::memcmp(weights, &expected, sizeof expected))
    fail(XK_INVALID_ARGUMENT,
         "the packed weights are for another shape than %" PRId64 " -> %" PRId64 " channels, kernel %" PRId64
         "x%" PRId64 ", groups %" PRId64,
         s.channels, s.out_channels, s.kernel_h, s.kernel_w, s.groups);
  const size_t needed = weights_bytes(s, *kKernels[kernel]);
  if (bytes != needed)
    fail(XK_INVALID_ARGUMENT, "the packed weights are %zu bytes; this shape needs %zu", bytes, needed);
}

}  // namespace xk
