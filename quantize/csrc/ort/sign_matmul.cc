#include "ort/sign_matmul.h"

#include <cinttypes>

#include "error.h"
#include "ort/call.h"
#include "shape.h"

namespace xk::ort {

namespace {

// y = x S, x (..., inputs) and S (inputs, outputs) of signs, which `weight_bits` has as rows of S transposed.
class SignMatMul : public NodeKernel {
 public:
  SignMatMul(const Api& api, const Node& node);
  void compute(OrtKernelContext* context) const override;

 private:
  int64_t outputs_, inputs_;
  PreparedBits weights_;
};

SignMatMul::SignMatMul(const Api& api, const Node& node) : NodeKernel(api) {
  const std::vector<int64_t> shape = node.integers("filter_shape", 2), bits = node.integers("filter_bits", 1);
  for (int64_t size : shape) check_size("a size of filter_shape", size, 1);
  outputs_ = shape[0], inputs_ = shape[1];
  if (bits[0] != inputs_)
    fail(XK_INVALID_ARGUMENT, "filter_bits is %" PRId64 "; filter_shape %s says %" PRId64, bits[0],
         text_of(shape).c_str(), inputs_);
  const int64_t row_bytes = ceil_div(inputs_, 8);
  const size_t dense_bytes = static_cast<size_t>(checked_product("filter_shape", {outputs_, row_bytes}));
  const uint8_t* dense = node.bytes(1, "weight_bits", outputs_, row_bytes);
  check_tails(dense, outputs_, inputs_);
  size_t bytes = 0;
  check_call(xk_lookup_size(inputs_, outputs_, &bytes));
  weights_ = PreparedBits(bytes);
  check_call(xk_lookup_pack(inputs_, outputs_, dense, dense_bytes, weights_.data(), weights_.size()));
}

void SignMatMul::compute(OrtKernelContext* context) const {
  Call call(api_, context);
  const Tensor x = call.tensor(0);
  const Rows rows = call.output_rows(x, inputs_, outputs_);
  if (rows.count == 0) return;
  const xk_parallel parallel = call.parallel();
  call.check_parallel(xk_lookup(rows.count, inputs_, outputs_, static_cast<const float*>(x.data), weights_.data(),
                                weights_.size(), rows.y, &parallel));
}

}  // namespace

Operator sign_matmul_operator() {
  return {"SignMatMul", {kFloat, kUint8}, [](const Api& api, const Node& node) {
            return std::make_unique<SignMatMul>(api, node);
          }};
}

}  // namespace xk::ort
