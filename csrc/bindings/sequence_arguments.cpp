// SPDX-License-Identifier: Apache-2.0
// The checks of arguments that layers over a sequence have.
#include "sequence_arguments.h"

#include <algorithm>
#include <limits>

namespace pyrnn {

std::vector<py::array> check_states(const std::string& name, const States& states, const CellInfo& info, Type type,
                                    int64_t B, const Dimension& h, int64_t H, Access access, View* views) {
  std::vector<py::array> arrays;
  if (!states) return arrays;
  if (int(states->size()) != info.states)
    throw py::value_error(name + ": expected " + std::to_string(info.states) + " arrays, got " +
                          std::to_string(states->size()));
  for (int s = 0; s < info.states; s++) {
    const std::string item = name + "[" + std::to_string(s) + "]";
    arrays.push_back(check_array(item, (*states)[s], type, {{"B", B}, s ? Dimension{"H", H} : h}, access, false));
    views[s] = view_rows(arrays.back());
  }
  return arrays;
}

py::array check_params(const char* name, const py::object& params, const CellInfo& info, Type type, int64_t H,
                       Access access) {
  if (info.params) return check_array(name, params, type, {{"params", info.params}, {"H", H}}, access, true);
  if (!params.is_none()) throw py::value_error(std::string(name) + ": expected None, " + info.name + " has none");
  return {};
}

Regularization check_regularization(const RegularizationArgument& given, const CellInfo& info) {
  Regularization r{};
  if (!given) return r;
  const auto& [zoneout, dropout, training, seed, stream] = *given;
  if (int(zoneout.size()) != info.states)
    throw py::value_error("regularization: expected zoneout of " + std::to_string(info.states) + " states, got " +
                          std::to_string(zoneout.size()));
  const auto rate = [](double p) {
    if (!(p >= 0 && p <= 1))
      throw py::value_error("regularization: expected numbers from 0 to 1, got " + std::to_string(p));
    return p;
  };
  std::transform(zoneout.begin(), zoneout.end(), r.zoneout, rate);
  r.dropout = training ? rate(dropout) : 0;
  r.training = training;
  r.seed = seed;
  r.stream = stream;
  return r;
}

const uint8_t* check_flags(const char* name, const std::optional<py::array>& flags, int64_t T, int64_t B) {
  if (!flags) return nullptr;
  if (!py::isinstance<py::array_t<bool, py::array::c_style>>(*flags) || flags->ndim() != 2 || flags->shape(0) != T ||
      flags->shape(1) != B)
    throw py::value_error(std::string(name) + ": expected a C-contiguous bool array of shape (T, B) = (" +
                          std::to_string(T) + ", " + std::to_string(B) + ")");
  return static_cast<const uint8_t*>(flags->data());  // any byte but zero is true, as in NumPy
}

const int64_t* check_lengths(const std::optional<py::array>& lengths, int64_t T, int64_t B) {
  if (!lengths) return nullptr;
  if (!py::isinstance<py::array_t<int64_t, py::array::c_style>>(*lengths) || lengths->ndim() != 1 ||
      lengths->shape(0) != B)
    throw py::value_error("lengths: expected a contiguous int64 array of shape (B,) = (" + std::to_string(B) + ",)");
  const int64_t* data = static_cast<const int64_t*>(lengths->data());
  if (reinterpret_cast<std::uintptr_t>(data) % sizeof(int64_t) != 0)
    throw py::value_error("lengths: expected aligned data");
  for (int64_t b = 0; b < B; b++)
    if (data[b] < 0 || data[b] > T)
      throw py::value_error("lengths: expected numbers from 0 to T = " + std::to_string(T) + ", got " +
                            std::to_string(data[b]));
  return data;
}

void check_steps(int64_t T, int64_t B) {
  if (B + 2 > std::numeric_limits<int32_t>::max() || (B > 0 && T > (std::numeric_limits<int32_t>::max() - 2 - B) / B))
    throw py::value_error("x: T*B = " + std::to_string(T) + "*" + std::to_string(B) + " is too large");
}

}  // namespace pyrnn
