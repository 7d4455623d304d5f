// ort/c_api.h against onnxruntime's public header, in the compiler: slots, codes and the layout of an operator.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort/c_api.h"

#define XK_CHECK_SLOT(index, since, name, arguments) \
  static_assert(offsetof(OrtApi, name) == (index) * sizeof(void*), #name " is in another slot");
XK_ORT_SLOTS(XK_CHECK_SLOT)
XK_ORT_RELEASES(XK_CHECK_SLOT)

// The arguments of both can be the same call.
#define XK_CHECK_ARITY(index, since, name, arguments) \
  static_assert(arity(&OrtApi::name) == arity(&xk::ort::Api::name), #name " has other arguments");
template <class Table, class Result, class... Arguments>
constexpr size_t arity(Result (*Table::*)(Arguments...)) {
  return sizeof...(Arguments);
}
template <class Table, class Result, class... Arguments>
constexpr size_t arity(Result (*Table::*)(Arguments...) noexcept) {
  return sizeof...(Arguments);
}
XK_ORT_SLOTS(XK_CHECK_ARITY)
XK_ORT_RELEASES(XK_CHECK_ARITY)

#define XK_CHECK_FIELD(name) \
  static_assert(offsetof(OrtCustomOp, name) == offsetof(xk::ort::CustomOp, name), #name " is elsewhere");
XK_CHECK_FIELD(version)
XK_CHECK_FIELD(CreateKernel)
XK_CHECK_FIELD(GetName)
XK_CHECK_FIELD(GetExecutionProviderType)
XK_CHECK_FIELD(GetInputType)
XK_CHECK_FIELD(GetInputTypeCount)
XK_CHECK_FIELD(GetOutputType)
XK_CHECK_FIELD(GetOutputTypeCount)
XK_CHECK_FIELD(KernelCompute)
XK_CHECK_FIELD(KernelDestroy)
XK_CHECK_FIELD(GetInputCharacteristic)
XK_CHECK_FIELD(GetOutputCharacteristic)
XK_CHECK_FIELD(GetInputMemoryType)
XK_CHECK_FIELD(GetVariadicInputMinArity)
XK_CHECK_FIELD(GetVariadicInputHomogeneity)
XK_CHECK_FIELD(GetVariadicOutputMinArity)
XK_CHECK_FIELD(GetVariadicOutputHomogeneity)
XK_CHECK_FIELD(CreateKernelV2)
XK_CHECK_FIELD(KernelComputeV2)
XK_CHECK_FIELD(InferOutputShapeFn)
XK_CHECK_FIELD(GetStartVersion)
XK_CHECK_FIELD(GetEndVersion)

static_assert(int(ORT_FAIL) == xk::ort::kFail && int(ORT_INVALID_ARGUMENT) == xk::ort::kInvalidArgument);
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) == xk::ort::kFloat);
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) == xk::ort::kUint8);
static_assert(int(INPUT_OUTPUT_REQUIRED) == 0 && int(OrtMemTypeDefault) == 0);
static_assert(ORT_API_VERSION >= xk::ort::kApiVersion);
