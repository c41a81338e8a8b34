// SPDX-License-Identifier: Apache-2.0
// The layers of every cell for one type of number; kernels.cu is compiled once for each.
#pragma once

#include "abi.h"
#include "launch.h"

namespace pyrnn {
namespace cuda {

// Where a layer has what a decoder reads and adds to; `ds` and `dslots` of the backward's workspace.
struct LayerInside {
  const void* h;  // (slots, B, padded) numbers: step i starts from slot i, or i % 2 if `ring`
  void *ds, *dslots;  // (states, B, padded) sums, (T, B, slots, padded) numbers
  int64_t padded, at_once;  // steps that the workspace has room for the inputs of
  int32_t ring, slots, from_x, select[max_slots];
};

struct LayerFunctions;
struct DecoderFunctions {
  int (*memory)(const Decoder&, const Machine&, DecoderMemory*);
  int (*forward)(const DecoderForward&, const Machine&, const LayerFunctions&);
  int (*backward)(const DecoderBackward&, const Machine&, const LayerFunctions&);
};

struct LayerFunctions {
  int (*forward_memory)(const Layer&, const Machine&, LayerMemory*);
  int (*forward)(const LayerForward&, const Machine&);
  int (*backward_memory)(const Layer&, const Machine&, size_t*);
  int (*backward)(const LayerBackward&, const Machine&);
  int32_t (*tier)(const Layer&, const Machine&, int backward);

  // For a decoder, which puts its own between the steps. Step -1 comes before the first, T after the last; back from T,
  // which comes before the last, to -1, which is behind the first, and then -2, the gradients of weights.
  int (*forward_step)(const LayerForward&, const Machine&, int64_t i, int64_t inputs_from);
  int (*backward_step)(const LayerBackward&, const Machine&, int64_t i);
  LayerInside (*inside)(const Layer&, const Machine&, const void* states, void* workspace);
  const DecoderFunctions* decoder;
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
