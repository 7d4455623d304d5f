#include "straight_through.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "conv.h"
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace xk {

namespace {

// What an instruction set provides, for whole words of 64 elements.
struct Bits {
  // positive: x >= 0; inside: |x| < 1, or <= 1 where closed. Neither for NaN.
  void (*compare)(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside);
  // size where the bit is set, else -size.
  void (*choose)(const uint64_t* positive, int64_t words, float size, float* values);
  // x where the bit is set, else 0; in place too.
  void (*keep)(const uint64_t* inside, int64_t words, const float* x, float* result);
};

void compare_scalar(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  for (int64_t w = 0; w < words; ++w, x += kWordBits) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; ++b) {
      const float size = std::fabs(x[b]);
      p |= uint64_t{x[b] >= 0.0f} << b;
      i |= uint64_t{closed ? size <= 1.0f : size < 1.0f} << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

void choose_scalar(const uint64_t* positive, int64_t words, float size, float* values) {
  for (int64_t w = 0; w < words; ++w, values += kWordBits)
    for (int b = 0; b < kWordBits; ++b) values[b] = positive[w] >> b & 1 ? size : -size;
}

void keep_scalar(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w, x += kWordBits, result += kWordBits)
    for (int b = 0; b < kWordBits; ++b) result[b] = inside[w] >> b & 1 ? x[b] : 0.0f;
}

constexpr Bits kScalarBits = {compare_scalar, choose_scalar, keep_scalar};

#if defined(__x86_64__)

#define XK_AVX512 __attribute__((target("avx512f")))

XK_AVX512 void compare_avx512(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  for (int64_t w = 0; w < words; ++w) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; b += 16, x += 16) {
      const __m512 value = _mm512_loadu_ps(x), size = _mm512_abs_ps(value);
      const __mmask16 near =
          closed ? _mm512_cmp_ps_mask(size, one, _CMP_LE_OQ) : _mm512_cmp_ps_mask(size, one, _CMP_LT_OQ);
      p |= uint64_t{_mm512_cmp_ps_mask(value, zero, _CMP_GE_OQ)} << b;
      i |= uint64_t{near} << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

XK_AVX512 void choose_avx512(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m512 low = _mm512_set1_ps(-size), high = _mm512_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, values += 16)
      _mm512_storeu_ps(values, _mm512_mask_blend_ps(static_cast<__mmask16>(positive[w] >> b), low, high));
}

XK_AVX512 void keep_avx512(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 16, x += 16, result += 16)
      _mm512_storeu_ps(result, _mm512_maskz_loadu_ps(static_cast<__mmask16>(inside[w] >> b), x));
}

constexpr Bits kAvx512Bits = {compare_avx512, choose_avx512, keep_avx512};

#define XK_AVX2 __attribute__((target("avx2")))

XK_AVX2 void compare_avx2(const float* x, int64_t words, bool closed, uint64_t* positive, uint64_t* inside) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
  for (int64_t w = 0; w < words; ++w) {
    uint64_t p = 0, i = 0;
    for (int b = 0; b < kWordBits; b += 8, x += 8) {
      const __m256 value = _mm256_loadu_ps(x), size = _mm256_andnot_ps(minus, value);
      const __m256 near = closed ? _mm256_cmp_ps(size, one, _CMP_LE_OQ) : _mm256_cmp_ps(size, one, _CMP_LT_OQ);
      p |= static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(value, zero, _CMP_GE_OQ))) << b;
      i |= static_cast<uint64_t>(_mm256_movemask_ps(near)) << b;
    }
    positive[w] = p;
    inside[w] = i;
  }
}

// All ones in the lanes whose bit is set.
XK_AVX2 inline __m256i lanes_of(uint64_t bits) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits & 255)), each), each);
}

XK_AVX2 void choose_avx2(const uint64_t* positive, int64_t words, float size, float* values) {
  const __m256 low = _mm256_set1_ps(-size), high = _mm256_set1_ps(size);
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, values += 8)
      _mm256_storeu_ps(values, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(lanes_of(positive[w] >> b))));
}

XK_AVX2 void keep_avx2(const uint64_t* inside, int64_t words, const float* x, float* result) {
  for (int64_t w = 0; w < words; ++w)
    for (int b = 0; b < kWordBits; b += 8, x += 8, result += 8)
      _mm256_storeu_ps(result, _mm256_and_ps(_mm256_loadu_ps(x), _mm256_castsi256_ps(lanes_of(inside[w] >> b))));
}

constexpr Bits kAvx2Bits = {compare_avx2, choose_avx2, keep_avx2};

#endif

// Those of the kernel that is chosen for convolutions, by the machine or by XNORKIT_KERNEL.
const Bits& machine_bits() {
#if defined(__x86_64__)
  static const Bits& best = [&]() -> const Bits& {
    const std::string name = kKernels[choose_kernel(nullptr, Shape{})]->name;
    return name == "scalar" ? kScalarBits : name == "avx2" ? kAvx2Bits : kAvx512Bits;
  }();
  return best;
#else
  return kScalarBits;
#endif
}

// Any number of elements: the last ones go through a word of their own.

void compare(const float* x, int64_t count, bool closed, uint64_t* positive, uint64_t* inside) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().compare(x, words, closed, positive, inside);
  if (!rest) return;
  float last[kWordBits];
  std::fill(std::copy_n(x + words * kWordBits, rest, last), last + kWordBits, NAN);
  compare_scalar(last, 1, closed, positive + words, inside + words);
}

void choose(const uint64_t* positive, int64_t count, float size, float* values) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().choose(positive, words, size, values);
  if (!rest) return;
  float last[kWordBits];
  choose_scalar(positive + words, 1, size, last);
  std::copy_n(last, rest, values + words * kWordBits);
}

void keep(const uint64_t* inside, int64_t count, const float* x, float* result) {
  const int64_t words = count / kWordBits, rest = count % kWordBits;
  machine_bits().keep(inside, words, x, result);
  for (int64_t i = 0, first = words * kWordBits; i < rest; ++i)
    result[first + i] = inside[words] >> i & 1 ? x[first + i] : 0.0f;
}

// y += factor x where the bit is set.
void add_inside(const uint64_t* inside, int64_t count, float factor, const float* x, float* y) {
  float part[16 * kWordBits];
  constexpr int64_t kPart = sizeof part / sizeof *part;
  for (int64_t first = 0; first < count; first += kPart) {
    const int64_t n = std::min(kPart, count - first);
    keep(inside + first / kWordBits, n, x + first, part);
    for (int64_t i = 0; i < n; ++i) y[first + i] += factor * part[i];
  }
}

constexpr int64_t kBlock = 1 << 14;  // elements of a task: in the first cache, and whole words

// run(first, count) for the blocks of `count` elements.
template <class Run>
void blocks(const xk_parallel* parallel, int64_t count, const Run& run) {
  parallel_for(parallel, ceil_div(count, kBlock), [&](int64_t index) {
    const int64_t first = index * kBlock;
    run(first, std::min(kBlock, count - first));
  });
}

// Sums of several elements at once, so that a compiler may use vectors for them.
constexpr int64_t kSums = 16;

template <class Term>
double sum(int64_t count, const Term& term) {
  float sums[kSums] = {};
  const int64_t whole = count - count % kSums;
  for (int64_t i = 0; i < whole; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  double total = 0.0;
  for (const float part : sums) total += part;
  for (int64_t i = whole; i < count; ++i) total += term(i);
  return total;
}

// Subtracts from each element the mean over the input channels at its tap, from x to y, which may be x.
class Centering {
 public:
  explicit Centering(const xk_filters& filters)
      : inputs_(filters.inputs), taps_(filters.taps), wide_(filters.inputs_last || filters.taps == 1) {
    if (!wide_) means_.resize(static_cast<size_t>(taps_ * kSums));
  }

  void operator()(const float* x, float* y) {
    wide_ ? rows(x, y) : columns(x, y);
  }

 private:
  // [tap][input]
  void rows(const float* x, float* y) const {
    for (int64_t t = 0; t < taps_; ++t, x += inputs_, y += inputs_) {
      const float mean = static_cast<float>(sum(inputs_, [&](int64_t i) { return x[i]; }) / inputs_);
      for (int64_t i = 0; i < inputs_; ++i) y[i] = x[i] - mean;
    }
  }

  // [input][tap], kSums inputs at a time
  void columns(const float* x, float* y) {
    const int64_t count = inputs_ * taps_, period = static_cast<int64_t>(means_.size());
    std::fill(means_.begin(), means_.end(), 0.0f);
    for (int64_t first = 0; first < count; first += period)
      for (int64_t i = 0, n = std::min(period, count - first); i < n; ++i) means_[i] += x[first + i];
    for (int64_t t = 0; t < taps_; ++t) {
      double total = 0.0;
      for (int64_t i = t; i < period; i += taps_) total += means_[i];
      for (int64_t i = t; i < period; i += taps_) means_[i] = static_cast<float>(total / inputs_);
    }
    for (int64_t first = 0; first < count; first += period)
      for (int64_t i = 0, n = std::min(period, count - first); i < n; ++i) y[first + i] = x[first + i] - means_[i];
  }

  int64_t inputs_, taps_;
  bool wide_;
  std::vector<float> means_;
};

bool centers(const xk_filters& filters) { return filters.center && filters.inputs > 1; }

}  // namespace

void sign(const float* x, int64_t count, bool closed, float* values, uint64_t* positive, uint64_t* inside,
          const xk_parallel* parallel) {
  blocks(parallel, count, [&](int64_t first, int64_t n) {
    const int64_t word = first / kWordBits;
    uint64_t unwanted[kBlock / kWordBits];
    compare(x + first, n, closed, positive + word, inside ? inside + word : unwanted);
    if (values) choose(positive + word, n, 1.0f, values + first);
  });
}

void signs(const uint64_t* positive, int64_t count, float* values, const xk_parallel* parallel) {
  blocks(parallel, count,
         [&](int64_t first, int64_t n) { choose(positive + first / kWordBits, n, 1.0f, values + first); });
}

void pass_inside(const float* gradient, const uint64_t* inside, int64_t count, float* result,
                 const xk_parallel* parallel) {
  blocks(parallel, count, [&](int64_t first, int64_t n) {
    keep(inside + first / kWordBits, n, gradient + first, result + first);
  });
}

void scaled_sign(const xk_filters& filters, const float* weight, float* values, float* scale, uint64_t* positive,
                 uint64_t* inside, const xk_parallel* parallel) {
  const int64_t size = filters.inputs * filters.taps, words = ceil_div(size, kWordBits);
  parallel_for(parallel, filters.count, [&](int64_t f) {
    const float* w = weight + f * size;
    float* y = values + f * size;
    if (centers(filters)) {
      Centering{filters}(w, y);
      w = y;
    }
    // Centred weights are clamped to [-1, 1]: their sizes are, their signs stay.
    const float most = filters.center ? 1.0f : INFINITY;
    const double total = sum(size, [&](int64_t i) { return std::min(std::fabs(w[i]), most); });
    scale[f] = static_cast<float>(total / size);
    compare(w, size, true, positive + f * words, inside + f * words);
    choose(positive + f * words, size, scale[f], y);
  });
}

// G the gradient of alpha B, i where the weight is inside. dW = B sum(G B) / n + i alpha G for plain weights. Clamped
// ones pass nothing outside: dC = i (B sum(G B) / n + alpha G), and dW = dC - mean of dC over the input channels.
void scaled_sign_gradient(const xk_filters& filters, const float* gradient, const float* scale,
                          const uint64_t* positive, const uint64_t* inside, float* result,
                          const xk_parallel* parallel) {
  const int64_t size = filters.inputs * filters.taps, words = ceil_div(size, kWordBits);
  parallel_for(parallel, filters.count, [&](int64_t f) {
    const float *g = gradient + f * size, alpha = scale[f];
    float* y = result + f * size;
    choose(positive + f * words, size, 1.0f, y);
    const float mean = static_cast<float>(sum(size, [&](int64_t i) { return g[i] * y[i]; }) / size);
    if (!filters.center) {
      choose(positive + f * words, size, mean, y);
      add_inside(inside + f * words, size, alpha, g, y);
      return;
    }
    for (int64_t i = 0; i < size; ++i) y[i] = y[i] * mean + alpha * g[i];
    keep(inside + f * words, size, y, y);
    if (centers(filters)) Centering{filters}(y, y);
  });
}

}  // namespace xk
