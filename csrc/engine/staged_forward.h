// SPDX-License-Identifier: Apache-2.0
// A staged layer over a sequence, forward.
#pragma once

#include "staged.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
struct StagedForward : StagedRows<T> {
  using Rows = StagedRows<T>;
  using Rows::cell, Rows::reading, Rows::I, Rows::H, Rows::P, Rows::padded, Rows::norm, Rows::projected, Rows::apart,
      Rows::early, Rows::late, Rows::reads, Rows::heads;
  const ForwardArgs& args;
  int threads;

  PackedMatrix<T> from_x[max_blocks], from_h[max_blocks];  // by place in the weights
  PackedMatrix<T> project;
  T *bias, *params;                                      // (slots, padded), (params, padded)
  T* factors{};                                          // (B, padded): dropout of h
  PerThread<T> fresh{};  // (max_rows, padded): that of a step alone, or of the candidate
  T* ordered{};  // weight_hh with zeros for what does not count
  Barrier* barrier;
  PerThread<StepRow<T>> rows;  // (max_rows)
  PerThread<int32_t> entries;  // (max_rows)
  PerThread<T> slots, products, seen,
      shares{};  // (max_rows, slots, padded), the same, (max_rows, reads, …), (states, …)
  PerThread<T> hidden{};  // (max_rows, padded): what is projected
  PerThread<T> parts{};  // (apart_rows, padded): what is not kept

  StagedForward(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const ForwardArgs& args, int threads)
      : Rows(cell, reading, args.sizes, args.weights, args.variation, args.regularization), args(args),
        threads(threads) {}

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    const int64_t most = args.schedule.max_rows, widest = larger(cell.slots, larger(cell.from_x_count, early + late));
    for (int i = 0; i < cell.from_x_count; i++) from_x[i].carve(carver, I, H);
    for (int i = 0; i < cell.from_h_count; i++) from_h[i].carve(carver, P, H, heads);
    if (projected) project.carve(carver, H, P);
    bias = carver.take<T>(cell.slots * padded);
    params = carver.take<T>(cell.params * padded);
    if (drops_afresh(args.regularization))
      fresh = carver.take_per_thread<T>(threads, most * padded);
    else if (has_dropout(args.regularization))
      factors = carver.take<T>(args.sizes.B * padded);
    if (cell.ordered) ordered = carver.take<T>(cell.from_h_count * H * H);
    barrier = carver.take<Barrier>(1);
    rows = carver.take_per_thread<StepRow<T>>(threads, most);
    entries = carver.take_per_thread<int32_t>(threads, most);
    slots = carver.take_per_thread<T>(threads, most * cell.slots * padded);
    products = carver.take_per_thread<T>(threads, most * widest * padded);
    seen = carver.take_per_thread<T>(threads, most * larger(1, reads) * padded);
    if (has_zoneout(args.regularization)) shares = carver.take_per_thread<T>(threads, cell.states * padded);
    if (projected) hidden = carver.take_per_thread<T>(threads, most * padded);
    if (apart) parts = carver.take_per_thread<T>(threads, Rows::apart_rows * padded);
    return carver.used;
  }

  PYRNN_FN T* state_row(int64_t row) const { return static_cast<T*>(args.states) + row * cell.states * padded; }

  void prepare(int thread) const {
    const Weights& w = args.weights;
    const auto pack = [&](const PackedMatrix<T>& matrix, const void* weight, int i) {
      matrix.pack_transposed(static_cast<const T*>(weight) + i * matrix.size(), matrix.K,
                             part(matrix.blocks(), thread, threads));
    };
    for (int i = 0; i < cell.from_x_count; i++) pack(from_x[i], w.weight_ih, i);
    if (ordered) {
      const Range blocks = part(from_h[0].blocks(), thread, threads);
      this->order(w, w.weight_hh, {blocks.begin * PackedMatrix<T>::width, blocks.end * PackedMatrix<T>::width}, {0, H},
                  ordered);
    }
    for (int i = 0; i < cell.from_h_count; i++) pack(from_h[i], ordered ? ordered : w.weight_hh, i);
    if (projected) pack(project, w.weight_hr, 0);
    const Blocks units(H, lanes<T>, 1);
    const Range mine = part(units.count, thread, threads);
    pack_params(static_cast<const T*>(w.params), cell.params, units, mine, padded, params);
    for (int64_t u = mine.begin * lanes<T>; u < mine.end * lanes<T>; u++) {
      for (int s = 0; s < cell.slots; s++) bias[s * padded + u] = 0;
      const auto add = [&](const void* from, const int* at, int count) {
        for (int i = 0; from && u < H && i < count; i++)
          bias[at[i] * padded + u] += static_cast<const T*>(from)[i * H + u];
      };
      add(w.bias_ih, cell.from_x, cell.from_x_count);
      add(w.bias_hh, cell.from_h, cell.from_h_count);
    }
    const int64_t B = args.sizes.B;
    const Range sequences = part(B + 1, thread, threads);
    for (int64_t b = sequences.begin; b < sequences.end; b++) {
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(b < B && args.state[s].data ? element<T>(args.state[s], 0, b) : nullptr, this->width(s),
                    state_row(b) + s * padded, padded);
      if (factors && b < B) dropout_factors(args.regularization, 0, b, padded, factors + b * padded);
    }
    clear_idle<T>(args.schedule, args.y, B, P, part(args.schedule.idles, thread, threads));
  }

  // Adds to the slots of `count` rows the products of the weights first .. last with in(n, i), normalised where asked.
  template <class In>
  void add(int thread, int64_t count, const PackedMatrix<T>* weights, const int* slot, int first, int last,
           const void* gain, int64_t kept_at, int inverse_at, const In& in) const {
    const StepRow<T>* row = rows[thread];
    const auto slots_of = [&](int64_t n) { return slots[thread] + n * cell.slots * padded; };
    const auto of = [&](int i) { return [&in, i](int64_t n) { return in(n, i); }; };
    if (first == last) return;
    if (!norm) {
      for (int i = first; i < last; i++)
        weights[i].multiply(count, of(i), [&](int64_t n) { return slots_of(n) + slot[i] * padded; }, true);
      return;
    }
    const int number = last - first;
    const auto product = [&](int64_t n) { return products[thread] + n * number * padded; };
    for (int i = first; i < last; i++)
      weights[i].multiply(count, of(i), [&](int64_t n) { return product(n) + (i - first) * padded; }, false);
    for (int64_t n = 0; n < count; n++) {
      T* x = product(n);
      const Normal<T> normal = normal_of(x, number, H, padded);
      T* kept = row[n].gates ? row[n].gates + kept_at + first * padded : nullptr;
      each_vector<T>(number, H, [&](int i, int64_t u, int64_t k, auto) {
        T* to = slots_of(n) + slot[first + i] * padded + u;
        const Vec<T> v = normal.of(load_tail(x + i * padded + u, k));
        store_tail(to, load_tail(to, k) + load_tail(static_cast<const T*>(gain) + (first + i) * H + u, k) * v, k);
        if (kept) store_tail(kept + i * padded + u, v, k);
      });
      if (kept) row[n].gates[this->inverses() + inverse_at] = normal.inverse[0];
    }
  }

  void step(int thread, int64_t i, Range sequences) const {
    const Schedule& schedule = args.schedule;
    int32_t* entry = entries[thread];
    StepRow<T>* row = rows[thread];
    const int64_t count = entries_of_group(schedule, i, sequences, entry);
    Varied<T> varied = this->varied;
    const Units<T> units{H, padded, params, args.variation.varied ? &varied : nullptr};
    const bool afresh = drops_afresh(args.regularization);
    const auto factor = [&](int64_t n) -> const T* {  // of the h that the product of row n reads
      if (factors) return factors + schedule.batch[entry[n]] * padded;
      return afresh && has_dropout(args.regularization) ? fresh[thread] + n * padded : nullptr;
    };
    for (int64_t n = 0; n < count; n++) {
      const int64_t e = entry[n], t = schedule.time[e], b = schedule.batch[e];
      const T* state = state_row(schedule.source[e]);
      if (afresh) dropout_factors(args.regularization, t, b, padded, fresh[thread] + n * padded);
      const T* h = factor(n) ? multiplied(state, factor(n), padded, seen[thread] + n * padded) : state;
      row[n] = {element<T>(args.x, t, b),
                h,
                nullptr,
                state,
                state_row(schedule.target[e]),
                element<T>(args.y, t, b),
                args.gates ? static_cast<T*>(args.gates) + e * this->kept() * padded : nullptr};
      copy_row(bias, cell.slots * padded, slots[thread] + n * cell.slots * padded, 0);
    }
    const auto x = [&](int64_t n, int) { return static_cast<const T*>(row[n].x); };
    const auto h = [&](int64_t n, int) { return static_cast<const T*>(row[n].h); };
    const auto read = [&](int64_t n, int i) { return seen[thread] + (n * reads + this->read_of(i)) * padded; };
    add(thread, count, from_x, cell.from_x, 0, cell.from_x_count, args.weights.norm_ih, this->normalised_x(), 0, x);
    add(thread, count, from_h, cell.from_h, 0, early, args.weights.norm_hh, this->normalised_h(), 1, h);
    if (late) {
      for (int64_t n = 0; n < count; n++) {
        T* out = seen[thread] + n * reads * padded;
        reading.read(units, slots[thread] + n * cell.slots * padded, row[n].state, out);
        for (int k = 0; factor(n) && k < reads; k++, out += padded) multiplied(out, factor(n), padded, out);
      }
      add(thread, count, from_h, cell.from_h, early, early + late, args.weights.norm_hh, this->normalised_h(), 2, read);
    }
    if (projected)
      for (int64_t n = 0; n < count; n++)
        row[n].y = row[n].gates ? row[n].gates + this->unprojected() : hidden[thread] + n * padded;
    if (afresh && !has_dropout(args.regularization)) varied.mask = fresh[thread];
    cell.forward(units, {slots[thread], count, 0, padded / lanes<T>}, row);
    for (int64_t n = 0; apart && n < count; n++)
      this->compose(row[n].state_new, row[n].y, row[n].gates ? row[n].gates + this->apart_at() : parts[thread]);
    if (projected) {
      project.multiply(
          count, [&](int64_t n) { return static_cast<const T*>(row[n].y); },
          [&](int64_t n) { return row[n].state_new; }, false);
      for (int64_t n = 0; n < count; n++) {
        row[n].y = element<T>(args.y, schedule.time[entry[n]], schedule.batch[entry[n]]);
        copy_row<T>(row[n].state_new, P, row[n].y, 0);
        for (int64_t u = P; u < padded; u++) row[n].state_new[u] = 0;
      }
    }
    if (!has_zoneout(args.regularization)) return;
    for (int64_t n = 0; n < count; n++) {
      zoneout_shares(args.regularization, cell.states, schedule.time[entry[n]], schedule.batch[entry[n]], {0, padded},
                     padded, shares[thread]);
      zoneout_forward(cell.states, shares[thread], row[n], {0, padded}, P, padded);
    }
  }

  void work(int thread) const {
    prepare(thread);
    barrier->wait(threads);
    const Range sequences = sequences_of_group(args.schedule, args.sizes.B, {threads, 1}, thread);
    for (int64_t i = 0; i < args.schedule.steps && !stopped(); i++) step(thread, i, sequences);
  }

  void finish() const {
    for (int64_t b = 0; b < args.sizes.B; b++)
      for (int s = 0; s < cell.states; s++)
        copy_row<T>(state_row(args.schedule.last[b]) + s * padded, this->width(s), element<T>(args.state_out[s], 0, b),
                    0);
  }
};

template <class T>
Memory staged_forward_memory(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const ForwardArgs& args,
                             int threads, bool save) {
  const StagedForward<T> call(cell, reading, args, threads);
  const size_t padded = size_t(call.padded) * sizeof(T);
  return {most_workspace(threads, [&](int n) { return StagedForward<T>(cell, reading, args, n).carve(nullptr); }),
          size_t(args.schedule.state_rows) * cell.states * padded,
          save ? size_t(args.schedule.entries) * call.kept() * padded : 0, call.kept()};
}

// Cycles of a layer's products, of which a core does two vectors at once.
template <class T>
double staged_cycles(const Sizes& sizes, const Schedule& schedule, const CellFunctions<T>& cell, int64_t heads) {
  const int64_t products = cell.from_x_count * sizes.I + cell.from_h_count * sizes.H / larger(1, heads);
  return double(schedule.entries) * double(sizes.H) * double(products) / lanes<T> / 2;
}

// Threads have whole sequences, where there is work enough to wake them for.
inline int staged_team(const Sizes& sizes, double cycles, int threads) {
  return cycles > 2 * start_cycles() ? int(larger(1, smaller(threads, sizes.B))) : 1;
}

template <class T>
double staged_forward_cycles(const CellFunctions<T>& cell, const ForwardArgs& args, int threads) {
  const double cycles = staged_cycles(args.sizes, args.schedule, cell, args.weights.heads);
  return cycles / staged_team(args.sizes, cycles, threads);
}

template <class T>
void staged_forward(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const ForwardArgs& args,
                    int threads) {
  using Call = StagedForward<T>;
  const double cycles = staged_cycles(args.sizes, args.schedule, cell, args.weights.heads);
  Team team(staged_team(args.sizes, cycles, threads));
  Call call(cell, reading, args, team.size());
  call.carve(args.workspace);
  *call.barrier = Barrier{};
  team.run([](void* context, int thread, int) { static_cast<Call*>(context)->work(thread); }, &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
