// SPDX-License-Identifier: Apache-2.0
// What the library runs on: instruction sets and threads.
#include <pybind11/stl.h>

#include "../dispatch.h"
#include "../engine/parallel.h"
#include "bindings.h"

namespace py = pybind11;

namespace pyrnn {

void bind_info(py::module_& m) {
  using namespace py::literals;
  m.def("isa", [] { return chosen_kernels().isa; }, "The instruction set in use.");
  m.def("isas", supported_isas, "The instruction sets that this processor can run, lowest first.");
  m.def("available_cpus", available_cpus, "Processors that this process may use, by affinity and cgroup quota.");
  m.def("num_threads", num_threads, "Threads that a call may use.");
  m.def(
      "set_num_threads",
      [](int threads) {
        if (threads < 1 || threads > max_threads)
          throw py::value_error("threads: expected 1 to " + std::to_string(max_threads) + ", got " +
                                std::to_string(threads));
        set_num_threads(threads);
      },
      "threads"_a);
}

}  // namespace pyrnn
