// Floats times signs, for linear layers: sums are looked up instead of added.
//
// Of k inputs (4, or 3 where an instruction set permutes 8 floats) there are 2^k sums with signs. They are formed once
// for a row of the input, and then every filter takes the one that the k bits of its weights point to: one permutation
// and one addition for 16 (or 8) filters and k inputs, from a k-th part of the bits that addresses would take. A linear
// layer of one row reads 1 bit a weight from memory and nothing else.
#include <algorithm>
#include <cstring>
#include <vector>

#include "api.h"
#include "kernel.h"
#include "linear/tables.h"
#include "parallel.h"
#include "shape.h"

namespace xk {

namespace {

constexpr char kMagic[8] = {'x', 'n', 'o', 'r', 'k', 'l', 'u', '1'};

struct LookUpHeader {
  char magic[8];
  char name[16];  // of the kernel
  int64_t inputs, outputs;
  int64_t kernel;  // index in the table; the name is checked too
  int64_t reserved[2];
};
static_assert(sizeof(LookUpHeader) == 64, "the payload starts at a cache line");

void check_sizes(int64_t inputs, int64_t outputs) {
  check_size("inputs", inputs, 1);
  check_size("outputs", outputs, 1);
  checked_product("the size of the weights", {ceil_div(outputs, kLanes) * kLanes, inputs, 4});
}

size_t payload_bytes(const LookUpPlan& plan, int64_t outputs) {
  return static_cast<size_t>(ceil_div(outputs, kLanes) * plan.words) * kLanes * sizeof(uint32_t);
}

const Microkernels& kernels_of(const LookUpHeader& header, int64_t inputs, int64_t outputs, size_t bytes) {
  const bool known = !std::memcmp(header.magic, kMagic, sizeof kMagic) && header.kernel >= 0 &&
                     header.kernel < kKernelCount && !std::strcmp(kKernels[header.kernel].name, header.name) &&
                     kKernels[header.kernel].usable();
  if (!known) fail(XK_INVALID_ARGUMENT, "these are not weights that xk_lookup_pack made on this machine");
  if (header.inputs != inputs || header.outputs != outputs)
    fail(XK_INVALID_ARGUMENT, "the weights are of %lld inputs and %lld outputs, not %lld and %lld",
         static_cast<long long>(header.inputs), static_cast<long long>(header.outputs),
         static_cast<long long>(inputs), static_cast<long long>(outputs));
  const Microkernels& kernels = *kKernels[header.kernel].microkernels;
  if (bytes != sizeof header + payload_bytes(LookUpPlan(kernels, inputs), outputs))
    fail(XK_INVALID_ARGUMENT, "the weights are %zu bytes, which is not their size", bytes);
  return kernels;
}

constexpr int64_t kTableFloats = 8192;  // of all rows of a tile: half of a usual first cache

class LookUpCall {
 public:
  LookUpCall(const Microkernels& kernels, int64_t inputs, int64_t outputs, const uint32_t* weights)
      : kernels_(kernels), plan_(kernels, inputs), inputs_(inputs), outputs_(outputs), weights_(weights) {}

  // A few rows: [row][input] to [row][output].
  void run(const float* x, int rows, float* y, const xk_parallel* parallel) {
    const int64_t blocks = ceil_div(outputs_, kLanes);
    const int64_t word_floats = plan_.word_floats();
    const int64_t step = std::max<int64_t>(kTableFloats / (rows * word_floats), 1);
    sums_.assign(static_cast<size_t>(blocks * rows * kLanes), 0.0f);
    for (int64_t word = 0; word < plan_.words; word += step) {
      const int64_t words = std::min(step, plan_.words - word);
      form_tables(x, rows, word, words);
      parallel_for(parallel, ceil_div(blocks, kBlocks), [&](int64_t part) {
        for (int64_t b = part * kBlocks; b < std::min(blocks, (part + 1) * kBlocks); ++b)
          kernels_.sum_signed({tables_.data(), words * word_floats, rows, weights_ + (b * plan_.words + word) * kLanes,
                            words, sums_.data() + b * rows * kLanes});
      });
    }
    for (int64_t b = 0; b < blocks; ++b)
      for (int r = 0; r < rows; ++r)
        std::copy_n(sums_.data() + (b * rows + r) * kLanes, std::min<int64_t>(kLanes, outputs_ - b * kLanes),
                    y + r * outputs_ + b * kLanes);
  }

 private:
  static constexpr int64_t kBlocks = 8;  // of a task

  // Of `words` words from `first` on; inputs past the last are 0.
  void form_tables(const float* x, int rows, int64_t first, int64_t words) {
    const int64_t fields = words * plan_.fields;
    tables_.resize(static_cast<size_t>(rows * fields * plan_.entries()));
    float* table = tables_.data();
    for (int r = 0; r < rows; ++r, x += inputs_)
      for (int64_t f = 0; f < fields; ++f, table += plan_.entries()) {
        const int64_t input = (first * plan_.fields + f) * plan_.field_inputs, left = inputs_ - input;
        float last[4] = {};
        if (left < plan_.field_inputs) std::copy_n(x + input, std::max<int64_t>(left, 0), last);
        form_table(left < plan_.field_inputs ? last : x + input, plan_.field_inputs, table);
      }
  }

  const Microkernels& kernels_;
  LookUpPlan plan_;
  int64_t inputs_, outputs_;
  const uint32_t* weights_;
  std::vector<float> tables_;  // [row][field][entry]
  std::vector<float> sums_;    // [block][row][lane]
};

}  // namespace
}  // namespace xk

using namespace xk;

int32_t xk_lookup_size(int64_t inputs, int64_t outputs, size_t* bytes) {
  return guarded([&] {
    check_pointers({{"bytes", bytes}});
    check_sizes(inputs, outputs);
    const Microkernels& kernels = *kKernels[choose_kernel(nullptr, Shape{})].microkernels;
    *bytes = sizeof(LookUpHeader) + payload_bytes(LookUpPlan(kernels, inputs), outputs);
  });
}

int32_t xk_lookup_pack(int64_t inputs, int64_t outputs, const uint8_t* dense, size_t dense_bytes, void* weights,
                       size_t bytes) {
  return guarded([&] {
    check_pointers({{"dense", dense}, {"weights", weights}});
    check_sizes(inputs, outputs);
    const int64_t row = ceil_div(inputs, 8);
    if (dense_bytes != static_cast<size_t>(row * outputs))
      fail(XK_INVALID_ARGUMENT, "the dense weights are %zu bytes; these sizes need %zu", dense_bytes,
           static_cast<size_t>(row * outputs));
    LookUpHeader header{};
    header.kernel = choose_kernel(nullptr, Shape{});
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    std::strncpy(header.name, kKernels[header.kernel].name, sizeof header.name - 1);
    header.inputs = inputs;
    header.outputs = outputs;
    const LookUpPlan plan(*kKernels[header.kernel].microkernels, inputs);
    if (bytes != sizeof header + payload_bytes(plan, outputs))
      fail(XK_INVALID_ARGUMENT, "there are %zu bytes for the weights, which is not their size", bytes);
    std::memset(weights, 0, bytes);
    std::memcpy(weights, &header, sizeof header);
    uint32_t* const payload = reinterpret_cast<uint32_t*>(static_cast<char*>(weights) + sizeof header);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i)
        plan.set_bit(i, dense[o * row + i / 8] >> (i % 8) & 1, kLanes,
                     payload + o / kLanes * plan.words * kLanes + o % kLanes);
  });
}

int32_t xk_lookup(int64_t rows, int64_t inputs, int64_t outputs, const float* x, const void* weights,
                  size_t weights_bytes, float* y, const xk_parallel* parallel) {
  return guarded([&] {
    check_pointers({{"x", x}, {"weights", weights}, {"y", y}});
    check_size("rows", rows, 1);
    check_sizes(inputs, outputs);
    checked_product("the size of the input", {rows, inputs, 4});
    checked_product("the size of the output", {rows, outputs, 4});
    LookUpHeader header;
    if (weights_bytes < sizeof header) fail(XK_INVALID_ARGUMENT, "the weights are %zu bytes", weights_bytes);
    std::memcpy(&header, weights, sizeof header);
    const Microkernels& kernels = kernels_of(header, inputs, outputs, weights_bytes);
    const char* const payload = static_cast<const char*>(weights) + sizeof header;
    LookUpCall call(kernels, inputs, outputs, reinterpret_cast<const uint32_t*>(payload));
    for (int64_t r = 0; r < rows; r += kSignedRows)
      call.run(x + r * inputs, static_cast<int>(std::min<int64_t>(kSignedRows, rows - r)), y + r * outputs, parallel);
  });
}
