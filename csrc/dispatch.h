// SPDX-License-Identifier: Apache-2.0
// The choice of instruction set, made once, at import.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace pyrnn {

// The best level that the processor has, or the one that PYRNN_ISA names. Throws std::runtime_error when that is
// unknown or the processor lacks it.
const Kernels& chosen_kernels();

// The levels that this build has and this processor can run, lowest first.
std::vector<std::string> supported_isas();

}  // namespace pyrnn
