// SPDX-License-Identifier: Apache-2.0
// _core.attention_forward and _core.attention_backward: scores, alignment and context of whole arrays.
#include <memory>
#include <utility>

#include <pybind11/stl.h>

#include "../engine/parallel.h"
#include "bindings.h"
#include "buffer.h"
#include "score_arguments.h"
#include "unlocked.h"

namespace pyrnn {
namespace {

// What backward needs; the arrays that `args` points into.
struct AttentionSaved : Made {
  int score;
  Type type;
  AttentionArgs args;
  std::vector<py::object> arrays;
  Buffer kept, sizes;
  bool phi_there;  // args.phi is as the forward left it
};

py::object attention_forward(const std::string& score_name, const std::string& alignment, const py::array& query,
                             const py::array& key, const py::array& value, const Array& weight_score,
                             const py::array& bounds, const py::object& context, const py::object& weights,
                             const std::optional<py::array>& mask, const Array& bias, double scale, const Array& center,
                             double sigma, const Array& previous, const Array& coverage, const Array& weight_filter,
                             const Array& weight_location, const Array& weight_coverage, const Array& phi, bool save) {
  const Type type = array_type("query", query);
  for (const auto& [name, array] : {std::pair{"query", query}, {"key", key}, {"value", value}})
    if (array.ndim() != 3)
      throw py::value_error(std::string(name) + ": expected 3 dimensions, got " + std::to_string(array.ndim()));
  AttentionArgs args{};
  const AttentionSizes& s = args.sizes = {query.shape(0), query.shape(1), key.shape(1), query.shape(2), value.shape(2)};
  const Dimension B{"B", s.B}, Tq{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D}, Dv{"Dv", s.Dv};
  Arrays arrays(type);
  args.query = arrays.in("query", query, {B, Tq, D});
  args.key = arrays.in("key", key, {B, Tk, D});
  args.value = arrays.in("value", value, {B, Tk, Dv});
  const int score = check_score({score_name, alignment, weight_score, bounds, mask, bias, center, previous, coverage,
                                 weight_filter, weight_location, weight_coverage, scale, sigma},
                                arrays, args);
  args.context = arrays.out("context", context, {B, Tq, Dv});
  args.weights = arrays.out("weights", weights, {B, Tq, Tk});
  args.phi = arrays.out("phi", phi, {B, Tk, D});
  if (args.phi && !(args.weight_score && s.Tq == 1 && !args.history.filters && !args.history.coverage))
    throw py::value_error("phi: expected None but for one query and an additive score without history");

  const AttentionKernels& kernels = chosen_kernels().attention[score][type];
  Buffer kept, sizes;
  without_lock([&] {
    allocate_kept(args, type, save, kept, sizes);
    const int threads = num_threads();
    Buffer workspace(kernels.forward_workspace(args, threads));
    args.workspace = workspace.data();
    kernels.forward(args, threads);
  });
  if (!save) return py::none();
  return py::cast(std::unique_ptr<AttentionSaved>(new AttentionSaved{
      {}, score, type, args, std::move(arrays.kept), std::move(kept), std::move(sizes), args.phi != nullptr}));
}

void attention_backward(AttentionSaved& saved, const py::object& dcontext, const Array& dweights,
                        const py::object& dquery, const py::object& dkey, const py::object& dvalue,
                        const Array& dweight_score, const py::object& dbias, const Array& dcenter,
                        const Array& dprevious, const Array& dcoverage, const Array& dweight_filter,
                        const Array& dweight_location, const Array& dweight_coverage) {
  saved.check_made("saved");
  AttentionArgs args = saved.args;
  const AttentionSizes& s = args.sizes;
  Arrays arrays(saved.type);
  AttentionGradients g{};
  check_score_gradients({dweights, dkey, dvalue, dbias, dweight_score, dcenter, dprevious, dcoverage, dweight_filter,
                         dweight_location, dweight_coverage},
                        args, arrays, g);
  g.dcontext = arrays.in("dcontext", dcontext, {{"B", s.B}, {"Tq", s.Tq}, {"Dv", s.Dv}});
  g.dquery = arrays.out("dquery", dquery, {{"B", s.B}, {"Tq", s.Tq}, {"D", s.D}});
  if (g.dkey != args.phi || !std::exchange(saved.phi_there, false)) args.phi = nullptr;
  const AttentionKernels& kernels = chosen_kernels().attention[saved.score][saved.type];
  without_lock([&] {
    const int threads = num_threads();
    Buffer workspace(kernels.backward_workspace(args, threads));
    args.workspace = workspace.data();
    kernels.backward(args, g, threads);
  });
}

void multiply(const py::array& a, const py::array& b, const py::object& out, bool a_transposed, bool b_transposed) {
  const Type type = array_type("a", a);
  for (const auto& [name, array] : {std::pair{"a", a}, {"b", b}})
    if (array.ndim() != 2)
      throw py::value_error(std::string(name) + ": expected 2 dimensions, got " + std::to_string(array.ndim()));
  ProductArgs args{};
  args.M = a.shape(a_transposed ? 1 : 0);
  args.K = a.shape(a_transposed ? 0 : 1);
  args.N = b.shape(b_transposed ? 0 : 1);
  check_size("a, b", args.M + 64, args.N + 64, args.K + 64);
  const Dimension M{"M", args.M}, N{"N", args.N}, K{"K", args.K};
  Arrays arrays(type);
  args.a = arrays.in("a", a, {a_transposed ? K : M, a_transposed ? M : K});
  args.b = arrays.in("b", b, {b_transposed ? N : K, b_transposed ? K : N});
  args.out = arrays.out("out", out, {M, N});
  args.a_transposed = a_transposed;
  args.b_transposed = b_transposed;
  const Kernels& kernels = chosen_kernels();
  without_lock([&] {
    const int threads = num_threads();
    Buffer workspace(kernels.product_workspace[type](args, threads));
    args.workspace = workspace.data();
    kernels.product[type](args, threads);
  });
}

}  // namespace

void bind_attention(py::module_& m) {
  using namespace py::literals;
  py::class_<AttentionSaved>(m, "AttentionSaved", "What attention_forward keeps for attention_backward.");
  m.def("attention_forward", attention_forward, "score"_a, "alignment"_a, "query"_a, "key"_a, "value"_a,
        "weight_score"_a, "bounds"_a, "context"_a, "weights"_a, py::kw_only(), "mask"_a = py::none(),
        "bias"_a = py::none(), "scale"_a = 1.0, "center"_a = py::none(), "sigma"_a = 1.0, "previous"_a = py::none(),
        "coverage"_a = py::none(), "weight_filter"_a = py::none(), "weight_location"_a = py::none(),
        "weight_coverage"_a = py::none(), "phi"_a = py::none(), "save"_a = false,
        "Writes context and weights; returns what backward needs when `save`. With one query of an additive score, a\n"
        "backward is faster whose dkey is the array that was phi here.");
  m.def("attention_backward", attention_backward, "saved"_a, "dcontext"_a, "dweights"_a, "dquery"_a, "dkey"_a,
        "dvalue"_a, "dweight_score"_a, "dbias"_a, "dcenter"_a, "dprevious"_a, "dcoverage"_a, "dweight_filter"_a,
        "dweight_location"_a, "dweight_coverage"_a,
        "Writes the gradients of attention_forward; those of arguments that were None are None.");
  m.def("multiply", multiply, "a"_a, "b"_a, "out"_a, py::kw_only(), "a_transposed"_a = false, "b_transposed"_a = false,
        "Writes the matrix product a b; a transposed one is given as (K, M), (N, K).");
}

}  // namespace pyrnn
