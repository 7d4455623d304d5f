// Int8Conv and Int8Linear: the float layers of a network on numbers of 8 bits, as operators of onnxruntime.
#pragma once

#include <vector>

#include "ort/operator.h"

namespace xk::ort {

std::vector<Operator> int8_operators();

}  // namespace xk::ort
