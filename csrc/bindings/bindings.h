// SPDX-License-Identifier: Apache-2.0
// The parts of the module _core.
#pragma once

#include <pybind11/pybind11.h>

namespace pyrnn {

void bind_sequence(pybind11::module_& m);
void bind_stream(pybind11::module_& m);
void bind_cells(pybind11::module_& m);
void bind_info(pybind11::module_& m);

}  // namespace pyrnn
