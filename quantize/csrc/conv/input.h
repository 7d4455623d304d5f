// A convolution's input on its way to the bits that a kernel reads.
#pragma once

#include <cstdint>
#include <memory>

#include "conv/conv.h"

namespace xk {

// Floats [batch][channels][pixels], or [batch][pixels][channels] with XK_NHWC, and what they are compared with.
struct FloatInput {
  const float* values;
  int32_t layout;
  int64_t batch, channels, pixels;
  const xk_binarize* binarize;
};

// Where the bits of a FloatInput go: `planes`, or `offsets`, or where both are NULL `bits`, words whose halves form
// chains of `chain` halves unless that is 0.
struct PackTarget {
  uint64_t* bits;
  int64_t chain;
  Half* planes;
  uint16_t* offsets;
};

void pack(const FloatInput& input, const Microkernels& micro, const PackTarget& target, const xk_parallel* parallel);

// A buffer for a call's input in the form that its driver reads.
class Input {
 public:
  explicit Input(const ConvCall& call);
  void pack_floats(const float* input, int32_t layout, const xk_binarize* binarize);
  void convert(const uint64_t* bits);  // from kWords, to one of the other forms
  const uint64_t* bits() const { return buffer_.get(); }

 private:
  int64_t pixels() const { return s_.height * s_.width; }
  void form_planes(const uint64_t* bits);
  void form_offsets(const uint64_t* bits);
  void form_all_chains(const uint64_t* bits);

  const ConvCall& call_;
  const Shape& s_;
  const int64_t chain_;
  std::unique_ptr<uint64_t[]> buffer_;
  Half* planes_ = nullptr;
  uint16_t* offsets_ = nullptr;
};

}  // namespace xk
