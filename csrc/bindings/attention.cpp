// SPDX-License-Identifier: Apache-2.0
// _core.attention_forward and _core.attention_backward: scores, alignment and context of whole arrays.
#include <limits>
#include <memory>
#include <optional>

#include <pybind11/stl.h>

#include "../engine/parallel.h"
#include "arrays.h"
#include "bindings.h"
#include "buffer.h"

namespace pyrnn {
namespace {

using Array = std::optional<py::object>;

constexpr const char* alignments[alignment_count] = {"softmax", "sparsemax", "monotonic", "hard_monotonic"};

int find_score(const std::string& name) {
  const Kernels& kernels = chosen_kernels();
  std::string known;
  for (int i = 0; i < kernels.score_count; i++) {
    if (name == kernels.score[i]) return i;
    known += (i ? ", " : "") + std::string(kernels.score[i]);
  }
  throw py::value_error("score: unknown score '" + name + "', expected one of " + known);
}

int find_alignment(const std::string& name) {
  std::string known;
  for (int i = 0; i < alignment_count; i++) {
    if (name == alignments[i]) return i;
    known += (i ? ", " : "") + std::string(alignments[i]);
  }
  throw py::value_error("alignment: unknown alignment '" + name + "', expected one of " + known);
}

// What backward needs; the arrays that `args` points into.
struct AttentionSaved : Made {
  int score;
  Type type;
  AttentionArgs args;
  std::vector<py::object> arrays;
  Buffer kept, sizes;
};

// Checks arrays one after the other and keeps them alive.
class Arrays {
 public:
  explicit Arrays(Type type) : type_(type) {}
  const void* in(const char* name, const py::object& object, const std::vector<Dimension>& shape) {
    kept.push_back(check_array(name, object, type_, shape, read_only, true));
    return py::reinterpret_borrow<py::array>(kept.back()).data();
  }
  const void* in(const char* name, const Array& object, const std::vector<Dimension>& shape) {
    return object && !object->is_none() ? in(name, *object, shape) : nullptr;
  }
  void* out(const char* name, const py::object& object, const std::vector<Dimension>& shape) {
    kept.push_back(check_array(name, object, type_, shape, writable, true));
    return writable_data(py::reinterpret_borrow<py::array>(kept.back()));
  }
  void* out(const char* name, const Array& object, const std::vector<Dimension>& shape) {
    return object && !object->is_none() ? out(name, *object, shape) : nullptr;
  }
  std::vector<py::object> kept;

 private:
  Type type_;
};

const int64_t* check_bounds(const py::array& bounds, int64_t B, int64_t Tq, int64_t Tk) {
  if (!py::isinstance<py::array_t<int64_t, py::array::c_style>>(bounds) || bounds.ndim() != 3 || bounds.shape(0) != B ||
      bounds.shape(1) != Tq || bounds.shape(2) != 2 ||
      reinterpret_cast<std::uintptr_t>(bounds.data()) % sizeof(int64_t) != 0)
    throw py::value_error("bounds: expected an aligned, C-contiguous int64 array of shape (B, Tq, 2)");
  const int64_t* data = static_cast<const int64_t*>(bounds.data());
  for (int64_t i = 0; i < 2 * B * Tq; i++)
    if (data[i] < 0 || data[i] > Tk)
      throw py::value_error("bounds: expected numbers from 0 to Tk = " + std::to_string(Tk) + ", got " +
                            std::to_string(data[i]));
  return data;
}

// Sizes are multiplied with each other: no product of three may overflow.
void check_size(const char* name, int64_t a, int64_t b, int64_t c) {
  const int64_t most = std::numeric_limits<int64_t>::max() / 256;
  if ((b > 0 && a > most / b) || (c > 0 && a * b > most / c)) throw py::value_error(std::string(name) + ": too large");
}

py::object attention_forward(const std::string& score_name, const std::string& alignment, const py::array& query,
                             const py::array& key, const py::array& value, const Array& weight_score,
                             const py::array& bounds, const py::object& context, const py::object& weights,
                             const std::optional<py::array>& mask, const Array& bias, double scale, const Array& center,
                             double sigma, const Array& previous, const Array& coverage, const Array& weight_filter,
                             const Array& weight_location, const Array& weight_coverage, bool save) {
  const int score = find_score(score_name);
  const Type type = array_type("query", query);
  for (const auto& [name, array] : {std::pair{"query", query}, {"key", key}, {"value", value}})
    if (array.ndim() != 3)
      throw py::value_error(std::string(name) + ": expected 3 dimensions, got " + std::to_string(array.ndim()));
  AttentionArgs args{};
  const AttentionSizes s{query.shape(0), query.shape(1), key.shape(1), query.shape(2), value.shape(2)};
  check_size("query", s.B, s.Tq + s.Tk, s.D + s.Dv + 64);
  check_size("weights", s.B, s.Tq, s.Tk + 64);
  args.sizes = s;
  args.alignment = find_alignment(alignment);
  const Dimension B{"B", s.B}, Tq{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D}, Dv{"Dv", s.Dv};
  Arrays arrays(type);
  args.query = arrays.in("query", query, {B, Tq, D});
  args.key = arrays.in("key", key, {B, Tk, D});
  args.value = arrays.in("value", value, {B, Tk, Dv});
  args.weight_score = arrays.in("weight_score", weight_score, {D});
  const bool weighted = chosen_kernels().weighted[score];
  if (weighted != (args.weight_score != nullptr))
    throw py::value_error("weight_score: expected " + std::string(weighted ? "an array" : "None") + " for score '" +
                          score_name + "'");
  arrays.kept.push_back(bounds);
  args.bounds = check_bounds(bounds, s.B, s.Tq, s.Tk);
  if (mask) {
    if (!py::isinstance<py::array_t<bool, py::array::c_style>>(*mask) || mask->ndim() != 3 || mask->shape(0) != s.B ||
        mask->shape(1) != s.Tq || mask->shape(2) != s.Tk)
      throw py::value_error("mask: expected a C-contiguous bool array of shape (B, Tq, Tk)");
    arrays.kept.push_back(*mask);
    args.mask = static_cast<const uint8_t*>(mask->data());
  }
  args.bias = arrays.in("bias", bias, {B, Tq, Tk});
  args.scale = scale;
  args.center = arrays.in("center", center, {B, Tq});
  args.sigma = sigma;
  const bool monotonic = args.alignment >= align_monotonic;
  if (args.center && monotonic) throw py::value_error("center: expected None for alignment '" + alignment + "'");
  if (args.center && !(sigma > 0)) throw py::value_error("sigma: expected a positive number");
  args.previous = arrays.in("previous", previous, {B, Tk});
  if (weight_filter.has_value() != weight_location.has_value())
    throw py::value_error("weight_filter, weight_location: expected both or neither");
  History& history = args.history;
  if (weight_filter) {
    if (!py::isinstance<py::array>(*weight_filter) || py::len(weight_filter->attr("shape")) != 2)
      throw py::value_error("weight_filter: expected an array of 2 dimensions (filters, width)");
    const py::array filter = py::reinterpret_borrow<py::array>(*weight_filter);
    history.filters = filter.shape(0);
    history.width = filter.shape(1);
    if (history.filters < 1 || history.width % 2 != 1)
      throw py::value_error("weight_filter: expected at least one filter of odd width");
    check_size("weight_filter", s.B, history.filters, history.width + s.Tk + s.D + 64);
    history.filter = arrays.in("weight_filter", weight_filter, {{"filters", history.filters}, {"width", history.width}});
    history.location = arrays.in("weight_location", weight_location, {D, {"filters", history.filters}});
  }
  history.coverage = arrays.in("weight_coverage", weight_coverage, {D});
  history.coverage_from = arrays.in("coverage", coverage, {B, Tk});
  const bool has_history = history.filters > 0 || history.coverage;
  if (has_history && !weighted) throw py::value_error("weight_location, weight_coverage: only for additive scores");
  if (args.previous && !monotonic && history.filters == 0)
    throw py::value_error("previous: expected None for alignment '" + alignment + "' without location features");
  if (history.coverage_from && !history.coverage) throw py::value_error("coverage: expected None without weight_coverage");
  args.context = arrays.out("context", context, {B, Tq, Dv});
  args.weights = arrays.out("weights", weights, {B, Tq, Tk});

  const AttentionKernels& kernels = chosen_kernels().attention[score][type];
  Buffer kept, sizes;
  {
    py::gil_scoped_release release;
    const std::size_t item = type_size(type);
    if (save && (monotonic || args.center)) kept = Buffer(std::size_t(s.B * s.Tq * s.Tk) * item);
    sizes = Buffer(std::size_t(s.B * (s.Tq + s.Tk)) * item);
    args.kept = kept.data();
    args.query_size = sizes.data();
    args.key_size = sizes.data() ? static_cast<char*>(sizes.data()) + std::size_t(s.B * s.Tq) * item : nullptr;
    const int threads = num_threads();
    Buffer workspace(kernels.forward_workspace(args, threads));
    args.workspace = workspace.data();
    kernels.forward(args, threads);
  }
  if (!save) return py::none();
  args.workspace = nullptr;
  return py::cast(std::unique_ptr<AttentionSaved>(
      new AttentionSaved{{}, score, type, args, std::move(arrays.kept), std::move(kept), std::move(sizes)}));
}

void attention_backward(const AttentionSaved& saved, const py::object& dcontext, const Array& dweights,
                        const py::object& dquery, const py::object& dkey, const py::object& dvalue,
                        const Array& dweight_score, const py::object& dbias, const Array& dcenter,
                        const Array& dprevious, const Array& dcoverage, const Array& dweight_filter,
                        const Array& dweight_location, const Array& dweight_coverage) {
  saved.check_made("saved");
  const AttentionArgs& a = saved.args;
  if (a.alignment == align_hard_monotonic)
    throw py::value_error("saved: a hard monotonic alignment has no gradient; use alignment='monotonic'");
  const AttentionSizes& s = a.sizes;
  const Dimension B{"B", s.B}, Tq{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D}, Dv{"Dv", s.Dv};
  const Dimension filters{"filters", a.history.filters}, width{"width", a.history.width};
  Arrays arrays(saved.type);
  const auto wanted = [&](const char* name, bool there, const Array& object, const std::vector<Dimension>& shape) {
    if (there != (object && !object->is_none()))
      throw py::value_error(std::string(name) + ": expected " + (there ? "an array" : "None"));
    return arrays.out(name, object, shape);
  };
  AttentionGradients g{};
  g.dcontext = arrays.in("dcontext", dcontext, {B, Tq, Dv});
  g.dweights = arrays.in("dweights", dweights, {B, Tq, Tk});
  g.dquery = arrays.out("dquery", dquery, {B, Tq, D});
  g.dkey = arrays.out("dkey", dkey, {B, Tk, D});
  g.dvalue = arrays.out("dvalue", dvalue, {B, Tk, Dv});
  g.dbias = arrays.out("dbias", dbias, {{"1", 1}});
  g.dweight_score = wanted("dweight_score", a.weight_score, dweight_score, {D});
  g.dcenter = wanted("dcenter", a.center, dcenter, {B, Tq});
  g.dprevious = wanted("dprevious", a.previous, dprevious, {B, Tk});
  g.dcoverage_from = wanted("dcoverage", a.history.coverage_from, dcoverage, {B, Tk});
  g.dfilter = wanted("dweight_filter", a.history.filters > 0, dweight_filter, {filters, width});
  g.dlocation = wanted("dweight_location", a.history.filters > 0, dweight_location, {D, filters});
  g.dcoverage = wanted("dweight_coverage", a.history.coverage, dweight_coverage, {D});
  const AttentionKernels& kernels = chosen_kernels().attention[saved.score][saved.type];
  {
    py::gil_scoped_release release;
    const int threads = num_threads();
    AttentionArgs args = a;
    Buffer workspace(kernels.backward_workspace(args, threads));
    args.workspace = workspace.data();
    kernels.backward(args, g, threads);
  }
}

}  // namespace

void bind_attention(py::module_& m) {
  using namespace py::literals;
  py::class_<AttentionSaved>(m, "AttentionSaved", "What attention_forward keeps for attention_backward.");
  m.def("attention_forward", attention_forward, "score"_a, "alignment"_a, "query"_a, "key"_a, "value"_a,
        "weight_score"_a, "bounds"_a, "context"_a, "weights"_a, py::kw_only(), "mask"_a = py::none(),
        "bias"_a = py::none(), "scale"_a = 1.0, "center"_a = py::none(), "sigma"_a = 1.0, "previous"_a = py::none(),
        "coverage"_a = py::none(), "weight_filter"_a = py::none(), "weight_location"_a = py::none(),
        "weight_coverage"_a = py::none(), "save"_a = false,
        "Writes context and weights; returns what backward needs when `save`.");
  m.def("attention_backward", attention_backward, "saved"_a, "dcontext"_a, "dweights"_a, "dquery"_a, "dkey"_a,
        "dvalue"_a, "dweight_score"_a, "dbias"_a, "dcenter"_a, "dprevious"_a, "dcoverage"_a, "dweight_filter"_a,
        "dweight_location"_a, "dweight_coverage"_a,
        "Writes the gradients of attention_forward; those of arguments that were None are None.");
}

}  // namespace pyrnn
