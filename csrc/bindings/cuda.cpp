// SPDX-License-Identifier: Apache-2.0
// _core.cuda_forward and _core.cuda_backward: one layer, one direction, on arrays of a device.
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>

#include "../dispatch_cuda.h"
#include "bindings.h"
#include "device_arrays.h"
#include "sequence_arguments.h"
#include "variation.h"

namespace pyrnn {
namespace {

constexpr const char* tier_names[] = {"automatic", "stepwise", "grid", "cluster"};
constexpr const char* precision_names[] = {"exact", "tf32"};
constexpr const char* dropout_names[] = {"sequence", "step"};

using DescribedStates = std::optional<std::vector<py::object>>;

void check_states(const char* name, const DescribedStates& states, const CellInfo& info, const std::string& number,
                  int64_t B, int64_t P, int64_t H, View* views) {
  if (!states) return;
  if (int(states->size()) != info.states)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(info.states) + " arrays, got " +
                          std::to_string(states->size()));
  for (int s = 0; s < info.states; s++) {
    const DeviceArray a = check(name, (*states)[s], number, {B, s ? H : P}, false);
    views[s] = {a.data, 0, a.strides[0]};
  }
}

// h of a layer: projected, or as many numbers as units.
int64_t numbers_of_h(const cuda::Layer& layer) { return layer.P > 0 ? layer.P : layer.sizes.H; }

View sequence(const DeviceArray& a) { return {a.data, a.strides[0], a.strides[1]}; }

// What forward keeps for backward: the call as it was, and whatever owns its memory.
struct CudaSaved : Made {
  cuda::LayerForward call;
  int cell;
  std::string number;
  std::vector<py::object> kept;
  py::object gates, every;  // own that memory; None without any

  py::tuple rows(const py::object& owner, int count) const {
    check_made("saved");
    const auto [T, B, I, H] = call.layer.sizes;
    return py::make_tuple(owner, py::make_tuple(T, B, count, cuda::padded_units(H)), H, number);
  }
  py::tuple saved_values() const { return rows(gates, cell_info(cell).saved); }
  py::tuple states() const { return rows(every, cell_info(cell).states); }
};

std::unique_ptr<CudaSaved> cuda_forward(const std::string& cell_name, const py::object& x, const DescribedStates& state,
                                        const py::object& weight_ih, const py::object& weight_hh,
                                        const Described& bias_ih, const Described& bias_hh, const py::object& y,
                                        const DescribedStates& state_out, const py::function& allocator, int device,
                                        std::uintptr_t stream, const Described& lengths, const Described& mask,
                                        const Described& resets, bool reset_to_initial, bool reverse, bool save,
                                        const std::string& precision, const std::string& tier, const Described& params,
                                        const RegularizationArgument& regularization, const std::string& dropout_kind,
                                        int64_t heads, bool every, const VariationArgument& variation,
                                        const Described& norm_ih, const Described& norm_hh, const Described& weight_hr,
                                        const Described& norm_c, const Described& bias_c) {
  const cuda::Table& table = cuda_table();
  auto saved = std::make_unique<CudaSaved>();
  saved->cell = find_cell(cell_name);
  const CellInfo& info = cell_info(saved->cell);
  cuda::LayerForward& call = saved->call;
  call = {};
  call.layer.size = sizeof call.layer;
  call.layer.version = cuda::abi_version;
  call.layer.cell = -1;
  for (int i = 0; i < table.cell_count; i++)
    if (cell_name == table.cells[i]) call.layer.cell = i;
  if (call.layer.cell < 0) throw std::runtime_error("device: the CUDA library has no cell '" + cell_name + "'");

  const DeviceArray shape_x = describe("x", x), shape_hh = describe("weight_hh", weight_hh);
  if (shape_x.shape.size() != 3) throw py::value_error("x: expected 3 dimensions (T, B, I)");
  if (shape_hh.shape.size() != 2) throw py::value_error("weight_hh: expected 2 dimensions");
  const std::string& number = saved->number = shape_x.number;
  call.layer.number = index_of("x", number, number_names, cuda::number_count);
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  if (heads < 1 || heads > most) throw py::value_error("heads: expected at least 1, got " + std::to_string(heads));
  const int64_t T = shape_x.shape[0], B = shape_x.shape[1], I = shape_x.shape[2], width = shape_hh.shape[1];
  if (width > most / heads) throw py::value_error("weight_hh: too large");
  int64_t H = width * heads;
  if (weight_hr) {
    if (info.states < 2 || info.staged)
      throw py::value_error("weight_hr: expected None, " + cell_name +
                            (info.states < 2 ? " reads h" : " reads more than h"));
    if (heads > 1) throw py::value_error("heads: expected 1 beside weight_hr, got " + std::to_string(heads));
    const DeviceArray shape_hr = describe("weight_hr", *weight_hr);
    if (shape_hr.shape.size() != 2 || shape_hr.shape[1] < width)
      throw py::value_error("weight_hr: expected shape (P, H) with H at least P = " + std::to_string(width) + ", got " +
                            shape_text(shape_hr.shape));
    H = shape_hr.shape[1];
    call.layer.P = width;
  }
  if (I < 1 || width < 1) throw py::value_error("x, weight_hh: expected at least one input and one unit");
  if (B > 65535) throw py::value_error("x: expected at most 65535 sequences, got " + std::to_string(B));
  if ((B > 0 && T > most / B) || I > most / max_slots || H > most / max_slots)
    throw py::value_error("x, weight_hh: too large");
  call.layer.sizes = {T, B, I, H};
  call.layer.device = device;
  call.layer.precision = index_of("precision", precision, precision_names, 2);
  call.layer.tier = index_of("tier", tier, tier_names, cuda::tier_count);
  call.layer.reverse = reverse;
  call.layer.reset_to_initial = reset_to_initial;
  call.layer.save = save;
  call.layer.heads = heads;
  call.layer.regularization = check_regularization(regularization, info);
  call.layer.regularization.dropout_kind = index_of("dropout_kind", dropout_kind, dropout_names, 2);
  if (variation) {
    Type compute = float32;  // one in which every variation is there
    call.layer.variation = check_variation(variation, info, norm_c.has_value(), compute, call.layer.regularization);
    if (call.layer.regularization.dropout_kind == dropout_candidate)
      throw py::value_error("variation: expected dropout of h, got that of the candidate");
  } else if (norm_c) {
    throw py::value_error("norm_c: expected a variation beside it, got None");
  }
  const auto option = [&](const char* name, const Described& object, const char* numbers, std::vector<int64_t> shape) {
    return object ? check(name, *object, numbers, shape, true).data : nullptr;
  };
  call.layer.lengths = static_cast<const int64_t*>(option("lengths", lengths, "int64", {B}));
  call.layer.mask = static_cast<const uint8_t*>(option("mask", mask, "bool", {T, B}));
  call.layer.resets = static_cast<const uint8_t*>(option("resets", resets, "bool", {T, B}));

  const int64_t rows_x = info.from_x_count * H, rows_h = info.from_h_count * H;
  call.x = sequence(check("x", x, number, {T, B, I}, false));
  const int64_t P = numbers_of_h(call.layer);
  call.y = sequence(check("y", y, number, {T, B, P}, false));
  call.weight_ih = check("weight_ih", weight_ih, number, {rows_x, I}, true).data;
  call.weight_hh = check("weight_hh", weight_hh, number, {rows_h, width}, true).data;
  call.bias_ih = option("bias_ih", bias_ih, number.c_str(), {rows_x});
  call.bias_hh = option("bias_hh", bias_hh, number.c_str(), {rows_h});
  if (info.params && !params) throw py::value_error("params: expected an array for " + cell_name);
  call.params = option("params", params, number.c_str(), {info.params, H});
  if (!state_out) throw py::type_error("state_out: expected a sequence of arrays, got None");
  check_states("state", state, info, number, B, P, H, call.state);
  check_states("state_out", state_out, info, number, B, P, H, call.state_out);
  if (norm_ih.has_value() != norm_hh.has_value()) throw py::value_error("norm_ih, norm_hh: expected both or none");
  if (bias_c && !norm_c) throw py::value_error("bias_c: expected None without norm_c");
  call.norm_ih = option("norm_ih", norm_ih, number.c_str(), {rows_x});
  call.norm_hh = option("norm_hh", norm_hh, number.c_str(), {rows_h});
  call.weight_hr = option("weight_hr", weight_hr, number.c_str(), {P, H});
  call.norm_c = option("norm_c", norm_c, number.c_str(), {H});
  call.bias_c = option("bias_c", bias_c, number.c_str(), {H});
  call.layer.layer_norm = norm_ih.has_value();
  call.layer.cell_norm = norm_c.has_value();

  cuda::LayerMemory memory{};
  check_cuda(table.forward_memory(&call.layer, &memory));
  std::vector<py::object> scratch;
  std::vector<py::object>& kept = saved->kept;
  call.states = allocate(allocator, memory.states, save ? kept : scratch);
  call.gates = allocate(allocator, memory.gates, save ? kept : scratch);
  saved->gates = save && call.gates ? kept.back() : py::none();
  if (every) {
    const int64_t size = number == "float64" ? 8 : number == "float32" ? 4 : 2;
    const int64_t bytes = T * B * info.states * cuda::padded_units(H) * size;
    call.every = allocate(allocator, size_t(bytes), kept);
    saved->every = call.every ? kept.back() : py::none();
  }
  call.workspace = allocate(allocator, memory.workspace, scratch);
  call.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.forward(&call);
  }
  check_cuda(status);
  if (!save) return nullptr;
  for (const py::object& object : {x, weight_ih, weight_hh}) kept.push_back(object);
  for (const Described* object : {&lengths, &mask, &resets, &params, &norm_ih, &norm_hh, &weight_hr, &norm_c, &bias_c})
    if (*object) kept.push_back(**object);
  if (state)
    for (const py::object& object : *state) kept.push_back(object);
  return saved;
}

void cuda_backward(const CudaSaved& saved, const Described& dy, const DescribedStates& dstate, const Described& dx,
                   bool dx_accumulate, const DescribedStates& dstate_out, const py::object& dweight_ih,
                   const py::object& dweight_hh, const Described& dbias_ih, const Described& dbias_hh,
                   const py::function& allocator, std::uintptr_t stream, const Described& dparams,
                   const DescribedStates& dstates, const Described& dnorm_ih, const Described& dnorm_hh,
                   const Described& dweight_hr, const Described& dnorm_c, const Described& dbias_c) {
  saved.check_made("saved");
  const cuda::Table& table = cuda_table();
  const CellInfo& info = cell_info(saved.cell);
  const auto [T, B, I, H] = saved.call.layer.sizes;
  const std::string& number = saved.number;
  const int64_t rows_x = info.from_x_count * H, rows_h = info.from_h_count * H;
  cuda::LayerBackward call{};
  call.layer = saved.call.layer;
  call.x = saved.call.x;
  call.weight_ih = saved.call.weight_ih;
  call.weight_hh = saved.call.weight_hh;
  call.params = saved.call.params;
  for (const auto& [field, kept] : {std::pair{&call.norm_ih, saved.call.norm_ih},
                                    {&call.norm_hh, saved.call.norm_hh},
                                    {&call.weight_hr, saved.call.weight_hr},
                                    {&call.norm_c, saved.call.norm_c},
                                    {&call.bias_c, saved.call.bias_c}})
    *field = kept;
  call.states = saved.call.states;
  call.gates = saved.call.gates;
  for (int s = 0; s < max_states; s++) call.state[s] = saved.call.state[s];
  const int64_t P = numbers_of_h(call.layer);
  if (dy) call.dy = sequence(check("dy", *dy, number, {T, B, P}, false));
  if (dx) call.dx = sequence(check("dx", *dx, number, {T, B, I}, false));
  call.dx_accumulate = dx_accumulate;
  if (!dstate_out) throw py::type_error("dstate_out: expected a sequence of arrays, got None");
  check_states("dstate", dstate, info, number, B, P, H, call.dstate);
  check_states("dstate_out", dstate_out, info, number, B, P, H, call.dstate_out);
  const auto output = [&, &number = number](const char* name, const Described& object, bool wanted, void** field,
                                            std::vector<int64_t> shape) {
    if (object.has_value() != wanted)
      throw py::value_error(std::string(name) + ": expected " + (wanted ? "an array" : "None"));
    if (wanted) *field = check(name, *object, number, shape, true).data;
  };
  output("dnorm_ih", dnorm_ih, call.norm_ih, &call.dnorm_ih, {rows_x});
  output("dnorm_hh", dnorm_hh, call.norm_hh, &call.dnorm_hh, {rows_h});
  output("dweight_hr", dweight_hr, call.weight_hr, &call.dweight_hr, {P, H});
  output("dnorm_c", dnorm_c, call.norm_c, &call.dnorm_c, {H});
  output("dbias_c", dbias_c, call.bias_c, &call.dbias_c, {H});
  call.dweight_ih = check("dweight_ih", dweight_ih, number, {rows_x, I}, true).data;
  if (dstates && int(dstates->size()) != info.states)
    throw py::value_error("dstates: expected " + std::to_string(info.states) + " arrays, got " +
                          std::to_string(dstates->size()));
  for (int s = 0; dstates && s < info.states; s++)
    call.dstates[s] = sequence(check("dstates", (*dstates)[s], number, {T, B, s ? H : P}, false));
  call.dweight_hh = check("dweight_hh", dweight_hh, number, {rows_h, P / call.layer.heads}, true).data;
  if (dbias_ih) call.dbias_ih = check("dbias_ih", *dbias_ih, number, {rows_x}, true).data;
  if (dbias_hh) call.dbias_hh = check("dbias_hh", *dbias_hh, number, {rows_h}, true).data;
  if (info.params && !dparams) throw py::value_error("dparams: expected an array");
  if (dparams) call.dparams = check("dparams", *dparams, number, {info.params, H}, true).data;
  size_t bytes = 0;
  check_cuda(table.backward_memory(&call.layer, &bytes));
  std::vector<py::object> scratch;
  call.workspace = allocate(allocator, bytes, scratch);
  call.stream = reinterpret_cast<void*>(stream);
  int status;
  {
    py::gil_scoped_release release;
    status = table.backward(&call);
  }
  check_cuda(status);
}

std::vector<std::string> device_names() {
  const cuda::Table& table = cuda_table();
  int count = 0;
  check_cuda(table.device_count(&count));
  std::vector<std::string> names;
  for (int i = 0; i < count; i++) {
    char name[256];
    check_cuda(table.device_name(i, name, sizeof name));
    names.emplace_back(name);
  }
  return names;
}

}  // namespace

void bind_cuda(py::module_& m) {
  using namespace py::literals;
  py::class_<CudaSaved>(m, "CudaSaved", "What cuda_forward keeps for cuda_backward.")
      .def("saved", &CudaSaved::saved_values,
           "What the cells saved: owner of the memory, shape (T, B, saved, padded), units, and number; zero at skipped "
           "steps.")
      .def("states", &CudaSaved::states, "The states after every step in the same form; None unless `every`.");
  m.def(
      "cuda_open", [](const std::string& path) { return std::string(open_cuda(path).build); }, "path"_a,
      "Opens the CUDA library unless one is open; says how it was built.");
  m.def("cuda_close", close_cuda, "Closes the CUDA library; nothing that it computed may be used any more.");
  m.def("cuda_devices", device_names, "Names of the devices.");
  m.def(
      "cuda_host_memory", [] { return cuda_table().host_memory != 0; },
      "Whether the library is an emulation whose device memory is the host's.");
  m.def("cuda_forward", cuda_forward, "cell"_a, "x"_a, "state"_a, "weight_ih"_a, "weight_hh"_a, "bias_ih"_a,
        "bias_hh"_a, "y"_a, "state_out"_a, py::kw_only(), "allocate"_a, "device"_a, "stream"_a,
        "lengths"_a = py::none(), "mask"_a = py::none(), "resets"_a = py::none(), "reset_to_initial"_a = false,
        "reverse"_a = false, "save"_a = false, "precision"_a = "exact", "tier"_a = "automatic", "params"_a = py::none(),
        "regularization"_a = py::none(), "dropout_kind"_a = "sequence", "heads"_a = 1, "every"_a = false,
        "variation"_a = py::none(), "norm_ih"_a = py::none(), "norm_hh"_a = py::none(), "weight_hr"_a = py::none(),
        "norm_c"_a = py::none(), "bias_c"_a = py::none(),
        "forward on described device arrays (pointer, shape, strides, number, …); returns what backward needs when "
        "`save`.");
  m.def("cuda_backward", cuda_backward, "saved"_a, "dy"_a, "dstate"_a, "dx"_a, "dx_accumulate"_a, "dstate_out"_a,
        "dweight_ih"_a, "dweight_hh"_a, "dbias_ih"_a, "dbias_hh"_a, py::kw_only(), "allocate"_a, "stream"_a,
        "dparams"_a = py::none(), "dstates"_a = py::none(), "dnorm_ih"_a = py::none(), "dnorm_hh"_a = py::none(),
        "dweight_hr"_a = py::none(), "dnorm_c"_a = py::none(), "dbias_c"_a = py::none(),
        "The gradients of cuda_forward.");
}

}  // namespace pyrnn
