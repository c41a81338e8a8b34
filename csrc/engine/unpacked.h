// SPDX-License-Identifier: Apache-2.0
// A few steps of a few sequences on the weights as they lie: copying them into panels would cost more than it saves.
#pragma once

#include "stream.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Vectors that each row of the weights is summed in, so that enough additions are under way.
template <class T>
constexpr int row_parts = lanes<T> < 8 ? 8 / lanes<T> : 1;

// A vector of neighbouring rows of a weight, and what they are multiplied with.
template <class T>
struct RowBlock {
  const T *weight, *x;
  int64_t K;
};

// sums[i] += row i · x, for L rows.
template <class T>
PYRNN_FN void add_products(Vec<T> (&sums)[row_parts<T> * lanes<T>], RowBlock<T> rows) {
  constexpr int L = lanes<T>, parts = row_parts<T>;
  const int64_t K = rows.K, K3 = 3 * K;
  const T* w[(L + 3) / 4];
  PYRNN_UNROLL for (int q = 0; q < (L + 3) / 4; q++) w[q] = rows.weight + 4 * q * K;
  const auto row = [&](int i, int64_t k) { return w[i / 4] + k + (i % 4 == 3 ? K3 : i % 4 * K); };
  int64_t k = 0;
  for (; k + L * parts <= K; k += L * parts) PYRNN_UNROLL for (int part = 0; part < parts; part++) {
      const Vec<T> x = load_unaligned(rows.x + k + part * L);
      PYRNN_UNROLL for (int i = 0; i < L; i++) sums[part * L + i] += x * load_unaligned(row(i, k + part * L));
    }
  for (; k < K; k += L) {
    const Vec<T> x = load_tail(rows.x + k, K - k);
    PYRNN_UNROLL for (int i = 0; i < L; i++) sums[i] += x * load_tail(row(i, k), K - k);
  }
}

// Lane i: the sum of the lanes of sums[i].
template <class T, int n>
PYRNN_FN Vec<T> sums_of_lanes(Vec<T>* sums) {
  if constexpr (n == 1)
    return sums[0];
  else {
    PYRNN_UNROLL for (int i = 0; i < n / 2; i++)
        sums[i] = interleave<T>(sums[i], sums[i + n / 2], 0) + interleave<T>(sums[i], sums[i + n / 2], lanes<T> / 2);
    return sums_of_lanes<T, n / 2>(sums);
  }
}

// The products of `units` <= L neighbouring units' rows, lane by lane, zero beyond; b's are added when there are any.
template <class T>
__attribute__((noinline)) Vec<T> row_products(RowBlock<T> a, RowBlock<T> b, int64_t units) {
  constexpr int L = lanes<T>, parts = row_parts<T>;
  if (units == L) {
    Vec<T> sums[parts * L] = {};
    if (a.weight) add_products<T>(sums, a);
    if (b.weight) add_products<T>(sums, b);
    PYRNN_UNROLL for (int part = 1; part < parts; part++) PYRNN_UNROLL for (int i = 0; i < L; i++)
        sums[i] += sums[part * L + i];
    return sums_of_lanes<T, L>(sums);
  }
  Vec<T> result{};
  const auto add = [&](RowBlock<T> rows) {
    if (!rows.weight) return;
    for (int i = 0; i < units; i++) {
      Vec<T> sum{};
      for (int64_t k = 0; k < rows.K; k += L)
        sum += load_tail(rows.x + k, rows.K - k) * load_tail(rows.weight + i * rows.K + k, rows.K - k);
      result[i] += sum_of_lanes<T>(sum);
    }
  };
  add(a);
  add(b);
  return result;
}

// The most entries of such a call, and how large the weights are for the last of them. Measured on a Zen 5: at four
// entries of weights beyond a first cache, copying them costs about as much as it saves with vectors of 16 or 32 bytes.
constexpr int64_t most_unpacked = 4, few_unpacked = 2;
constexpr int64_t large_weights = 256 << 10;

template <class T>
bool is_unpacked(const CellFunctions<T>& cell, const ForwardArgs& args) {
  if (has_zoneout(args.regularization) || has_dropout(args.regularization)) return false;
  const int64_t numbers = (cell.from_x_count * args.sizes.I + cell.from_h_count * args.sizes.H) * args.sizes.H;
  const bool more = vector_bytes == 64 || numbers * int64_t(sizeof(T)) >= large_weights;
  return args.schedule.whole <= (more ? most_unpacked : few_unpacked);
}

// Which of a product's blocks of H rows adds into a slot; -1: none.
PYRNN_FN int64_t block_of_slot(const int* slots, int count, int slot) {
  for (int i = 0; i < count; i++)
    if (slots[i] == slot) return i;
  return -1;
}

template <class T>
struct Unpacked {
  const CellFunctions<T>& cell;
  const ForwardArgs& args;
  int64_t I, H, padded;
  int threads;
  Barrier* barrier;
  T* params;  // (params, padded)

  Unpacked(const CellFunctions<T>& cell, const ForwardArgs& args, int threads)
      : cell(cell), args(args), I(args.sizes.I), H(args.sizes.H), padded(padded_units<T>(H)), threads(threads) {}

  size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    barrier = memory.take<Barrier>(1);
    params = memory.take<T>(cell.params * padded);
    return memory.used;
  }

  PYRNN_FN T* state_row(int64_t row) const { return static_cast<T*>(args.states) + row * cell.states * padded; }

  void prepare() const {
    const int64_t B = args.sizes.B;
    *barrier = Barrier{};
    for (int64_t b = 0; b <= B; b++)
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(b < B && args.state[s].data ? element<T>(args.state[s], 0, b) : nullptr, H,
                    state_row(b) + s * padded, padded);
    for (int i = 0; i < cell.params; i++)
      copy_row<T>(static_cast<const T*>(args.weights.params) + i * H, H, params + i * padded, padded);
    clear_idle<T>(args.schedule, args.y, B, H, {0, args.schedule.idles});
  }

  // What the units from `first` on get of a slot at entry e.
  PYRNN_FN Vec<T> slot_sum(int slot, int64_t e, int64_t first) const {
    const int64_t units = smaller(lanes<T>, H - first);
    Vec<T> bias{};
    const auto take = [&](int64_t block, const void* weight, const void* biases, const T* from, int64_t K) {
      if (block < 0) return RowBlock<T>{};
      const int64_t row = block * H + first;
      if (biases) bias += load_tail(static_cast<const T*>(biases) + row, units);
      return RowBlock<T>{static_cast<const T*>(weight) + row * K, from, K};
    };
    const Schedule& schedule = args.schedule;
    const Weights& weights = args.weights;
    const RowBlock<T> x = take(block_of_slot(cell.from_x, cell.from_x_count, slot), weights.weight_ih, weights.bias_ih,
                               element<T>(args.x, schedule.time[e], schedule.batch[e]), I);
    const RowBlock<T> h = take(block_of_slot(cell.from_h, cell.from_h_count, slot), weights.weight_hh, weights.bias_hh,
                               state_row(schedule.source[e]), H);
    return bias + row_products<T>(x, h, units);
  }

  // Slot by slot, because its rows are in L1 for the second entry.
  void step(Range entries, Range vectors) const {
    constexpr int L = lanes<T>;
    const Schedule& schedule = args.schedule;
    StepRow<T> rows[most_unpacked];
    for (int64_t e = entries.begin; e < entries.end; e++)
      rows[e - entries.begin] = {nullptr,
                                 nullptr,
                                 nullptr,
                                 state_row(schedule.source[e]),
                                 state_row(schedule.target[e]),
                                 element<T>(args.y, schedule.time[e], schedule.batch[e]),
                                 args.gates ? static_cast<T*>(args.gates) + e * cell.saved * padded : nullptr};
    for (int64_t v = vectors.begin; v < vectors.end; v++) {
      alignas(64) T slots[most_unpacked * max_slots * L];
      for (int slot = 0; slot < cell.slots; slot++)
        for (int64_t e = entries.begin; e < entries.end; e++)
          store(slots + ((e - entries.begin) * cell.slots + slot) * L, slot_sum(slot, e, v * L));
      cell.forward({H, padded, params}, {slots, entries.size(), v * L, 1}, rows);
    }
  }

  void work(int thread) const {
    const Schedule& schedule = args.schedule;
    for (int64_t i = 0; i < schedule.steps; i++) {
      if (i > 0) barrier->wait(threads);
      step({schedule.offset[i], schedule.offset[i + 1]}, part(padded / lanes<T>, thread, threads));
    }
  }

  void finish() const {
    for (int64_t b = 0; b < args.sizes.B; b++)
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(state_row(args.schedule.last[b]) + s * padded, H, element<T>(args.state_out[s], 0, b), 0);
  }
};

template <class T>
Memory unpacked_memory(const CellFunctions<T>& cell, const ForwardArgs& args, int threads, bool save) {
  const size_t row = size_t(padded_units<T>(args.sizes.H)) * sizeof(T);
  return {Unpacked<T>(cell, args, threads).carve(nullptr), size_t(args.schedule.state_rows) * cell.states * row,
          save ? size_t(args.schedule.entries) * cell.saved * row : 0, cell.saved};
}

template <class T>
void unpacked_forward(const CellFunctions<T>& cell, const ForwardArgs& args, int threads) {
  const int64_t products = cell.from_x_count * args.sizes.I + cell.from_h_count * args.sizes.H;
  StepCost cost{args.schedule.steps,
                args.schedule.max_rows,
                ceil_div(args.sizes.H, lanes<T>),
                1,
                1,
                double(products) / 2 + 30 * cell.slots,
                double(products * args.sizes.H) * double(sizeof(T)),
                true,
                0};
  const bool alone = threads == 1 || estimate(cost, {1, 1}) < shortest_shared_step;
  if (!alone) cost.start = start_cycles();
  Team team(alone ? 1 : choose_grid(cost, threads).threads());
  Unpacked<T> call(cell, args, team.size());
  call.carve(args.workspace);
  call.prepare();
  team.run([](void* context, int thread, int) { static_cast<Unpacked<T>*>(context)->work(thread); }, &call);
  call.finish();
  if (!alone) note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
