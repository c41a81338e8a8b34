// SPDX-License-Identifier: Apache-2.0
// What the attention and the decoder take alike: the score and its arguments.
#include "score_arguments.h"

#include <limits>

namespace pyrnn {
namespace {

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

bool given(const Array& object) { return object && !object->is_none(); }

}  // namespace

const void* Arrays::in(const char* name, const py::object& object, const std::vector<Dimension>& shape) {
  kept.push_back(check_array(name, object, type_, shape, read_only, true));
  return py::reinterpret_borrow<py::array>(kept.back()).data();
}

const void* Arrays::in(const char* name, const Array& object, const std::vector<Dimension>& shape) {
  return given(object) ? in(name, *object, shape) : nullptr;
}

void* Arrays::out(const char* name, const py::object& object, const std::vector<Dimension>& shape) {
  kept.push_back(check_array(name, object, type_, shape, writable, true));
  return writable_data(py::reinterpret_borrow<py::array>(kept.back()));
}

void* Arrays::out(const char* name, const Array& object, const std::vector<Dimension>& shape) {
  return given(object) ? out(name, *object, shape) : nullptr;
}

void check_size(const char* name, int64_t a, int64_t b, int64_t c) {
  const int64_t most = std::numeric_limits<int64_t>::max() / 256;
  if ((b > 0 && a > most / b) || (c > 0 && a * b > most / c)) throw py::value_error(std::string(name) + ": too large");
}

int check_score(const ScoreOptions& o, Arrays& arrays, AttentionArgs& args) {
  const AttentionSizes& s = args.sizes;
  check_size("query", s.B, s.Tq + s.Tk, s.D + s.Dv + 64);
  check_size("weights", s.B, s.Tq, s.Tk + 64);
  const Dimension B{"B", s.B}, Tq{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D};
  const int score = find_score(o.score);
  args.alignment = find_alignment(o.alignment);
  args.weight_score = arrays.in("weight_score", o.weight_score, {D});
  const bool weighted = chosen_kernels().weighted[score];
  if (weighted != (args.weight_score != nullptr))
    throw py::value_error("weight_score: expected " + std::string(weighted ? "an array" : "None") + " for score '" +
                          o.score + "'");
  arrays.kept.push_back(o.bounds);
  args.bounds = check_bounds(o.bounds, s.B, s.Tq, s.Tk);
  if (o.mask) {
    if (!py::isinstance<py::array_t<bool, py::array::c_style>>(*o.mask) || o.mask->ndim() != 3 ||
        o.mask->shape(0) != s.B || o.mask->shape(1) != s.Tq || o.mask->shape(2) != s.Tk)
      throw py::value_error("mask: expected a C-contiguous bool array of shape (B, Tq, Tk)");
    arrays.kept.push_back(*o.mask);
    args.mask = static_cast<const uint8_t*>(o.mask->data());
  }
  args.bias = arrays.in("bias", o.bias, {B, Tq, Tk});
  args.scale = o.scale;
  args.center = arrays.in("center", o.center, {B, Tq});
  args.sigma = o.sigma;
  const bool monotonic = args.alignment >= align_monotonic;
  if (args.center && monotonic) throw py::value_error("center: expected None for alignment '" + o.alignment + "'");
  if (args.center && !(o.sigma > 0)) throw py::value_error("sigma: expected a positive number");
  args.previous = arrays.in("previous", o.previous, {B, Tk});
  History& history = args.history;
  if (given(o.weight_filter) != given(o.weight_location))
    throw py::value_error("weight_filter, weight_location: expected both or neither");
  if (given(o.weight_filter)) {
    if (!py::isinstance<py::array>(*o.weight_filter) || py::reinterpret_borrow<py::array>(*o.weight_filter).ndim() != 2)
      throw py::value_error("weight_filter: expected an array of 2 dimensions (filters, width)");
    const py::array filter = py::reinterpret_borrow<py::array>(*o.weight_filter);
    history.filters = filter.shape(0);
    history.width = filter.shape(1);
    if (history.filters < 1 || history.width % 2 != 1)
      throw py::value_error("weight_filter: expected at least one filter of odd width");
    check_size("weight_filter", s.B, history.filters, history.width + s.Tk + s.D + 64);
    history.filter = arrays.in("weight_filter", o.weight_filter,
                               {{"filters", history.filters}, {"width", history.width}});
    history.location = arrays.in("weight_location", o.weight_location, {D, {"filters", history.filters}});
  }
  history.coverage = arrays.in("weight_coverage", o.weight_coverage, {D});
  history.coverage_from = arrays.in("coverage", o.coverage, {B, Tk});
  const bool has_history = history.filters > 0 || history.coverage;
  if (has_history && !weighted) throw py::value_error("weight_location, weight_coverage: only for additive scores");
  if (args.previous && !monotonic && history.filters == 0)
    throw py::value_error("previous: expected None for alignment '" + o.alignment + "' without location features");
  if (history.coverage_from && !history.coverage)
    throw py::value_error("coverage: expected None without weight_coverage");
  return score;
}

void allocate_kept(AttentionArgs& args, Type type, bool save, Buffer& kept, Buffer& sizes) {
  const AttentionSizes& s = args.sizes;
  const std::size_t item = type_size(type), queries = std::size_t(s.B * s.Tq), keys = std::size_t(s.B * s.Tk);
  if (save && (args.alignment >= align_monotonic || args.center)) kept = Buffer(queries * std::size_t(s.Tk) * item);
  sizes = Buffer((queries + keys) * item);
  args.kept = kept.data();
  args.query_size = sizes.data();
  args.key_size = static_cast<char*>(sizes.data()) + queries * item;
}

void check_score_gradients(const ScoreGradients& o, const AttentionArgs& a, Arrays& arrays, AttentionGradients& g) {
  if (a.alignment == align_hard_monotonic)
    throw py::value_error("saved: a hard monotonic alignment has no gradient; use alignment='monotonic'");
  const AttentionSizes& s = a.sizes;
  const Dimension B{"B", s.B}, Tq{"Tq", s.Tq}, Tk{"Tk", s.Tk}, D{"D", s.D}, Dv{"Dv", s.Dv};
  const Dimension filters{"filters", a.history.filters}, width{"width", a.history.width};
  const auto wanted = [&](const char* name, bool there, const Array& object, const std::vector<Dimension>& shape) {
    if (there != given(object))
      throw py::value_error(std::string(name) + ": expected " + (there ? "an array" : "None"));
    return arrays.out(name, object, shape);
  };
  g.dweights = arrays.in("dweights", o.dweights, {B, Tq, Tk});
  g.dkey = arrays.out("dkey", o.dkey, {B, Tk, D});
  g.dvalue = arrays.out("dvalue", o.dvalue, {B, Tk, Dv});
  g.dbias = arrays.out("dbias", o.dbias, {{"1", 1}});
  g.dweight_score = wanted("dweight_score", a.weight_score, o.dweight_score, {D});
  g.dcenter = wanted("dcenter", a.center, o.dcenter, {B, Tq});
  g.dprevious = wanted("dprevious", a.previous, o.dprevious, {B, Tk});
  g.dcoverage_from = wanted("dcoverage", a.history.coverage_from, o.dcoverage, {B, Tk});
  g.dfilter = wanted("dweight_filter", a.history.filters > 0, o.dweight_filter, {filters, width});
  g.dlocation = wanted("dweight_location", a.history.filters > 0, o.dweight_location, {D, filters});
  g.dcoverage = wanted("dweight_coverage", a.history.coverage, o.dweight_coverage, {D});
}

}  // namespace pyrnn
