// SPDX-License-Identifier: Apache-2.0
// Arguments that layers over a sequence have, checked.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.h"

namespace pyrnn {

using States = std::optional<std::vector<py::object>>;

// (zoneout of each state, dropout of h, training, seed, stream); None is none of it.
using RegularizationArgument = std::optional<std::tuple<std::vector<double>, double, bool, uint64_t, uint32_t>>;

// Entries are counted in 32 bits.
void check_steps(int64_t T, int64_t B);

// One array per state of the cell, each (B, H) but for the first, h. An absent list leaves null views.
std::vector<py::array> check_states(const std::string& name, const States& states, const CellInfo& info, Type type,
                                    int64_t B, const Dimension& h, int64_t H, Access access, View* views);

// The per-unit parameters of a cell that has some; an empty array else.
py::array check_params(const char* name, const py::object& params, const CellInfo& info, Type type, int64_t H,
                       Access access);

Regularization check_regularization(const RegularizationArgument& given, const CellInfo& info);
const uint8_t* check_flags(const char* name, const std::optional<py::array>& flags, int64_t T, int64_t B);
const int64_t* check_lengths(const std::optional<py::array>& lengths, int64_t T, int64_t B);

}  // namespace pyrnn
