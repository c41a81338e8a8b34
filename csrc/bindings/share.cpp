// SPDX-License-Identifier: Apache-2.0
// _core.shared: what other extension modules of the same build borrow, as a capsule.
#include <memory>

#include "../dispatch.h"
#include "../engine/parallel.h"
#include "../shared.h"
#include "bindings.h"
#include "buffer.h"

namespace pyrnn {
namespace {

void* new_buffer(std::size_t bytes, void** data) {
  auto buffer = std::make_unique<Buffer>(bytes);
  *data = buffer->data();
  return buffer.release();
}

void delete_buffer(void* buffer) { delete static_cast<Buffer*>(buffer); }

}  // namespace

void bind_shared(pybind11::module_& m) {
  m.def(
      "shared",
      [] {
        static const Shared lent{sizeof(Shared), sizeof(Kernels), &chosen_kernels(),
                                 num_threads,    new_buffer,      delete_buffer};
        return pybind11::capsule(&lent, shared_name);
      },
      "What other extension modules of the same build borrow: kernels, threads and memory.");
}

}  // namespace pyrnn
