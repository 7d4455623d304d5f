// The operators of domain "xnorkit", and their registration with onnxruntime.
//
// A packed ONNX file has a function of each name that it uses, in standard operators; onnxruntime keeps a node whose
// kernel is registered and inlines the others. quantize/export/packed_format.py writes such files.
#include <cinttypes>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "error.h"
#include "ort/binary_conv.h"
#include "ort/binary_max_pool.h"
#include "ort/c_api.h"
#include "ort/dense_conv.h"
#include "ort/level_layers.h"
#include "ort/operator.h"
#include "ort/sign_matmul.h"

namespace xk::ort {
namespace {

constexpr const char* kDomain = "xnorkit";
// Raised when an input, an attribute or the meaning of one is added or changed, or a name that bits flow through. A file
// that needs a later one than the first says so in the attribute xnorkit_version of every node: bits flow between nodes,
// so that either all of a file's nodes are run here, or none. A library that does not know a name without bits, such as
// SignMatMul and LevelConv, leaves its nodes to onnxruntime. Version 2 has Int8ConvToBits, version 3 FloatConvToBits.
constexpr int64_t kVersion = 3;

std::vector<Operator> all_operators() {
  std::vector<Operator> operators = conv_operators();
  for (const Operator& op : dense_operators()) operators.push_back(op);
  for (const Operator& op : level_operators()) operators.push_back(op);
  operators.push_back(max_pool_operator());
  operators.push_back(sign_matmul_operator());
  return operators;
}

// An operator as onnxruntime takes it.
struct Registered : CustomOp {
  Operator op;
};

const Operator& operator_of(const CustomOp* op) { return static_cast<const Registered*>(op)->op; }

// Runs function(), and turns what it throws into a status: nothing may be thrown through onnxruntime.
template <class Function>
OrtStatus* guarded(const Api& api, const std::string& where, const Function& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const Error& error) {
    const int32_t code = error.status == XK_INVALID_ARGUMENT ? kInvalidArgument : kFail;
    return api.CreateStatus(code, (where + error.what()).c_str());
  } catch (const std::exception&) {  // bad_alloc, length_error
    return api.CreateStatus(kFail, "xnorkit: out of memory");
  }
}

void check_version(const Node& node) {
  const int64_t needed = node.integer("xnorkit_version", 1);
  if (needed < 1 || needed > kVersion)
    fail(XK_UNSUPPORTED,
         "the file needs version %" PRId64 " of xnorkit's operators and this library has version %" PRId64
         "; install a newer xnorkit, or do not register the library",
         needed, kVersion);
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const NodeKernel& k = *static_cast<const NodeKernel*>(kernel);
  return guarded(k.api(), "", [&] { k.compute(context); });
}

OrtStatus* create(const CustomOp* op, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
  const Api api(table);
  const Node node(api, info);
  const Operator& self = operator_of(op);
  std::string where;
  return guarded(api, where, [&] {
    where = std::string("xnorkit: ") + self.name + " node '" + node.name() + "': ";
    check_version(node);
    *kernel = self.make(api, node).release();
  });
}

Registered registered(const Operator& op) {
  Registered r{};
  r.op = op;
  r.version = kApiVersion;
  r.GetName = [](const CustomOp* self) { return operator_of(self).name; };
  r.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
  r.GetInputType = [](const CustomOp* self, size_t index) -> int32_t { return operator_of(self).inputs[index]; };
  r.GetInputTypeCount = [](const CustomOp* self) { return operator_of(self).inputs.size(); };
  r.GetOutputType = [](const CustomOp*, size_t) -> int32_t { return kFloat; };
  r.GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  r.GetInputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };   // required
  r.GetOutputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };  // required
  r.GetInputMemoryType = [](const CustomOp*, size_t) -> int32_t { return 0; };       // the default
  r.CreateKernelV2 = create;
  r.KernelComputeV2 = compute;
  r.KernelDestroy = [](void* kernel) { delete static_cast<NodeKernel*>(kernel); };
  return r;
}

// The domain with all operators, as one onnxruntime of the process knows it.
class Domain {
 public:
  explicit Domain(const OrtApi* table) : api_(table) {
    check(api_.CreateCustomOpDomain(kDomain, &domain_));
    for (const Operator& op : all_operators()) operators_.push_back(registered(op));
    for (const Registered& op : operators_) check(api_.CustomOpDomain_Add(domain_, &op));  // which keeps the pointer
  }
  Domain(const Domain&) = delete;
  ~Domain() { api_.ReleaseCustomOpDomain(domain_); }
  void add_to(OrtSessionOptions* options) const { check(api_.AddCustomOpDomain(options, domain_)); }

 private:
  const Api api_;
  OrtCustomOpDomain* domain_ = nullptr;
  std::vector<Registered> operators_;
};

// Sessions use a domain as long as the library is loaded.
void register_with(const OrtApi* table, OrtSessionOptions* options) {
  static std::mutex mutex;
  static std::map<const OrtApi*, std::unique_ptr<Domain>> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Domain>& domain = domains[table];
  if (!domain) domain = std::make_unique<Domain>(table);
  domain->add_to(options);
}

}  // namespace
}  // namespace xk::ort

extern "C" XK_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const xk::ort::ApiBase* base) {
  using namespace xk::ort;
  const OrtApi* table = base->GetApi(kApiVersion);
  if (!table) {
    const std::string message = std::string("xnorkit needs onnxruntime 1.17 or newer; this is ") +
                                base->GetVersionString();
    return create_status(base->GetApi(1), kFail, message.c_str());
  }
  const Api api(table);
  return guarded(api, "", [&] { register_with(table, options); });
}
