#include "ort/call.h"

#include <cinttypes>
#include <cstring>

#include "error.h"
#include "shape.h"

namespace xk::ort {

Tensor Call::tensor(size_t index) const {
  const OrtValue* value = nullptr;
  check(api_.KernelContext_GetInput(context_, index, &value));
  return tensor_of(api_, value);
}

Tensor Call::input(size_t index, const char* name, size_t rank) const {
  const Tensor tensor = this->tensor(index);
  if (tensor.dims.size() != rank)
    fail(XK_INVALID_ARGUMENT, "the input '%s' has shape %s; it must be (N, C, %sH, W)", name,
         text_of(tensor.dims).c_str(), rank == 5 ? "D, " : "");
  return tensor;
}

Tensor Call::output(const std::vector<int64_t>& dims) const {
  OrtValue* value = nullptr;
  check(api_.KernelContext_GetOutput(context_, 0, dims.data(), dims.size(), &value));
  Tensor tensor{dims, kFloat, nullptr};
  check(api_.GetTensorMutableData(value, &tensor.data));
  return tensor;
}

Rows Call::output_rows(const Tensor& x, int64_t inputs, int64_t outputs) const {
  if (x.dims.empty() || x.dims.back() != inputs)
    fail(XK_INVALID_ARGUMENT, "x has shape %s; its last size must be %" PRId64, text_of(x.dims).c_str(), inputs);
  std::vector<int64_t> dims = x.dims;
  dims.back() = outputs;
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) rows *= dims[i];
  checked_product("the size of the output", {rows, outputs, 4});
  return {rows, static_cast<float*>(output(dims).data)};
}

void Call::run(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  Call& call = *static_cast<Call*>(context);
  OrtStatus* status = call.api_.KernelContext_ParallelFor(call.context_, task, count, 0, argument);
  if (status && call.failure_) call.api_.ReleaseStatus(status);
  else if (status) call.failure_ = status;
}

void Call::check_parallel(int32_t status) const {
  check(failure_);
  check_call(status);
}

namespace {

int64_t words_of(const Tensor& container) {
  const std::vector<int64_t>& d = container.dims;
  return d[0] * d[2] * d[3] * ceil_div(d[1], kWordBits);
}

// Where the mark is, or NULL where the words fill the container.
uint32_t* mark_of(const Tensor& container) {
  const std::vector<int64_t>& d = container.dims;
  const int64_t mark = 2 * words_of(container);
  return mark < d[0] * d[1] * d[2] * d[3] ? static_cast<uint32_t*>(container.data) + mark : nullptr;
}

// A quiet NaN whose other bits are a hash (FNV-1a) of the shape.
uint32_t mark_for(const Tensor& container) {
  uint32_t hash = 2166136261u;
  for (int64_t dim : container.dims) hash = (hash ^ static_cast<uint32_t>(dim)) * 16777619u;
  return 0x7fc00000u | hash >> 10;
}

void check_alignment(const Tensor& container) {
  if (reinterpret_cast<uintptr_t>(container.data) % alignof(uint64_t))
    fail(XK_INVALID_ARGUMENT,
         "a tensor of bits is not aligned to 8 bytes: it must come from, and go to, xnorkit nodes");
}

}  // namespace

void check_holds_bits(const char* what, int64_t channels) {
  if (channels < 2)
    fail(XK_INVALID_ARGUMENT, "%s has %" PRId64 " channel; bits need a tensor of at least 2 channels", what, channels);
}

const uint64_t* bits_in(const Tensor& container, const char* name) {
  check_alignment(container);
  const uint64_t* words = static_cast<const uint64_t*>(container.data);
  const uint32_t* mark = mark_of(container);
  // Without a mark there are two channels: floats of +-1 have other bits set.
  if (mark ? *mark != mark_for(container) : words_of(container) > 0 && words[0] >> 2)
    fail(XK_INVALID_ARGUMENT,
         "the input '%s' is not bits of an xnorkit node: the file is damaged, or another runtime ran that node", name);
  return words;
}

const float* floats_in(const Tensor& tensor, const char* name) {
  const uint32_t* mark = tensor.dims.size() == 4 ? mark_of(tensor) : nullptr;
  if (mark && *mark == mark_for(tensor))
    fail(XK_INVALID_ARGUMENT, "the input '%s' is bits of an xnorkit node; this node takes floats: the file is damaged",
         name);
  return static_cast<const float*>(tensor.data);
}

uint64_t* bits_to_write(const Tensor& container) {
  check_alignment(container);
  return static_cast<uint64_t*>(container.data);
}

void mark_as_bits(const Tensor& container) {
  if (uint32_t* mark = mark_of(container)) *mark = mark_for(container);
}

}  // namespace xk::ort
