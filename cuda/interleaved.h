// SPDX-License-Identifier: Apache-2.0
// A layer step by step, for a decoder, which puts its own between the steps; see LayerFunctions.
#pragma once

#include "kernels.h"
#include "layer.h"

namespace pyrnn {
namespace cuda {

template <class Cell, class Math>
struct Interleaved {
  using Of = LayerOf<Cell, Math>;
  using T = typename Of::T;
  const Of of;

  int forward(const LayerForward& call, int64_t i, int64_t inputs_from) const {
    ForwardPoint<Cell, T> point = of.forward_point(call);
    point.inputs_from = inputs_from;
    typename Of::ForwardScratch scratch;
    of.carve_forward(call, scratch);
    if (i < 0) return launch<Start<Cell, T>>(of.units_by_rows(call.stream), point);
    return i < of.Steps_ ? of.step_forward(call, point, scratch, i) : of.finish(call, point);
  }

  int backward(const LayerBackward& call, int64_t i) const {
    typename Of::Scratch scratch;
    of.carve(call, scratch);
    const auto start = of.backward_point(call, scratch);
    if (i >= of.Steps_) return launch<StartBackward<Cell, T>>(of.units_by_rows(call.stream), start);
    return i >= -1 ? of.step_backward(call, start.point, scratch, i) : of.gradients(call, scratch, start.point);
  }

  LayerInside inside(const void* states, void* workspace) const {
    typename Of::Scratch scratch;
    LayerBackward call{};
    call.workspace = workspace;
    of.carve(call, scratch);
    const Arena<T> kept = of.arena(states);
    LayerInside inside{kept.h, scratch.ds, scratch.dslots, of.padded, of.at_once(), kept.ring, Cell::slots, Of::X, {}};
    for (int j = 0; j < Of::X; j++) inside.select[j] = Cell::from_x[j];
    return inside;
  }
};

}  // namespace cuda
}  // namespace pyrnn
