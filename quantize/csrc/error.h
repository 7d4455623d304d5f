// Errors inside the library: thrown as Error, made a status and a message by guarded(), in api.h.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include "xnorkit.h"

namespace xk {

struct Error : std::exception {
  Error(xk_status s, std::string text) : status(s), message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }

  xk_status status;
  std::string message;
};

// Throws an Error with the message that printf would make of the arguments.
__attribute__((format(printf, 2, 3), noreturn)) inline void fail(xk_status status, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(status, text);
}

}  // namespace xk
