// Sums of a few floats with all signs, which are formed once and then looked up by the bits of weights.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernel.h"
#include "shape.h"

namespace xk {

// Where the bits of the inputs are: `inputs` of them in a field, `fields` of these in a 32-bit word of a filter.
struct LookUpPlan {
  int field_inputs, fields;
  int64_t words;

  LookUpPlan(const Microkernels& kernels, int64_t inputs)
      : field_inputs(kernels.sum_signed_inputs),
        fields(kHalfBits / field_inputs),
        words(ceil_div(inputs, field_inputs * fields)) {}
  int entries() const { return 1 << field_inputs; }               // of a table
  int64_t word_floats() const { return fields * entries(); }      // of the tables of a word
  // Sets the bit of input i in a filter's words, which are `pitch` apart.
  void set_bit(int64_t i, bool bit, int64_t pitch, uint32_t* filter) const {
    const int64_t field = i / field_inputs;
    const int shift = static_cast<int>(field % fields * field_inputs + i % field_inputs);
    filter[field / fields * pitch] |= static_cast<uint32_t>(bit) << shift;
  }
};

// The sums of the inputs of a field with all signs: entry n has +x[j] where bit j of n is set, else -x[j].
inline void form_table(const float* x, int inputs, float* table) {
  using Four = float __attribute__((vector_size(16)));
  const auto signs = [](float a, float b) { return Four{-a, a, -a, a} + Four{-b, -b, b, b}; };
  const Four low = signs(x[0], x[1]), high = inputs == 4 ? signs(x[2], x[3]) : Four{-x[2], x[2]};
  for (int q = 0; q < (inputs == 4 ? 4 : 2); ++q) {
    const Four sums = low + high[q];
    std::memcpy(table + 4 * q, &sums, sizeof sums);
  }
}

}  // namespace xk
