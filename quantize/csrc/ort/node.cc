#include "ort/node.h"

#include <cinttypes>

#include "error.h"

namespace xk::ort {

Tensor tensor_of(const Api& api, const OrtValue* value) {
  Tensor tensor{};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetDimensionsCount(info, &rank);
  if (!status) {
    tensor.dims.resize(rank);
    status = api.GetDimensions(info, tensor.dims.data(), rank);
  }
  if (!status) status = api.GetTensorElementType(info, &tensor.type);
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

std::string text_of(const std::vector<int64_t>& dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + ")";
}

std::string Node::name() const {
  size_t size = 0;
  check(api_.KernelInfo_GetNodeName(info_, nullptr, &size));
  std::string name(size, '\0');  // with the NUL at the end
  check(api_.KernelInfo_GetNodeName(info_, name.data(), &size));
  return name.c_str();
}

bool Node::find(const char* name, int64_t* value) const {
  OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, name, value);
  if (status) api_.ReleaseStatus(status);
  return !status;
}

int64_t Node::integer(const char* name) const {
  int64_t value = 0;
  if (!find(name, &value))
    fail(XK_INVALID_ARGUMENT, "the attribute '%s' is missing or is not an integer; export the model again", name);
  return value;
}

int64_t Node::integer(const char* name, int64_t otherwise) const {
  int64_t value = 0;
  return find(name, &value) ? value : otherwise;
}

bool Node::find(const char* name, std::vector<int64_t>* values) const {
  size_t size = 0;
  OrtStatus* status = api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size);
  if (!status) {
    values->resize(size);
    status = api_.KernelInfoGetAttributeArray_int64(info_, name, values->data(), &size);
  }
  if (status) api_.ReleaseStatus(status);
  return !status;
}

std::vector<int64_t> Node::integers(const char* name) const {
  std::vector<int64_t> values;
  if (!find(name, &values))
    fail(XK_INVALID_ARGUMENT, "the attribute '%s' is missing or is not a list of integers; export the model again",
         name);
  return values;
}

std::vector<int64_t> Node::integers(const char* name, size_t count) const {
  const std::vector<int64_t> values = integers(name);
  if (values.size() != count)
    fail(XK_INVALID_ARGUMENT, "the attribute '%s' has %zu values; it must have %zu", name, values.size(), count);
  return values;
}

std::vector<int64_t> Node::integers(const char* name, const std::vector<int64_t>& otherwise) const {
  std::vector<int64_t> values;
  return find(name, &values) ? integers(name, otherwise.size()) : otherwise;
}

Tensor Node::constant(size_t index, const char* name, int32_t type, size_t rank) const {
  int32_t is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (!is_constant || !value)
    fail(XK_INVALID_ARGUMENT, "the input '%s' is computed or fed; it must be an initializer of the file", name);
  const Tensor tensor = tensor_of(api_, value);
  if (tensor.type != type)
    fail(XK_INVALID_ARGUMENT, "the input '%s' has another type than %s", name, type == kFloat ? "float" : "uint8");
  if (tensor.dims.size() != rank)
    fail(XK_INVALID_ARGUMENT, "the input '%s' has shape %s; it must have %zu dimensions", name,
         text_of(tensor.dims).c_str(), rank);
  return tensor;
}

const uint8_t* Node::bytes(size_t index, const char* name, int64_t rows, int64_t columns) const {
  const Tensor tensor = constant(index, name, kUint8, 2);
  if (tensor.dims[0] != rows || tensor.dims[1] != columns)
    fail(XK_INVALID_ARGUMENT, "the input '%s' has shape %s; the attributes say (%" PRId64 ", %" PRId64 ")", name,
         text_of(tensor.dims).c_str(), rows, columns);
  return static_cast<const uint8_t*>(tensor.data);
}

std::vector<float> Node::floats(size_t index, const char* name, int64_t count) const {
  const Tensor tensor = constant(index, name, kFloat, 1);
  if (tensor.dims[0] != count)
    fail(XK_INVALID_ARGUMENT, "the input '%s' has %" PRId64 " values; the attributes say %" PRId64, name,
         tensor.dims[0], count);
  const float* data = static_cast<const float*>(tensor.data);
  return std::vector<float>(data, data + count);
}

Tensor Node::filters(size_t index, const char* name) const { return constant(index, name, kFloat, 4); }

std::vector<uint8_t> Node::flips(size_t index, const char* name, int64_t count) const {
  std::vector<uint8_t> flips;
  for (float turn : floats(index, name, count)) {
    if (turn != 1.0f && turn != -1.0f)
      fail(XK_INVALID_ARGUMENT, "the input '%s' has a value of %g; every one must be 1 or -1", name, turn);
    flips.push_back(turn < 0);
  }
  return flips;
}

int64_t Node::length(size_t index, const char* name) const { return constant(index, name, kFloat, 1).dims[0]; }

Comparison::Comparison(const Node& node, size_t index, const char* threshold_name, const char* turn_name, int64_t count)
    : threshold(node.floats(index, threshold_name, count)), flip(node.flips(index + 1, turn_name, count)) {
  // turn * x >= t is x >= t, or x <= -t.
  for (size_t c = 0; c < flip.size(); ++c)
    if (flip[c]) threshold[c] = -threshold[c];
}

void check_tails(const uint8_t* weight_bits, int64_t rows, int64_t row_bits) {
  const int64_t bytes = (row_bits + 7) / 8;
  const int used = static_cast<int>(row_bits % 8);
  for (int64_t row = 0; used && row < rows; ++row)
    if (weight_bits[(row + 1) * bytes - 1] >> used)
      fail(XK_INVALID_ARGUMENT, "filter %" PRId64 " of 'weight_bits' has bits set past its end: the data is damaged", row);
}

}  // namespace xk::ort
