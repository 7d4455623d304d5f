// How a convolution is laid out in memory for each kind of kernel, and which driver computes it.
#pragma once

#include <cstdint>

#include "conv/conv.h"
#include "shape.h"

namespace xk {

// WeightOrder::kWords: weights are [block][word][kLanes]. `gathered`: the taps of a group are shifted together into
// whole words, because its channels do not start at a word or would leave words partly empty; else each tap has words
// of its own.
struct WordPlan {
  bool gathered;
  int64_t filter_words;  // of a filter, tails included
};
WordPlan word_plan(const Shape& shape);

// WeightOrder::kNibbles: weights are [block of kLookupLanes][tap][octet][kLookupLanes] bytes, 8 channels of a tap each,
// or, where look-ups are slower or cannot count that far, as for kWords.
struct LookupPlan {
  int64_t octets;        // of a tap; the last may be partly empty
  int64_t group_blocks;  // of kLookupLanes output channels a group; the last may be partly empty
};
LookupPlan lookup_plan(const Shape& shape);
// Whether a kernel computes a shape by look-up of nibbles.
bool by_lookup(const Shape& shape, const Kernel& kernel);

// WeightOrder::kChains: weights are [block][tap][half][kLanes], or, where `gathered`, as above. `halves` are those of
// a group of a pixel, and of a tap of a filter. From three of them on they are chains: see form_chains().
struct ChainPlan {
  bool gathered;
  int64_t halves;
  bool chained() const { return !gathered && halves >= 3; }
};
ChainPlan chain_plan(const Shape& shape);

// The input of conv/planes.cc, in halves: [image][group][half] planes of pixels, with room around all of them.
struct PlaneLayout {
  int64_t plane, before, after;
  int64_t size(const Shape& s) const { return before + s.batch * s.groups * chain_plan(s).halves * plane + after; }
};
PlaneLayout plane_layout(const Shape& shape);

// WeightOrder::kBytes: weights are [block][step][16] words of bits. A group's channels are cut into equal blocks of up
// to 64, whose bytes lie together. A filter is runs of consecutive bytes of the input, each in steps of 64: a run is a
// kernel row, or a tap, of a block.
struct BytePlan {
  int64_t channel_blocks;  // of a group
  int64_t block_channels;  // the last block may have fewer
  bool row_runs;           // a run is a kernel row
  int64_t runs;            // [channel block][kernel row, or tap]
  int64_t run_steps;
  int64_t run_length;  // bytes
  int64_t steps() const { return runs * run_steps; }
};
BytePlan byte_plan(const Shape& shape);

// Whether bytes on a matrix unit are faster for a shape than bits. Height and width may be 0, not known.
bool bytes_preferred(const Shape& shape);

// The fastest driver that can run the kernel of a call. It reads all of the call but `driver` and `bits`.
Driver choose_driver(const ConvCall& call);

}  // namespace xk
