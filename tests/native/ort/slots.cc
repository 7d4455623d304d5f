// Calls every slot of ort/c_api.h in a real onnxruntime: an operator "Probe" whose output has a 1 for each slot, in the
// order of the table, that did what it should. Its node has the inputs x, floats, and w, constant uint8 {7, 8}, the
// attributes one = 1 and many = [4, 5, 6], and the name "probe". It fails on purpose where x starts with -1.
#include <atomic>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "ort/c_api.h"
#include "xnorkit.h"

using namespace xk::ort;

namespace {

struct Probe {
  Api api;
  std::set<std::string> good;  // slots that did what they should
};

// Calls a slot: it is good where it succeeds and then `as_expected` holds.
#define XK_TRY(probe, slot, arguments, as_expected) \
  if (!(probe)->api.slot arguments && (as_expected)) (probe)->good.insert(#slot)

void look_at_tensor(Probe* probe, const OrtValue* value, int32_t type, std::vector<int64_t> dims) {
  const Api& api = probe->api;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  XK_TRY(probe, GetTensorTypeAndShape, (value, &info), info);
  int32_t found = 0;
  XK_TRY(probe, GetTensorElementType, (info, &found), found == type);
  size_t rank = 0;
  XK_TRY(probe, GetDimensionsCount, (info, &rank), rank == dims.size());
  std::vector<int64_t> sizes(rank);
  XK_TRY(probe, GetDimensions, (info, sizes.data(), rank), sizes == dims);
  api.ReleaseTensorTypeAndShapeInfo(info);
  probe->good.insert("ReleaseTensorTypeAndShapeInfo");
}

void look_at_node(Probe* probe, const OrtKernelInfo* info) {
  const Api& api = probe->api;
  int64_t one = 0, many[3] = {};
  XK_TRY(probe, KernelInfoGetAttribute_int64, (info, "one", &one), one == 1);
  size_t size = 0;
  api.KernelInfoGetAttributeArray_int64(info, "many", nullptr, &size);
  XK_TRY(probe, KernelInfoGetAttributeArray_int64, (info, "many", many, &size),
         size == 3 && many[0] == 4 && many[2] == 6);
  char name[6] = {};
  size_t length = sizeof name;
  XK_TRY(probe, KernelInfo_GetNodeName, (info, name, &length), length == 6 && !std::strcmp(name, "probe"));
  int32_t constant = 0, computed = 1;
  const OrtValue *value = nullptr, *x = nullptr;
  api.KernelInfoGetConstantInput_tensor(info, 0, &computed, &x);
  XK_TRY(probe, KernelInfoGetConstantInput_tensor, (info, 1, &constant, &value), constant && value && !computed && !x);
  look_at_tensor(probe, value, kUint8, {2});
  void* data = nullptr;
  XK_TRY(probe, GetTensorMutableData, (const_cast<OrtValue*>(value), &data), !std::memcmp(data, "\7\10", 2));
  if (OrtStatus* missing = api.KernelInfoGetAttribute_int64(info, "none", &one)) {
    api.ReleaseStatus(missing);
    probe->good.insert("ReleaseStatus");
  }
  // That these worked is known where a node of the domain is created.
  for (const char* slot : {"CreateCustomOpDomain", "CustomOpDomain_Add", "AddCustomOpDomain", "ReleaseCustomOpDomain"})
    probe->good.insert(slot);
}

OrtStatus* create(const CustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
  Probe* probe = new Probe{Api(table), {}};
  look_at_node(probe, info);
  *kernel = probe;
  return nullptr;
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  Probe probe = *static_cast<Probe*>(kernel);
  const Api& api = probe.api;
  const OrtValue* x = nullptr;
  XK_TRY(&probe, KernelContext_GetInput, (context, 0, &x), x);
  void* data = nullptr;
  if (OrtStatus* status = api.GetTensorMutableData(const_cast<OrtValue*>(x), &data)) return status;
  OrtStatus* failure = api.CreateStatus(kInvalidArgument, "the probe fails where x starts with -1");
  if (*static_cast<float*>(data) == -1) return failure;
  api.ReleaseStatus(failure);
  if (failure) probe.good.insert("CreateStatus");
  std::atomic<size_t> sum{0};
  auto task = [](void* data, size_t i) { *static_cast<std::atomic<size_t>*>(data) += i; };
  XK_TRY(&probe, KernelContext_ParallelFor, (context, task, 100, 0, &sum), sum == 4950);
  std::vector<std::string> slots;
#define XK_NAME(index, since, name, arguments) slots.push_back(#name);
  XK_ORT_SLOTS(XK_NAME)
  XK_ORT_RELEASES(XK_NAME)
  const int64_t dims[] = {static_cast<int64_t>(slots.size())};
  OrtValue* output = nullptr;
  XK_TRY(&probe, KernelContext_GetOutput, (context, 0, dims, 1, &output), output);
  if (OrtStatus* status = api.GetTensorMutableData(output, &data)) return status;
  for (size_t i = 0; i < slots.size(); ++i) static_cast<float*>(data)[i] = probe.good.count(slots[i]) ? 1.0f : 0.0f;
  return nullptr;
}

CustomOp probe_operator() {
  CustomOp op{};
  op.version = kApiVersion;
  op.GetName = [](const CustomOp*) { return "Probe"; };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const CustomOp*, size_t index) -> int32_t { return index ? kUint8 : kFloat; };
  op.GetInputTypeCount = [](const CustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const CustomOp*, size_t) -> int32_t { return kFloat; };
  op.GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };
  op.GetOutputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };
  op.GetInputMemoryType = [](const CustomOp*, size_t) -> int32_t { return 0; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Probe*>(kernel); };
  return op;
}

}  // namespace

extern "C" XK_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const ApiBase* base) {
  static const CustomOp op = probe_operator();
  const Api api(base->GetApi(kApiVersion));
  OrtCustomOpDomain *domain = nullptr, *unused = nullptr;
  if (OrtStatus* status = api.CreateCustomOpDomain("unused", &unused)) return status;
  api.ReleaseCustomOpDomain(unused);
  if (OrtStatus* status = api.CreateCustomOpDomain("probe", &domain)) return status;
  if (OrtStatus* status = api.CustomOpDomain_Add(domain, &op)) return status;
  return api.AddCustomOpDomain(options, domain);
}
