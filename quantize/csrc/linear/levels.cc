// Stored codes of a few bits, expanded to the values that they stand for.
#include <cstdint>
#include <vector>

#include "api.h"
#include "parallel.h"
#include "shape.h"

namespace xk {

namespace {

// What each byte stands for: its `codes` values, [256][codes], for codes that a byte holds a whole number of.
std::vector<float> byte_table(const float* levels, int bits) {
  const int codes = 8 / bits;
  std::vector<float> table(static_cast<size_t>(256 * codes));
  for (int byte = 0; byte < 256; ++byte)
    for (int i = 0; i < codes; ++i) table[byte * codes + i] = levels[byte >> (i * bits) & ((1 << bits) - 1)];
  return table;
}

template <int kCodes>
void expand_bytes(const uint8_t* bytes, int64_t count, const float* table, float factor, float* values) {
  for (; count >= kCodes; count -= kCodes, ++bytes, values += kCodes)
    for (int i = 0; i < kCodes; ++i) values[i] = table[*bytes * kCodes + i] * factor;
  for (int64_t i = 0; i < count; ++i) values[i] = table[*bytes * kCodes + i] * factor;
}

void expand_codes(const uint8_t* bytes, int64_t count, int bits, const float* levels, float factor, float* values) {
  for (int64_t i = 0; i < count; ++i) {
    unsigned code = 0;
    for (int b = 0; b < bits; ++b) {
      const int64_t bit = i * bits + b;
      code |= static_cast<unsigned>(bytes[bit / 8] >> (bit % 8) & 1) << b;
    }
    values[i] = levels[code] * factor;
  }
}

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_levels(const uint8_t* codes, int64_t rows, int64_t count, int32_t bits, const float* levels,
                  const float* scale, float* values, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"codes", codes}, {"levels", levels}, {"values", values}});
    check_size("rows", rows, 1);
    check_size("count", count, 1);
    if (bits < 1 || bits > 8) fail(XK_INVALID_ARGUMENT, "bits is %d; it must be 1 to 8", static_cast<int>(bits));
    checked_product("the size of the values", {rows, count, 4});
    const int64_t bytes = ceil_div(count * bits, 8);
    const std::vector<float> table = 8 % bits ? std::vector<float>{} : byte_table(levels, bits);
    parallel_for(parallel, rows, [&](int64_t r) {
      const uint8_t* row = codes + r * bytes;
      const float factor = scale ? scale[r] : 1.0f;
      float* y = values + r * count;
      if (bits == 1) return expand_bytes<8>(row, count, table.data(), factor, y);
      if (bits == 2) return expand_bytes<4>(row, count, table.data(), factor, y);
      if (bits == 4) return expand_bytes<2>(row, count, table.data(), factor, y);
      if (bits == 8) return expand_bytes<1>(row, count, table.data(), factor, y);
      expand_codes(row, count, bits, levels, factor, y);
    });
  });
}
