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

// What every thread of a step reads.
template <class T, class P>
struct StreamStep {
  PackedLayer<T, P> layer;
  const StepRow<T>* rows;  // (B)
  int64_t B;
  Grid grid;
  int64_t pass;
};

template <class T, class P>
struct StreamScratch {
  StreamStep<T, P>* step;  // beside the rows: a worker fetches both at once
  StepRow<T>* rows;        // (B)
  T* shares;               // (states, padded): zoneout
  typename P::Factor *x_rows, *h_rows;  // (B, I), (B, H) as elements, where rows are prepared
  PYRNN_FN size_t carve(void* base, int64_t B, int64_t I, int64_t H) {
    Carver memory{static_cast<char*>(base)};
    step = memory.take<StreamStep<T, P>>(1);
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

// Asks for rows that another thread has written, all lines at once instead of one after the other.
template <class T>
PYRNN_FN void fetch_rows(const StepRow<T>* rows, int64_t count, int64_t x_bytes, int64_t h_bytes) {
  for (int64_t i = 0; i < count; i++) {
    for (int64_t k = 0; k < x_bytes; k += 64) __builtin_prefetch(static_cast<const char*>(rows[i].x) + k);
    for (int64_t k = 0; k < h_bytes; k += 64) __builtin_prefetch(static_cast<const char*>(rows[i].h) + k);
  }
}

template <class Shape, class T, class P>
void stream_work(const StreamStep<T, P>& step, int thread) {
  const PackedLayer<T, P>& layer = step.layer;
  const Range mine = part(step.B, thread / step.grid.unit_groups, step.grid.row_groups);
  const Sums sums = step.B <= few_rows ? Sums::apart : Sums::together;
  if (step.grid.threads() > 1) {
    constexpr int64_t size = sizeof(typename P::Factor);
    fetch_rows(step.rows + mine.begin, mine.size(), P::length(layer.I) * size, P::length(layer.H) * size);
  }
  step_part<Shape>(layer, mine.size(), sums, thread % step.grid.unit_groups, step.grid.unit_groups)
      .for_each([&](Range blocks, Range shared) {
        step_rows<Shape>(layer, step.rows + mine.begin + shared.begin, shared.size(), blocks, sums, step.pass);
      });
}

// Cycles below which a step is not worth another thread, nor the question whether one is near.
constexpr double shortest_shared_step = 20e3;

// Estimated cycles of one step on threads that spin already. Of few rows the weights decide: beyond a first cache they
// come at so many bytes a cycle. The least that handing over costs was measured on a Zen 4: 110 ns where two processors
// share a cache.
template <class T, class P>
double stream_cycles(const CellFunctions<T>& cell, const Sizes& sizes, Grid grid) {
  constexpr double l1_bytes = 28e3, bytes_per_cycle = 32, hand_over = 600, each_more = 150;
  Schedule schedule{};
  schedule.steps = 1;
  schedule.max_rows = sizes.B;
  StepCost cost = forward_cost<T, P>(cell, sizes, schedule, 0);
  cost.barrier = 0;
  const int64_t blocks = ceil_div(cost.vectors, cost.widest);
  const double bytes = cost.bytes * double(ceil_div(blocks, grid.unit_groups)) / double(blocks);
  const double reading = bytes > l1_bytes ? bytes / bytes_per_cycle : 0, cycles = estimate(cost, grid);
  const int others = grid.threads() - 1;
  return (cycles > reading ? cycles : reading) + (others ? hand_over + each_more * (others - 1) : 0);
}

// Cycles that a step gains for certain when it gains more.
constexpr double doubtful_gain = 12e3;

template <class T, class P>
void plan_stream(const CellFunctions<T>& cell, StreamLayer* stream, int64_t B, int threads) {
  const Sizes sizes{1, B, stream->I, stream->H};
  const int64_t blocks = unit_blocks<T>(stream->H, cell.slots).count;
  const double alone = stream_cycles<T, P>(cell, sizes, {1, 1});
  double least = alone;
  Grid best{1, 1};
  for (int units = 1; units <= smaller(threads, blocks); units++)
    for (int rows = 1; rows <= (B <= few_rows ? 1 : smaller(threads / units, B)); rows++) {
      const double cycles = stream_cycles<T, P>(cell, sizes, {rows, units});
      if (cycles >= least) continue;
      least = cycles;
      best = {rows, units};
    }
  stream->threads = threads;
  stream->row_groups = best.row_groups;
  stream->unit_groups = best.unit_groups;
  stream->gain = alone - least;
  stream->shared = 1;
  stream->trial = best.threads() > 1 && stream->gain < doubtful_gain ? 0 : -1;
}

// Whether handing over is worth its price depends on where the system has put the threads, which changes: between
// processors that share no cache it costs half a microsecond, and so does what each reads of the other's. So a gain
// that this may eat up is put to trial: some steps alone, as many shared, the first of each left out, because there the
// weights move; and again after so many more.
constexpr int64_t trial_steps = 16, trial_interval = 8192;

class StreamTrial {
 public:
  explicit StreamTrial(StreamLayer* stream)
      : stream_(stream), on_(stream->trial >= 0 && stream->trial < 2 * trial_steps) {
    if (on_) start_ = ticks();
  }
  int threads() const {
    const bool shared = on_ ? stream_->trial >= trial_steps : stream_->shared;
    return shared ? stream_->row_groups * stream_->unit_groups : 1;
  }
  // Of a step that had the threads it was to have, or had not: a trial waits for workers.
  void ends(bool complete) {
    if (stream_->trial < 0) return;
    if (!on_) {
      if (++stream_->trial == trial_interval) stream_->trial = 0;
      return;
    }
    if (!complete) return;
    const int64_t i = stream_->trial % trial_steps, side = stream_->trial / trial_steps;
    if (i == trial_steps / 2) stream_->taken[side] = 0;
    if (i >= trial_steps / 2) stream_->taken[side] += ticks() - start_;
    if (++stream_->trial == 2 * trial_steps) stream_->shared = stream_->taken[1] < stream_->taken[0];
  }

 private:
  StreamLayer* stream_;
  bool on_;
  unsigned long long start_ = 0;
};

// y null: the output is wanted by the next layer only, which reads it from the states.
template <class Shape, class T, class P>
void stream_step(const CellFunctions<T>& cell, StreamLayer* stream, int64_t B, View x, View y, int threads) {
  if (stream->threads != threads) plan_stream<T, P>(cell, stream, B, threads);
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

  Grid grid{stream->row_groups, stream->unit_groups};
  StreamTrial trial(stream);
  Team team(trial.threads(), stream->gain);
  if (team.size() < grid.threads()) grid = {1, team.size()};
  const StreamStep<T, P> step{layer, rows, B, grid, stream->parity};
  __builtin_memcpy(static_cast<void*>(scratch.step), &step, sizeof(step));
  const bool complete = team.share(
      [](void* context, int thread, int) {
        stream_work<Shape>(*static_cast<const StreamStep<T, P>*>(context), thread);
      },
      scratch.step);
  trial.ends(complete && team.size() == trial.threads());
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
