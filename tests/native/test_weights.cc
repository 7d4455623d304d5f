// Dense weights to a kernel's order and back. Orders of kernels that this machine cannot run are tested too: inside.
#include "conv/weights.h"

#include <algorithm>
#include <cstring>

#include "conv/plan.h"
#include "testing.h"

namespace {

std::vector<xk_conv_shape> shapes() {
  std::vector<xk_conv_shape> all;
  for (int64_t c : {1, 3, 63, 64, 65, 130, 192, 257})
    for (int64_t k : {1, 3, 5}) all.push_back(square(1, c, 17, 7, k, 1, k / 2, 1, 1));
  all.push_back(square(1, 70, 33, 9, 3, 2, 1, 2, 1));    // a run is a tap, not a row
  all.push_back(square(1, 64, 64, 8, 3, 1, 1, 1, 4));    // groups of 16
  all.push_back(square(1, 24, 12, 6, 3, 1, 1, 1, 4));    // groups of 6
  all.push_back(square(1, 195, 51, 6, 3, 1, 1, 1, 3));   // groups of 65, 17 outputs
  all.push_back(square(1, 256, 96, 6, 3, 1, 1, 1, 2));   // groups of two words
  all.push_back(square(1, 40, 40, 8, 5, 1, 2, 1, 40));   // depthwise
  all.push_back(square(1, 48, 210, 6, 3, 1, 1, 1, 3));   // groups of 16, 70 outputs: two blocks of 64
  return all;
}

bool bit_at(const uint8_t* bits, int64_t i) { return bits[i / 8] >> (i % 8) & 1; }

// As the comments of conv/plan.h and conv/weights.cc say of them.
struct Place {
  int64_t word, bit;
};
Place place_in_words(const xk::Shape& s, int64_t block, int lane, int64_t tap, int64_t channel) {
  const xk::WordPlan plan = xk::word_plan(s);
  const int64_t dense = tap * s.group_channels + channel, tap_bits = (s.group_channels + 63) / 64 * 64;
  const int64_t at = plan.gathered ? dense : tap * tap_bits + channel;
  return {(block * plan.filter_words + at / 64) * 16 + lane, at % 64};
}
Place place_in_bytes(const xk::Shape& s, int64_t block, int lane, int64_t tap, int64_t channel) {
  const xk::BytePlan plan = xk::byte_plan(s);
  const int64_t part = channel / plan.block_channels, within = channel % plan.block_channels;
  const int64_t runs = plan.runs / plan.channel_blocks;
  const int64_t run = part * runs + (plan.row_runs ? tap / s.kernel_w : tap);
  const int64_t weight = (plan.row_runs ? tap % s.kernel_w * plan.block_channels : 0) + within;
  const int64_t byte = 4 * lane + weight % 4;
  return {((block * plan.runs + run) * plan.run_steps + weight / 64) * 16 + weight % 64 / 4, byte % 8 * 8 + byte / 8};
}
Place place_in_octets(const xk::Shape& s, int64_t block, int lane, int64_t tap, int64_t channel) {
  const xk::LookupPlan plan = xk::lookup_plan(s);
  const int64_t group = block / s.group_blocks, filter = block % s.group_blocks * 16 + lane;
  const int64_t octet = ((group * plan.group_blocks + filter / 64) * s.taps + tap) * plan.octets + channel / 8;
  const int64_t byte = octet * 64 + filter % 64;
  return {byte / 8, byte % 8 * 8 + channel % 8};
}

// Halves side by side; every even one but the first is the xor of all up to it.
std::vector<uint64_t> placed_in_chains(const xk::Shape& s, const Problem& p, const xk::Kernel& kernel) {
  const int64_t halves = (s.group_channels + 31) / 32;
  std::vector<uint32_t> all((xk::weights_bytes(s, kernel) - sizeof(xk::WeightsHeader)) / 4);
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int lane = 0; lane < s.lanes(block); ++lane)
      for (int64_t tap = 0; tap < s.taps; ++tap) {
        uint32_t sum = 0;
        for (int64_t h = 0; h < halves; ++h) {
          uint32_t half = 0;
          for (int64_t c = 32 * h; c < std::min(32 * h + 32, s.group_channels); ++c) {
            const uint8_t* filter = p.dense.data() + (s.first_channel(block) + lane) * s.filter_bytes;
            half |= uint32_t{bit_at(filter, tap * s.group_channels + c)} << (c % 32);
          }
          sum ^= half;
          all[static_cast<size_t>(((block * s.taps + tap) * halves + h) * 16 + lane)] = h % 2 ? half : sum;
        }
      }
  std::vector<uint64_t> words(all.size() / 2);
  std::memcpy(words.data(), all.data(), all.size() * 4);
  return words;
}

// What packed weights are, bit by bit, behind the header.
std::vector<uint64_t> placed(const xk::Shape& s, const Problem& p, const xk::Kernel& kernel) {
  if (kernel.order == xk::WeightOrder::kChains && !xk::chain_plan(s).gathered) return placed_in_chains(s, p, kernel);
  std::vector<uint64_t> words((xk::weights_bytes(s, kernel) - sizeof(xk::WeightsHeader)) / 8);
  auto place = kernel.order == xk::WeightOrder::kBytes ? place_in_bytes : place_in_words;
  if (xk::by_lookup(s, kernel)) place = place_in_octets;
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int lane = 0; lane < s.lanes(block); ++lane)
      for (int64_t i = 0; i < s.filter_bits; ++i) {
        const bool bit = bit_at(p.dense.data() + (s.first_channel(block) + lane) * s.filter_bytes, i);
        const Place at = place(s, block, lane, i / s.group_channels, i % s.group_channels);
        words[static_cast<size_t>(at.word)] |= uint64_t{bit} << at.bit;
      }
  return words;
}

void check_order(const Problem& p, int index) {
  const xk::Kernel& kernel = xk::kKernels[index];
  const xk::Shape s = xk::weight_shape(p.s);
  const std::string name = name_of(p.s, kernel.name);
  std::vector<uint64_t> weights(xk::weights_bytes(s, kernel) / 8, 0xfeed);
  xk::pack_weights(s, index, p.dense.data(), weights.data());
  check(std::vector<uint64_t>(weights.begin() + sizeof(xk::WeightsHeader) / 8, weights.end()) == placed(s, p, kernel),
        name + ": packed weights");
  std::vector<uint8_t> dense(p.dense.size(), 0xee);
  xk::unpack_weights(s, index, weights.data(), dense.data());
  check(dense == p.dense, name + ": unpacked weights");
  std::fill(weights.begin() + sizeof(xk::WeightsHeader) / 8, weights.end(), ~uint64_t{0});
  xk::unpack_weights(s, index, weights.data(), dense.data());
  std::vector<uint8_t> ones(dense.size(), 0xff);
  for (size_t end = static_cast<size_t>(s.filter_bytes); s.filter_bits % 8 && end <= ones.size();
       end += static_cast<size_t>(s.filter_bytes))
    ones[end - 1] = static_cast<uint8_t>((1 << s.filter_bits % 8) - 1);
  check(dense == ones, name + ": bits past a filter's end stay 0");
}

}  // namespace

void test_weights() {
  uint32_t seed = 1;
  for (const xk_conv_shape& shape : shapes()) {
    const Problem problem(shape, seed++);
    for (int i = 0; i < xk::kKernelCount; ++i) check_order(problem, i);
    for (int32_t i = 0; i < xk_kernel_count(); ++i) {
      const std::vector<char> weights = problem.weights(xk_kernel_name(i));
      std::vector<uint8_t> dense(problem.dense.size(), 0xee);
      check(xk_weights_unpack(&shape, weights.data(), weights.size(), dense.data(), dense.size()) == XK_OK, "unpack");
      check(dense == problem.dense, name_of(shape, xk_kernel_name(i)) + ": dense weights");
    }
  }
}

// Where look-ups are taken: the tests of convolutions reach them, and words too.
void test_lookup_choice() {
  for (int i = 0; i < xk::kKernelCount; ++i) {
    const xk::Kernel& kernel = xk::kKernels[i];
    const auto chosen = [&](const xk_conv_shape& s) { return xk::by_lookup(xk::weight_shape(s), kernel); };
    const bool nibbles = kernel.order == xk::WeightOrder::kNibbles;
    const std::string all = " avx2 avx512bw wasm ";
    check(nibbles == (all.find(" " + std::string(kernel.name) + " ") != std::string::npos), kernel.name);
    const std::string name = std::string(kernel.name) + " by look-up: ";
    check(chosen(square(1, 64, 64, 8, 3, 1, 1, 1, 1)) == nibbles, name + "64 filters");
    check(chosen(square(1, 256, 128, 8, 3, 1, 1, 1, 2)) == nibbles, name + "groups of words");
    const bool fill = nibbles && kernel.microkernels->lookup_lanes <= 16;
    check(chosen(square(1, 256, 16, 8, 3, 1, 1, 1, 1)) == fill, name + "16 filters where they fill a vector");
    check(!chosen(square(1, 130, 128, 8, 3, 1, 1, 1, 2)), name + "not groups of 65");
    check(!chosen(square(1, 33000, 64, 8, 1, 1, 1, 1, 1)), name + "not sums over 16 bits");
  }
}

void test_bad_weights() {
  const xk_conv_shape good = square(1, 64, 16, 8, 3, 1, 1, 1, 1), other = square(1, 64, 32, 8, 3, 1, 1, 1, 1);
  const Problem problem(good, 1);
  std::vector<char> weights = problem.weights("scalar");
  uint8_t* const nowhere = reinterpret_cast<uint8_t*>(64);
  const size_t bytes = problem.dense.size();
  auto refused = [&](const xk_conv_shape* s, const void* w, size_t size, uint8_t* dense, size_t dense_size) {
    return xk_weights_unpack(s, w, size, dense, dense_size) == XK_INVALID_ARGUMENT;
  };
  xk_conv_shape bad = good;
  bad.groups = 3;
  check(refused(nullptr, weights.data(), weights.size(), nowhere, bytes), "NULL shape");
  check(refused(&bad, weights.data(), weights.size(), nowhere, bytes), "bad shape");
  check(refused(&good, nullptr, weights.size(), nowhere, bytes), "NULL weights");
  check(refused(&good, weights.data(), weights.size(), nullptr, bytes), "NULL dense weights");
  check(refused(&good, weights.data(), weights.size() - 8, nowhere, bytes), "truncated weights");
  check(refused(&good, weights.data(), 10, nowhere, bytes), "weights without a header");
  check(refused(&other, weights.data(), weights.size(), nowhere, 2 * bytes), "weights of another shape");
  check(refused(&good, weights.data(), weights.size(), nowhere, bytes - 1), "a short buffer");
  check(std::strstr(xk_last_error(), "1151 bytes; this shape needs 1152"), "the error says which size it must have");
  for (size_t byte = 0; byte < 64; ++byte) {
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
    check(refused(&good, weights.data(), weights.size(), nowhere, bytes), "header byte " + std::to_string(byte));
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
  }
}
