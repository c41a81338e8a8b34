// SPDX-License-Identifier: Apache-2.0
// The backward of a layer whose forward kept the states between segments alone.
#pragma once

#include "../engine/segments.h"

namespace pyrnn {

// `args` as for a backward from everything, but for the states and the gates, with the biases; `kept` are the states
// that the forward of `segments` left, of numbers of `number` bytes. Nothing of Python is touched.
void backward_in_segments(const CellKernels& kernels, const CellInfo& info, const Segments& segments, void* kept,
                          int64_t number, BackwardArgs args, int threads);

}  // namespace pyrnn
