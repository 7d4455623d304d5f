// What an instruction set provides, and the table of them. The convolution drivers are shared.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shape.h"
#include "xnorkit.h"

namespace xk {

// What a kernel reads its operands in: 64-bit words, or their 32-bit halves.
using Word = uint64_t;
using Half = uint32_t;

// Consecutive units of a pixel's window, and of the filters that go with them; in units from the tile's `input`
// and in steps of kLanes units from its `weights`.
struct Run {
  int64_t input, weight, length;
};

constexpr int kMaxTilePixels = 8;
constexpr int64_t kPlaneVectors = 16;  // of pixels, at most, in a PlaneTile

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

// Signs of sums without an epilogue in floats: that of a lane is +1 where (sum ^ flip) > limit, with flip -1 where the
// epilogue and the comparison together flip the order of sums, else 0.
struct SignLimits {
  int32_t limit[kLanes], flip[kLanes];
};

// Everything an epilogue needs about a block of channels; entries past the last channel are harmless.
struct Epilogue {
  float scale[kLanes], bias[kLanes];
  float threshold[kLanes];
  uint32_t flip[kLanes];     // the sign bit where the comparison is flipped
  const float* input_scale;  // [pixel], or NULL
  bool relu;
  bool integers;  // the sums themselves
  int lanes;
  const SignLimits* limits;  // for signs: all that they need, or NULL
};

// Where a tap's input and weights are, in halves from the tile's.
struct PlaneTap {
  int64_t input, weight;
};

// Sums of vectors of 16 pixels with the channels of a block, see conv/planes.cc, and their way to the output.
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

// Where signs of a pixel go, from `lane` on: to the set bits of `mask`, upwards, in a word of the output.
struct Spread {
  int64_t word;
  uint64_t mask;
  int lane;
};

struct PackPlanes {
  const float* input;      // [channel][plane]
  int64_t plane;           // floats from a channel to the next
  int64_t pixels;          // to do
  int64_t channels;
  const float* threshold;  // [channels], with the other sign where flipped
  const uint32_t* flip;    // [channels], the sign bit where flipped
  bool flips;              // any
  uint64_t* bits;          // [pixel][words]
  int64_t words;
  // For kernels of WeightOrder::kChains:
  int64_t chain;      // halves of a chain, or 0
  Half* planes;       // NULL, or where the output goes instead of `bits`: [half][pixel], planes `plane` apart
};

// What an instruction set provides to the drivers.
struct Parts {
  void (*dot_tile)(const Tile<Word>& tile);
  // Both of WeightOrder::kChains.
  void (*dot_halves)(const Tile<Half>& tile);
  void (*convolve_planes)(const PlaneTile& tile, const Epilogue& epilogue);
  // Epilogues. From sums [pixel][kLanes], which they may overwrite:
  // to planes, [lane][pixel], lanes `pitch` 32-bit values apart;
  void (*store_planes)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* output, int64_t pitch);
  // to rows, [pixel][lane], pixels `pitch` apart;
  void (*store_rows)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, int32_t* output, int64_t pitch);
  // to signs: bit l of signs[p] tells whether lane l of pixel p is +1.
  void (*store_signs)(const Epilogue& epilogue, int64_t pixels, int32_t* dots, uint16_t* signs);
  // The limits of sums of up to `terms` products; scale and bias are finite.
  void (*find_limits)(const Epilogue& epilogue, int32_t terms, SignLimits* limits);
  // Or-s signs into pixels of words, `pitch` apart.
  void (*spread_signs)(const uint16_t* signs, int64_t pixels, const Spread* spreads, int count, uint64_t* words,
                       int64_t pitch);
  void (*pack_planes)(const PackPlanes& pack);
  void (*pack_rows)(const PackPlanes& pack);  // the same with input [pixel][channel]
  // words[g] = the fields taps[0][g], taps[1][g], ... side by side, low first; 8 / field_bytes of them.
  void (*merge_fields)(const void* const* taps, int field_bytes, int64_t groups, uint64_t* words);
};

struct ConvCall;
enum class WeightOrder { kWords, kChains, kTiles };  // see WordPlan, ChainPlan and TilePlan

struct Kernel {
  const char* name;
  bool (*usable)();                        // on this machine
  bool (*preferred)(const Shape& shape);   // to the kernels before it, where it is usable
  WeightOrder order;
  void (*convolve)(const ConvCall& call);
  const Parts* parts;
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

// The ordered table: the later, the faster in general. `index` is what packed weights record.
extern const Kernel* const kKernels[];
extern const int kKernelCount;

// The kernel named, or (NULL or "") named by XNORKIT_KERNEL, or the best for the shape.
int choose_kernel(const char* name, const Shape& shape);

}  // namespace xk
