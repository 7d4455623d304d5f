// Memory for weights in the order of a kernel.
#pragma once

#include <cstddef>
#include <vector>

namespace xk {

// Weights in the order of a kernel, which reads them by cache lines.
class PreparedBits {
 public:
  explicit PreparedBits(size_t size = 0) : size_(size), lines_((size + sizeof(CacheLine) - 1) / sizeof(CacheLine)) {}
  void* data() { return lines_.data(); }
  const void* data() const { return lines_.data(); }
  size_t size() const { return size_; }

 private:
  struct alignas(64) CacheLine {
    char bytes[64];
  };

  size_t size_;
  std::vector<CacheLine> lines_;
};

}  // namespace xk
