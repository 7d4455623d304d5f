// conv/ computes convolutions of bits: how their operands are laid out (plan, weights, input), the drivers, which cut
// a call into tiles and give them to the microkernels of arch/ (direct, gathered, lookup, planes, bytes), and what
// happens to the sums (epilogue). This header has what one call is, and the drivers.
#pragma once

#include <cstdint>

#include "kernel.h"
#include "shape.h"
#include "xnorkit.h"

namespace xk {

struct ConvCall;

// What the `bits` of a call are when its driver runs: words as the caller has them, the same with their halves in
// chains, planes of halves, see PlaneLayout, or offsets of nibbles, 16 of 16 bits a word, see conv/lookup.cc.
enum class InputForm { kWords, kChains, kPlanes, kOffsets };

struct Driver {
  void (*run)(const ConvCall& call);
  InputForm form;  // of its input
};

struct ConvCall {
  Shape shape;
  const Kernel* kernel;
  Driver driver;
  const uint64_t* bits;
  const void* weights;  // behind the header
  bool floats;          // the sums are floats, see Epilogue
  xk_epilogue epilogue;
  xk_output output;
  const xk_parallel* parallel;
};

void conv_words(const ConvCall& call);     // direct.cc
void conv_halves(const ConvCall& call);    // direct.cc
void conv_gathered(const ConvCall& call);  // gathered.cc
void conv_lookup(const ConvCall& call);    // lookup.cc
void conv_planes(const ConvCall& call);    // planes.cc
void conv_bytes(const ConvCall& call);     // bytes.cc

}  // namespace xk
