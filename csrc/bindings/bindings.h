// SPDX-License-Identifier: Apache-2.0
// The parts of the module _core.
#pragma once

#include <pybind11/pybind11.h>

#include <cstring>
#include <new>
#include <string>

namespace pyrnn {

// A Python object can exist without its __init__ having run (Class.__new__), on memory that pybind11 then allocates
// with this operator: it is zero there, and the object is refused.
class Made {
 public:
  static void* operator new(std::size_t bytes) { return std::memset(::operator new(bytes), 0, bytes); }
  static void operator delete(void* memory) { ::operator delete(memory); }
  void check_made(const char* name) const {
    if (!made_) throw pybind11::type_error(std::string(name) + ": expected an object that was made by its class");
  }

 private:
  bool made_ = true;
};

void bind_signals(pybind11::module_& m);
void bind_sequence(pybind11::module_& m);
void bind_stream(pybind11::module_& m);
void bind_quantized(pybind11::module_& m);
void bind_cells(pybind11::module_& m);
void bind_scores(pybind11::module_& m);
void bind_attention(pybind11::module_& m);
void bind_decoder(pybind11::module_& m);
void bind_info(pybind11::module_& m);
void bind_peaks(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);
void bind_cuda_attention(pybind11::module_& m);
void bind_cuda_decoder(pybind11::module_& m);
void bind_shared(pybind11::module_& m);

}  // namespace pyrnn
