// SPDX-License-Identifier: Apache-2.0
// A layer over a sequence, forward: one parallel region, in which every thread runs the schedule's steps on its rows.
#pragma once

#include "../kernels.h"
#include "barrier.h"
#include "parallel.h"
#include "plan.h"
#include "regularize.h"
#include "step.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
PYRNN_FN T* element(const View& view, int64_t t, int64_t b) {
  return static_cast<T*>(view.data) + t * view.step + b * view.row;
}

// out[0..n) = in (zeros when null), and zeros up to `padded`.
template <class T>
PYRNN_FN void copy_row(const T* in, int64_t n, T* out, int64_t padded) {
  for (int64_t i = 0; i < n; i++) out[i] = in ? in[i] : T(0);
  for (int64_t i = n; i < padded; i++) out[i] = T(0);
}

// The pairs (t, b) that the schedule leaves out are zero in y, and in the gradient of x.
template <class T>
PYRNN_FN void clear_idle(const Schedule& schedule, const View& view, int64_t B, int64_t n, Range mine) {
  for (int64_t i = mine.begin; i < mine.end; i++) {
    T* row = element<T>(view, schedule.idle[i] / B, schedule.idle[i] % B);
    for (int64_t k = 0; k < n; k++) row[k] = T(0);
  }
}

// The sequences of a row group: neighbours, so that no two groups write to one cache line but at the seams, and as many
// as make up its share of the steps. Groups never meet, so an uneven step costs nothing.
// Of those in `all`.
PYRNN_FN Range sequences_of_group(const Schedule& schedule, int64_t B, Range all, const Grid& grid, int group) {
  const int64_t before = all.size() ? schedule.before[all.begin] : 0;
  const int64_t entries = (all.end < B ? schedule.before[all.end] : schedule.entries) - before;
  const auto first = [&](int64_t g) {
    int64_t b = all.begin;
    while (b < all.end && (schedule.before[b] - before) * grid.row_groups < g * entries) b++;
    return b;
  };
  return {group == 0 ? all.begin : first(group), group + 1 == grid.row_groups ? all.end : first(group + 1)};
}
PYRNN_FN Range sequences_of_group(const Schedule& schedule, int64_t B, const Grid& grid, int group) {
  return sequences_of_group(schedule, B, {0, B}, grid, group);
}

// The entries of step i whose sequence is one of `mine`, in order.
PYRNN_FN int64_t entries_of_group(const Schedule& schedule, int64_t i, Range mine, int32_t* entries) {
  int64_t count = 0;
  for (int64_t e = schedule.offset[i]; e < schedule.offset[i + 1]; e++)
    if (schedule.batch[e] >= mine.begin && schedule.batch[e] < mine.end) entries[count++] = int32_t(e);
  return count;
}

// Backward: where a step started from zeros or from the initial state, the gradient does not reach the step before.
// ds and ds_initial (states, B, padded), of the current state and of the initial one; some units of the rows.
template <class T>
PYRNN_FN void cut_at_resets(const Schedule& schedule, const int32_t* entries, int64_t count, int64_t B, int states,
                            int64_t padded, Range units, T* ds, T* ds_initial) {
  for (int64_t n = 0; n < count; n++) {
    const int64_t source = schedule.source[entries[n]], b = schedule.batch[entries[n]];
    if (source > B) continue;
    for (int s = 0; s < states; s++)
      for (int64_t u = (s * B + b) * padded + units.begin; u < (s * B + b) * padded + units.end; u++) {
        if (source < B) ds_initial[u] += ds[u];
        ds[u] = 0;
      }
  }
}

// Of a few rows, each weight is read for little work: least_hoisted steps' rows make the input's product worth making
// before, so many entries at a time. Where x is being written it is no more than those: whoever reads y waits for as
// many.
constexpr int64_t most_hoisted = 48;
PYRNN_FN Sums sums_of(const Sizes& sizes, const Schedule& schedule) {
  if (sizes.B > few_rows) return Sums::together;
  return schedule.whole < least_hoisted ? Sums::apart : Sums::hoisted;
}

template <class T, class P>
StepCost forward_cost(const CellFunctions<T>& cell, const Sizes& sizes, const Schedule& schedule, double start) {
  const double of_h = double(cell.from_h_count * P::length(sizes.H));
  const double products = double(cell.from_x_count * P::length(sizes.I)) + of_h;
  const double read = sums_of(sizes, schedule) == Sums::hoisted ? of_h : products;
  const Blocks blocks = unit_blocks<T>(sizes.H, cell.slots);
  return {schedule.steps,
          schedule.max_rows,
          blocks.vectors,
          widest_block(cell.slots),
          tile_rows(cell.slots * widest_block(cell.slots)),
          products / 2 + 15 * cell.slots,
          read * double(blocks.vectors) * vector_bytes,
          sizes.B <= few_rows,
          start};
}

template <class Shape, class T, class P>
struct Forward {
  using Factor = typename P::Factor;
  const CellFunctions<T>& cell;
  const ForwardArgs& args;
  PackedLayer<T, P> layer;  // sizes; placed in one of the packs by each thread
  Grid grid;
  int threads;
  char* packs;
  Barrier* barriers;      // one for all, one for each row group
  PerThread<StepRow<T>> rows;  // (max_rows)
  PerThread<int32_t> entries;        // (max_rows)
  PerThread<Factor> x_rows{},
      h_rows{};  // (max_rows or most_hoisted, I), (max_rows, H) as elements, where rows are prepared
  T* factors{};             // (B, padded): dropout of h
  PerThread<T> dropped{};   // (max_rows, padded): h as the product reads it
  PerThread<T> shares{};    // (states, padded): zoneout
  PerThread<T> inputs;               // (most_hoisted, slots·padded)

  Forward(const CellFunctions<T>& cell, const ForwardArgs& args, int threads)
      : cell(cell), args(args), layer(cell, args.sizes.I, args.sizes.H), threads(threads) {}

  size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    const size_t bytes = prepacked<P> ? 0 : layer.carve(nullptr);
    packs = memory.take<char>(int64_t(bytes) * pack_copies(bytes, threads));
    barriers = memory.take<Barrier>(threads + 1);
    rows = memory.take_per_thread<StepRow<T>>(threads, args.schedule.max_rows);
    entries = memory.take_per_thread<int32_t>(threads, args.schedule.max_rows);
    const bool hoisted = sums_of(args.sizes, args.schedule) == Sums::hoisted;
    inputs = memory.take_per_thread<T>(threads, hoisted ? most_hoisted * cell.slots * layer.padded : 0);
    if (cell.from_h_count && has_dropout(args.regularization)) {
      factors = memory.take<T>(args.sizes.B * layer.padded);
      dropped = memory.take_per_thread<T>(threads, args.schedule.max_rows * layer.padded);
    }
    if (has_zoneout(args.regularization)) shares = memory.take_per_thread<T>(threads, cell.states * layer.padded);
    if (P::prepared) {
      const int64_t x_count = hoisted ? most_hoisted : args.schedule.max_rows;
      x_rows = memory.take_per_thread<Factor>(threads, x_count * P::length(layer.I));
      h_rows = memory.take_per_thread<Factor>(threads, args.schedule.max_rows * P::length(layer.H));
    }
    return memory.used;
  }

  PYRNN_FN T* state_row(int64_t row) const { return static_cast<T*>(args.states) + row * cell.states * layer.padded; }

  // Packs this thread's share of the weights it will use, and returns them.
  PackedLayer<T, P> pack(int thread) const {
    PackedLayer<T, P> mine = layer;
    if constexpr (prepacked<P>) {
      mine.carve(args.weights.packed);
      return mine;
    } else {
      const size_t bytes = mine.carve(nullptr);
      const bool shared = pack_copies(bytes, grid.row_groups) == 1;
      mine.carve(packs + (shared ? 0 : thread / grid.unit_groups * bytes));
      mine.pack(args.weights, shared ? part(layer.blocks.count, thread, grid.threads())
                                     : part(layer.blocks.count, thread % grid.unit_groups, grid.unit_groups));
      return mine;
    }
  }

  void prepare(int thread) const {
    const int64_t B = args.sizes.B;
    const Range mine = part(B + 1, thread, threads);
    for (int64_t b = mine.begin; b < mine.end; b++)
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(b < B && args.state[s].data ? element<T>(args.state[s], 0, b) : nullptr, layer.H,
                    state_row(b) + s * layer.padded, layer.padded);
    if (factors)
      for (int64_t b = mine.begin; b < smaller(mine.end, B); b++)
        dropout_factors(args.regularization, 0, b, layer.padded, factors + b * layer.padded);
    clear_idle<T>(args.schedule, args.y, B, layer.H, part(args.schedule.idles, thread, threads));
  }

  void work(int thread) const {
    prepare(thread);
    if (thread >= grid.threads()) return barriers[0].wait(threads);
    const PackedLayer<T, P> layer = pack(thread);
    barriers[0].wait(threads);
    const Schedule& schedule = args.schedule;
    const int group = thread / grid.unit_groups;
    const Range sequences = sequences_of_group(schedule, args.sizes.B, grid, group);
    const Sums sums = sums_of(args.sizes, schedule);
    StepRow<T>* row = rows[thread];
    int32_t* entry = entries[thread];
    Range ready{0, 0};  // the entries whose input's product is there
    Patience patience;
    for (int64_t i = 0; i < schedule.steps; i++) {
      const int64_t count = entries_of_group(schedule, i, sequences, entry);
      if (patience.ends((1 + count * layer.blocks.count / grid.unit_groups) * cell.slots * (layer.I + layer.H))) return;
      if (sums != Sums::hoisted && !there(schedule.offset[i + 1])) return;
      if (sums == Sums::hoisted && schedule.offset[i + 1] > ready.end) {
        const int64_t at_once = args.x_ready ? least_hoisted : most_hoisted;
        ready = {schedule.offset[i], smaller(schedule.offset[i] + at_once, schedule.entries)};
        if (!there(ready.end)) return;
        hoist(thread, layer, ready,
              step_part<Shape>(layer, 1, sums, thread % grid.unit_groups, grid.unit_groups).pieces);
      }
      for (int64_t n = 0; n < count; n++) {
        const int64_t e = entry[n], t = schedule.time[e], b = schedule.batch[e];
        const T* state = state_row(schedule.source[e]);
        const bool hoisted = sums == Sums::hoisted;
        row[n] = {hoisted ? nullptr : elements(element<T>(args.x, t, b), layer.I, x_rows[thread], n),
                  elements(seen(thread, state, b, n), layer.H, h_rows[thread], n),
                  hoisted ? input_row(thread, e - ready.begin) : layer.bias,
                  state,
                  state_row(schedule.target[e]),
                  element<T>(args.y, t, b),
                  args.gates ? static_cast<T*>(args.gates) + e * cell.saved * layer.padded : nullptr};
      }
      if (i + 1 < schedule.steps) fetch_next(i + 1, sequences);
      step_part<Shape>(layer, count, sums, thread % grid.unit_groups, grid.unit_groups)
          .for_each([&](Range blocks, Range mine) {
            step_rows<Shape>(layer, row + mine.begin, mine.size(), blocks, sums, i);
            if (has_zoneout(args.regularization))
              zone_out(thread, row + mine.begin, entry + mine.begin, mine.size(), blocks);
          });
      barriers[1 + group].wait(grid.unit_groups);
      if (args.y_ready) __atomic_store_n(args.y_ready, schedule.offset[i + 1], __ATOMIC_RELEASE);
    }
  }

  // Waits until so many entries of x are there; false where the call ends early.
  PYRNN_FN bool there(int64_t entries) const {
    if (!args.x_ready) return true;
    for (int spins = 0; __atomic_load_n(args.x_ready, __ATOMIC_ACQUIRE) < entries;) {
      if (spins++ < 4000) {
        pause_thread();
      } else {
        if (stopped()) return false;
        sched_yield();
      }
    }
    return true;
  }

  // The h that the product reads.
  PYRNN_FN const T* seen(int thread, const T* state, int64_t b, int64_t n) const {
    if (!factors) return state;
    return multiplied(state, factors + b * layer.padded, layer.padded, dropped[thread] + n * layer.padded);
  }

  void zone_out(int thread, const StepRow<T>* row, const int32_t* entry, int64_t count, Range blocks) const {
    const Range units{layer.blocks[blocks.begin].begin * lanes<T>, layer.blocks[blocks.end - 1].end * lanes<T>};
    for (int64_t n = 0; n < count; n++) {
      zoneout_shares(args.regularization, cell.states, args.schedule.time[entry[n]], args.schedule.batch[entry[n]],
                     units, layer.padded, shares[thread]);
      zoneout_forward(cell.states, shares[thread], row[n], units, layer.H, layer.padded);
    }
  }

  // Row n as the product's elements: itself, or prepared in its place.
  static PYRNN_FN const Factor* elements(const T* row, int64_t K, Factor* prepared, int64_t n) {
    if constexpr (P::prepared)
      return P::prepare(row, K, prepared + n * P::length(K));
    else
      return row;
  }

  PYRNN_FN T* input_row(int thread, int64_t n) const { return inputs[thread] + n * cell.slots * layer.padded; }

  // The input's product for these entries and blocks. A row group has all the sequences when there are so few.
  void hoist(int thread, const PackedLayer<T, P>& layer, Range entries, Range blocks) const {
    const Factor* x[most_hoisted];
    T* out[most_hoisted];
    for (int64_t n = 0; n < entries.size(); n++) {
      const int64_t e = entries.begin + n;
      x[n] = elements(element<T>(args.x, args.schedule.time[e], args.schedule.batch[e]), layer.I, x_rows[thread], n);
      out[n] = input_row(thread, n);
    }
    input_rows<Shape>(layer, x, out, entries.size(), blocks);
  }

  // Asks for the rows of x and y of the next step while this one computes: they come from memory.
  PYRNN_FN void fetch_next(int64_t i, Range sequences) const {
    for (int64_t e = args.schedule.offset[i]; e < args.schedule.offset[i + 1]; e++) {
      const int64_t t = args.schedule.time[e], b = args.schedule.batch[e];
      if (b < sequences.begin || b >= sequences.end) continue;
      const char* x = reinterpret_cast<const char*>(element<T>(args.x, t, b));
      const char* y = reinterpret_cast<const char*>(element<T>(args.y, t, b));
      for (int64_t k = 0; k < args.sizes.I * int64_t(sizeof(T)); k += 64) __builtin_prefetch(x + k, 0, 2);
      for (int64_t k = 0; k < layer.H * int64_t(sizeof(T)); k += 64) __builtin_prefetch(y + k, 1, 2);
    }
  }

  void finish() const {
    for (int64_t b = 0; b < args.sizes.B; b++)
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(state_row(args.schedule.last[b]) + s * layer.padded, layer.H, element<T>(args.state_out[s], 0, b),
                    0);
  }
};

template <class Shape, class T, class P>
Memory forward_memory(const CellFunctions<T>& cell, const ForwardArgs& args, int threads, bool save) {
  const Schedule& schedule = args.schedule;
  const size_t padded = size_t(padded_units<T>(args.sizes.H)) * sizeof(T);
  return {Forward<Shape, T, P>(cell, args, threads).carve(nullptr), size_t(schedule.state_rows) * cell.states * padded,
          save ? size_t(schedule.entries) * cell.saved * padded : 0, cell.saved};
}

template <class T, class P>
double forward_cycles(const CellFunctions<T>& cell, const ForwardArgs& args, int threads) {
  const StepCost cost = forward_cost<T, P>(cell, args.sizes, args.schedule, start_cycles());
  return estimate(cost, choose_grid(cost, threads));
}

template <class Shape, class T, class P>
void forward(const CellFunctions<T>& cell, const ForwardArgs& args, int threads) {
  using Call = Forward<Shape, T, P>;
  const StepCost cost = forward_cost<T, P>(cell, args.sizes, args.schedule, start_cycles());
  Team team(choose_grid(cost, threads).threads());
  Call call(cell, args, team.size());
  call.grid = choose_grid(cost, team.size());
  call.carve(args.workspace);
  for (int i = 0; i <= call.threads; i++) call.barriers[i] = Barrier{};
  team.run([](void* context, int thread, int) { static_cast<Call*>(context)->work(thread); }, &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
