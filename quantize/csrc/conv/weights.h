// Packed weights: a header, then the filters in the order that a kernel reads them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.h"
#include "shape.h"

namespace xk {

struct WeightsHeader {
  char magic[8];
  int64_t kernel;  // index in the table; the name is checked too
  char name[8];    // without a zero where it fills them
  int64_t channels, out_channels, groups;
  int32_t kernel_h, kernel_w;
  int32_t row_runs;  // see BytePlan
  int32_t reserved;
};
static_assert(sizeof(WeightsHeader) == 64, "the payload starts at a cache line");

size_t weights_bytes(const Shape& shape, const Kernel& kernel);
void pack_weights(const Shape& shape, int kernel, const uint8_t* dense, void* weights);
void unpack_weights(const Shape& shape, int kernel, const void* weights, uint8_t* dense);
// The kernel's index, or -1 where this is not a header of this library on this machine.
int weights_kernel(const void* weights, size_t bytes);
// Throws where the weights do not belong to this shape.
void check_weights(const Shape& shape, const void* weights, size_t bytes);

}  // namespace xk
