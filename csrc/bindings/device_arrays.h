// SPDX-License-Identifier: Apache-2.0
// Arrays of a device as Python describes them, and memory of the device.
#pragma once

#include <pybind11/stl.h>

#include <optional>

#include "../dispatch_cuda.h"
#include "arrays.h"

namespace pyrnn {

constexpr const char* number_names[] = {"float32", "float64", "bfloat16", "float16"};

// A device array as Python describes it: (pointer, shape, strides in elements, name of the numbers, ...).
struct DeviceArray {
  void* data;
  std::vector<int64_t> shape, strides;
  std::string number;
};

inline DeviceArray describe(const char* name, const py::handle& object) {
  if (!py::isinstance<py::tuple>(object) || py::len(object) < 4)
    throw py::type_error(std::string(name) + ": expected a described device array");
  const auto described = py::reinterpret_borrow<py::tuple>(object);
  DeviceArray a{reinterpret_cast<void*>(described[0].cast<std::uintptr_t>()), described[1].cast<std::vector<int64_t>>(),
                described[2].cast<std::vector<int64_t>>(), described[3].cast<std::string>()};
  if (a.shape.size() != a.strides.size()) throw py::value_error(std::string(name) + ": expected a stride an axis");
  return a;
}

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t n : shape) text += std::to_string(n) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) text.resize(text.size() - 2);
  return "(" + text + ")";
}

// Refuses all but arrays of `number` and `shape` whose last axis (`packed`: all) is contiguous.
inline DeviceArray check(const char* name, const py::handle& object, const std::string& number,
                         const std::vector<int64_t>& shape, bool packed) {
  DeviceArray a = describe(name, object);
  if (a.number != number) throw py::type_error(std::string(name) + ": expected " + number + ", got " + a.number);
  if (a.shape != shape)
    throw py::value_error(std::string(name) + ": expected shape " + shape_text(shape) + ", got " + shape_text(a.shape));
  bool empty = false;
  for (const int64_t n : shape) empty = empty || n == 0;
  int64_t contiguous = 1;
  for (size_t i = shape.size(); i-- > 0 && !empty;) {
    if (shape[i] > 1 && (packed || i + 1 == shape.size()) && a.strides[i] != contiguous)
      throw py::value_error(std::string(name) +
                            (packed ? ": expected a C-contiguous array" : ": expected a contiguous last axis"));
    contiguous *= shape[i];
  }
  if (!empty && !a.data) throw py::value_error(std::string(name) + ": expected an array, got a null pointer");
  return a;
}

inline int index_of(const char* name, const std::string& wanted, const char* const* names, int count) {
  std::string known;
  for (int i = 0; i < count; i++) {
    if (wanted == names[i]) return i;
    known += (i ? ", " : "") + std::string(names[i]);
  }
  throw py::value_error(std::string(name) + ": expected one of " + known + ", got '" + wanted + "'");
}

using Described = std::optional<py::object>;

// Memory of the device: allocate(bytes) returns (pointer, owner).
inline void* allocate(const py::function& allocator, size_t bytes, std::vector<py::object>& kept) {
  if (bytes == 0) return nullptr;
  const py::tuple memory = allocator(bytes);
  kept.push_back(memory[1]);
  return reinterpret_cast<void*>(memory[0].cast<std::uintptr_t>());
}

}  // namespace pyrnn
