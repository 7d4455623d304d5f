// Sums of 8-bit numbers, and of floats: what an instruction set provides for dense/conv.cc.
//
// A step is four bytes of a window by the four bytes of each of kLanes filters that go with them: four numbers of
// 8 bits, two of 16 where the processor multiplies these, or a float. So a tile is walked in the same way by all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shape.h"

namespace xk::dense {

constexpr int kStepBytes = 4;
constexpr int kTilePixels = 8;
constexpr int kTileBlocks = 2;
constexpr int kMostBytes = 4;  // of a number

// Up to kTilePixels windows by one or kTileBlocks blocks of filters.
struct Tile {
  const uint8_t* input;    // the first window
  int64_t pixel_bytes;     // from a window to the next
  const int64_t* offsets;  // [step]: bytes from a window to what the step reads
  int64_t steps;
  const uint8_t* weights;  // [block][step][kLanes][kStepBytes]
  const int32_t* start;    // [block][kLanes]: what is added to the sums; floats start from 0
  int pixels, blocks;
  int32_t* sums;           // [block][sums_pitch][kLanes]; floats with their bits in these places
  int64_t sums_pitch;
};

// How floats become numbers of 8 bits.
struct Levels {
  float inverse;  // of a step
  int32_t zero;   // the number of 0.0
};

constexpr int64_t kPiecePixels = 16;  // at most, of a call

struct Kernel {
  const char* name;
  bool (*usable)();
  int number_bytes;  // 1: inputs are uint8 and weights int8; 2: both are int16; 4: both are floats
  void (*sum)(const Tile& tile);
  // Only for numbers of one byte: pieces[i] has those of pixel i of the planes x, x + plane, ..., low first.
  void (*four_numbers)(const float* x, int64_t plane, int64_t pixels, const Levels& levels, uint32_t* pieces);
};

// The fastest on this machine; of the generation that XNORKIT_KERNEL names, where it names one.
const Kernel& int8_kernel();
// Products are added in the order of the steps, each with one rounding on processors that multiply and add at once.
const Kernel& float_kernel();

}  // namespace xk::dense
