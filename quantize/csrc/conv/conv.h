// One convolution call, and the stages that the drivers share.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "shape.h"
#include "xnorkit.h"

namespace xk {

// What a call's `bits` are when its kernel runs: words, their halves in chains, or in planes as well.
enum class InputForm { kWords, kChains, kPlanes };

struct ConvCall {
  Shape shape;
  const Kernel* kernel;
  InputForm form;
  const uint64_t* bits;
  const void* weights;  // behind the header
  xk_epilogue epilogue;
  xk_output output;
  const xk_parallel* parallel;
};

// The driver of all kernels that count bits: one of those below, as the plans say.
void conv_bits(const ConvCall& call);
void conv_words(const ConvCall& call);
void conv_chains(const ConvCall& call);
void conv_planes(const ConvCall& call);
void conv_gathered(const ConvCall& call);

// How the word drivers see a shape. `gathered`: the taps of a group are shifted together into whole words,
// because its channels do not start at a word or would leave words partly empty.
struct WordPlan {
  bool gathered;          // conv_gathered, else conv_direct
  int64_t filter_words;  // of a filter, tails included
};
WordPlan word_plan(const Shape& shape);

// How kernels that read halves see it, WeightOrder::kChains. `halves` are those of a group of a pixel, and of a
// tap of a filter. From three of them on they are chains: see form_chains().
struct ChainPlan {
  bool gathered;  // conv_gathered, in words
  int64_t halves;
  bool chained() const { return !gathered && halves >= 3; }
};
ChainPlan chain_plan(const Shape& shape);

// Puts the xor of all halves up to it in place of each even one: h0, h1, h0^h1^h2, h3, h0^..^h4, ... of each of
// `count` chains of `halves`, `pitch` apart. Of two operands so formed the xor is the chain of their products
// x0, x1, ...; with s = x0^..^x[i-1] the sum bits of a full adder over s, x[i] and x[i+1] are there already
// and its carry bits are a function of s, x[i] and them: one ternary instruction. Three halves then cost 8
// operations instead of 9, seven 18 instead of 21: popcount(x0) + ... = popcount(s) + 2 sum(popcount(carry)).
void form_chains(Half* chains, int64_t count, int64_t halves, int64_t pitch);

// The planes of conv/planes.cc, in halves: [image][group][half] planes of pixels, with room around all of them.
struct PlaneLayout {
  int64_t plane, before, after;
  int64_t size(const Shape& s) const {
    return before + s.batch * s.groups * chain_plan(s).halves * plane + after;
  }
};
PlaneLayout plane_layout(const Shape& shape);
bool planes_preferred(const ConvCall& call);

// How AMX sees it. A group's channels are cut into equal blocks of up to 64, whose bytes lie together. A filter
// is runs of consecutive bytes of the input, each in steps of 64: a run is a kernel row, or a tap, of a block.
struct TilePlan {
  int64_t channel_blocks;  // of a group
  int64_t block_channels;  // the last block may have fewer
  bool row_runs;           // a run is a kernel row
  int64_t runs;            // [channel block][kernel row, or tap]
  int64_t run_steps;
  int64_t run_length;  // bytes
  int64_t steps() const { return runs * run_steps; }
};
TilePlan tile_plan(const Shape& shape);

// The epilogue of a block of channels from output pixel `position` on.
Epilogue epilogue_of(const ConvCall& call, int64_t image, int64_t block, int64_t position);

// The epilogues of a call's blocks of channels.
class Epilogues {
 public:
  explicit Epilogues(const ConvCall& call);
  // Bits are or-ed into words that blocks share: one task does all blocks of a chunk, this first.
  void clear_bits(int64_t image, const Chunk& chunk) const;
  // Scales, compares, transposes and stores the sums of a chunk, [pixel][kLanes], of one block of channels.
  // Overwrites `dots`.
  void store_block(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const;

 private:
  const ConvCall& call_;
  std::vector<SignLimits> limits_;  // [block], or none where signs are those of floats
};
// Its part where the output's channels are shuffled: `position` is that of the chunk's first pixel in the image.
void store_shuffled(const ConvCall& call, const Epilogue& epilogue, int64_t image, int64_t position,
                    int64_t first_channel, int64_t pixels, int32_t* dots);

// How tasks are cut: a block each, or all blocks where bits are written.
inline int64_t blocks_a_task(const ConvCall& call) { return call.output.kind == XK_OUT_BITS ? call.shape.blocks() : 1; }

}  // namespace xk
