// The table of kernels, and the choice of one.
#include <cstdlib>
#include <cstring>
#include <string>

#include "conv/plan.h"
#include "error.h"
#include "kernel.h"

namespace xk {

namespace {

bool always() { return true; }
bool for_all_shapes(const Shape&) { return true; }

// Of those that this machine can run.
std::string usable_names() {
  std::string names;
  for (int i = 0; i < kKernelCount; ++i)
    if (kKernels[i].usable()) names += (names.empty() ? "" : ", ") + std::string(kKernels[i].name);
  return names;
}

}  // namespace

const Kernel kKernels[] = {
    // name, usable, preferred, order of weights, microkernels, those of a matrix unit
    {"scalar", always, for_all_shapes, WeightOrder::kWords, &scalar::kMicrokernels, nullptr},
#if defined(__x86_64__)
    {"avx2", avx2::usable, for_all_shapes, WeightOrder::kNibbles, &avx2::kMicrokernels, nullptr},
    {"avx512bw", avx512bw::usable, for_all_shapes, WeightOrder::kNibbles, &avx512bw::kMicrokernels, nullptr},
    {"avx512", avx512::usable, for_all_shapes, WeightOrder::kChains, &avx512::kMicrokernels, nullptr},
#if defined(__linux__)
    {"amx", amx::usable, bytes_preferred, WeightOrder::kBytes, &avx512::kMicrokernels, &amx::kMicrokernels},
#endif
#elif defined(__aarch64__)
    {"neon", always, for_all_shapes, WeightOrder::kWords, &neon::kMicrokernels, nullptr},  // part of every aarch64
#elif defined(__wasm_simd128__)  // as what was compiled for it: a browser without SIMD does not load the module
    {"wasm", always, for_all_shapes, WeightOrder::kNibbles, &wasm::kMicrokernels, nullptr},
#endif
};
const int kKernelCount = sizeof kKernels / sizeof kKernels[0];

int choose_kernel(const char* name, const Shape& shape) {
  if (!name || !*name) name = std::getenv("XNORKIT_KERNEL");
  if (name && *name) {
    for (int i = 0; i < kKernelCount; ++i)
      if (!std::strcmp(kKernels[i].name, name) && kKernels[i].usable()) return i;
    fail(XK_UNSUPPORTED, "kernel '%s' is not one this machine can run: %s", name, usable_names().c_str());
  }
  int best = 0;
  for (int i = 0; i < kKernelCount; ++i)
    if (kKernels[i].usable() && kKernels[i].preferred(shape)) best = i;
  return best;
}

const Microkernels& machine_microkernels() { return *kKernels[choose_kernel(nullptr, Shape{})].microkernels; }

}  // namespace xk
