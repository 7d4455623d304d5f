#include "training/elements.h"

#include <algorithm>
#include <cmath>

#include "kernel.h"

namespace xk::elements {

namespace {

// Chosen when they are first needed.
const Microkernels& best() {
  static const Microkernels& chosen = machine_microkernels();
  return chosen;
}

}  // namespace

// Elements behind the last whole word go through a word of their own.

void compare(const float* x, int64_t count, bool closed, uint64_t* positive, uint64_t* inside) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  best().compare(x, words, closed, positive, inside);
  if (!rest) return;
  float last[kWordBits];
  std::fill(std::copy_n(x + words * kWordBits, rest, last), last + kWordBits, NAN);
  best().compare(last, 1, closed, positive + words, inside + words);
}

void choose(const uint64_t* positive, int64_t count, float size, float* values) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  best().choose(positive, words, size, values);
  if (!rest) return;
  float last[kWordBits];
  best().choose(positive + words, 1, size, last);
  std::copy_n(last, rest, values + words * kWordBits);
}

void keep(const uint64_t* inside, int64_t count, const float* x, float* result) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  best().keep(inside, words, x, result);
  for (int64_t i = 0, first = words * kWordBits; i < rest; ++i)
    result[first + i] = inside[words] >> i & 1 ? x[first + i] : 0.0f;
}

void lower(const float* x, const float* level, bool one, int64_t count, float* y) {
  best().lower(x, level, one, count, y);
}

void fade(const float* gradient, const float* x, int64_t count, float* y) { best().fade(gradient, x, count, y); }

void widen(const uint16_t* x, int64_t count, float* y) { best().widen(x, count, y); }

void narrow(const float* x, int64_t count, uint16_t* y) { best().narrow(x, count, y); }

}  // namespace xk::elements
