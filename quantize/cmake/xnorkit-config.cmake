# xnorkit::xnorkit, the bit engine of an installed xnorkit, for programs without Python:
#
#   execute_process(COMMAND python3 -c "import quantize; print(quantize.__path__[0])"
#                   OUTPUT_VARIABLE XNORKIT_PACKAGE OUTPUT_STRIP_TRAILING_WHITESPACE)
#   find_package(xnorkit REQUIRED CONFIG PATHS ${XNORKIT_PACKAGE}/cmake NO_DEFAULT_PATH)
#   target_link_libraries(program PRIVATE xnorkit::xnorkit)
#
# The header is xnorkit.h. XNORKIT_LIBRARY is the file itself, which a program that runs models in onnxruntime registers
# there (RegisterCustomOpsLibrary) and need not link.
get_filename_component(_package "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(XNORKIT_LIBRARY "${_package}/libxnorkit${CMAKE_SHARED_LIBRARY_SUFFIX}")
if(NOT EXISTS "${XNORKIT_LIBRARY}")
  set(xnorkit_FOUND FALSE)
  set(xnorkit_NOT_FOUND_MESSAGE
      "${XNORKIT_LIBRARY} was not built: there was no C++ compiler when xnorkit was installed; install one, and xnorkit again")
  return()
endif()
if(NOT TARGET xnorkit::xnorkit)
  add_library(xnorkit::xnorkit SHARED IMPORTED)
  set_target_properties(xnorkit::xnorkit PROPERTIES
    IMPORTED_LOCATION "${XNORKIT_LIBRARY}"
    IMPORTED_NO_SONAME TRUE
    INTERFACE_INCLUDE_DIRECTORIES "${_package}/csrc")
endif()
