// SPDX-License-Identifier: Apache-2.0
// The argument of a call that changes what happens inside a cell.
#include "variation.h"

#include <cmath>
#include <cstring>

#include "bindings.h"

namespace pyrnn {
namespace {

namespace py = pybind11;

constexpr const char* curves[curve_count] = {"sigmoid",    "tanh",   "relu",      "hardsigmoid",
                                             "softsign",   "affine", "leakyrelu", "thresholdedrelu",
                                             "scaledtanh", "elu",    "softplus"};
constexpr const char* dropout_kinds[dropout_kind_count] = {"sequence", "step", "candidate"};

int32_t find(const char* what, const char* const* names, int count, const std::string& name) {
  for (int i = 0; i < count; i++)
    if (name == names[i]) return i;
  throw py::value_error(std::string("variation: expected a known ") + what + ", got " + name);
}

double bound(const char* name, double value) {
  if (!(value >= 0 && std::isfinite(value)))
    throw py::value_error(std::string("variation: expected a finite ") + name + " of at least 0, got " +
                          std::to_string(value));
  return value;
}

}  // namespace

Variation check_variation(const VariationArgument& given, const CellInfo& info, bool normalised, Type compute,
                          Regularization& regularization) {
  Variation v{};
  if (!given) {
    if (normalised) throw py::value_error("norm_c: expected a variation beside it, got None");
    return v;
  }
  const auto& [chosen, gate_clip, cell_clip, kind] = *given;
  if (chosen.size() != 3) throw py::value_error("variation: expected 3 curves, got " + std::to_string(chosen.size()));
  const auto curve = [&](int i) {
    const auto& [name, alpha, beta] = chosen[i];
    if (!std::isfinite(alpha) || !std::isfinite(beta))
      throw py::value_error("variation: expected finite numbers beside " + name);
    return CurveChoice{find("curve", curves, curve_count, name), alpha, beta};
  };
  v.gate = curve(0);
  v.candidate = curve(1);
  v.output = curve(2);
  v.gate_clip = bound("gate_clip", gate_clip);
  v.cell_clip = bound("cell_clip", cell_clip);
  regularization.dropout_kind = find("kind of dropout", dropout_kinds, dropout_kind_count, kind);
  // A mask of another step's h needs nothing of the cell; the rest does.
  const bool plain = info.roles[0] == 0;
  if (plain && (regularization.dropout_kind == dropout_candidate || v.gate_clip > 0))
    throw py::value_error(std::string("variation: ") + info.name + " has no activations that may be chosen");
  if ((normalised || v.cell_clip > 0) && (info.states < 2 || !std::strchr(info.roles, 'h')))
    throw py::value_error(std::string("variation, norm_c: expected none of c, because ") + info.name +
                          " has no output activation that may be chosen");
  v.varied = !plain;
  if (v.varied && compute == bfloat16)
    throw py::value_error("variation: expected compute_dtype None beside it, got bfloat16");
  return v;
}

}  // namespace pyrnn
