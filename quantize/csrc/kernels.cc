// The table of kernels, and the choice of one.
#include <cstdlib>
#include <cstring>
#include <string>

#include "error.h"
#include "kernel.h"

namespace xk {

extern const Kernel kScalar;
#if defined(__x86_64__)
extern const Kernel kAvx2, kAvx512;
#if defined(__linux__)  // which is asked for the tiles
extern const Kernel kAmx;
#endif
#elif defined(__aarch64__)
extern const Kernel kNeon;
#endif

const Kernel* const kKernels[] = {
    &kScalar,
#if defined(__x86_64__)
    &kAvx2, &kAvx512,
#if defined(__linux__)
    &kAmx,
#endif
#elif defined(__aarch64__)
    &kNeon,
#endif
};
const int kKernelCount = sizeof kKernels / sizeof kKernels[0];

namespace {

std::string usable_names() {
  std::string names;
  for (const Kernel* kernel : kKernels)
    if (kernel->usable()) names += (names.empty() ? "" : ", ") + std::string(kernel->name);
  return names;
}

}  // namespace

int choose_kernel(const char* name, const Shape& shape) {
  if (!name || !*name) name = std::getenv("XNORKIT_KERNEL");
  if (name && *name) {
    for (int i = 0; i < kKernelCount; ++i)
      if (!std::strcmp(kKernels[i]->name, name) && kKernels[i]->usable()) return i;
    fail(XK_UNSUPPORTED, "kernel '%s' is not one this machine can run: %s", name, usable_names().c_str());
  }
  int best = 0;
  for (int i = 0; i < kKernelCount; ++i)
    if (kKernels[i]->usable() && kKernels[i]->preferred(shape)) best = i;
  return best;
}

}  // namespace xk
