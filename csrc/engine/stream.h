// SPDX-License-Identifier: Apache-2.0
// One step per call: the weights are packed once, the states stay packed, nothing is allocated.
#pragma once

#include "sequence_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Cell, class T>
size_t stream_pack_bytes(int64_t I, int64_t H) {
  return PackedLayer<Cell, T>(I, H).carve(nullptr);
}

// Two halves: the states before and after a step.
template <class Cell, class T>
size_t stream_state_bytes(int64_t B, int64_t H) {
  return size_t(2 * B * Cell::states * padded_units<T>(H)) * sizeof(T);
}

template <class Cell, class T>
size_t stream_scratch_bytes(int64_t B, int64_t) {
  return size_t(B) * sizeof(StepRow<T>);
}

template <class Cell, class T>
void stream_pack(const Sizes& sizes, const void* weight_ih, const void* weight_hh, const void* bias_ih,
                 const void* bias_hh, void* pack) {
  PackedLayer<Cell, T> layer(sizes.I, sizes.H);
  layer.carve(pack);
  layer.pack(static_cast<const T*>(weight_ih), static_cast<const T*>(weight_hh), static_cast<const T*>(bias_ih),
             static_cast<const T*>(bias_hh), {0, layer.blocks.count});
}

template <class Cell, class T>
struct StreamStep {
  const PackedLayer<Cell, T>& layer;
  const StepRow<T>* rows;
  int64_t B;
  Grid grid;
  int64_t pass;

  void work(int thread) const {
    const Range mine = part(B, thread / grid.unit_groups, grid.row_groups);
    step_rows<Cell, T>(layer, rows + mine.begin, mine.size(),
                       part(layer.blocks.count, thread % grid.unit_groups, grid.unit_groups),
                       B <= few_rows ? Sums::apart : Sums::together, pass);
  }
};

// Cycles below which a step is not worth another thread, nor the question whether one is near.
constexpr double shortest_shared_step = 20e3;

// y null: the output is wanted by the next layer only, which reads it from the states.
template <class Cell, class T>
void stream_step(StreamLayer* stream, int64_t B, View x, View y, int threads) {
  PackedLayer<Cell, T> layer(stream->I, stream->H);
  layer.carve(stream->pack);
  StepRow<T>* rows = static_cast<StepRow<T>*>(stream->scratch);
  const int64_t size = Cell::states * layer.padded;
  const T* old = static_cast<const T*>(stream->states) + stream->parity * B * size;
  T* next = static_cast<T*>(stream->states) + (1 - stream->parity) * B * size;
  for (int64_t b = 0; b < B; b++)
    rows[b] = {element<T>(x, 0, b), old + b * size, next + b * size, y.data ? element<T>(y, 0, b) : next + b * size,
               nullptr};
  stream->parity = 1 - stream->parity;

  Schedule schedule{};
  schedule.steps = 1;
  schedule.max_rows = B;
  StepCost cost = forward_cost<Cell, T>({1, B, stream->I, stream->H}, schedule, 0);
  const bool alone = threads == 1 || estimate(cost, {1, 1}) < shortest_shared_step;
  if (!alone) cost.start = start_cycles();
  Team team(alone ? 1 : choose_grid(cost, threads).threads());
  StreamStep<Cell, T> step{layer, rows, B, alone ? Grid{1, 1} : choose_grid(cost, team.size()), stream->parity};
  team.run([](void* context, int thread, int) { static_cast<StreamStep<Cell, T>*>(context)->work(thread); }, &step);
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
