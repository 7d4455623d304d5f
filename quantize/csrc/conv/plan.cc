#include "conv/plan.h"

#include <algorithm>
#include <vector>

#include "kernel.h"

namespace xk {

namespace {

// Shifting bytes together costs about a quarter of a window; shifting bits is done only where groups need it.
bool worth_gathering(const Shape& s, int64_t dense, int64_t direct) {
  return 4 * dense < 3 * direct && s.group_channels % 8 == 0;
}

// A pixel's window is shifted together once for all its filters: in cycles on Zen 5, for a tap, and what a half of a block
// of filters takes.
bool gathering_pays(const Shape& s, int64_t dense, int64_t direct) {
  constexpr double kTap = 12, kHalf = 1.4;
  return worth_gathering(s, dense, direct) &&
         kHalf * static_cast<double>((direct - dense) * s.blocks()) > kTap * static_cast<double>(s.taps);
}

// Output positions times the taps that they see.
double taps_inside(const std::vector<Band>& bands) {
  double sum = 0;
  for (const Band& b : bands) sum += static_cast<double>((b.end - b.begin) * (b.last - b.first));
  return sum;
}

// Pixels side by side in a vector: only for convolutions that move over every pixel of a row.
bool planes_preferred(const ConvCall& call) {
  const Shape& s = call.shape;
  if (call.output.kind == XK_OUT_BITS || call.output.layout != XK_NCHW || call.output.shuffle > 1) return false;
  if (s.stride_h != 1 || s.stride_w != 1 || s.out_width != s.width) return false;
  // Cycles for 16 sums on Zen 4: for each half, and for the way to the output. Planes also compute padded taps, and the
  // rest of the last vector; conv_halves() transposes.
  constexpr double kHalf = 1.4, kStore = 2, kTransposed = 7;
  const double inside =
      taps_inside(bands(vertical(s), s.out_height)) * taps_inside(bands(horizontal(s), s.out_width));
  const double halves = kHalf * static_cast<double>(chain_plan(s).halves);
  const int64_t pixels = s.out_height * s.out_width;
  const double filled = static_cast<double>(ceil_div(pixels, kLanes) * kLanes);
  const double transposed = static_cast<double>(pixels) * kTransposed;
  return filled * (static_cast<double>(s.taps) * halves + kStore) < inside * halves + transposed;
}

}  // namespace

WordPlan word_plan(const Shape& s) {
  const int64_t direct = s.taps * ceil_div(s.group_channels, kWordBits);
  const int64_t dense = ceil_div(s.filter_bits, kWordBits);
  const bool aligned = s.groups == 1 || s.group_channels % kWordBits == 0;
  const bool gathered = !aligned || worth_gathering(s, dense, direct);
  return {gathered, gathered ? dense : direct};
}

LookupPlan lookup_plan(const Shape& s) {
  return {ceil_div(s.group_channels, 8), ceil_div(s.group_outputs, kLookupLanes)};
}

bool by_lookup(const Shape& s, const Kernel& kernel) {
  const bool aligned = s.groups == 1 || s.group_channels % 8 == 0;
  if (kernel.order != WeightOrder::kNibbles || !aligned || s.filter_bits > INT16_MAX) return false;
  // Products, empty ones too, for each output pixel. Words take 1.6 times as long for one, on an Intel Xeon with AMX.
  const int64_t lanes = kernel.microkernels->lookup_lanes;
  const int64_t looked_up = ceil_div(s.group_outputs, lanes) * lanes * s.taps * lookup_plan(s).octets * 8;
  const int64_t in_words = s.group_blocks * kLanes * word_plan(s).filter_words * kWordBits;
  return 5 * looked_up < 8 * in_words;
}

ChainPlan chain_plan(const Shape& s) {
  const int64_t halves = ceil_div(s.group_channels, kHalfBits);
  const int64_t dense = 2 * ceil_div(s.filter_bits, kWordBits);
  const bool aligned = s.groups == 1 || s.group_channels % kHalfBits == 0;
  return {!aligned || gathering_pays(s, dense, s.taps * halves), halves};
}

PlaneLayout plane_layout(const Shape& s) {
  const int64_t last = ((s.kernel_h - 1) * s.dilation_h - s.pad_top) * s.width + (s.kernel_w - 1) * s.dilation_w;
  PlaneLayout layout{};
  layout.plane = s.height * s.width;
  layout.before = ceil_div(s.pad_top * s.width + s.pad_left, kLanes) * kLanes;
  layout.after = std::max<int64_t>(0, last) + (s.out_height - s.height) * s.width + 2 * kLanes;
  return layout;
}

BytePlan byte_plan(const Shape& s) {
  BytePlan plan{};
  plan.channel_blocks = ceil_div(s.group_channels, 64);
  plan.block_channels = ceil_div(s.group_channels, plan.channel_blocks);
  plan.row_runs = s.dilation_w == 1 && s.stride_w == 1;
  plan.runs = plan.channel_blocks * (plan.row_runs ? s.kernel_h : s.taps);
  plan.run_length = plan.block_channels * (plan.row_runs ? s.kernel_w : 1);
  plan.run_steps = ceil_div(plan.run_length, 64);
  return plan;
}

constexpr int64_t kLeastByteBits = 512;

// Where the tiles of a matrix unit are filled: by 16 pixels (taken for granted where the size is not known), 16
// channels, and most of the 64 bytes of a step. A short filter ends before the tiles have paid for the bytes that its
// bits become: 1x1 with 256 channels takes 0.7 to 0.95 of the time by vectors, with 512 as long.
bool bytes_preferred(const Shape& s) {
  if (s.channels == 0) return false;
  const BytePlan plan = byte_plan(s);
  const bool pixels = s.height * s.width == 0 || s.height * s.width >= 16;
  const bool long_enough = s.filter_bits >= kLeastByteBits;
  return pixels && long_enough && s.group_outputs >= kLanes && 5 * plan.run_length >= 4 * 64 * plan.run_steps;
}

Driver choose_driver(const ConvCall& call) {
  const Shape& s = call.shape;
  const WeightOrder order = call.kernel->order;
  if (order == WeightOrder::kBytes) return {conv_bytes, InputForm::kWords};
  if (by_lookup(s, *call.kernel)) return {conv_lookup, InputForm::kOffsets};
  if (order != WeightOrder::kChains) return {word_plan(s).gathered ? conv_gathered : conv_words, InputForm::kWords};
  const ChainPlan plan = chain_plan(s);
  if (plan.gathered) return {conv_gathered, InputForm::kWords};
  if (planes_preferred(call)) return {conv_planes, InputForm::kPlanes};
  return {conv_halves, plan.chained() ? InputForm::kChains : InputForm::kWords};
}

}  // namespace xk
