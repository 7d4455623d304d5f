// BinaryConv and its variants: the convolution of signs, as operators of onnxruntime.
#pragma once

#include <vector>

#include "ort/operator.h"

namespace xk::ort {

std::vector<Operator> conv_operators();

}  // namespace xk::ort
