// arch/ has what an instruction set provides: functions on a few vectors of pixels by a block of output channels,
// which know neither the shape of a convolution nor the driver that calls them.
//
// One file an instruction set, several for AVX-512, and portable.inc with the functions that a compiler vectorizes by
// itself. Each instruction set fills the table Microkernels below; kernels.cc lists them, and the drivers in conv/
// call them through the kernel of a call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shape.h"

namespace xk {

// What sums are formed of: 64-bit words, or their 32-bit halves.
using Word = uint64_t;
using Half = uint32_t;

// Consecutive units of a pixel's window, and of the filters that go with them; in units from the tile's `input`
// and in steps of kLanes units from its `weights`.
struct Run {
  int64_t input, weight, length;
};

constexpr int kMaxTilePixels = 8;

// Sums of +-1 products of `pixels` windows with kLanes filters. With K the number of taps' channels,
// K - popcount(a ^ b) products are +1 and popcount(a ^ b) are -1: dot = K - 2 * popcount(a ^ b).
template <class Unit>
struct Tile {
  const Unit* input;
  int64_t origin;        // units from `input` to the first pixel's window; a run is added before it is used
  int64_t input_stride;  // units from a pixel to the next
  int64_t input_step;    // units from a unit of a run to the next
  const Unit* weights;   // [unit][kLanes]
  const Run* runs;
  size_t run_count;
  bool chained;          // a run is a chain, see form_chains()
  const uint64_t* mask;  // NULL, or [pixel][word]: bits that count; then there is one run, from word 0
  int64_t mask_stride;
  const int32_t* terms;  // K of a pixel
  int64_t terms_stride;
  int pixels;     // 1 to kMaxTilePixels
  int32_t* dots;  // [pixel][kLanes]
  int64_t dots_stride;
};

// Cuts `count` pixels into tiles of nearly equal size: run(first pixel, pixels).
template <class Function>
void for_each_tile(int64_t count, const Function& run) {
  const int64_t tiles = ceil_div(count, kMaxTilePixels);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = count * i / tiles;
    run(begin, static_cast<int>(count * (i + 1) / tiles - begin));
  }
}

// Puts the xor of all halves up to it in place of each even one: h0, h1, h0^h1^h2, h3, h0^..^h4, ... of each of
// `count` chains of `halves`, `pitch` apart. Of two operands so formed the xor is the chain of their products
// x0, x1, ...; with s = x0^..^x[i-1] the sum bits of a full adder over s, x[i] and x[i+1] are there already
// and its carry bits are a function of s, x[i] and them: one ternary instruction. Three halves then cost 8
// operations instead of 9, seven 18 instead of 21: popcount(x0) + ... = popcount(s) + 2 sum(popcount(carry)).
inline void form_chains(Half* chains, int64_t count, int64_t halves, int64_t pitch) {
  for (int64_t i = 0; i < count; ++i, chains += pitch) {
    Half sum = chains[0];
    for (int64_t h = 2; h < halves; h += 2) chains[h] = sum ^= chains[h - 1] ^ chains[h];
  }
}

// The signs of sums without their epilogue in floats: the sign of a lane is +1 where (sum ^ flip) > limit, with flip
// -1 where epilogue and comparison together flip the order of sums, else 0.
struct SignLimits {
  int32_t limit[kLanes], flip[kLanes];
};

// What happens to the sums of a block of channels on their way to the output: an xk_epilogue, and for signs the
// comparison of an xk_binarize. Entries past the last channel are harmless.
struct Epilogue {
  float scale[kLanes], bias[kLanes];
  float threshold[kLanes];   // of x, or of -x where flipped
  uint32_t flip[kLanes];     // the sign bit where x <= t is asked, that is -x >= -t; else 0
  const float* input_scale;  // [pixel], or NULL
  bool relu;
  bool integers;  // the sums themselves are the output
  bool floats;    // the sums are floats: their bits are in the place of integers
  int lanes;
  const SignLimits* limits;  // NULL, or all that signs need
};

// Where the signs of a pixel go from `lane` on: to the set bits of `mask`, upwards, in a word of the output.
struct Spread {
  int64_t word;
  uint64_t mask;
  int lane;
};

constexpr int64_t kPlaneVectors = 16;  // of pixels, at most, in a PlaneTile

// Where a tap's input and weights are, in halves from those of a PlaneTile.
struct PlaneTap {
  int64_t input, weight;
};

// Sums of vectors of 16 pixels with the channels of a block, and their way to the output; see conv/planes.cc.
struct PlaneTile {
  const Half* input;  // [half][pixel], at the first pixel
  int64_t plane;      // halves from a plane to the next
  const Half* weights;
  const PlaneTap* taps;
  int64_t tap_count;
  const uint16_t* masks;  // [vector][tap]: of the 16 pixels, those whose tap lies inside the input
  int64_t halves;         // of a tap
  bool chained;
  int32_t tap_terms;  // K of a tap
  int64_t pixels;
  int32_t* output;  // [lane][pixel]
  int64_t output_pitch;
};

// A row of pixels on its way from bits to bytes of -1, 0 (padding) and +1; see conv/bytes.cc.
struct ByteRow {
  const uint64_t* bits;  // [width][words]
  int64_t words, width;
  int64_t channel, channels;  // up to 64 channels of each pixel
  int64_t first, step;        // the pixels first, first + step, ...: those outside [0, width) are padding
  int8_t* bytes;              // [count][pitch], 0 from `channels` on
  int64_t count, pitch;
};

// 64 products of a pixel with a filter.
struct ByteStep {
  int64_t input;  // bytes from the pixel's window
  bool whole;     // or the last of a run: weights beyond the run's length count nothing
};

// Sums of `rows` x `columns` pixels with two blocks of channels (or one, twice).
struct ByteTile {
  const int8_t* input;  // the first pixel's window; the next pixel's is `pitch` bytes on
  int64_t pitch;
  const ByteStep* steps;
  size_t step_count;
  const uint64_t* weights[2];  // [step][16] words
  const uint64_t* tail_masks;  // [16]: the bytes that count in the last step of a run
  int64_t rows, columns, row_pitch;  // `row_pitch` pixels lie between the beginnings of rows
  int32_t* dots[2];  // [row][column][kLanes], with room for [rows][row_pitch] and whole tiles
};

// Convolution by look-up of nibbles, see conv/lookup.cc: filters side by side in a vector of bytes, each the index into
// a row of a table, which two output pixels choose.
constexpr int kLookupLanes = 64;         // filters of a block: four blocks of kLanes
constexpr int kLookupNibbles = 60;       // of a slice: a byte gains at most 4 with each
constexpr int kNibblesTogether = 3;      // of which half a byte holds the sum; a slice has a multiple of them
constexpr uint16_t kPaddedOffset = 256;  // of a nibble of padding, see kPairTable

struct alignas(64) PairTable {
  uint8_t rows[17 * 17][16];
};
// See nibbles.inc.
constexpr PairTable pair_table() {
  PairTable table{};
  for (int row = 0; row < 17 * 17; ++row)
    for (int i = 0; i < 16; ++i)
      for (int bit = 0; bit < 4; ++bit) {
        if (row % 17 < 16) table.rows[row][i] += (row % 17 ^ i) >> bit & 1;
        if (row / 17 < 16) table.rows[row][i] += 16 * ((row / 17 ^ i) >> bit & 1);
      }
  return table;
}
inline constexpr PairTable kPairTable = pair_table();

// Where the offsets of a tap, or of taps side by side, of two pixels are.
struct OffsetRun {
  const uint16_t *first, *second;
};

// A slice of the windows of pairs of pixels with a block of filters.
struct PairTile {
  const uint16_t* offsets;  // [pair][offset_pitch]: of the rows of kPairTable
  int64_t offset_pitch, pairs;
  const uint8_t* nibbles;  // [nibble][kLookupLanes], or where there is no second pixel
  const uint8_t* octets;   // [octet_count][kLookupLanes]
  int64_t octet_count;
  int64_t count;           // of nibbles
  bool single;             // one pair, without a second pixel
  int lanes;               // filters that are wanted; sums of others may be left out
  bool first, last;        // slice: sums begin with it, and become dots
  uint16_t* counts;        // [pair][2 * kLookupLanes]: what the slices before it have counted
  const int16_t* terms;    // [pair][2]: K of a pixel, see Tile
  int32_t* dots;           // [block of kLanes][dots_pitch][pair][2][kLanes]
  int64_t dots_pitch;
};

// Floats and the bits that they become: those where (x, or -x where flipped) >= threshold.
struct Packing {
  const float* input;      // [channel][pixel], or [pixel][channel]
  int64_t plane;           // floats from a channel to the next in the first of these
  int64_t pixels;          // to do
  int64_t channels;
  const float* threshold;  // [channels], as in Epilogue
  const uint32_t* flip;    // [channels], as in Epilogue
  bool flips;              // any
  uint64_t* bits;          // [pixel][words]
  int64_t words;
  int64_t chain;  // halves of a chain, or 0
  Half* planes;   // NULL, or where the output goes instead of `bits`: [half][pixel], planes `plane` apart
};

constexpr int kSignedRows = 4, kMostSignedPlanes = 2;

// Sums of floats with the signs of kLanes filters, looked up; see linear/lookup.cc.
struct SignedSums {
  const float* tables;  // [row][word][field][entry]
  int64_t row_pitch;    // floats from a row to the next
  int rows;             // 1 to kSignedRows
  const uint32_t* weights;  // [word][kLanes]: fields of bits, low first
  int64_t words;
  float* sums;              // [row][kLanes], added to
  int planes = 1;           // of the weights, up to kMostSignedPlanes, which look the same tables up
  int64_t plane_pitch = 0;  // values of `weights` from one to the next
};

// The windows of an output row of a max pooling: the or of their words, and what is flipped before and after it.
struct PoolRow {
  const uint64_t* const* rows;  // of the input
  int64_t row_count, row_words;
  const uint64_t* flipped;  // [row_words]
  int64_t words;            // of a pixel
  uint64_t* any;            // [row_words], written first: the or of the rows
};
// Output pixels that see the same columns.
struct PoolColumns {
  int64_t first, step;     // words of `any` before the first tap of the first pixel, and from a pixel to the next
  int64_t taps, tap_step;  // and from a tap to the next
  int64_t pixels;
  uint64_t* output;
};

// A pooling of a plane of floats. The padded plane is split into phases, [stride_h][stride_w] planes of every stride-th row
// and column, so that each tap of all windows is one run of values, to which the outputs, in rows as long, are joined: tap
// by tap in the order of torch's loops, in which sums round as there. Maxima are those of whole numbers in the order of
// the floats, NaNs last.
struct FloatPool : xk_pool_shape {
  const float* input;
  int64_t rows, pitch;  // of a phase, which has one row more
  int32_t* phases;      // written first; what is padded has its value already
  int32_t* joined;      // [out_height][pitch]
  bool maxima;          // or sums
  float* output;        // [out_height][out_width]
};

// All of these but those for one WeightOrder must be there.
struct Microkernels {
  void (*dot_words)(const Tile<Word>& tile);
  // Only for WeightOrder::kChains, and so are chains and planes in Packing.
  void (*dot_halves)(const Tile<Half>& tile);
  void (*convolve_planes)(const PlaneTile& tile, const Epilogue& epilogue);

  // Only for WeightOrder::kNibbles. `lookup_lanes` filters cost as much as one.
  int lookup_lanes;
  void (*count_pairs)(const PairTile& tile);
  // offsets[i] = 16 times nibble i of `count` words.
  void (*offsets_of)(const uint64_t* words, int64_t count, uint16_t* offsets);
  // first + 17 * second of `length` offsets of each run, one run behind the other. Reads and writes up to 15 more.
  void (*join_offsets)(const OffsetRun* runs, int64_t count, int64_t length, uint16_t* joined);
  // [octet][kLookupLanes] to [octet][2][kLookupLanes]: the low and the high nibbles of bytes.
  void (*split_nibbles)(const uint8_t* octets, int64_t count, uint8_t* nibbles);

  // Epilogues of sums [pixel][kLanes], which they may overwrite, with their output
  // in planes, [lane][pixel], lanes `pitch` 32-bit values apart;
  void (*store_planes)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* output, int64_t pitch);
  // in rows, [pixel][lane], pixels `pitch` apart;
  void (*store_rows)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* output, int64_t pitch);
  // in signs: bit l of signs[p] tells whether lane l of pixel p is +1.
  void (*store_signs)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs);
  // The limits of sums of up to `terms` products; scale and bias are finite, and there is no input_scale.
  void (*find_limits)(const Epilogue& epilogue, int32_t terms, SignLimits* limits);
  // Or-s signs into pixels of words, `pitch` apart.
  void (*spread_signs)(const uint16_t* signs, int64_t pixels, const Spread* spreads, int count, uint64_t* words,
                       int64_t pitch);
  // The same of kLanes signs that go to every `groups`-th channel, 16, 32 or 64, from `channel` on: to the same bit
  // of elements of so many bits, one behind the other.
  void (*interleave_signs)(const uint16_t* signs, int64_t pixels, int64_t groups, int64_t channel, uint64_t* words,
                           int64_t pitch);

  void (*pack_planes)(const Packing& packing);  // input [channel][pixel]
  void (*pack_rows)(const Packing& packing);    // input [pixel][channel]
  // words[g] = the fields taps[0][g], taps[1][g], ... side by side, low first; 8 / field_bytes of them.
  void (*merge_fields)(const void* const* taps, int field_bytes, int64_t groups, uint64_t* words);

  void (*pool_rows)(const PoolRow& row);
  void (*pool_columns)(const PoolRow& row, const PoolColumns& columns);
  void (*pool_floats)(const FloatPool& pool);
  void (*pool_pairs)(const FloatPool& pool);  // windows of 2x2 side by side, without phases and what is joined to

  // Training, in whole words of 64 elements; see training/elements.h.
  void (*compare)(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside);
  void (*choose)(const uint64_t* positive, int64_t words, float size, float* values);
  void (*keep)(const uint64_t* inside, int64_t words, const float* x, float* result);
  // And of any number of elements.
  void (*lower)(const float* x, const float* level, bool one, int64_t count, float* y);
  void (*fade)(const float* gradient, const float* x, int64_t count, float* y);
  void (*widen)(const uint16_t* x, int64_t count, float* y);
  void (*narrow)(const float* x, int64_t count, uint16_t* y);

  // Floats with signs: inputs of a field, 3 or 4, and their sums, which are looked up 16 at a time or fewer.
  int sum_signed_inputs;
  bool permutes_floats;  // 16
  void (*sum_signed)(const SignedSums& call);
};

// What a matrix unit provides beside them, for WeightOrder::kBytes.
struct ByteMicrokernels {
  void (*expand_row)(const ByteRow& row);
  void (*dot_bytes)(const ByteTile& tile);
};

// The instruction sets. usable() asks the processor and the system.
namespace scalar { extern const Microkernels kMicrokernels; }
#if defined(__x86_64__)
namespace avx2 { bool usable(); extern const Microkernels kMicrokernels; }
namespace avx512bw { bool usable(); extern const Microkernels kMicrokernels; }
namespace avx512 { bool usable(); extern const Microkernels kMicrokernels; }
#if defined(__linux__)  // which is asked for the tiles
namespace amx { bool usable(); extern const ByteMicrokernels kMicrokernels; }
#endif
#elif defined(__aarch64__)
namespace neon { extern const Microkernels kMicrokernels; }
#elif defined(__wasm_simd128__)
namespace wasm { extern const Microkernels kMicrokernels; }
#endif

}  // namespace xk
