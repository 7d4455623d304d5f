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

#include "error.h"
#include "ort/binary_conv.h"
#include "ort/binary_max_pool.h"
#include "ort/c_api.h"
#include "ort/node.h"

namespace xk::ort {
namespace {

constexpr const char* kDomain = "xnorkit";
// Raised when a name, an input, an attribute or the meaning of one is added or changed. A file that needs a later one
// than the first says so in the attribute xnorkit_version of every node: bits flow between nodes, so that either all of
// a file's nodes are run here, or none.
constexpr int64_t kVersion = 1;

constexpr ConvVariant kConvs[] = {
    // name, from bits, epilogue, scaled, shuffled
    {"BinaryConv", false, ConvEpilogue::kFloat, false, false},
    {"BinaryConvRelu", false, ConvEpilogue::kRelu, false, false},
    {"BinaryConvToBits", false, ConvEpilogue::kBits, false, false},
    {"BinaryConvScaled", false, ConvEpilogue::kFloat, true, false},
    {"BinaryConvReluScaled", false, ConvEpilogue::kRelu, true, false},
    {"BinaryConvFromBits", true, ConvEpilogue::kFloat, false, false},
    {"BinaryConvFromBitsRelu", true, ConvEpilogue::kRelu, false, false},
    {"BinaryConvFromBitsToBits", true, ConvEpilogue::kBits, false, false},
    {"BinaryConvShuffle", false, ConvEpilogue::kFloat, false, true},
    {"BinaryConvReluShuffle", false, ConvEpilogue::kRelu, false, true},
    {"BinaryConvToBitsShuffle", false, ConvEpilogue::kBits, false, true},
    {"BinaryConvScaledShuffle", false, ConvEpilogue::kFloat, true, true},
    {"BinaryConvReluScaledShuffle", false, ConvEpilogue::kRelu, true, true},
    {"BinaryConvFromBitsShuffle", true, ConvEpilogue::kFloat, false, true},
    {"BinaryConvFromBitsReluShuffle", true, ConvEpilogue::kRelu, false, true},
    {"BinaryConvFromBitsToBitsShuffle", true, ConvEpilogue::kBits, false, true},
};
constexpr size_t kConvCount = sizeof kConvs / sizeof kConvs[0];

// One of kConvs, or BinaryMaxPool where `conv` is NULL.
struct Operator : CustomOp {
  const ConvVariant* conv;
  const char* name() const { return conv ? conv->name : "BinaryMaxPool"; }
  size_t inputs() const { return conv ? ConvInputs(*conv).count() : 2; }
};

const Operator& operator_of(const CustomOp* op) { return *static_cast<const Operator*>(op); }

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

template <class Kernel>
OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const Kernel& k = *static_cast<const Kernel*>(kernel);
  return guarded(k.api(), "", [&] { k.compute(context); });
}

template <class Kernel>
void destroy(void* kernel) {
  delete static_cast<Kernel*>(kernel);
}

OrtStatus* create(const CustomOp* op, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
  const Api api(table);
  const Node node(api, info);
  const Operator& self = operator_of(op);
  std::string where;
  return guarded(api, where, [&] {
    where = std::string("xnorkit: ") + self.name() + " node '" + node.name() + "': ";
    check_version(node);
    *kernel = self.conv ? static_cast<void*>(new ConvKernel(*self.conv, api, info)) : new PoolKernel(api, info);
  });
}

int32_t input_type(const CustomOp* op, size_t index) {
  return operator_of(op).conv && index == ConvInputs::kWeightBits ? kUint8 : kFloat;
}

Operator make_operator(const ConvVariant* conv) {
  Operator op{};
  op.conv = conv;
  op.version = kApiVersion;
  op.GetName = [](const CustomOp* self) { return operator_of(self).name(); };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputType = input_type;
  op.GetInputTypeCount = [](const CustomOp* self) { return operator_of(self).inputs(); };
  op.GetOutputType = [](const CustomOp*, size_t) -> int32_t { return kFloat; };
  op.GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };   // required
  op.GetOutputCharacteristic = [](const CustomOp*, size_t) -> int32_t { return 0; };  // required
  op.GetInputMemoryType = [](const CustomOp*, size_t) -> int32_t { return 0; };       // the default
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = conv ? compute<ConvKernel> : compute<PoolKernel>;
  op.KernelDestroy = conv ? destroy<ConvKernel> : destroy<PoolKernel>;
  return op;
}

// The domain with all operators, as one onnxruntime of the process knows it.
class Domain {
 public:
  explicit Domain(const OrtApi* table) : api_(table) {
    check(api_.CreateCustomOpDomain(kDomain, &domain_));
    for (size_t i = 0; i <= kConvCount; ++i) {
      operators_[i] = make_operator(i < kConvCount ? &kConvs[i] : nullptr);
      check(api_.CustomOpDomain_Add(domain_, &operators_[i]));
    }
  }
  Domain(const Domain&) = delete;
  ~Domain() { api_.ReleaseCustomOpDomain(domain_); }
  void add_to(OrtSessionOptions* options) const { check(api_.AddCustomOpDomain(options, domain_)); }

 private:
  const Api api_;
  OrtCustomOpDomain* domain_ = nullptr;
  Operator operators_[kConvCount + 1];
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
