// SignMatMul: floats times a matrix of signs, looked up by their bits, as an operator of onnxruntime.
#pragma once

#include "ort/operator.h"

namespace xk::ort {

Operator sign_matmul_operator();

}  // namespace xk::ort
