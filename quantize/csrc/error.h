// Errors inside the library: thrown as Error, turned into a status and a message at the C boundary (api.cc).
#pragma once

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <string>

#include "xnorkit.h"

namespace xk {

class Error : public std::exception {
 public:
  Error(xk_status status, std::string message) : status_(status), message_(std::move(message)) {}
  xk_status status() const { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  xk_status status_;
  std::string message_;
};

__attribute__((format(printf, 2, 3), noreturn)) inline void fail(xk_status status, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(status, text);
}

}  // namespace xk
