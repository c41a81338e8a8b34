// SPDX-License-Identifier: Apache-2.0
// The layers of every cell for one type of number; kernels.cu is compiled once for each.
#pragma once

#include "abi.h"
#include "launch.h"

namespace pyrnn {
namespace cuda {

struct LayerFunctions {
  int (*forward_memory)(const Layer&, const Machine&, LayerMemory*);
  int (*forward)(const LayerForward&, const Machine&);
  int (*backward_memory)(const Layer&, const Machine&, size_t*);
  int (*backward)(const LayerBackward&, const Machine&);
  int32_t (*tier)(const Layer&, const Machine&, int backward);
};

// One for each way of multiplying. build.sh, CMake and the tests read names and types here.
// clang-format off
const LayerFunctions* float32_exact_functions(int cell);  // ExactMath
const LayerFunctions* float32_tf32_functions(int cell);  // Tf32Math
const LayerFunctions* float32_fma_functions(int cell);  // FmaMath<float>
const LayerFunctions* float64_functions(int cell);  // FmaMath<double>
const LayerFunctions* bfloat16_functions(int cell);  // Bfloat16Math
const LayerFunctions* float16_functions(int cell);  // Float16Math
// clang-format on

}  // namespace cuda
}  // namespace pyrnn
