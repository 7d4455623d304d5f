// BinaryMaxPool: max pooling of bits, as an operator of onnxruntime. Inputs: x, turn.
#pragma once

#include "ort/operator.h"

namespace xk::ort {

Operator max_pool_operator();

}  // namespace xk::ort
