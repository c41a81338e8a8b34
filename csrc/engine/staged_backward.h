// SPDX-License-Identifier: Apache-2.0
// A staged layer over a sequence, backward, in chunks of steps: the loop keeps the gradients of the slots and of the
// products, the weights' come after it, as large products whose sums have one order for every number of threads.
#pragma once

#include "staged_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Entries in a chunk.
inline int64_t staged_chunk_entries(const Schedule& schedule) {
  return larger(schedule.max_rows, smaller(1024, schedule.whole));
}

template <class T>
struct StagedBackward : StagedRows<T> {
  using Rows = StagedRows<T>;
  using Rows::cell, Rows::reading, Rows::I, Rows::H, Rows::P, Rows::padded, Rows::norm, Rows::projected, Rows::apart,
      Rows::early, Rows::late, Rows::reads, Rows::heads;
  const BackwardArgs& args;
  int threads, planes, products;
  int64_t capacity;
  int64_t spaced, plane;  // distance between entries and planes of da and dproducts: an odd number of vectors keeps
                          // the entries of a unit, which the weights' gradients read in turn, apart in the cache
  int64_t chunk_first = 0, chunk_count = 0;  // its entries; arrays of entries below begin with the first
  bool add = false;  // the weights' gradients to those of the chunks after it

  PackedMatrix<T> to_x[max_blocks], to_h[max_blocks], project;
  T* params;  // (params, padded)
  T *ds, *ds_initial;  // (states, B, padded): gradient of the current state; of the initial one, from resets
  T* da;  // (planes, entries, spaced): of the slots, then of the parameters
  T* dproducts{};  // (products, entries, spaced): of x's and h's products, where they were normalised
  T *factors{}, *h_seen{}, *read{};  // (B, padded), (entries, padded), (entries, reads, padded)
  T *dprojected{}, *dnormed{};  // (entries, padded): of h as projected, of c as normalised
  T* ordered{};  // weight_hh with zeros for what does not count
  Barrier* barrier;
  Queue queue;
  PerThread<int32_t> entries;  // (max_rows)
  PerThread<T> dseen, shares{}, panel;  // (max_rows, reads, padded), (1 + max_rows, states, padded), (entries, panel)
  PerThread<T> fresh{}, scratch{};  // (max_rows, padded), (padded)

  StagedBackward(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const BackwardArgs& args, int threads)
      : Rows(cell, reading, args.sizes, args.weights, args.variation, args.regularization), args(args),
        threads(threads), planes(cell.slots + cell.params), products(cell.from_x_count + cell.from_h_count),
        capacity(staged_chunk_entries(args.schedule)), spaced((padded / lanes<T> | 1) * lanes<T>),
        plane(capacity * spaced) {}

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    const int64_t all = capacity, B = args.sizes.B;
    // First, because another segment finds these where they are.
    ds = carver.take<T>(cell.states * B * padded);
    ds_initial = carver.take<T>(cell.states * B * padded);
    for (int i = 0; i < cell.from_x_count; i++) to_x[i].carve(carver, H, I);
    for (int i = 0; i < cell.from_h_count; i++) to_h[i].carve(carver, H, P, heads);
    if (projected) project.carve(carver, P, H);
    params = carver.take<T>(cell.params * padded);
    da = carver.take<T>(planes * plane);
    if (norm) dproducts = carver.take<T>(products * plane);
    if (has_dropout(args.regularization)) {
      if (!drops_afresh(args.regularization)) factors = carver.take<T>(B * padded);
      h_seen = carver.take<T>(all * padded);
    }
    if (drops_afresh(args.regularization)) fresh = carver.take_per_thread<T>(threads, args.schedule.max_rows * padded);
    if (apart) scratch = carver.take_per_thread<T>(threads, padded);
    if (args.weights.norm_c) dnormed = carver.take<T>(all * padded);
    if (late) read = carver.take<T>(all * reads * padded);
    if (projected) dprojected = carver.take<T>(all * padded);
    if (cell.ordered) ordered = carver.take<T>(cell.from_h_count * H * H);
    barrier = carver.take<Barrier>(1);
    queue.carve(carver, threads);
    entries = carver.take_per_thread<int32_t>(threads, args.schedule.max_rows);
    dseen = carver.take_per_thread<T>(threads, args.schedule.max_rows * larger(1, reads) * padded);
    if (has_zoneout(args.regularization))
      shares = carver.take_per_thread<T>(threads, (1 + args.schedule.max_rows) * cell.states * padded);
    panel = carver.take_per_thread<T>(threads, all * panel_vectors * lanes<T>);
    return carver.used;
  }

  PYRNN_FN T* ds_row(int state, int64_t b) const { return ds + (state * args.sizes.B + b) * padded; }
  PYRNN_FN T* da_row(int64_t e, int i) const { return da + i * plane + (e - chunk_first) * spaced; }
  PYRNN_FN const T* state_row(int64_t row) const {
    return static_cast<const T*>(args.states) + row * cell.states * padded;
  }
  PYRNN_FN const T* gates_row(int64_t e) const { return static_cast<const T*>(args.gates) + e * this->kept() * padded; }
  PYRNN_FN const T* x_row(int64_t e) const { return element<T>(args.x, args.schedule.time[e], args.schedule.batch[e]); }
  PYRNN_FN const T* h_row(int64_t e) const { return h_seen ? seen_row(e) : state_row(args.schedule.source[e]); }
  PYRNN_FN T* seen_row(int64_t e) const { return h_seen + (e - chunk_first) * padded; }
  PYRNN_FN T* read_row(int64_t e) const { return read + (e - chunk_first) * reads * padded; }
  PYRNN_FN T* projected_row(int64_t e) const { return dprojected + (e - chunk_first) * padded; }

  // Gradients of the products.
  PYRNN_FN T* dproduct(int64_t e, int i) const { return dproducts + i * plane + (e - chunk_first) * spaced; }
  PYRNN_FN T* dx_product(int64_t e, int i) const { return norm ? dproduct(e, i) : da_row(e, cell.from_x[i]); }
  PYRNN_FN T* dh_product(int64_t e, int i) const {
    return norm ? dproduct(e, cell.from_x_count + i) : da_row(e, cell.from_h[i]);
  }

  void prepare(int thread) const {
    const int64_t B = args.sizes.B;
    const auto pack = [&](const PackedMatrix<T>& matrix, const void* weight, int i) {
      const T* from = static_cast<const T*>(weight) + i * matrix.size();
      matrix.pack_rows([&](int64_t k) { return from + k * matrix.N; }, part(matrix.blocks(), thread, threads));
    };
    for (int i = 0; i < cell.from_x_count; i++) pack(to_x[i], args.weights.weight_ih, i);
    if (ordered) {
      const Range blocks = part(to_h[0].blocks(), thread, threads);
      this->order(args.weights, args.weights.weight_hh, {0, H},
                  {blocks.begin * PackedMatrix<T>::width, blocks.end * PackedMatrix<T>::width}, ordered);
    }
    for (int i = 0; i < cell.from_h_count; i++) pack(to_h[i], ordered ? ordered : args.weights.weight_hh, i);
    if (projected) pack(project, args.weights.weight_hr, 0);
    const Blocks units(H, lanes<T>, 1);
    pack_params(static_cast<const T*>(args.weights.params), cell.params, units, part(units.count, thread, threads),
                padded, params);
    const Range mine = part(B, thread, threads);
    for (int64_t b = mine.begin; b < mine.end; b++) {
      for (int s = 0; !args.resumed && s < cell.states; s++) {
        copy_row<T>(args.dstate[s].data ? element<T>(args.dstate[s], 0, b) : nullptr, this->width(s), ds_row(s, b),
                    padded);
        copy_row<T>(nullptr, 0, ds_initial + (s * B + b) * padded, padded);
      }
      if (factors) dropout_factors(args.regularization, 0, b, padded, factors + b * padded);
    }
    if (args.dx.data && !args.dx_accumulate && !args.resumed)
      clear_idle<T>(args.schedule, args.dx, B, I, part(args.schedule.idles, thread, threads));
  }

  // Of entry e, from the gradients of the slots: those of the products first .. last, back through the normalisation.
  void back_through_norm(int64_t e, const int* slot, int first, int last, T* out, const T* normalised, const void* gain,
                         int inverse_at) const {
    if (!norm || first == last) return;
    normalise_backward([&](int i) { return da_row(e, slot[first + i]); }, normalised + first * padded,
                       static_cast<const T*>(gain) + first * H, gates_row(e)[this->inverses() + inverse_at],
                       last - first, H, padded, out, plane);
  }

  void step(int thread, int64_t i, Range sequences) const {
    const Schedule& schedule = args.schedule;
    const Range all{0, padded / lanes<T>};
    Varied<T> varied = this->varied;
    const Units<T> units{H, padded, params, args.variation.varied ? &varied : nullptr};
    int32_t* entry = entries[thread];
    const int64_t count = entries_of_group(schedule, i, sequences, entry);
    const auto batch = [&](int64_t n) { return schedule.batch[entry[n]]; };
    const auto of_h = [&](int k) { return [=](int64_t n) { return dh_product(entry[n], k); }; };
    const auto seen = [&](int64_t n) { return dseen[thread] + n * padded; };
    const bool zoned = has_zoneout(args.regularization);
    T* share = zoned ? shares[thread] : nullptr;
    const auto past = [&](int64_t n) { return share + (1 + n) * cell.states * padded; };
    const auto dy_of = [&](int64_t n) {
      return args.dy.data ? element<T>(args.dy, schedule.time[entry[n]], batch(n)) : nullptr;
    };
    const bool afresh = drops_afresh(args.regularization), dropped = has_dropout(args.regularization);
    const auto factor = [&](int64_t n) { return factors ? factors + batch(n) * padded : fresh[thread] + n * padded; };
    for (int64_t n = 0; afresh && n < count; n++)
      dropout_factors(args.regularization, schedule.time[entry[n]], batch(n), padded, fresh[thread] + n * padded);
    for (int s = 0; s < cell.states; s++)
      for (int64_t n = 0; args.dstates[s].data && n < count; n++) {
        const T* d = element<T>(args.dstates[s], schedule.time[entry[n]], batch(n));
        for (int64_t u = 0; u < this->width(s); u++) ds_row(s, batch(n))[u] += d[u];
      }
    for (int64_t n = 0; zoned && n < count; n++) {
      zoneout_shares(args.regularization, cell.states, schedule.time[entry[n]], batch(n), {0, padded}, padded, share);
      zoneout_backward<T>(cell.states, share, dy_of(n), ds_row(0, batch(n)), args.sizes.B * padded, {0, padded}, P,
                          padded, past(n));
    }
    if (projected) {
      for (int64_t n = 0; n < count; n++) {
        const T *dh = ds_row(0, batch(n)), *dy = zoned ? nullptr : dy_of(n);
        for (int64_t u = 0; u < P; u++) projected_row(entry[n])[u] = dy ? dh[u] + dy[u] : dh[u];
      }
      project.multiply(
          count, [&](int64_t n) { return static_cast<const T*>(projected_row(entry[n])); },
          [&](int64_t n) { return ds_row(0, batch(n)); }, false);
    }
    for (int64_t n = 0; n < count; n++) {
      const int64_t e = entry[n], b = batch(n);
      const T *state = state_row(schedule.source[e]), *gates = gates_row(e);
      const T* dy = zoned || projected ? nullptr : dy_of(n);
      if (apart) {
        for (int64_t u = 0; dy && u < H; u++) ds_row(0, b)[u] += dy[u];
        dy = nullptr;
        this->decompose(gates + this->apart_at(), ds_row(0, b), ds_row(1, b),
                        dnormed ? dnormed + (e - chunk_first) * padded : nullptr, scratch[thread]);
      }
      if (afresh && !dropped) varied.mask = fresh[thread] + n * padded;
      cell.backward(units,
                    {gates, state, dy, ds_row(0, b), da_row(e, 0), args.sizes.B * padded, plane, column_block<T>}, all);
      if (zoned)
        for (int s = 0; s < cell.states; s++)
          for (int64_t u = 0; u < padded; u++) ds_row(s, b)[u] += past(n)[s * padded + u];
      if (dropped) multiplied(state, factor(n), padded, seen_row(e));
      if (!late) continue;
      T* out = read_row(e);
      reading.read_saved(units, gates, state, out);
      for (int k = 0; dropped && k < reads; k++, out += padded) multiplied(out, factor(n), padded, out);
      back_through_norm(e, cell.from_h, early, early + late, dh_product(e, early), gates + this->normalised_h(),
                        args.weights.norm_hh, 2);
    }
    if (late) {
      const auto dread = [&](int64_t n, int k) { return dseen[thread] + (n * reads + k) * padded; };
      for (int i = early; i < early + late; i++) {
        const int k = this->read_of(i);
        const bool more = i > early && this->read_of(i - 1) == k;
        to_h[i].multiply(count, of_h(i), [&](int64_t n) { return dread(n, k); }, more);
      }
      for (int64_t n = 0; n < count; n++) {
        for (int k = 0; k < reads; k++) {
          if (dropped) multiplied(dread(n, k), factor(n), padded, dread(n, k));
          for (int64_t u = H; u < padded; u++) dread(n, k)[u] = 0;
        }
        reading.read_backward(units, gates_row(entry[n]), state_row(schedule.source[entry[n]]), dread(n, 0),
                              ds_row(0, batch(n)), args.sizes.B * padded, da_row(entry[n], 0), plane);
      }
    }
    for (int64_t n = 0; norm && n < count; n++) {
      const int64_t e = entry[n];
      back_through_norm(e, cell.from_x, 0, cell.from_x_count, dx_product(e, 0), gates_row(e) + this->normalised_x(),
                        args.weights.norm_ih, 0);
      back_through_norm(e, cell.from_h, 0, early, dh_product(e, 0), gates_row(e) + this->normalised_h(),
                        args.weights.norm_hh, 1);
    }
    for (int k = 0; k < early; k++)
      to_h[k].multiply(
          count, of_h(k), [&](int64_t n) { return dropped ? seen(n) : ds_row(0, batch(n)); }, !dropped || k > 0);
    for (int64_t n = 0; dropped && early && n < count; n++)
      for (int64_t u = 0; u < P; u++) ds_row(0, batch(n))[u] += factor(n)[u] * seen(n)[u];
    for (int k = 0; args.dx.data && k < cell.from_x_count; k++)
      to_x[k].multiply(
          count, [&](int64_t n) { return dx_product(entry[n], k); },
          [&](int64_t n) { return element<T>(args.dx, schedule.time[entry[n]], batch(n)); },
          args.dx_accumulate || k > 0);
    if (schedule.resets)
      cut_at_resets(schedule, entry, count, args.sizes.B, cell.states, padded, {0, padded}, ds, ds_initial);
  }

  // Every gradient of weights is a few pieces, a block of columns each; does the one of that number, and leaves the
  // number less that of all pieces.
  void weights(int64_t& piece, int thread) const {
    const auto sums_of = [&](int64_t rows, const T* left, int64_t stride, int64_t columns, T* out, const auto& row) {
      const int64_t blocks = column_blocks<T>(columns);
      if (piece >= 0 && piece < blocks)
        weighted_sums<T>(
            rows, chunk_count, [&](int64_t m) { return left + m; }, stride,
            [&](int64_t k) { return row(chunk_first + k); }, nullptr, columns, {piece, piece + 1}, panel[thread], out,
            columns, add);
      piece -= blocks;
    };
    for (int i = 0; i < cell.from_x_count; i++)
      sums_of(H, dx_product(chunk_first, i), spaced, I, static_cast<T*>(args.dweight_ih) + i * H * I,
              [&](int64_t e) { return x_row(e); });
    const int64_t units = H / heads, read_units = P / heads;
    for (int i = 0; i < early + late; i++)
      for (int64_t head = 0; head < heads; head++)
        sums_of(units, dh_product(chunk_first, i) + head * units, spaced, read_units,
                static_cast<T*>(args.dweight_hh) + (i * H + head * units) * read_units, [&](int64_t e) {
                  return (i < early ? h_row(e) : read_row(e) + this->read_of(i) * padded) + head * read_units;
                });
    if (projected)
      sums_of(P, dprojected, padded, H, static_cast<T*>(args.dweight_hr),
              [&](int64_t e) { return gates_row(e) + this->unprojected(); });
  }

  // out[u] (+)= Σ_e a(e)[u], or Σ_e a(e)[u]·b(e)[u], this thread's units.
  template <class A, class B>
  PYRNN_FN void unit_sums(Range mine, T* out, const A& a, const B& b) const {
    for (int64_t u = mine.begin; out && !add && u < mine.end; u++) out[u] = 0;
    for (int64_t e = chunk_first; out && e < chunk_first + chunk_count; e++) {
      const T *left = a(e), *right = b(e);
      for (int64_t u = mine.begin; u < mine.end; u++) out[u] += right ? left[u] * right[u] : left[u];
    }
  }

  void vectors(int thread) const {
    const Range mine = part(H, thread, threads);
    const auto none = [](int64_t) { return static_cast<const T*>(nullptr); };
    const auto at = [&](void* out, int i) { return out ? static_cast<T*>(out) + i * H : nullptr; };
    const auto slot = [&](int s) { return [=](int64_t e) { return da_row(e, s); }; };
    const auto kept_at = [&](int64_t offset) { return [=](int64_t e) { return gates_row(e) + offset; }; };
    for (int i = 0; i < cell.from_x_count; i++) {
      unit_sums(mine, at(args.dbias_ih, i), slot(cell.from_x[i]), none);
      if (norm) unit_sums(mine, at(args.dnorm_ih, i), slot(cell.from_x[i]), kept_at(this->normalised_x() + i * padded));
    }
    for (int i = 0; i < cell.from_h_count; i++) {
      unit_sums(mine, at(args.dbias_hh, i), slot(cell.from_h[i]), none);
      if (norm) unit_sums(mine, at(args.dnorm_hh, i), slot(cell.from_h[i]), kept_at(this->normalised_h() + i * padded));
    }
    for (int i = 0; i < cell.params; i++) unit_sums(mine, at(args.dparams, i), slot(cell.slots + i), none);
    if (!dnormed) return;
    const auto of_c = [&](int64_t e) { return static_cast<const T*>(dnormed + (e - chunk_first) * padded); };
    unit_sums(mine, at(args.dnorm_c, 0), of_c, kept_at(this->apart_at() + 2 * padded));
    unit_sums(mine, at(args.dbias_c, 0), of_c, none);
  }

  void work(int thread) const {
    prepare(thread);
    barrier->wait(threads);
    const Range sequences = sequences_of_group(args.schedule, args.sizes.B, {threads, 1}, thread);
    const int64_t* offset = args.schedule.offset;
    StagedBackward chunk = *this;
    int64_t end = args.schedule.steps;
    do {
      int64_t begin = end ? end - 1 : 0;
      while (begin > 0 && offset[end] - offset[begin - 1] <= capacity) begin--;
      chunk.chunk_first = offset[begin];
      chunk.chunk_count = offset[end] - chunk.chunk_first;
      chunk.add = args.resumed || end < args.schedule.steps;
      for (int64_t i = end - 1; i >= begin && !stopped(); i--) chunk.step(thread, i, sequences);
      chunk.products_of_chunk(thread);
      end = begin;
    } while (end > 0);
  }

  void products_of_chunk(int thread) const {
    if (thread == 0) queue.reset();
    barrier->wait(threads);
    vectors(thread);
    int64_t none = -1;
    weights(none, thread);
    queue.run(thread, -1 - none, [&](int64_t piece) { weights(piece, thread); });
    barrier->wait(threads);
  }

  void finish() const {
    if (args.unfinished) return;
    const int64_t B = args.sizes.B;
    if (ordered) this->order(args.weights, args.dweight_hh, {0, H}, {0, H}, static_cast<T*>(args.dweight_hh));
    for (int s = 0; s < cell.states; s++)
      for (int64_t b = 0; b < B; b++)
        for (int64_t u = 0; u < this->width(s); u++)
          element<T>(args.dstate_out[s], 0, b)[u] = ds_row(s, b)[u] + ds_initial[(s * B + b) * padded + u];
  }
};

template <class T>
size_t staged_backward_workspace(const CellFunctions<T>& cell, const ReadFunctions<T>& reading,
                                 const BackwardArgs& args, int threads) {
  return most_workspace(threads, [&](int n) { return StagedBackward<T>(cell, reading, args, n).carve(nullptr); });
}

// Its loop has whole sequences too; the products after it, as much work, are shared by all.
template <class T>
double staged_backward_cycles(const CellFunctions<T>& cell, const BackwardArgs& args, int threads) {
  const double cycles = staged_cycles(args.sizes, args.schedule, cell, args.weights.heads);
  const int team = 2 * cycles > 2 * start_cycles() ? threads : 1;
  return cycles / staged_team(args.sizes, 2 * cycles, threads) + cycles / team;
}

template <class T>
void staged_backward(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const BackwardArgs& args,
                     int threads) {
  using Call = StagedBackward<T>;
  const double cycles = 2 * staged_cycles(args.sizes, args.schedule, cell, args.weights.heads);
  Team team(cycles > 2 * start_cycles() ? threads : 1);
  Call call(cell, reading, args, team.size());
  call.carve(args.workspace);
  *call.barrier = Barrier{};
  team.run([](void* context, int thread, int) { static_cast<Call*>(context)->work(thread); }, &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
