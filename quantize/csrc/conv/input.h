// A convolution's input on its way to the bits that a kernel reads.
#pragma once

#include <cstdint>
#include <memory>

#include "conv/conv.h"

namespace xk {

// Where bits go, and in which form: `bits` as they are, or with `chain` halves of each pixel's in chains; or `planes`.
struct PackTarget {
  uint64_t* bits;
  int64_t chain;
  Half* planes;
};

// The bits of floats [batch][channels][pixels], or rows of pixels.
void pack(const float* input, int32_t layout, int64_t batch, int64_t channels, int64_t pixels,
          const xk_binarize* binarize, const Microkernels& micro, const PackTarget& target, const xk_parallel* parallel);

// A buffer for a call's input in the form that its driver reads.
class Input {
 public:
  explicit Input(const ConvCall& call);
  void pack_floats(const float* input, int32_t layout, const xk_binarize* binarize);
  void convert(const uint64_t* bits);  // to another form than kWords
  const uint64_t* bits() const { return buffer_.get(); }

 private:
  int64_t pixels() const { return s_.height * s_.width; }
  void form_planes(const uint64_t* bits);

  const ConvCall& call_;
  const Shape& s_;
  const int64_t chain_;
  std::unique_ptr<uint64_t[]> buffer_;
  Half* planes_ = nullptr;
};

}  // namespace xk
