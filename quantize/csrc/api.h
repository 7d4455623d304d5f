// What the functions of xnorkit.h share: those of pooling stand in pool.cc, those of training in training/, of linear
// layers of floats in linear/, of convolutions of floats with signs in levels/, of 8-bit numbers and of floats in dense/, the others in
// api.cc.
#pragma once

#include <exception>
#include <initializer_list>

#include "error.h"
#include "shape.h"
#include "xnorkit.h"

namespace xk {

// Keeps the message for xk_last_error().
int32_t failed(xk_status status, const char* message);

// Runs function(), and turns what it throws into a status: nothing may be thrown through C.
template <class Function>
int32_t guarded(const Function& function) {
  try {
    function();
    return XK_OK;
  } catch (const Error& error) {
    return failed(error.status, error.what());
  } catch (const std::exception&) {  // bad_alloc, length_error
    return failed(XK_OUT_OF_MEMORY, "out of memory");
  }
}

// Throws what a function of xnorkit.h said, where a call of it failed.
inline void check_call(int32_t status) {
  if (status != XK_OK) fail(static_cast<xk_status>(status), "%s", xk_last_error());
}

struct NamedPointer {
  const char* name;
  const void* pointer;
};
// An error that names the first that is NULL.
inline void check_pointers(std::initializer_list<NamedPointer> pointers) {
  for (const NamedPointer& p : pointers)
    if (!p.pointer) fail(XK_INVALID_ARGUMENT, "%s is NULL", p.name);
}

// What a convolution may be asked to end in.
void check_output(const Shape& shape, const xk_epilogue& epilogue, const xk_output& output);

}  // namespace xk
