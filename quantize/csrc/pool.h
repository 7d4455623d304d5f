// Max pooling of bits.
#pragma once

#include <cstdint>
#include <vector>

#include "shape.h"
#include "xnorkit.h"

namespace xk {

struct Pool : xk_pool_shape {
  int64_t words;                    // of a pixel
  std::vector<Band> rows, columns;  // of the output
};

// Checks everything: sizes of all buffers fit in int64 bytes, and every window has a tap inside the input.
Pool full_pool(const xk_pool_shape& shape);

void max_pool(const Pool& pool, const uint64_t* bits, const uint8_t* flip, uint64_t* output,
              const xk_parallel* parallel);

}  // namespace xk
