// What an operator of the domain is: a row of the table in operators.cc, and the kernels of its nodes.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "ort/node.h"
#include "prepared.h"

namespace xk::ort {

// The kernel of a node. Immutable once it is made: runs at the same time are safe.
class NodeKernel {
 public:
  explicit NodeKernel(const Api& api) : api_(api) {}
  virtual ~NodeKernel() = default;
  virtual void compute(OrtKernelContext* context) const = 0;
  const Api& api() const { return api_; }

 protected:
  const Api api_;
};

// An operator, with all that onnxruntime asks of it. It has one output, of floats.
struct Operator {
  const char* name;
  std::vector<ElementType> inputs;
  std::function<std::unique_ptr<NodeKernel>(const Api&, const Node&)> make;
};

}  // namespace xk::ort
