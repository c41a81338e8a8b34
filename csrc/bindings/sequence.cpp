// SPDX-License-Identifier: Apache-2.0
// _core.forward and _core.backward: one layer, one direction; and both directions of a layer at once.
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <tuple>

#include <pybind11/stl.h>

#include "bindings.h"
#include "sequence_arguments.h"
#include "sequence_calls.h"

namespace pyrnn {
namespace {

Dimension slots_times_units(const int count, int64_t H) { return {"H", count * H, count}; }

// Units of h that a unit reads: all, or those of its head.
Dimension read_units(const char* h, int64_t P, int64_t heads) {
  return heads > 1 ? Dimension{"H/heads", P / heads} : Dimension{h, P};
}

// h of a layer: (B, H), or (B, P) where it is projected.
Dimension h_units(const Sizes& sizes, const Weights& weights) {
  return weights.weight_hr ? Dimension{"P", weights.P} : Dimension{"H", sizes.H};
}

// What h has as the product reads it; of a cell without such a product, its units.
int64_t read_h_size(const CellInfo& info, const py::array& weight_ih, const py::object& weight_hh) {
  if (!info.from_h_count) return weight_ih.ndim() ? int64_t(weight_ih.shape(0)) / info.from_x_count : 0;
  if (!py::isinstance<py::array>(weight_hh)) throw py::type_error("weight_hh: expected a NumPy array");
  const py::array array = py::reinterpret_borrow<py::array>(weight_hh);
  if (array.ndim() != 2) throw py::value_error("weight_hh: expected 2 dimensions, got " + std::to_string(array.ndim()));
  return array.shape(1);
}

// The units of a layer whose recurrent weights are one block for each head.
int64_t check_heads(int64_t heads, const CellInfo& info, const py::array& weight_ih, bool projected) {
  if (heads < 1) throw py::value_error("heads: expected at least 1, got " + std::to_string(heads));
  if (!info.from_h_count || info.ordered)
    throw py::value_error(std::string("heads: expected 1, ") + info.name + " has no full product of h");
  if (projected) throw py::value_error("heads: expected 1 beside weight_hr, got " + std::to_string(heads));
  const int64_t H = weight_ih.ndim() ? int64_t(weight_ih.shape(0)) / info.from_x_count : 0;
  if (H % heads != 0)
    throw py::value_error("heads: expected a divisor of H = " + std::to_string(H) + ", got " + std::to_string(heads));
  return H;
}

// What a cell without a product of h has no use for.
void check_absent(const CellInfo& info, const std::vector<std::pair<const char*, const py::object*>>& arguments) {
  for (const auto& [name, object] : arguments)
    if (!object->is_none())
      throw py::value_error(std::string(name) + ": expected None, " + info.name + " has no product of h");
}

// The units of a projected layer. Only a cell that does not read h itself can have it projected.
int64_t check_projection(const py::object& weight_hr, const CellInfo& info, int64_t P) {
  if (info.states < 2 || info.staged)
    throw py::value_error(std::string("weight_hr: expected None, ") + info.name +
                          (info.states < 2 ? " reads h" : " reads more than h"));
  if (!py::isinstance<py::array>(weight_hr)) throw py::type_error("weight_hr: expected a NumPy array");
  const py::array array = py::reinterpret_borrow<py::array>(weight_hr);
  if (array.ndim() != 2) throw py::value_error("weight_hr: expected 2 dimensions, got " + std::to_string(array.ndim()));
  if (array.shape(1) < P)
    throw py::value_error("weight_hr: expected shape (P, H) with H at least P = " + std::to_string(P) +
                          ", got H = " + std::to_string(array.shape(1)));
  return array.shape(1);
}

const void* data_of(const py::array& array) { return array.size() ? array.data() : nullptr; }

std::unique_ptr<Call> prepare_forward(const std::string& cell_name, const py::array& x, const States& state,
                                      const py::array& weight_ih, const py::object& weight_hh,
                                      const py::object& bias_ih, const py::object& bias_hh, const py::object& y,
                                      const States& state_out, bool save, const std::optional<py::array>& lengths,
                                      const std::optional<py::array>& mask, const std::optional<py::array>& resets,
                                      bool reset_to_initial, bool reverse,
                                      const std::optional<std::string>& compute_dtype, const py::object& params,
                                      const RegularizationArgument& regularization, const py::object& norm_ih,
                                      const py::object& norm_hh, const py::object& weight_hr,
                                      const VariationArgument& variation, const py::object& norm_c,
                                      const py::object& bias_c, bool checkpoint, int64_t heads) {
  const int cell = find_cell(cell_name);
  const CellInfo& info = cell_info(cell);
  const Type type = array_type("x", x), compute = compute_type(type, compute_dtype);
  if (x.ndim() != 3) throw py::value_error("x: expected 3 dimensions (T, B, I), got " + std::to_string(x.ndim()));
  const int64_t T = x.shape(0), B = x.shape(1), I = x.shape(2);
  const int64_t P = heads == 1 ? read_h_size(info, weight_ih, weight_hh)
                               : check_heads(heads, info, weight_ih, !weight_hr.is_none());
  const int64_t H = weight_hr.is_none() ? P : check_projection(weight_hr, info, P);
  if (I < 1 || H < 1) throw py::value_error("x, weight_hh: expected at least one input and one unit");
  check_steps(T, B);

  const Dimension gates_x = slots_times_units(info.from_x_count, H), gates_h = slots_times_units(info.from_h_count, H);
  auto call = std::make_unique<ForwardCall>();
  ForwardArgs& args = call->args;
  args.sizes = {T, B, I, H};
  const py::array x_checked = check_array("x", x, type, {{"T", T}, {"B", B}, {"I", I}}, read_only, false);
  const py::array w_ih = check_array("weight_ih", weight_ih, type, {gates_x, {"I", I}}, read_only, true);
  py::array w_hh;
  if (info.from_h_count)
    w_hh = check_array("weight_hh", weight_hh, type, {gates_h, read_units(weight_hr.is_none() ? "H" : "P", P, heads)},
                       read_only, true);
  args.weights.heads = heads;
  py::array w_hr;
  if (!weight_hr.is_none()) {
    w_hr = check_array("weight_hr", weight_hr, type, {{"P", P}, {"H", H}}, read_only, true);
    args.weights.weight_hr = w_hr.data();
    args.weights.P = P;
  }
  const Dimension h = h_units(args.sizes, args.weights);
  const auto vector = [&](const char* name, const py::object& object, const Dimension& size) {
    return object.is_none() ? py::array() : check_array(name, object, type, {size}, read_only, true);
  };
  if (!info.from_h_count) check_absent(info, {{"weight_hh", &weight_hh}, {"bias_hh", &bias_hh}, {"norm_hh", &norm_hh}});
  const py::array b_ih = vector("bias_ih", bias_ih, gates_x), b_hh = vector("bias_hh", bias_hh, gates_h);
  args.weights.bias_ih = data_of(b_ih);
  args.weights.bias_hh = data_of(b_hh);
  const py::array p = check_params("params", params, info, type, H, read_only);
  args.weights.params = data_of(p);
  if (info.from_h_count && norm_ih.is_none() != norm_hh.is_none())
    throw py::value_error("norm_ih, norm_hh: expected both or none");
  const py::array gain_ih = vector("norm_ih", norm_ih, gates_x), gain_hh = vector("norm_hh", norm_hh, gates_h);
  if (!norm_ih.is_none()) {
    args.weights.norm_ih = gain_ih.data();
    if (info.from_h_count) args.weights.norm_hh = gain_hh.data();
  }
  if (norm_c.is_none() && !bias_c.is_none()) throw py::value_error("bias_c: expected None without norm_c");
  const py::array gain_c = vector("norm_c", norm_c, {"H", H}), shift_c = vector("bias_c", bias_c, {"H", H});
  if (!norm_c.is_none()) args.weights.norm_c = gain_c.data();
  if (!bias_c.is_none()) args.weights.bias_c = shift_c.data();
  const py::array y_checked = check_array("y", y, type, {{"T", T}, {"B", B}, h}, writable, false);
  args.x = view_sequence(x_checked);
  args.y = view_sequence(y_checked);
  args.weights.weight_ih = w_ih.data();
  args.weights.weight_hh = w_hh.size() ? w_hh.data() : nullptr;
  if (!state_out) throw py::type_error("state_out: expected a sequence of arrays, got None");
  call->hold(check_states("state", state, info, type, B, h, H, read_only, args.state));
  call->hold(check_states("state_out", state_out, info, type, B, h, H, writable, args.state_out));
  args.regularization = check_regularization(regularization, info);
  args.variation = check_variation(variation, info, !norm_c.is_none(), compute, args.regularization);
  ScheduleOptions& options = call->options;
  options.lengths = check_lengths(lengths, T, B);
  options.mask = check_flags("mask", mask, T, B);
  options.resets = check_flags("resets", resets, T, B);
  options.reset_to_initial = reset_to_initial;
  options.reverse = reverse;
  options.save = save;

  call->kernels = &chosen_kernels().cell[cell][compute];
  call->save = save;
  call->checkpoint = checkpoint;
  call->hold(y_checked);
  for (const auto& of_steps : {lengths, mask, resets})
    if (of_steps) call->hold(*of_steps);
  Saved& saved = *call->saved;
  saved.cell = cell;
  saved.type = type;
  saved.compute = compute;
  saved.sizes = args.sizes;
  saved.heads = heads;
  saved.regularization = args.regularization;
  saved.variation = args.variation;
  saved.x = x_checked;
  saved.weight_ih = w_ih;
  saved.weight_hh = w_hh;
  saved.bias_ih = b_ih;
  saved.bias_hh = b_hh;
  saved.params = p;
  saved.norm_ih = gain_ih;
  saved.norm_hh = gain_hh;
  saved.weight_hr = w_hr;
  saved.norm_c = gain_c;
  saved.bias_c = shift_c;
  return call;
}

// The array's memory with other axes.
py::array seen(const py::array& array, std::vector<py::ssize_t> shape, std::vector<py::ssize_t> strides) {
  return py::array(array.dtype(), std::move(shape), std::move(strides), array.data(), array);
}

// forward without options, into arrays that it makes: a step of a small layer costs as much as making them in Python.
py::tuple forward_alone(const std::string& cell, const py::array& x, const States& state, const py::array& weight_ih,
                        const py::object& weight_hh, const py::object& bias_ih, const py::object& bias_hh,
                        bool batch_first, bool save) {
  const CellInfo& info = cell_info(find_cell(cell));
  const auto number = py::ssize_t(type_size(array_type("x", x)));
  if (x.ndim() != 3) throw py::value_error("x: expected 3 dimensions, got " + std::to_string(x.ndim()));
  const auto H = py::ssize_t(read_h_size(info, weight_ih, weight_hh));
  const py::dtype dtype = x.dtype();
  const auto timewise = [&](const py::array& a) {  // (T, B, n) of (B, T, n)
    return batch_first ? seen(a, {a.shape(1), a.shape(0), a.shape(2)}, {a.strides(1), a.strides(0), a.strides(2)}) : a;
  };
  const py::array steps = timewise(x), y(dtype, std::vector<py::ssize_t>{x.shape(0), x.shape(1), H});
  const py::ssize_t B = steps.shape(1);
  std::vector<py::object> given, ends;
  py::list finals;
  for (int s = 0; s < info.states; s++) {
    const py::array final(dtype, std::vector<py::ssize_t>{1, B, H});
    finals.append(final);
    ends.push_back(seen(final, {B, H}, {H * number, number}));
  }
  if (!state) {
    const py::array zeros(dtype, std::vector<py::ssize_t>{B, H});
    std::memset(writable_data(zeros), 0, std::size_t(zeros.nbytes()));
    given.assign(std::size_t(info.states), zeros);
  } else {
    for (const py::object& object : *state) {
      const py::array one = py::isinstance<py::array>(object) ? py::reinterpret_borrow<py::array>(object) : py::array();
      if (one.ndim() != 3 || one.shape(0) != 1) throw py::value_error("state: expected arrays of shape (1, B, H)");
      given.push_back(seen(one, {one.shape(1), one.shape(2)}, {one.strides(1), one.strides(2)}));
    }
  }
  py::object saved = computed(prepare_forward(cell, steps, given, weight_ih, weight_hh, bias_ih, bias_hh, timewise(y),
                                              ends, save, {}, {}, {}, false, false, {}, py::none(), {}, py::none(),
                                              py::none(), py::none(), {}, py::none(), py::none(), false, 1));
  return py::make_tuple(y, finals, saved);
}

std::unique_ptr<Call> prepare_backward(const Saved& saved, const py::object& dy, const States& dstate,
                                       const py::object& dx, bool dx_accumulate, const States& dstate_out,
                                       const py::object& dweight_ih, const py::object& dweight_hh,
                                       const py::object& dbias_ih, const py::object& dbias_hh,
                                       const py::object& dparams, const py::object& dnorm_ih,
                                       const py::object& dnorm_hh, const py::object& dweight_hr,
                                       const py::object& dnorm_c, const py::object& dbias_c, const States& dstates) {
  saved.check_made("saved");
  const CellInfo& info = cell_info(saved.cell);
  const auto [T, B, I, H] = saved.sizes;
  const Type type = saved.type;
  const Dimension gates_x = slots_times_units(info.from_x_count, H), gates_h = slots_times_units(info.from_h_count, H);
  auto call = std::make_unique<BackwardCall>();
  call->saved = &saved;
  call->kernels = &chosen_kernels().cell[saved.cell][saved.compute];
  call->hold(py::cast(&saved));
  for (const py::object* object : {&dy, &dx, &dweight_ih, &dweight_hh, &dbias_ih, &dbias_hh, &dparams, &dnorm_ih,
                                   &dnorm_hh, &dweight_hr, &dnorm_c, &dbias_c})
    call->hold(*object);
  BackwardArgs& args = call->args;
  args.sizes = saved.sizes;
  args.regularization = saved.regularization;
  args.variation = saved.variation;
  args.schedule = saved.schedule->view();
  args.x = view_sequence(saved.x);
  args.weights.weight_ih = saved.weight_ih.data();
  args.weights.weight_hh = data_of(saved.weight_hh);
  args.weights.bias_ih = data_of(saved.bias_ih);
  args.weights.bias_hh = data_of(saved.bias_hh);
  args.weights.params = data_of(saved.params);
  args.weights.heads = saved.heads;
  if (saved.norm_ih.size()) {
    args.weights.norm_ih = saved.norm_ih.data();
    if (saved.norm_hh.size()) args.weights.norm_hh = saved.norm_hh.data();
  }
  if (saved.weight_hr.size()) {
    args.weights.weight_hr = saved.weight_hr.data();
    args.weights.P = saved.weight_hr.shape(0);
  }
  if (saved.norm_c.size()) args.weights.norm_c = saved.norm_c.data();
  if (saved.bias_c.size()) args.weights.bias_c = saved.bias_c.data();
  const Dimension h = h_units(saved.sizes, args.weights);
  args.states = saved.states.data();
  args.gates = saved.gates.data();
  if (!dy.is_none()) args.dy = view_sequence(check_array("dy", dy, type, {{"T", T}, {"B", B}, h}, read_only, false));
  if (!dx.is_none())
    args.dx = view_sequence(check_array("dx", dx, type, {{"T", T}, {"B", B}, {"I", I}}, writable, false));
  args.dx_accumulate = dx_accumulate;
  if (!dstate_out) throw py::type_error("dstate_out: expected a sequence of arrays, got None");
  call->hold(check_states("dstate", dstate, info, type, B, h, H, read_only, args.dstate));
  call->hold(check_states("dstate_out", dstate_out, info, type, B, h, H, writable, args.dstate_out));
  if (dstates && int(dstates->size()) != info.states)
    throw py::value_error("dstates: expected " + std::to_string(info.states) + " arrays, got " +
                          std::to_string(dstates->size()));
  for (int s = 0; dstates && s < info.states; s++) {
    const py::array given = check_array("dstates[" + std::to_string(s) + "]", (*dstates)[s], type,
                                        {{"T", T}, {"B", B}, s ? Dimension{"H", H} : h}, read_only, false);
    args.dstates[s] = view_sequence(given);
    call->hold(given);
  }
  const auto output = [&](const char* name, const py::object& object, const std::vector<Dimension>& shape) {
    return writable_data(check_array(name, object, type, shape, writable, true));
  };
  args.dweight_ih = output("dweight_ih", dweight_ih, {gates_x, {"I", I}});
  if (info.from_h_count)
    args.dweight_hh = output("dweight_hh", dweight_hh,
                             {gates_h, saved.heads > 1 ? read_units("H", H, saved.heads) : h});
  else
    check_absent(info, {{"dweight_hh", &dweight_hh}, {"dbias_hh", &dbias_hh}});
  if (dweight_hr.is_none() != !saved.weight_hr.size())
    throw py::value_error(std::string("dweight_hr: expected ") + (saved.weight_hr.size() ? "an array" : "None"));
  if (saved.weight_hr.size()) args.dweight_hr = output("dweight_hr", dweight_hr, {h, {"H", H}});
  for (const auto& [name, object, of] : {std::tuple{"dnorm_ih", &dnorm_ih, &saved.norm_ih},
                                         {"dnorm_hh", &dnorm_hh, &saved.norm_hh},
                                         {"dnorm_c", &dnorm_c, &saved.norm_c},
                                         {"dbias_c", &dbias_c, &saved.bias_c}})
    if (object->is_none() != !of->size())
      throw py::value_error(std::string(name) + ": expected " + (of->size() ? "an array" : "None"));
  if (saved.norm_c.size()) args.dnorm_c = output("dnorm_c", dnorm_c, {{"H", H}});
  if (saved.bias_c.size()) args.dbias_c = output("dbias_c", dbias_c, {{"H", H}});
  if (saved.norm_ih.size()) {
    args.dnorm_ih = output("dnorm_ih", dnorm_ih, {gates_x});
    if (saved.norm_hh.size()) args.dnorm_hh = output("dnorm_hh", dnorm_hh, {gates_h});
  }
  const py::array dp = check_params("dparams", dparams, info, type, H, writable);
  if (dp.size()) args.dparams = writable_data(dp);
  if (!dbias_ih.is_none()) args.dbias_ih = output("dbias_ih", dbias_ih, {gates_x});
  if (!dbias_hh.is_none()) args.dbias_hh = output("dbias_hh", dbias_hh, {gates_h});
  return call;
}

// What was kept for every entry as (T, B, count, H), zero where a step was not computed; row(e) of `from` is the first
// of an entry's `count` rows.
template <class T, class Row>
py::array copy_rows(const Saved& saved, int count, const void* from, const Row& row) {
  const auto [steps, B, I, H] = saved.sizes;
  py::array_t<T> out({py::ssize_t(steps), py::ssize_t(B), py::ssize_t(count), py::ssize_t(H)});
  T* to = out.mutable_data();
  std::fill(to, to + out.size(), T(0));
  const Schedule schedule = saved.schedule->view();
  const int64_t padded = chosen_kernels().cell[saved.cell][saved.type].padded(H);
  for (int64_t e = 0; e < schedule.entries; e++)
    for (int i = 0; i < count; i++)
      std::copy_n(static_cast<const T*>(from) + (row(schedule, e) + i) * padded, H,
                  to + ((schedule.time[e] * B + schedule.batch[e]) * count + i) * H);
  return out;
}

template <class Row>
py::array copy_kept(const Saved& saved, int count, const void* from, const Row& row) {
  return saved.type == float32 ? copy_rows<float>(saved, count, from, row) : copy_rows<double>(saved, count, from, row);
}

// A function that computes what `prepare` has checked.
template <class... Arguments>
auto computing(std::unique_ptr<Call> (*prepare)(Arguments...)) {
  return [prepare](Arguments... arguments) { return computed(prepare(std::forward<Arguments>(arguments)...)); };
}

}  // namespace

void bind_sequence(py::module_& m) {
  using namespace py::literals;
  py::class_<Saved>(m, "Saved", "What forward keeps for backward.")
      .def(
          "saved",
          [](const Saved& saved) {
            saved.check_whole();
            return copy_kept(saved, cell_info(saved.cell).saved, saved.gates.data(),
                             [&](const Schedule&, int64_t e) { return e * saved.gate_rows; });
          },
          "The saved values of every step, (T, B, saved, H); zero where a step was not computed.")
      .def_property_readonly(
          "nbytes",
          [](const Saved& saved) {
            saved.check_made("saved");
            return saved.bytes;
          },
          "Bytes that are kept beside x and the weights.")
      .def(
          "states",
          [](const Saved& saved) {
            saved.check_whole();
            const int count = cell_info(saved.cell).states;
            return copy_kept(saved, count, saved.states.data(),
                             [&](const Schedule& schedule, int64_t e) { return int64_t(schedule.target[e]) * count; });
          },
          "The states after every step, (T, B, states, H); zero where a step was not computed.");
  // `save` may be given by position: names cost as much as the rest of a small call.
  const auto forward = [&](auto function, const auto&... more) {
    return py::cpp_function(
        function, "cell"_a, "x"_a, "state"_a, "weight_ih"_a, "weight_hh"_a, "bias_ih"_a, "bias_hh"_a, "y"_a,
        "state_out"_a, "save"_a = false, py::kw_only(), "lengths"_a = py::none(), "mask"_a = py::none(),
        "resets"_a = py::none(), "reset_to_initial"_a = false, "reverse"_a = false, "compute_dtype"_a = py::none(),
        "params"_a = py::none(), "regularization"_a = py::none(), "norm_ih"_a = py::none(), "norm_hh"_a = py::none(),
        "weight_hr"_a = py::none(), "variation"_a = py::none(), "norm_c"_a = py::none(), "bias_c"_a = py::none(),
        "checkpoint"_a = false, "heads"_a = 1, more...);
  };
  const auto backward = [&](auto function, const auto&... more) {
    return py::cpp_function(function, "saved"_a, "dy"_a, "dstate"_a, "dx"_a, "dx_accumulate"_a, "dstate_out"_a,
                            "dweight_ih"_a, "dweight_hh"_a, "dbias_ih"_a, "dbias_hh"_a, "dparams"_a = py::none(),
                            "dnorm_ih"_a = py::none(), "dnorm_hh"_a = py::none(), "dweight_hr"_a = py::none(),
                            "dnorm_c"_a = py::none(), "dbias_c"_a = py::none(), "dstates"_a = py::none(), more...);
  };
  m.attr("forward") = forward(
      computing(prepare_forward), py::name("forward"), py::scope(m),
      "One layer, one direction: writes y and state_out; returns what backward needs when `save`, with `checkpoint` "
      "the least of it.");
  m.attr("backward") = backward(
      computing(prepare_backward), py::name("backward"), py::scope(m),
      "The gradients of forward: writes (or with dx_accumulate adds to) dx, and writes all the others.");
  py::class_<Call>(m, "Call", "A layer in one direction that waits to be computed.");
  const py::function prepare = forward(prepare_forward);
  m.def(
      "forward_all", [=](const py::list& calls) { return computed(prepare, calls); }, "calls"_a,
      "What forward returns for each (arguments, keywords): directions of a layer, that share no output.");
  m.def(
      "forward_chain", [=](const py::list& calls) { return computed(prepare, calls, true); }, "calls"_a,
      "The same of layers that each read the y of the one before.");
  m.def(
      "backward_all",
      [prepare = py::function(backward(prepare_backward))](const py::list& calls) { computed(prepare, calls); },
      "calls"_a, "backward for each (arguments, keywords): directions of a layer, that share no output.");
  m.def("forward_alone", forward_alone, "cell"_a, "x"_a, "state"_a, "weight_ih"_a, "weight_hh"_a, "bias_ih"_a,
        "bias_hh"_a, "batch_first"_a, "save"_a,
        "forward without options and with states (1, B, H): y, the final states and what backward needs when `save`.");
  m.def("empty", empty_array, "shape"_a, "dtype"_a,
        "An array as numpy.empty makes it, on memory that is kept for the next one of its size.");
  m.def("release_memory", Buffer::release, "Returns the memory that is kept between calls to the system.");
}

}  // namespace pyrnn
