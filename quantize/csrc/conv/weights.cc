#include "conv/weights.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "conv/plan.h"
#include "error.h"
#include "kernel.h"

namespace xk {

namespace {

constexpr char kMagic[8] = {'x', 'n', 'o', 'r', 'k', 'i', 't', '1'};

// `count` bits of a filter, from bit `from` on, and where they are: in a word or half, from bit `at` on, `step` apart.
struct Piece {
  int64_t from, word;
  int at, step, count;
};

// [block][run][unit][kLanes]: the units of kLanes filters side by side. Units are words or halves; each of `runs` equal
// parts of a filter, its taps or all of it, has `units` of its own.
template <class Visit>
void visit_units(const Shape& s, int64_t block, int lane, int64_t runs, int64_t units, int64_t unit_bits,
                 const Visit& visit) {
  const int64_t bits = s.filter_bits / runs;
  for (int64_t run = 0; run < runs; ++run)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t first = unit * unit_bits, at = ((block * runs + run) * units + unit) * kLanes + lane;
      visit(Piece{run * bits + first, at, 0, 1, static_cast<int>(std::min(unit_bits, bits - first))});
    }
}

// What turns a half into that of a chain by xor, and back, given the halves of the chain before it: see form_chains().
Half chain_link(const ChainPlan& plan, const Half* halves, int64_t at) {
  const int64_t half = at / kLanes % plan.halves;
  return plan.chained() && half && half % 2 == 0 ? halves[at - kLanes] ^ halves[at - 2 * kLanes] : 0;
}

// [block][step][16] words. Word k is row k of a weight tile: its byte 4 l + j is weight 4 k + j of the step's 64,
// of lane l. Byte b of the row is bit b / 8 of byte b % 8 of the word, see weight_signs() in arch/amx.cc.
template <class Visit>
void visit_bytes(const Shape& s, int64_t block, int lane, const Visit& visit) {
  const BytePlan plan = byte_plan(s);
  for (int64_t tap = 0; tap < s.taps; ++tap)
    for (int64_t first = 0; first < s.group_channels; first += plan.block_channels) {
      const int64_t run = first / plan.block_channels * (plan.runs / plan.channel_blocks) +
                          (plan.row_runs ? tap / s.kernel_w : tap);
      const int64_t begin = plan.row_runs ? tap % s.kernel_w * plan.block_channels : 0;
      const int64_t end = begin + std::min(plan.block_channels, s.group_channels - first);
      for (int64_t byte = begin, next; byte < end; byte = next) {
        next = std::min(end, byte / 4 * 4 + 4);
        const int64_t step = block * plan.steps() + run * plan.run_steps + byte / 64, b = 4 * lane + byte % 4;
        visit(Piece{tap * s.group_channels + first + byte - begin, step * 16 + byte % 64 / 4,
                    static_cast<int>(b % 8 * 8 + b / 8), 8, static_cast<int>(next - byte)});
      }
    }
}

// [block of kLookupLanes][tap][octet][kLookupLanes] bytes, eight a word.
template <class Visit>
void visit_octets(const Shape& s, int64_t block, int lane, const Visit& visit) {
  const LookupPlan plan = lookup_plan(s);
  constexpr int64_t kBlocks = kLookupLanes / kLanes;
  const int64_t lookup_block = s.group_of(block) * plan.group_blocks + block % s.group_blocks / kBlocks;
  const int64_t filter = block % s.group_blocks % kBlocks * kLanes + lane;
  for (int64_t tap = 0; tap < s.taps; ++tap)
    for (int64_t octet = 0; octet < plan.octets; ++octet) {
      const int64_t byte = ((lookup_block * s.taps + tap) * plan.octets + octet) * kLookupLanes + filter;
      const int64_t count = std::min<int64_t>(8, s.group_channels - 8 * octet);
      visit(Piece{tap * s.group_channels + 8 * octet, byte / 8, static_cast<int>(byte % 8 * 8), 1,
                  static_cast<int>(count)});
    }
}

bool in_chains(const Shape& s, const Kernel& kernel) {
  return kernel.order == WeightOrder::kChains && !chain_plan(s).gathered;
}

// Calls visit(filter, piece) for all pieces of all filters.
template <class Visit>
void visit_pieces(const Shape& s, const Kernel& kernel, const Visit& visit) {
  const int64_t word_runs = word_plan(s).gathered ? 1 : s.taps;
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int lane = 0; lane < s.lanes(block); ++lane) {
      const auto visit_one = [&](const Piece& piece) { visit(s.first_channel(block) + lane, piece); };
      if (kernel.order == WeightOrder::kBytes)
        visit_bytes(s, block, lane, visit_one);
      else if (by_lookup(s, kernel))
        visit_octets(s, block, lane, visit_one);
      else if (in_chains(s, kernel))
        visit_units(s, block, lane, s.taps, chain_plan(s).halves, kHalfBits, visit_one);
      else
        visit_units(s, block, lane, word_runs, word_plan(s).filter_words / word_runs, kWordBits, visit_one);
    }
}

uint64_t low_bits(int count) { return ~uint64_t{0} >> (kWordBits - count); }  // count is 1 to 64

uint64_t read_bits(const uint8_t* bits, int64_t from, int count) {
  uint64_t value = 0;
  for (int done = -static_cast<int>(from % 8); done < count; done += 8) {
    const uint64_t byte = bits[(from + done) / 8];
    value |= done < 0 ? byte >> -done : byte << done;
  }
  return value & low_bits(count);
}

// Or-s `count` bits into `bits`, from bit `from` on.
void write_bits(uint64_t value, uint8_t* bits, int64_t from, int count) {
  for (int done = -static_cast<int>(from % 8); done < count; done += 8)
    bits[(from + done) / 8] |= static_cast<uint8_t>(done < 0 ? value << -done : value >> done);
}

// Up to four bits to places eight bits apart, and back: each product moves bit i by 7 i, and nothing carries.
uint64_t spread(uint64_t bits) { return (bits * 0x00204081u) & 0x01010101u; }
uint64_t unspread(uint64_t bits) { return ((bits & 0x01010101u) * 0x01020408u) >> 24 & 0xf; }

WeightsHeader header_of(const Shape& s, int kernel) {
  WeightsHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.kernel = kernel;
  std::memcpy(h.name, kKernels[kernel].name, std::min(sizeof h.name, std::strlen(kKernels[kernel].name)));
  h.channels = s.channels;
  h.out_channels = s.out_channels;
  h.groups = s.groups;
  h.kernel_h = static_cast<int32_t>(s.kernel_h);
  h.kernel_w = static_cast<int32_t>(s.kernel_w);
  h.row_runs = kKernels[kernel].order == WeightOrder::kBytes && byte_plan(s).row_runs;
  return h;
}

int64_t payload_bytes(const Shape& s, const Kernel& kernel) {
  if (by_lookup(s, kernel)) {
    const LookupPlan plan = lookup_plan(s);
    return s.groups * plan.group_blocks * s.taps * plan.octets * kLookupLanes;
  }
  if (kernel.order == WeightOrder::kBytes) return s.blocks() * byte_plan(s).steps() * 16 * int64_t{sizeof(Word)};
  if (in_chains(s, kernel)) return s.blocks() * s.taps * chain_plan(s).halves * kLanes * int64_t{sizeof(Half)};
  return s.blocks() * word_plan(s).filter_words * kLanes * int64_t{sizeof(Word)};
}

}  // namespace

size_t weights_bytes(const Shape& s, const Kernel& kernel) {
  return sizeof(WeightsHeader) + static_cast<size_t>(payload_bytes(s, kernel));
}

void pack_weights(const Shape& s, int kernel, const uint8_t* dense, void* weights) {
  std::memset(weights, 0, weights_bytes(s, kKernels[kernel]));
  const WeightsHeader header = header_of(s, kernel);
  std::memcpy(weights, &header, sizeof header);
  void* const payload = static_cast<char*>(weights) + sizeof header;
  uint64_t* const words = static_cast<uint64_t*>(payload);
  Half* const halves = in_chains(s, kKernels[kernel]) ? static_cast<Half*>(payload) : nullptr;
  const ChainPlan plan = chain_plan(s);
  visit_pieces(s, kKernels[kernel], [&](int64_t filter, const Piece& p) {
    const uint64_t bits = read_bits(dense + filter * s.filter_bytes, p.from, p.count);
    if (halves)
      halves[p.word] = static_cast<Half>(bits) ^ chain_link(plan, halves, p.word);
    else
      words[p.word] |= (p.step == 1 ? bits : spread(bits)) << p.at;
  });
}

void unpack_weights(const Shape& s, int kernel, const void* weights, uint8_t* dense) {
  std::memset(dense, 0, static_cast<size_t>(s.out_channels * s.filter_bytes));
  const void* const payload = static_cast<const char*>(weights) + sizeof(WeightsHeader);
  const uint64_t* const words = static_cast<const uint64_t*>(payload);
  const Half* const halves = in_chains(s, kKernels[kernel]) ? static_cast<const Half*>(payload) : nullptr;
  const ChainPlan plan = chain_plan(s);
  visit_pieces(s, kKernels[kernel], [&](int64_t filter, const Piece& p) {
    const uint64_t bits = halves ? halves[p.word] ^ chain_link(plan, halves, p.word) : words[p.word] >> p.at;
    write_bits((p.step == 1 ? bits : unspread(bits)) & low_bits(p.count), dense + filter * s.filter_bytes, p.from,
               p.count);
  });
}

int weights_kernel(const void* weights, size_t bytes) {
  WeightsHeader h;
  if (!weights || bytes < sizeof h) return -1;
  std::memcpy(&h, weights, sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) || h.kernel < 0 || h.kernel >= kKernelCount) return -1;
  const Kernel& kernel = kKernels[h.kernel];
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
  const size_t needed = weights_bytes(s, kKernels[kernel]);
  if (bytes != needed)
    fail(XK_INVALID_ARGUMENT, "the packed weights are %zu bytes; this shape needs %zu", bytes, needed);
}

}  // namespace xk
