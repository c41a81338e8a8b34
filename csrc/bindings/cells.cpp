// SPDX-License-Identifier: Apache-2.0
// The registered cells as Python sees them: their constants, their derivatives for the tests, the activations' vector
// code.
#include "../cells/registry.h"
#include <pybind11/stl.h>

#include "arrays.h"
#include "bindings.h"

namespace pyrnn {
namespace {

using Values = std::vector<double>;

py::dict cells() {
  py::dict all;
  const Kernels& kernels = chosen_kernels();
  for (int i = 0; i < kernels.cell_count; i++) {
    const CellInfo& c = kernels.info[i];
    py::dict cell;
    cell["slots"] = c.slots;
    cell["states"] = c.states;
    cell["saved"] = c.saved;
    cell["params"] = c.params;
    cell["late"] = c.late;
    cell["reads"] = c.reads;
    cell["ordered"] = c.ordered;
    cell["from_x"] = py::tuple(py::cast(std::vector<int>(c.from_x, c.from_x + c.from_x_count)));
    cell["from_h"] = py::tuple(py::cast(std::vector<int>(c.from_h, c.from_h + c.from_h_count)));
    cell["param_name"] = c.param_name;
    cell["roles"] = c.roles;
    all[c.name] = cell;
  }
  return all;
}

void check_count(const char* name, const Values& values, int count) {
  if (values.size() != std::size_t(count))
    throw py::value_error(std::string(name) + ": expected " + std::to_string(count) + " numbers, got " +
                          std::to_string(values.size()));
}

// Calls work(Cell{}) for the cell of that name.
template <class Work>
void with_cell(const std::string& name, const Work& work) {
  const int wanted = find_cell(name);
  int i = 0;
#define PYRNN_ENTRY(label, ...) \
  if (i++ == wanted) work(__VA_ARGS__{});
  PYRNN_CELLS(PYRNN_ENTRY)
  PYRNN_STAGED_CELLS(PYRNN_ENTRY)
#undef PYRNN_ENTRY
}

// forward on dual numbers: the new states, and their exact derivative along (ta, ts, tp).
std::pair<Values, Values> cell_jvp(const std::string& name, const Values& a, const Values& s, const Values& p,
                                   const Values& ta, const Values& ts, const Values& tp) {
  Values value, tangent;
  with_cell(name, [&](auto cell) {
    using Cell = decltype(cell);
    check_count("a", a, Cell::slots);
    check_count("ta", ta, Cell::slots);
    check_count("s", s, Cell::states);
    check_count("ts", ts, Cell::states);
    check_count("p", p, Cell::params);
    check_count("tp", tp, Cell::params);
    Dual da[max_slots], ds[max_states], dp[max_params] = {}, s_new[max_states], save[max_saved];
    for (int i = 0; i < Cell::slots; i++) da[i] = {a[i], ta[i]};
    for (int i = 0; i < Cell::states; i++) ds[i] = {s[i], ts[i]};
    for (int i = 0; i < Cell::params; i++) dp[i] = {p[i], tp[i]};
    Cell::forward(da, ds, dp, s_new, save);
    for (int i = 0; i < Cell::states; i++) {
      value.push_back(s_new[i].v);
      tangent.push_back(s_new[i].d);
    }
  });
  return {value, tangent};
}

// backward: the gradients of slots, states and parameters for the gradient ds_new of the new states.
std::tuple<Values, Values, Values> cell_vjp(const std::string& name, const Values& a, const Values& s, const Values& p,
                                            const Values& ds_new) {
  Values da, ds = ds_new, dp;
  with_cell(name, [&](auto cell) {
    using Cell = decltype(cell);
    check_count("a", a, Cell::slots);
    check_count("s", s, Cell::states);
    check_count("p", p, Cell::params);
    check_count("ds_new", ds_new, Cell::states);
    double s_new[max_states], save[max_saved];
    Cell::forward(a.data(), s.data(), p.data(), s_new, save);
    da.assign(Cell::slots, 0);
    dp.assign(Cell::params, 0);
    Cell::backward(save, s.data(), p.data(), ds.data(), da.data(), dp.data());
  });
  return {da, ds, dp};
}

py::array activation(const std::string& name, const py::array& x) {
  static const char* const names[activation_count] = {"sigmoid", "tanh", "relu", "exp"};
  const Type type = array_type("x", x);
  for (int i = 0; i < activation_count; i++)
    if (name == names[i]) {
      const py::array in = check_array("x", x, type, {{"n", x.ndim() == 1 ? int64_t(x.shape(0)) : -1}}, read_only,
                                       true);
      py::array out(x.dtype(), std::vector<py::ssize_t>{x.shape(0)});
      chosen_kernels().activation[type](i, in.data(), writable_data(out), x.shape(0));
      return out;
    }
  throw py::value_error("name: expected sigmoid, tanh, relu or exp, got '" + name + "'");
}

}  // namespace

void bind_cells(py::module_& m) {
  using namespace py::literals;
  m.def("cells", cells, "The registered cells with their constants.");
  m.def("cell_jvp", cell_jvp, "cell"_a, "a"_a, "s"_a, "p"_a, "ta"_a, "ts"_a, "tp"_a);
  m.def("cell_vjp", cell_vjp, "cell"_a, "a"_a, "s"_a, "p"_a, "ds_new"_a);
  m.def("activation", activation, "name"_a, "x"_a, "An activation by the vector code of the chosen instruction set.");
}

}  // namespace pyrnn
