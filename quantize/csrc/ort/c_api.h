// ort/ makes the library's functions operators of onnxruntime: operators.cc registers them, binary_conv,
// binary_max_pool, dense_conv, level_layers and sign_matmul are their kernels, node is what the file says of one, call is
// one run of it.
//
// This header has the part of onnxruntime's C API that they use, so that building needs no header of onnxruntime.
//
// The API is a table of functions that only grows: a function keeps its index and its signature for ever.
// https://onnxruntime.ai/docs/api/c/struct_ort_api.html has the signatures; tests/test_ort_slots.py calls every
// slot in the installed onnxruntime, and compares the indices with the public header where there is one.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtApi;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

namespace xk::ort {

struct CustomOp;

// The version that is asked for: onnxruntime 1.17, the first that lends its threads to an operator.
constexpr uint32_t kApiVersion = 17;

// SLOT(index, version in which it appeared, name, arguments): all but the Release functions return a status.
#define XK_ORT_SLOTS(SLOT)                                                                                       \
  SLOT(0, 1, CreateStatus, (int32_t code, const char* message))                                                  \
  SLOT(26, 1, CreateCustomOpDomain, (const char* domain, OrtCustomOpDomain** out))                               \
  SLOT(27, 1, CustomOpDomain_Add, (OrtCustomOpDomain * domain, const CustomOp* op))                              \
  SLOT(28, 1, AddCustomOpDomain, (OrtSessionOptions * options, OrtCustomOpDomain * domain))                      \
  SLOT(51, 1, GetTensorMutableData, (OrtValue * value, void** out))                                              \
  SLOT(60, 1, GetTensorElementType, (const OrtTensorTypeAndShapeInfo* info, int32_t* out))                       \
  SLOT(61, 1, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo* info, size_t* out))                          \
  SLOT(62, 1, GetDimensions, (const OrtTensorTypeAndShapeInfo* info, int64_t* values, size_t count))             \
  SLOT(65, 1, GetTensorTypeAndShape, (const OrtValue* value, OrtTensorTypeAndShapeInfo** out))                   \
  SLOT(86, 1, KernelInfoGetAttribute_int64, (const OrtKernelInfo* info, const char* name, int64_t* out))         \
  SLOT(90, 1, KernelContext_GetInput, (const OrtKernelContext* context, size_t index, const OrtValue** out))     \
  SLOT(91, 1, KernelContext_GetOutput,                                                                           \
       (OrtKernelContext * context, size_t index, const int64_t* dims, size_t count, OrtValue** out))            \
  SLOT(163, 8, KernelInfoGetAttributeArray_int64,                                                                \
       (const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size))                                \
  SLOT(244, 15, KernelInfo_GetNodeName, (const OrtKernelInfo* info, char* out, size_t* size))                    \
  SLOT(249, 15, KernelInfoGetConstantInput_tensor,                                                               \
       (const OrtKernelInfo* info, size_t index, int32_t* is_constant, const OrtValue** out))                    \
  SLOT(274, 17, KernelContext_ParallelFor,                                                                       \
       (const OrtKernelContext* context, void (*task)(void*, size_t), size_t count, size_t batches, void* data))

// RELEASE(index, version, name, arguments)
#define XK_ORT_RELEASES(RELEASE)                                                         \
  RELEASE(93, 1, ReleaseStatus, (OrtStatus * status))                                    \
  RELEASE(99, 1, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo * info))      \
  RELEASE(101, 1, ReleaseCustomOpDomain, (OrtCustomOpDomain * domain))

struct Api {
#define XK_SLOT(index, since, name, arguments)                           \
  static_assert(since <= kApiVersion, #name " is newer than the table"); \
  OrtStatus*(*name)arguments;
#define XK_RELEASE(index, since, name, arguments) void(*name) arguments;
  XK_ORT_SLOTS(XK_SLOT)
  XK_ORT_RELEASES(XK_RELEASE)
#undef XK_SLOT
#undef XK_RELEASE

  explicit Api(const OrtApi* api) {
    void* const* table = reinterpret_cast<void* const*>(api);
#define XK_SLOT(index, since, name, arguments) name = reinterpret_cast<decltype(name)>(table[index]);
    XK_ORT_SLOTS(XK_SLOT)
    XK_ORT_RELEASES(XK_SLOT)
#undef XK_SLOT
  }
};

// The slot that every version has, for a table that is too old for the others.
inline OrtStatus* create_status(const OrtApi* api, int32_t code, const char* message) {
  return reinterpret_cast<decltype(Api::CreateStatus)>(*reinterpret_cast<void* const*>(api))(code, message);
}

struct ApiBase {
  const OrtApi* (*GetApi)(uint32_t version);  // NULL where onnxruntime is older
  const char* (*GetVersionString)();
};

// OrtErrorCode and ONNXTensorElementDataType, as far as they are needed.
enum ErrorCode : int32_t { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int32_t { kFloat = 1, kUint8 = 2 };

// An operator: OrtCustomOp as of version 17. A function that is NULL has its default.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const CustomOp* op);
  const char* (*GetExecutionProviderType)(const CustomOp* op);
  int32_t (*GetInputType)(const CustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp* op);
  int32_t (*GetOutputType)(const CustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int32_t (*GetInputCharacteristic)(const CustomOp* op, size_t index);
  int32_t (*GetOutputCharacteristic)(const CustomOp* op, size_t index);
  int32_t (*GetInputMemoryType)(const CustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp* op);
  int (*GetVariadicInputHomogeneity)(const CustomOp* op);
  int (*GetVariadicOutputMinArity)(const CustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const CustomOp* op);
  // Used instead of CreateKernel and KernelCompute where those are NULL: these can fail.
  OrtStatus* (*CreateKernelV2)(const CustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp* op, void* context);
  int (*GetStartVersion)(const CustomOp* op);
  int (*GetEndVersion)(const CustomOp* op);
};

}  // namespace xk::ort
