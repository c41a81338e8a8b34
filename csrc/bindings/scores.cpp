// SPDX-License-Identifier: Apache-2.0
// The registered scores as Python sees them: their constants, and their derivatives for the tests.
#include "../scores/registry.h"
#include <pybind11/stl.h>

#include <type_traits>

#include "arrays.h"
#include "bindings.h"

namespace pyrnn {
namespace {

using Values = std::vector<double>;

// Calls work(name, Score{}) for every score.
template <class Work>
void for_each_score(const Work& work) {
#define PYRNN_ENTRY(label, ...) work(label, __VA_ARGS__{});
  PYRNN_SCORES(PYRNN_ENTRY)
#undef PYRNN_ENTRY
}

py::dict scores() {
  py::dict all;
  for_each_score([&](const char* name, auto score) {
    using Score = decltype(score);
    py::dict constants;
    constants["weighted"] = Score::weighted;
    constants["product"] = Score::product;
    constants["unit_rows"] = Score::unit_rows;
    constants["limit"] = py::make_tuple(Score::limit[0], Score::limit[1]);
    constants["fallback"] = !std::is_same_v<Score, typename Score::Fallback>;
    all[name] = constants;
  });
  return all;
}

// Calls work(form) for the form of that score: its own, or the one for pairs beyond its limit.
template <class Work>
void with_form(const std::string& wanted, bool fallback, const Work& work) {
  bool found = false;
  for_each_score([&](const char* name, auto score) {
    if (wanted != name) return;
    found = true;
    if (fallback)
      work(typename decltype(score)::Fallback{});
    else
      work(score);
  });
  if (!found) throw py::value_error("score: unknown score '" + wanted + "'");
}

void check_count(const char* name, const Values& values, std::size_t count) {
  if (values.size() != count)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(count) + " numbers, got " +
                          std::to_string(values.size()));
}

// A pair's score on dual numbers: the value, and its exact derivative along (tq, tk, tw). Rows are as they come: a
// score of unit rows is that of rows that are units already.
std::pair<double, double> score_jvp(const std::string& name, bool fallback, const Values& q, const Values& k,
                                    const Values& w, const Values& tq, const Values& tk, const Values& tw) {
  Dual sum{0, 0};
  with_form(name, fallback, [&](auto score) {
    using Score = decltype(score);
    const std::size_t D = q.size(), weights = Score::weighted ? D : 0;
    check_count("k", k, D);
    check_count("w", w, weights);
    check_count("tq", tq, D);
    check_count("tk", tk, D);
    check_count("tw", tw, weights);
    for (std::size_t d = 0; d < D; d++) {
      const Dual phi = Score::phi(Score::prepare(Dual{q[d], tq[d]}), Score::prepare(Dual{k[d], tk[d]}));
      const Dual term = double(Score::offset) + double(Score::factor) * phi;
      if constexpr (Score::weighted)
        sum = sum + Dual{w[d], tw[d]} * term;
      else
        sum = sum + term;
    }
  });
  return {sum.v, sum.d};
}

// The gradients of query, key and weights for the gradient ds of the score, by the score's slope; a product is linear
// in either, so that it is its own derivative.
std::tuple<Values, Values, Values> score_vjp(const std::string& name, bool fallback, const Values& q, const Values& k,
                                             const Values& w, double ds) {
  Values dq, dk, dw;
  with_form(name, fallback, [&](auto score) {
    using Score = decltype(score);
    const std::size_t D = q.size(), weights = Score::weighted ? D : 0;
    check_count("k", k, D);
    check_count("w", w, weights);
    dq.assign(D, 0);
    dk.assign(D, 0);
    dw.assign(weights, 0);
    for (std::size_t d = 0; d < D; d++) {
      const double a = Score::prepare(q[d]), b = Score::prepare(k[d]);
      if constexpr (Score::product) {
        dq[d] = ds * Score::phi(1.0, b);
        dk[d] = ds * Score::phi(a, 1.0);
      } else {
        const double phi = Score::phi(a, b);
        dq[d] = dk[d] = ds * w[d] * Score::slope_factor * Score::slope(phi);
        dw[d] = ds * (Score::offset + Score::factor * phi);
      }
    }
  });
  return {dq, dk, dw};
}

}  // namespace

void bind_scores(py::module_& m) {
  using namespace py::literals;
  m.def("scores", scores, "The registered scores with their constants.");
  m.def("score_jvp", score_jvp, "score"_a, "fallback"_a, "q"_a, "k"_a, "w"_a, "tq"_a, "tk"_a, "tw"_a);
  m.def("score_vjp", score_vjp, "score"_a, "fallback"_a, "q"_a, "k"_a, "w"_a, "ds"_a);
}

}  // namespace pyrnn
