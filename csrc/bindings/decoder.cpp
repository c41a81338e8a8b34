// SPDX-License-Identifier: Apache-2.0
// _core.decoder_forward and _core.decoder_backward: a cell that attends to a memory, the whole sequence in one call.
#include <memory>

#include <pybind11/stl.h>

#include "../engine/parallel.h"
#include "bindings.h"
#include "buffer.h"
#include "score_arguments.h"
#include "unlocked.h"

namespace pyrnn {
namespace {

struct DecoderSaved : Made {
  int score;
  Type type;
  DecoderArgs args;
  std::vector<py::object> arrays;
  Buffer kept, sizes, query, context, states, gates;
};

std::vector<void*> check_states(const char* name, const std::vector<py::object>& list, Arrays& arrays, int count,
                                int64_t B, int64_t H, bool writes) {
  if (int(list.size()) != count)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(count) + " arrays, got " +
                          std::to_string(list.size()));
  std::vector<void*> pointers;
  for (int i = 0; i < count; i++) {
    const std::string item = std::string(name) + "[" + std::to_string(i) + "]";
    const std::vector<Dimension> shape{{"B", B}, {"H", H}};
    pointers.push_back(writes ? arrays.out(item.c_str(), list[i], shape)
                              : const_cast<void*>(arrays.in(item.c_str(), list[i], shape)));
  }
  return pointers;
}

py::object decoder_forward(const std::string& cell_name, const py::array& x, const py::array& key,
                           const py::array& value, const std::vector<py::object>& state, const py::array& weight_ih,
                           const py::array& weight_hh, const Array& bias_ih, const Array& bias_hh,
                           const Array& weight_attention, const Array& bias_attention, const Array& weight_query,
                           const Array& bias_query, const std::string& score_name, const std::string& alignment,
                           const Array& weight_score, const py::array& bounds, const py::object& outputs,
                           const py::object& weights, const std::vector<py::object>& state_out, bool query_previous,
                           bool input_feed, const Array& feed, const std::optional<py::array>& mask, const Array& bias,
                           double scale, const Array& previous, const Array& coverage, const Array& weight_filter,
                           const Array& weight_location, const Array& weight_coverage, const Array& params, bool save) {
  const int cell = find_cell(cell_name);
  const CellInfo& info = cell_info(cell);
  if (info.staged) throw py::value_error(std::string("cell: expected one of a single product of h, got ") + info.name);
  const Type type = array_type("x", x);
  for (const auto& [name, array] : {std::pair{"x", x}, {"key", key}, {"value", value}})
    if (array.ndim() != 3)
      throw py::value_error(std::string(name) + ": expected 3 dimensions, got " + std::to_string(array.ndim()));
  if (weight_hh.ndim() != 2) throw py::value_error("weight_hh: expected 2 dimensions");
  DecoderArgs args{};
  args.cell = &info;
  args.kernels = &chosen_kernels().cell[cell][type];
  AttentionArgs& attention = args.attention;
  attention.sizes = {x.shape(0), x.shape(1), key.shape(1), key.shape(2), value.shape(2)};
  const AttentionSizes& s = attention.sizes;
  const int64_t H = weight_hh.shape(1), M = s.Dv, I = x.shape(2);
  if (H < 1 || I < 1) throw py::value_error("x, weight_hh: expected at least one input and one unit");
  const bool layer = weight_attention && !weight_attention->is_none();
  int64_t O = M + H;
  if (layer) {
    if (!py::isinstance<py::array>(*weight_attention) ||
        py::reinterpret_borrow<py::array>(*weight_attention).ndim() != 2)
      throw py::value_error("weight_attention: expected an array of 2 dimensions");
    O = py::reinterpret_borrow<py::array>(*weight_attention).shape(0);
    if (O < 1) throw py::value_error("weight_attention: expected at least one output");
  }
  args.I = I;
  args.H = H;
  args.O = O;
  args.fed = !input_feed ? 0 : query_previous || !layer ? M : O;
  args.query_previous = query_previous;
  check_size("x", s.B, s.Tq + 1, (I + args.fed + (max_slots + max_saved) * (H + 64)));
  check_size("weight_ih", max_slots, H + 64, I + args.fed + H + 64);
  Arrays arrays(type);
  const Dimension B{"B", s.B}, T{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D};
  const Dimension gates_x{"H", info.from_x_count * H, info.from_x_count};
  const Dimension gates_h{"H", info.from_h_count * H, info.from_h_count};
  args.x = arrays.in("x", x, {B, T, {"I", I}});
  attention.key = arrays.in("key", key, {B, Tk, D});
  attention.value = arrays.in("value", value, {B, Tk, {"M", M}});
  const auto states = check_states("state", state, arrays, info.states, s.B, H, false);
  std::copy(states.begin(), states.end(), args.state);
  args.weights.weight_ih = arrays.in("weight_ih", weight_ih, {gates_x, {"I + fed", I + args.fed}});
  args.weights.weight_hh = arrays.in("weight_hh", weight_hh, {gates_h, {"H", H}});
  args.weights.bias_ih = arrays.in("bias_ih", bias_ih, {gates_x});
  args.weights.bias_hh = arrays.in("bias_hh", bias_hh, {gates_h});
  if ((info.params > 0) != (params && !params->is_none()))
    throw py::value_error(std::string("params: expected ") + (info.params ? "an array" : "None") + " for " + info.name);
  args.weights.params = arrays.in("params", params, {{"params", info.params}, {"H", H}});
  args.weight_attention = arrays.in("weight_attention", weight_attention, {{"O", O}, {"M + H", M + H}});
  args.bias_attention = arrays.in("bias_attention", bias_attention, {{"O", O}});
  if (args.bias_attention && !layer) throw py::value_error("bias_attention: expected None without weight_attention");
  args.weight_query = arrays.in("weight_query", weight_query, {D, {"H", H}});
  args.bias_query = arrays.in("bias_query", bias_query, {D});
  if (!args.weight_query && s.D != H)
    throw py::value_error("key: expected D = H = " + std::to_string(H) + " without weight_query, got " +
                          std::to_string(s.D));
  args.feed = arrays.in("feed", feed, {B, {"fed", args.fed}});
  const int score = check_score({score_name, alignment, weight_score, bounds, mask, bias, std::nullopt, previous,
                                 coverage, weight_filter, weight_location, weight_coverage, scale, 1.0},
                                arrays, attention);
  args.outputs = arrays.out("outputs", outputs, {B, T, {"O", O}});
  attention.weights = arrays.out("weights", weights, {B, T, Tk});
  const auto finals = check_states("state_out", state_out, arrays, info.states, s.B, H, true);
  std::copy(finals.begin(), finals.end(), args.state_out);

  const AttentionKernels& kernels = chosen_kernels().attention[score][type];
  Buffer kept, sizes, query, context, states_kept, gates;
  without_lock([&] {
    const std::size_t item = type_size(type), pairs = std::size_t(s.B * s.Tq);
    const std::size_t padded = std::size_t(args.kernels->padded(H));
    allocate_kept(attention, type, save, kept, sizes);
    query = Buffer(pairs * std::size_t(s.D) * item);
    context = Buffer(pairs * std::size_t(M) * item);
    states_kept = Buffer(std::size_t(s.B * (s.Tq + 1) * info.states) * padded * item);
    if (save) gates = Buffer(pairs * std::size_t(info.saved) * padded * item);
    attention.query = query.data();
    attention.context = context.data();
    args.states = states_kept.data();
    args.gates = gates.data();
    const int threads = num_threads();
    Buffer workspace(kernels.decoder_forward_workspace(args, threads));
    args.workspace = workspace.data();
    kernels.decoder_forward(args, threads);
  });
  if (!save) return py::none();
  return py::cast(std::unique_ptr<DecoderSaved>(new DecoderSaved{{},
                                                                 score,
                                                                 type,
                                                                 args,
                                                                 std::move(arrays.kept),
                                                                 std::move(kept),
                                                                 std::move(sizes),
                                                                 std::move(query),
                                                                 std::move(context),
                                                                 std::move(states_kept),
                                                                 std::move(gates)}));
}

void decoder_backward(const DecoderSaved& saved, const Array& doutputs,
                      const std::optional<std::vector<py::object>>& dstate, const Array& dweights, const py::object& dx,
                      const py::object& dkey, const py::object& dvalue, const std::vector<py::object>& dstate_out,
                      const Array& dfeed, const py::object& dweight_ih, const py::object& dweight_hh,
                      const Array& dbias_ih, const Array& dbias_hh, const Array& dweight_attention,
                      const Array& dbias_attention, const Array& dweight_query, const Array& dbias_query,
                      const py::object& dbias, const Array& dweight_score, const Array& dprevious,
                      const Array& dcoverage, const Array& dweight_filter, const Array& dweight_location,
                      const Array& dweight_coverage, const Array& dparams) {
  saved.check_made("saved");
  DecoderArgs args = saved.args;
  const AttentionSizes& s = args.attention.sizes;
  const CellInfo& info = *args.cell;
  const int64_t H = args.H, O = args.O, M = s.Dv;
  Arrays arrays(saved.type);
  DecoderGradients g{};
  check_score_gradients({dweights, dkey, dvalue, dbias, dweight_score, std::nullopt, dprevious, dcoverage,
                         dweight_filter, dweight_location, dweight_coverage},
                        args.attention, arrays, g.attention);
  const Dimension B{"B", s.B}, T{"Tq", s.Tq}, D{"D", s.D};
  const Dimension gates_x{"H", info.from_x_count * H, info.from_x_count};
  const Dimension gates_h{"H", info.from_h_count * H, info.from_h_count};
  g.doutputs = arrays.in("doutputs", doutputs, {B, T, {"O", O}});
  if (dstate) {
    const auto list = check_states("dstate", *dstate, arrays, info.states, s.B, H, false);
    std::copy(list.begin(), list.end(), g.dstate);
  }
  const auto finals = check_states("dstate_out", dstate_out, arrays, info.states, s.B, H, true);
  std::copy(finals.begin(), finals.end(), g.dstate_out);
  const auto wanted = [&](const char* name, const void* there, const Array& object,
                          const std::vector<Dimension>& shape) {
    void* data = arrays.out(name, object, shape);
    if ((there != nullptr) != (data != nullptr))
      throw py::value_error(std::string(name) + ": expected " + (there ? "an array" : "None"));
    return data;
  };
  g.dx = arrays.out("dx", dx, {B, T, {"I", args.I}});
  g.dfeed = arrays.out("dfeed", dfeed, {B, {"fed", args.fed}});
  g.dweight_ih = arrays.out("dweight_ih", dweight_ih, {gates_x, {"I + fed", args.I + args.fed}});
  g.dweight_hh = arrays.out("dweight_hh", dweight_hh, {gates_h, {"H", H}});
  g.dbias_ih = wanted("dbias_ih", args.weights.bias_ih, dbias_ih, {gates_x});
  g.dbias_hh = wanted("dbias_hh", args.weights.bias_hh, dbias_hh, {gates_h});
  g.dparams = wanted("dparams", args.weights.params, dparams, {{"params", info.params}, {"H", H}});
  g.dweight_attention = wanted("dweight_attention", args.weight_attention, dweight_attention,
                               {{"O", O}, {"M + H", M + H}});
  g.dbias_attention = wanted("dbias_attention", args.bias_attention, dbias_attention, {{"O", O}});
  g.dweight_query = wanted("dweight_query", args.weight_query, dweight_query, {D, {"H", H}});
  g.dbias_query = wanted("dbias_query", args.bias_query, dbias_query, {D});
  const AttentionKernels& kernels = chosen_kernels().attention[saved.score][saved.type];
  without_lock([&] {
    const std::size_t item = type_size(saved.type), pairs = std::size_t(s.B * s.Tq);
    Buffer dcontext(pairs * std::size_t(M) * item), dquery(pairs * std::size_t(s.D) * item);
    g.attention.dcontext = dcontext.data();
    g.attention.dquery = dquery.data();
    const int threads = num_threads();
    Buffer workspace(kernels.decoder_backward_workspace(args, g, threads));
    args.workspace = workspace.data();
    kernels.decoder_backward(args, g, threads);
  });
}

}  // namespace

void bind_decoder(py::module_& m) {
  using namespace py::literals;
  py::class_<DecoderSaved>(m, "DecoderSaved", "What decoder_forward keeps for decoder_backward.");
  m.def("decoder_forward", decoder_forward, "cell"_a, "x"_a, "key"_a, "value"_a, "state"_a, "weight_ih"_a,
        "weight_hh"_a, "bias_ih"_a, "bias_hh"_a, "weight_attention"_a, "bias_attention"_a, "weight_query"_a,
        "bias_query"_a, "score"_a, "alignment"_a, "weight_score"_a, "bounds"_a, "outputs"_a, "weights"_a, "state_out"_a,
        py::kw_only(), "query_previous"_a = false, "input_feed"_a = true, "feed"_a = py::none(), "mask"_a = py::none(),
        "bias"_a = py::none(), "scale"_a = 1.0, "previous"_a = py::none(), "coverage"_a = py::none(),
        "weight_filter"_a = py::none(), "weight_location"_a = py::none(), "weight_coverage"_a = py::none(),
        "params"_a = py::none(), "save"_a = false,
        "Writes outputs, weights and state_out; returns what backward needs when `save`.");
  m.def("decoder_backward", decoder_backward, "saved"_a, "doutputs"_a, "dstate"_a, "dweights"_a, "dx"_a, "dkey"_a,
        "dvalue"_a, "dstate_out"_a, "dfeed"_a, "dweight_ih"_a, "dweight_hh"_a, "dbias_ih"_a, "dbias_hh"_a,
        "dweight_attention"_a, "dbias_attention"_a, "dweight_query"_a, "dbias_query"_a, "dbias"_a, "dweight_score"_a,
        "dprevious"_a, "dcoverage"_a, "dweight_filter"_a, "dweight_location"_a, "dweight_coverage"_a,
        "dparams"_a = py::none(),
        "Writes the gradients of decoder_forward; those of arguments that were None are None.");
}

}  // namespace pyrnn
