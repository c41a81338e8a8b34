// SPDX-License-Identifier: Apache-2.0
// Every check that memory safety needs: an array is used exactly as it is, or refused with a message that says why.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "../dispatch.h"
#include "../kernels.h"

namespace pyrnn {
namespace py = pybind11;

// The number of the named cell in the kernel tables.
int find_cell(const std::string& name);
const CellInfo& cell_info(int cell);

// float32 or float64; TypeError for anything else.
Type array_type(const std::string& name, const py::array& array);
std::size_t type_size(Type type);

// What the kernels compute in: the arrays' type, or bfloat16 where compute_dtype names it.
Type compute_type(Type arrays, const std::optional<std::string>& compute_dtype);

// One expected dimension: its symbol in messages, with a factor before it unless that is 0, and its size.
struct Dimension {
  const char* symbol;
  int64_t size;
  int factor = 0;
};

enum Access { read_only, writable };

// The array as it must be: native and aligned, of `type` and shape, elements of the last axis contiguous (`packed`:
// all).
py::array check_array(const std::string& name, const py::object& object, Type type, const std::vector<Dimension>& shape,
                      Access access, bool packed);

// Views of checked arrays. Strides are counted in elements.
View view_sequence(const py::array& array);  // (T, B, n)
View view_rows(const py::array& array);      // (B, n)

void* writable_data(const py::array& array);

// A C-contiguous array that nobody has written to, on memory that is kept for the next one of its size.
py::array empty_array(const std::vector<py::ssize_t>& shape, const py::dtype& dtype);

}  // namespace pyrnn
