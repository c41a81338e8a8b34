// SPDX-License-Identifier: Apache-2.0
// Every check that memory safety needs: an array is used exactly as it is, or refused with a message that says why.
#include "arrays.h"

#include <limits>
#include <memory>

#include "buffer.h"

namespace pyrnn {
namespace {

template <class Sizes>
std::string tuple_text(const Sizes& sizes, std::size_t count) {
  std::string text = "(";
  for (std::size_t i = 0; i < count; i++) text += (i ? ", " : "") + std::string(sizes(i));
  return text + (count == 1 ? ",)" : ")");
}

std::string shape_text(const py::array& array) {
  return tuple_text([&](std::size_t i) { return std::to_string(array.shape(py::ssize_t(i))); },
                    std::size_t(array.ndim()));
}

}  // namespace

int find_cell(const std::string& name) {
  const Kernels& kernels = chosen_kernels();
  std::string known;
  for (int i = 0; i < kernels.cell_count; i++) {
    if (name == kernels.info[i].name) return i;
    known += (i ? ", " : "") + std::string(kernels.info[i].name);
  }
  throw py::value_error("cell: unknown cell '" + name + "', expected one of " + known);
}

const CellInfo& cell_info(int cell) { return chosen_kernels().info[cell]; }

std::size_t type_size(Type type) { return type == float32 ? sizeof(float) : sizeof(double); }

Type compute_type(Type arrays, const std::optional<std::string>& compute_dtype) {
  if (!compute_dtype) return arrays;
  if (*compute_dtype != "bfloat16")
    throw py::value_error("compute_dtype: expected None or 'bfloat16', got '" + *compute_dtype + "'");
  if (arrays != float32) throw py::type_error("compute_dtype: expected None for float64 arrays, got 'bfloat16'");
  return bfloat16;
}

Type array_type(const std::string& name, const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() == '=') {  // the usual ones without a comparison of types
    if (dtype.num() == py::detail::npy_api::NPY_FLOAT_) return float32;
    if (dtype.num() == py::detail::npy_api::NPY_DOUBLE_) return float64;
  }
  if (py::isinstance<py::array_t<float>>(array)) return float32;
  if (py::isinstance<py::array_t<double>>(array)) return float64;
  throw py::type_error(name + ": expected native float32 or float64, got " + std::string(py::str(array.dtype())));
}

py::array check_array(const std::string& name, const py::object& object, Type type, const std::vector<Dimension>& shape,
                      Access access, bool packed) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error(name + ": expected a NumPy array, got " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  py::array array = py::reinterpret_borrow<py::array>(object);
  if (array_type(name, array) != type)
    throw py::type_error(name + ": expected " + (type == float32 ? "float32" : "float64") + ", got " +
                         std::string(py::str(array.dtype())));
  bool fits = array.ndim() == py::ssize_t(shape.size());
  for (std::size_t i = 0; fits && i < shape.size(); i++) fits = array.shape(py::ssize_t(i)) == shape[i].size;
  if (!fits)
    throw py::value_error(name + ": expected shape " +
                          tuple_text(
                              [&](std::size_t i) {
                                const Dimension& d = shape[i];
                                return (d.factor ? std::to_string(d.factor) + "*" : "") + d.symbol;
                              },
                              shape.size()) +
                          " = " +
                          tuple_text([&](std::size_t i) { return std::to_string(shape[i].size); }, shape.size()) +
                          ", got " + shape_text(array));
  const py::ssize_t item = array.itemsize();
  py::ssize_t contiguous = item;
  for (py::ssize_t i = array.size() ? array.ndim() - 1 : -1; i >= 0; i--) {  // strides of nothing mean nothing
    const bool last = i == array.ndim() - 1;
    if (array.shape(i) > 1 && ((last || packed) ? array.strides(i) != contiguous : array.strides(i) % item != 0))
      throw py::value_error(name + ": expected " +
                            (packed ? "a C-contiguous array" : "a contiguous last axis and strides of whole elements"));
    contiguous *= array.shape(i);
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % std::size_t(item) != 0)
    throw py::value_error(name + ": expected aligned data");
  if (access == writable && !array.writeable()) throw py::value_error(name + ": expected a writable array");
  return array;
}

void* writable_data(const py::array& array) { return const_cast<void*>(array.data()); }

View view_sequence(const py::array& array) {
  const py::ssize_t item = array.itemsize();
  return {writable_data(array), array.strides(0) / item, array.strides(1) / item};
}

View view_rows(const py::array& array) { return {writable_data(array), 0, array.strides(0) / array.itemsize()}; }

py::array empty_array(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
  constexpr std::size_t least = std::size_t(128) << 10;  // below, malloc finds memory that it has already
  if (dtype.attr("hasobject").cast<bool>()) throw py::type_error("dtype: expected plain data, got objects");
  std::size_t bytes = std::size_t(dtype.itemsize());
  for (const py::ssize_t n : shape) {
    if (n < 0) throw py::value_error("shape: expected sizes of at least 0, got " + std::to_string(n));
    if (n > 0 && bytes > std::size_t(std::numeric_limits<py::ssize_t>::max()) / std::size_t(n))
      throw py::value_error("shape: too large");
    bytes *= std::size_t(n);
  }
  if (bytes < least) return py::array(dtype, shape);
  auto buffer = std::make_unique<Buffer>(bytes);
  void* const data = buffer->data();
  const py::capsule owner(buffer.get(), [](void* made) { delete static_cast<Buffer*>(made); });
  buffer.release();
  return py::array(dtype, shape, data, owner);
}

}  // namespace pyrnn
