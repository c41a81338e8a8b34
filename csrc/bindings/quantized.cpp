// SPDX-License-Identifier: Apache-2.0
// _core.Quantized: one layer in one direction with weights of eight bits, over a sequence; streams take it as it is.
#include "quantized.h"

#include <limits>
#include <optional>

#include <pybind11/stl.h>

#include "../engine/parallel.h"
#include "../engine/schedule.h"
#include "sequence_arguments.h"
#include "unlocked.h"

namespace pyrnn {
namespace {

constexpr int64_t most_inputs = 1 << 17;  // sums of more products could leave 32 bits

// An int8 array of two dimensions; its number of columns.
int64_t columns_of(const std::string& name, const py::object& object) {
  if (!py::isinstance<py::array_t<int8_t>>(object)) throw py::type_error(name + ": expected a NumPy array of int8");
  const py::array array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() != 2) throw py::value_error(name + ": expected 2 dimensions, got " + std::to_string(array.ndim()));
  if (!(array.flags() & py::array::c_style)) throw py::value_error(name + ": expected a C-contiguous array");
  if (array.shape(1) < 1 || array.shape(1) > most_inputs)
    throw py::value_error(name + ": expected 1 to " + std::to_string(most_inputs) + " columns, got " +
                          std::to_string(array.shape(1)));
  return array.shape(1);
}

void check_rows(const std::string& name, const py::object& object, int64_t rows) {
  const py::array array = py::reinterpret_borrow<py::array>(object);
  if (array.shape(0) != rows)
    throw py::value_error(name + ": expected " + std::to_string(rows) + " rows, got " + std::to_string(array.shape(0)));
}

void run(const Quantized& layer, const py::array& x, const States& state, const py::object& y, const States& state_out,
         const std::optional<py::array>& lengths, const std::optional<py::array>& mask,
         const std::optional<py::array>& resets, bool reset_to_initial, bool reverse,
         const RegularizationArgument& regularization) {
  layer.check_made("self");
  const CellInfo& info = cell_info(layer.cell());
  if (array_type("x", x) != float32) throw py::type_error("x: expected float32, got float64");
  if (x.ndim() != 3) throw py::value_error("x: expected 3 dimensions (T, B, I), got " + std::to_string(x.ndim()));
  const int64_t T = x.shape(0), B = x.shape(1), I = layer.inputs(), H = layer.units();
  check_steps(T, B);
  ForwardArgs args{};
  args.sizes = {T, B, I, H};
  const py::array in = check_array("x", x, float32, {{"T", T}, {"B", B}, {"I", I}}, read_only, false);
  const py::array out = check_array("y", y, float32, {{"T", T}, {"B", B}, {"H", H}}, writable, false);
  args.x = view_sequence(in);
  args.y = view_sequence(out);
  args.weights.packed = layer.pack();
  if (!state_out) throw py::type_error("state_out: expected a sequence of arrays, got None");
  const Dimension h{"H", H};
  const auto kept_in = check_states("state", state, info, float32, B, h, H, read_only, args.state);
  const auto kept_out = check_states("state_out", state_out, info, float32, B, h, H, writable, args.state_out);
  args.regularization = check_regularization(regularization, info);
  if (args.regularization.training) throw py::value_error("regularization: expected none of training");
  ScheduleOptions options;
  options.lengths = check_lengths(lengths, T, B);
  options.mask = check_flags("mask", mask, T, B);
  options.resets = check_flags("resets", resets, T, B);
  options.reset_to_initial = reset_to_initial;
  options.reverse = reverse;

  without_lock([&] {
    const ScheduleStorage schedule(T, B, options);
    args.schedule = schedule.view();
    const int threads = num_threads();
    const Memory memory = layer.kernels().forward_memory(args, threads, false);
    Buffer workspace(memory.workspace), states(memory.states);
    args.workspace = workspace.data();
    args.states = states.data();
    layer.kernels().forward(args, threads);
  });
}

}  // namespace

Quantized::Quantized(const std::string& cell, const py::object& weight_ih, const py::object& scale_ih,
                     const py::object& weight_hh, const py::object& scale_hh, const py::object& bias_ih,
                     const py::object& bias_hh, const py::object& params)
    : cell_(find_cell(cell)) {
  const CellInfo& info = cell_info(cell_);
  if (info.staged) throw py::value_error("cell: expected one of a single product of h, got " + cell);
  I_ = columns_of("weight_ih", weight_ih);
  H_ = columns_of("weight_hh", weight_hh);
  check_rows("weight_ih", weight_ih, info.from_x_count * H_);
  check_rows("weight_hh", weight_hh, info.from_h_count * H_);
  const Dimension gates_x{"H", info.from_x_count * H_, info.from_x_count};
  const Dimension gates_h{"H", info.from_h_count * H_, info.from_h_count};
  const auto vector = [](const char* name, const py::object& object, const Dimension& size) {
    return check_array(name, object, float32, {size}, read_only, true);
  };
  const py::array s_ih = vector("scale_ih", scale_ih, gates_x), s_hh = vector("scale_hh", scale_hh, gates_h);
  const py::array b_ih = bias_ih.is_none() ? py::array() : vector("bias_ih", bias_ih, gates_x);
  const py::array b_hh = bias_hh.is_none() ? py::array() : vector("bias_hh", bias_hh, gates_h);
  const py::array p = check_params("params", params, info, float32, H_, read_only);
  Weights weights{};
  weights.weight_ih = py::reinterpret_borrow<py::array>(weight_ih).data();
  weights.weight_hh = py::reinterpret_borrow<py::array>(weight_hh).data();
  weights.scale_ih = static_cast<const float*>(s_ih.data());
  weights.scale_hh = static_cast<const float*>(s_hh.data());
  weights.bias_ih = bias_ih.is_none() ? nullptr : b_ih.data();
  weights.bias_hh = bias_hh.is_none() ? nullptr : b_hh.data();
  weights.params = p.size() ? p.data() : nullptr;
  pack_ = Buffer(kernels().stream_pack_bytes(I_, H_));
  kernels().stream_pack({1, 1, I_, H_}, weights, pack_.data());
}

void bind_quantized(py::module_& m) {
  using namespace py::literals;
  py::class_<Quantized>(m, "Quantized", "One layer in one direction with weights of eight bits.")
      .def(py::init<const std::string&, const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&>(),
           "cell"_a, "weight_ih"_a, "scale_ih"_a, "weight_hh"_a, "scale_hh"_a, "bias_ih"_a = py::none(),
           "bias_hh"_a = py::none(), "params"_a = py::none())
      .def("forward", run, "x"_a, "state"_a, "y"_a, "state_out"_a, py::kw_only(), "lengths"_a = py::none(),
           "mask"_a = py::none(), "resets"_a = py::none(), "reset_to_initial"_a = false, "reverse"_a = false,
           "regularization"_a = py::none(), "Writes y and state_out.");
}

}  // namespace pyrnn
