// SPDX-License-Identifier: Apache-2.0
// The argument of a call that changes what happens inside a cell.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../kernels.h"

namespace pyrnn {

// (the curves of gates, candidate and output, each (name, alpha, beta); gate_clip; cell_clip; where dropout acts);
// None: the cell as it is.
using VariationArgument =
    std::optional<std::tuple<std::vector<std::tuple<std::string, double, double>>, double, double, std::string>>;

// Checks it against what the cell and the layer have; writes where dropout acts to `regularization`.
Variation check_variation(const VariationArgument& given, const CellInfo& info, bool normalised, Type compute,
                          Regularization& regularization);

}  // namespace pyrnn
