// SPDX-License-Identifier: Apache-2.0
// One step per call: the weights are packed once, the states stay packed, nothing is allocated.
#pragma once

#include "sequence_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T, class P>
size_t stream_pack_bytes(const CellFunctions<T>& cell, int64_t I, int64_t H) {
  return PackedLayer<T, P>(cell, I, H).carve(nullptr);
}

// Two halves: the states before and after a step.
template <class T>
size_t stream_state_bytes(const CellFunctions<T>& cell, int64_t B, int64_t H) {
  return size_t(2 * B * cell.states * padded_units<T>(H)) * sizeof(T);
}

template <class T, class P>
struct StreamScratch {
  StepRow<T>* rows;              // (B)
  T* shares;                     // (states, padded): zoneout
  typename P::Factor *x_rows, *h_rows;  // (B, I), (B, H) as elements, where rows are prepared
  PYRNN_FN size_t carve(void* base, int64_t B, int64_t I, int64_t H) {
    Carver memory{static_cast<char*>(base)};
    rows = memory.take<StepRow<T>>(B);
    shares = memory.take<T>(max_states * padded_units<T>(H));
    x_rows = memory.take<typename P::Factor>(P::prepared ? B * P::length(I) : 0);
    h_rows = memory.take<typename P::Factor>(P::prepared ? B * P::length(H) : 0);
    return memory.used;
  }
};

template <class T, class P>
size_t stream_scratch_bytes(int64_t B, int64_t I, int64_t H) {
  return StreamScratch<T, P>().carve(nullptr, B, I, H);
}

template <class T, class P>
void stream_pack(const CellFunctions<T>& cell, const Sizes& sizes, const Weights& weights, void* pack) {
  PackedLayer<T, P> layer(cell, sizes.I, sizes.H);
  layer.carve(pack);
  const KernelModes modes;
  layer.pack(weights, {0, layer.blocks.count});
}

template <class Shape, class T, class P>
struct StreamStep {
  const PackedLayer<T, P>& layer;
  const StepRow<T>* rows;
  int64_t B;
  Grid grid;
  int64_t pass;

  void work(int thread) const {
    const Range mine = part(B, thread / grid.unit_groups, grid.row_groups);
    const Sums sums = B <= few_rows ? Sums::apart : Sums::together;
    step_part<Shape>(layer, mine.size(), sums, thread % grid.unit_groups, grid.unit_groups)
        .for_each([&](Range blocks, Range shared) {
          step_rows<Shape>(layer, rows + mine.begin + shared.begin, shared.size(), blocks, sums, pass);
        });
  }
};

// Cycles below which a step is not worth another thread, nor the question whether one is near.
constexpr double shortest_shared_step = 20e3;

// y null: the output is wanted by the next layer only, which reads it from the states.
template <class Shape, class T, class P>
void stream_step(const CellFunctions<T>& cell, StreamLayer* stream, int64_t B, View x, View y, int threads) {
  PackedLayer<T, P> layer(cell, stream->I, stream->H);
  layer.carve(stream->pack);
  StreamScratch<T, P> scratch;
  scratch.carve(stream->scratch, B, stream->I, stream->H);
  StepRow<T>* const rows = scratch.rows;
  const int64_t size = cell.states * layer.padded;
  const T* old = static_cast<const T*>(stream->states) + stream->parity * B * size;
  T* next = static_cast<T*>(stream->states) + (1 - stream->parity) * B * size;
  {
    const KernelModes modes;
    for (int64_t b = 0; b < B; b++)
      rows[b] = {Forward<Shape, T, P>::elements(element<T>(x, 0, b), stream->I, scratch.x_rows, b),
                 Forward<Shape, T, P>::elements(old + b * size, stream->H, scratch.h_rows, b),
                 layer.bias,
                 old + b * size,
                 next + b * size,
                 y.data ? element<T>(y, 0, b) : next + b * size,
                 nullptr};
  }
  stream->parity = 1 - stream->parity;

  Schedule schedule{};
  schedule.steps = 1;
  schedule.max_rows = B;
  StepCost cost = forward_cost<T, P>(cell, {1, B, stream->I, stream->H}, schedule, 0);
  const bool alone = threads == 1 || estimate(cost, {1, 1}) < shortest_shared_step;
  if (!alone) cost.start = start_cycles();
  Team team(alone ? 1 : choose_grid(cost, threads).threads());
  StreamStep<Shape, T, P> step{layer, rows, B, alone ? Grid{1, 1} : choose_grid(cost, team.size()), stream->parity};
  team.run([](void* context, int thread, int) { static_cast<StreamStep<Shape, T, P>*>(context)->work(thread); }, &step);
  Regularization expected{};
  for (int s = 0; s < cell.states; s++) expected.zoneout[s] = stream->zoneout[s];
  if (!has_zoneout(expected)) return;
  const KernelModes modes;
  const Range units{0, layer.padded};
  zoneout_shares(expected, cell.states, 0, 0, units, layer.padded, scratch.shares);
  for (int64_t b = 0; b < B; b++) zoneout_forward(cell.states, scratch.shares, rows[b], units, layer.H, layer.padded);
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
