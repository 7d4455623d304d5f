// LevelConv, LevelConv3d, LevelConvTranspose and LevelLinear: layers whose weights, and inputs, have a few bits each; and
// SignConv, of floats and signs.
#pragma once

#include <vector>

#include "ort/operator.h"

namespace xk::ort {

std::vector<Operator> level_operators();

}  // namespace xk::ort
