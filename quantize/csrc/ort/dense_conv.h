// Int8Conv, Int8Linear and FloatConvToBits: the float layers of a network, on numbers of 8 bits or as they are, as
// operators of onnxruntime.
#pragma once

#include <vector>

#include "ort/operator.h"

namespace xk::ort {

std::vector<Operator> dense_operators();

}  // namespace xk::ort
