// The kernels: instruction sets, and what the drivers of conv/ need to know of each.
#pragma once

#include "arch/microkernels.h"
#include "shape.h"

namespace xk {

// The order of weights that a kernel reads, which decides, with the shape, which driver runs it: see choose_driver().
enum class WeightOrder { kWords, kNibbles, kChains, kBytes };  // see WordPlan, LookupPlan, ChainPlan and BytePlan

struct Kernel {
  const char* name;
  bool (*usable)();                       // on this machine
  bool (*preferred)(const Shape& shape);  // to the kernels before it, where it is usable
  WeightOrder order;
  const Microkernels* microkernels;
  const ByteMicrokernels* bytes;  // of WeightOrder::kBytes, else NULL
};

// The ordered table: the later, the faster in general. The index is what packed weights record.
extern const Kernel kKernels[];
extern const int kKernelCount;

// The index of the kernel named, or (NULL or "") named by XNORKIT_KERNEL, or the best for the shape.
int choose_kernel(const char* name, const Shape& shape);

// Those of the fastest kernel of this machine, or of the one that XNORKIT_KERNEL names, for what needs no weights.
const Microkernels& machine_microkernels();

}  // namespace xk
