// Floats to bits.
#include <cmath>
#include <limits>

#include "testing.h"

void test_special_values() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const float x[] = {0.0f, -0.0f, nan, -nan, inf, -inf, 1e-45f, -1e-45f};
  uint64_t bits = ~uint64_t{0};
  for (int layout : {XK_NCHW, XK_NHWC}) {
    check(xk_pack(x, layout, 1, 8, 1, 1, nullptr, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b01010011, "sign(0) = +1, NaN is -1");
    const uint8_t flip[] = {1, 1, 1, 1, 1, 1, 1, 1};
    const xk_binarize flipped{nullptr, flip};
    check(xk_pack(x, layout, 1, 8, 1, 1, &flipped, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b10100011, "flipped: x <= 0, NaN is -1");
    const float always[] = {-inf, -inf, -inf, -inf, -inf, -inf, inf, inf};
    const xk_binarize constant{always, nullptr};
    check(xk_pack(x, layout, 1, 8, 1, 1, &constant, &bits, nullptr) == XK_OK, "xk_pack");
    check(bits == 0b00110011, "infinite thresholds");
  }
}
