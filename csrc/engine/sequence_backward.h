// SPDX-License-Identifier: Apache-2.0
// A layer over a sequence, backward: a reverse sweep in chunks of steps, and after each chunk, while its dG is in
// cache, the products that need no recursion: dx, the gradients of the weights and of the biases.
//
// Every sum has one order, whatever the number of threads: a thread owns outputs, never a part of a sum.
#pragma once

#include "gradient_tile.h"
#include "sequence_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

constexpr int widest_panel = 4;
constexpr int gradient_rows = tile_rows(widest_panel);
// Slots of a panel that are summed in one pass: as many as leave room in L2 for the rows.
constexpr int64_t panel_bytes = 384 << 10;

template <class T, class P>
struct Backward {
  using Number = typename P::Number;
  using Factor = typename P::Factor;
  const CellFunctions<T>& cell;
  const BackwardArgs& args;
  int64_t I, H, padded, capacity;
  Blocks units, inputs;
  Grid grid;
  int threads;

  Number *h_packs, *x_packs;  // weight_hh, weight_ih as panels [block][slot, unit][vectors of the block], in copies
  Number *x_panels, *h_panels;  // the chunk's x and previous h: [block][entry][vectors of the block]
  T *ds, *ds_initial;  // (states, B, padded): gradient of the current state; of the initial one, from resets
  T* bias;  // (slots + params, padded): sums over all entries
  T* params;  // (params, padded)
  SlotGradients<T> dg;
  RowGradients<T, P> dg_rows;  // dG as the sweep and dx read it
  PerThread<Factor> dg_columns{};  // (capacity, column_block): one column block as the weights' gradients read it
  Barrier* barriers;
  PerThread<int32_t> entries;  // (max_rows)
  PerThread<int64_t> local;  // (capacity): entries, counted from the chunk's first
  PerThread<T*> rows;  // (capacity): the rows that a product writes
  T* factors{};  // (B, padded): the forward's dropout of h
  PerThread<T> dropped{};  // (max_rows, padded): h as the product read it, or its gradient
  PerThread<T> shares{};  // (2, states, padded): zoneout, and the gradient that goes past the cell

  Backward(const CellFunctions<T>& cell, const BackwardArgs& args, int threads)
      : cell(cell), args(args), I(args.sizes.I), H(args.sizes.H), padded(padded_units<T>(H)),
        capacity(chunk_entries(args.sizes, args.schedule)), units(H, lanes<T>, widest_panel),
        inputs(I, lanes<T>, widest_panel), threads(threads) {}

  size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    // First, because another segment finds these where they are, with however many threads.
    ds = memory.take<T>(cell.states * args.sizes.B * padded);
    ds_initial = memory.take<T>(cell.states * args.sizes.B * padded);
    bias = memory.take<T>(sums() * padded);
    h_packs = memory.take<Number>(h_pack_size() * pack_copies(h_pack_size() * sizeof(Number), threads));
    x_packs = memory.take<Number>(x_pack_size() * pack_copies(x_pack_size() * sizeof(Number), threads));
    x_panels = memory.take<Number>(P::length(capacity) * inputs.vectors * lanes<T>);
    h_panels = memory.take<Number>(P::length(capacity) * units.vectors * lanes<T>);
    params = memory.take<T>(cell.params * padded);
    dg.column_blocks = ceil_div(H, column_block<T>);
    dg.pitch = plane_pitch(capacity);
    dg.data = memory.take<T>(int64_t(dg.size(sums())));
    dg_rows = {reinterpret_cast<Factor*>(dg.data), dg.column_blocks, dg.pitch};
    if (P::prepared) {
      dg_rows.data = memory.take<Factor>(int64_t(dg_rows.size(cell.slots)));
      dg_columns = memory.take_per_thread<Factor>(threads, P::length(capacity) * column_block<T>);
    }
    barriers = memory.take<Barrier>(threads + 1);
    entries = memory.take_per_thread<int32_t>(threads, args.schedule.max_rows);
    local = memory.take_per_thread<int64_t>(threads, capacity);
    rows = memory.take_per_thread<T*>(threads, capacity);
    if (has_dropout(args.regularization)) {
      factors = memory.take<T>(args.sizes.B * padded);
      dropped = memory.take_per_thread<T>(threads, larger(2, args.schedule.max_rows) * padded);
    }
    if (has_zoneout(args.regularization)) shares = memory.take_per_thread<T>(threads, 2 * cell.states * padded);
    return memory.used;
  }

  // Planes of dG: the slots', and behind them those of the per-unit parameters.
  PYRNN_FN int sums() const { return cell.slots + cell.params; }
  PYRNN_FN int64_t h_pack_size() const { return cell.from_h_count * P::length(H) * units.vectors * lanes<T>; }
  PYRNN_FN int64_t x_pack_size() const { return cell.from_x_count * P::length(H) * inputs.vectors * lanes<T>; }
  PYRNN_FN Number* h_weights(int thread) const {
    return h_packs + (pack_copies(h_pack_size() * sizeof(Number), grid.row_groups) == 1
                          ? 0
                          : thread / grid.unit_groups * h_pack_size());
  }
  PYRNN_FN Number* x_weights(int thread) const {
    return x_packs + (pack_copies(x_pack_size() * sizeof(Number), threads) == 1 ? 0 : thread * x_pack_size());
  }

  PYRNN_FN T* ds_row(int state, int64_t b) const { return ds + (state * args.sizes.B + b) * padded; }
  PYRNN_FN const T* state_row(int64_t row) const {
    return static_cast<const T*>(args.states) + row * cell.states * padded;
  }

  // Elements `mine` of the slots' rows of a weight, H rows each.
  void pack_weights(const T* weight, Range mine, int64_t elements, const Blocks& blocks, Number* pack) const {
    pack_rows<P, T>(mine, elements, blocks, pack, [&](int64_t k) {
      const T* slot = weight + k / P::length(H) * H * blocks.units;
      return row_pair<P, T>([&](int64_t row) { return slot + row * blocks.units; }, k % P::length(H), H);
    });
  }

  void prepare(int thread) const {
    const int64_t B = args.sizes.B;
    const int64_t h_rows = cell.from_h_count * P::length(H), x_rows = cell.from_x_count * P::length(H);
    if (thread < grid.threads())
      pack_weights(static_cast<const T*>(args.weights.weight_hh),
                   pack_copies(h_pack_size() * sizeof(Number), grid.row_groups) == 1
                       ? part(h_rows, thread, grid.threads())
                       : part(h_rows, thread % grid.unit_groups, grid.unit_groups),
                   h_rows, units, h_weights(thread));
    if (args.dx.data)
      pack_weights(
          static_cast<const T*>(args.weights.weight_ih),
          pack_copies(x_pack_size() * sizeof(Number), threads) == 1 ? part(x_rows, thread, threads) : Range{0, x_rows},
          x_rows, inputs, x_weights(thread));
    const Range mine = part(B, thread, threads);
    for (int s = 0; !args.resumed && s < cell.states; s++)
      for (int64_t b = mine.begin; b < mine.end; b++) {
        copy_row<T>(args.dstate[s].data ? element<T>(args.dstate[s], 0, b) : nullptr, H, ds_row(s, b), padded);
        copy_row<T>(nullptr, 0, ds_initial + (s * B + b) * padded, padded);
      }
    if (has_dropout(args.regularization))
      for (int64_t b = mine.begin; b < mine.end; b++)
        dropout_factors(args.regularization, 0, b, padded, factors + b * padded);
    const Range bias_part = part(sums() * padded, thread, threads);
    for (int64_t i = bias_part.begin; !args.resumed && i < bias_part.end; i++) bias[i] = 0;
    pack_params(static_cast<const T*>(args.weights.params), cell.params, units, part(units.count, thread, threads),
                padded, params);
    if (args.dx.data && !args.dx_accumulate && !args.resumed)
      clear_idle<T>(args.schedule, args.dx, B, I, part(args.schedule.idles, thread, threads));
  }

  // The cell's derivative at step i: dy and the state's gradient become dG and the gradient of the previous state.
  void pointwise(int thread, const int32_t* list, int64_t count, Range mine, int64_t first) const {
    constexpr int L = lanes<T>;
    const Schedule& schedule = args.schedule;
    const Units<T> row_units{H, padded, params};
    for (int64_t n = 0; n < count; n++) {
      const int64_t e = list[n], t = schedule.time[e], b = schedule.batch[e];
      const T* dy = args.dy.data ? element<T>(args.dy, t, b) : nullptr;
      const bool zoned = has_zoneout(args.regularization);
      T *share = zoned ? shares[thread] : nullptr, *past = share + cell.states * padded;
      if (zoned) {
        const Range zone{mine.begin * L, mine.end * L};
        zoneout_shares(args.regularization, cell.states, t, b, zone, padded, share);
        dy = zoneout_backward(cell.states, share, dy, ds_row(0, b), args.sizes.B * padded, zone, H, padded, past);
      }
      cell.backward(row_units,
                    {static_cast<const T*>(args.gates) + e * cell.saved * padded, state_row(schedule.source[e]), dy,
                     ds_row(0, b), dg.at(0, 0, e - first), args.sizes.B * padded, dg.block(1, 0) - dg.block(0, 0),
                     dg.block(0, 1) - dg.block(0, 0)},
                    mine);
      if (zoned)
        for (int s = 0; s < cell.states; s++)
          for (int64_t u = mine.begin * L; u < mine.end * L; u++) ds_row(s, b)[u] += past[s * padded + u];
      if constexpr (P::prepared)
        for (int i = 0; i < cell.slots; i++)
          for (int64_t unit = mine.begin * L; unit < mine.end * L; unit += L)
            P::store_half(dg_rows.at(i, unit, e - first), load(dg.at(i, unit, e - first)));
    }
  }

  // out[n] (+)= dG · weights for the entries `local`, over the blocks `mine`.
  PYRNN_FN void gradient_rows_product(const int* slot, int slot_count, const int64_t* local, T* const* out,
                                      int64_t count, const Blocks& blocks, Range mine, const Number* weights,
                                      bool add) const {
    constexpr int L = lanes<T>;
    for (int64_t block = mine.begin; block < mine.end; block++) {
      const Range v = blocks[block];
      const Number* panel = weights + panel_offset<T>(blocks, block, slot_count * P::length(H), 1);
      const int64_t slot_size = P::length(H) * v.size() * L;
      const int64_t together = larger(1, panel_bytes / (slot_size * int64_t(sizeof(Number))));
      for (int64_t s = 0; s < slot_count; s += together) {
        const Range slots{s, smaller(slot_count, s + together)};
        with_constant<widest_panel>(int(v.size()), [&](auto width) {
          run_tiles(count, gradient_rows, [&](int64_t first, int n) {
            with_constant<gradient_rows>(n, [&](auto n) {
              constexpr int MR = decltype(n)::value;
              T* to[MR];
              for (int m = 0; m < MR; m++) to[m] = out[first + m] + v.begin * L;
              gradient_tile<T, P, decltype(width)::value, MR>(dg_rows, slot, slots, H, panel + s * slot_size,
                                                              local + first, to, blocks.units - v.begin * L,
                                                              add || s > 0);
            });
          });
        });
      }
      if (stopped_after(block)) return;
    }
  }

  // Asks for what these entries read of the forward, while the step after them computes: it comes from memory.
  PYRNN_FN void fetch(const int32_t* list, int64_t count, Range vectors) const {
    const auto ask = [&](const T* row) {
      for (int64_t v = vectors.begin; v < vectors.end; v++) __builtin_prefetch(row + v * lanes<T>, 0, 2);
    };
    for (int64_t n = 0; n < count; n++) {
      const int64_t e = list[n];
      for (int s = 0; s < cell.saved; s++) ask(static_cast<const T*>(args.gates) + (e * cell.saved + s) * padded);
      for (int s = 0; s < cell.states; s++) ask(state_row(args.schedule.source[e]) + s * padded);
      if (args.dy.data) ask(element<T>(args.dy, args.schedule.time[e], args.schedule.batch[e]));
    }
  }

  // Steps [begin, end), backwards, for this thread's rows and units. A block of units that two threads share is cut
  // between sequences, so that a number of ds has the same thread at every step.
  void sweep(int thread, int64_t begin, int64_t end) const {
    const Schedule& schedule = args.schedule;
    const int64_t first = schedule.offset[begin];
    const int group = thread / grid.unit_groups;
    const Range sequences = sequences_of_group(schedule, args.sizes.B, grid, group);
    const StepPart share = part_of_step(units, sequences.size(), gradient_rows, thread % grid.unit_groups,
                                        grid.unit_groups);
    int32_t* list = entries[thread];
    int64_t* mine = local[thread];
    T** out = rows[thread];
    const auto for_each = [&](int64_t i, const auto& work) {
      share.for_each([&](Range blocks, Range part) {
        const Range those{sequences.begin + part.begin, sequences.begin + part.end};
        work(entries_of_group(schedule, i, those, list), blocks,
             Range{units[blocks.begin].begin, units[blocks.end - 1].end});
      });
    };
    Patience patience;
    for (int64_t i = end - 1; i >= begin; i--) {
      const int64_t rows = schedule.offset[i + 1] - schedule.offset[i];
      if (patience.ends((1 + rows * units.vectors / grid.threads()) * cell.slots * H)) return;
      for_each(i, [&](int64_t count, Range, Range vectors) { pointwise(thread, list, count, vectors, first); });
      if (i > 0) for_each(i - 1, [&](int64_t count, Range, Range vectors) { fetch(list, count, vectors); });
      barriers[1 + group].wait(grid.unit_groups);
      for_each(i, [&](int64_t count, Range blocks, Range vectors) {
        for (int64_t n = 0; n < count; n++) {
          mine[n] = list[n] - first;
          out[n] = factors ? dropped[thread] + n * padded : ds_row(0, schedule.batch[list[n]]);
        }
        gradient_rows_product(cell.from_h, cell.from_h_count, mine, out, count, padded_blocks(), blocks,
                              h_weights(thread), !factors);
        for (int64_t n = 0; factors && n < count; n++) {
          const int64_t b = schedule.batch[list[n]];
          for (int64_t u = vectors.begin * lanes<T>; u < vectors.end * lanes<T>; u++)
            ds_row(0, b)[u] += factors[b * padded + u] * out[n][u];
        }
        if (schedule.resets)
          cut_at_resets(schedule, list, count, args.sizes.B, cell.states, padded,
                        {vectors.begin * lanes<T>, vectors.end * lanes<T>}, ds, ds_initial);
      });
    }
  }

  // The rows of ds are padded: whole vectors may be written.
  PYRNN_FN Blocks padded_blocks() const {
    Blocks blocks = units;
    blocks.units = padded;
    return blocks;
  }

  // dG of `size` units of one column block and all entries, element by element `column_block` apart.
  PYRNN_FN const Factor* columns(int thread, int slot, int64_t unit, int64_t size, int64_t count) const {
    const T* from = dg.at(slot, unit, 0);
    if constexpr (!P::prepared) {
      return from;
    } else {
      constexpr int L = lanes<T>, C = column_block<T>;
      const int64_t begin = unit % C / L * L, end = round_up(unit % C + size, L);
      Factor* out = dg_columns[thread];
      from -= unit % C;
      for (int64_t k = 0; k < P::length(count); k++, from += 2 * C)
        for (int64_t c = begin; c < end; c += L)
          store(out + k * C + c, P::join(load(from + c), 2 * k + 1 < count ? load(from + C + c) : Vec<T>{}));
      return out + unit % C;
    }
  }

  // dweight rows [mine) of the slots' blocks of H: += dGᵀ · panels, for the entries of a chunk.
  PYRNN_FN void weight_product(const int* slots, int thread, Range mine, int64_t count, const Blocks& blocks,
                               const Number* panels, T* dweight, bool add) const {
    constexpr int L = lanes<T>, C = column_block<T>;
    for (int64_t row = mine.begin; row < mine.end;) {
      const int64_t unit = row % H;
      const int slot = slots[row / H];
      const int64_t size = smaller(mine.end - row, smaller(H - unit, C - unit % C));
      if (stopped()) return;
      const Factor* column = columns(thread, slot, unit, size, count);
      for (int64_t block = 0; block < blocks.count; block++) {
        const Range v = blocks[block];
        const Number* panel = panels + panel_offset<T>(blocks, block, P::length(capacity), 1);
        with_constant<widest_panel>(int(v.size()), [&](auto width) {
          run_tiles(size, gradient_rows, [&](int64_t first, int n) {
            with_constant<gradient_rows>(n, [&](auto n) {
              weight_tile<T, P, decltype(width)::value, decltype(n)::value>(
                  column + first, P::length(count), panel, dweight + (row + first) * blocks.units + v.begin * L,
                  blocks.units, blocks.units - v.begin * L, add);
            });
          });
        });
      }
      row += size;
    }
  }

  void bias_sums(Range vectors, int64_t count) const {
    constexpr int L = lanes<T>;
    for (int s = 0; s < sums(); s++)
      for (int64_t unit = vectors.begin * L; unit < vectors.end * L; unit += L) {
        Vec<T> sum = load(bias + s * padded + unit);
        const T* column = dg.at(s, unit, 0);
        for (int64_t e = 0; e < count; e++) sum += load(column + e * column_block<T>);
        store(bias + s * padded + unit, sum);
      }
  }

  void products(int thread, int64_t begin, int64_t end, bool first_chunk) const {
    const Schedule& schedule = args.schedule;
    const int64_t first = schedule.offset[begin], count = schedule.offset[end] - first;
    if (args.dx.data) {
      const Range mine = part(count, thread, threads);
      int64_t* list = local[thread];
      T** out = rows[thread];
      for (int64_t n = mine.begin; n < mine.end; n++) {
        list[n - mine.begin] = n;
        out[n - mine.begin] = element<T>(args.dx, schedule.time[first + n], schedule.batch[first + n]);
      }
      gradient_rows_product(cell.from_x, cell.from_x_count, list, out, mine.size(), inputs, {0, inputs.count},
                            x_weights(thread), args.dx_accumulate != 0);
    }
    weight_product(cell.from_x, thread, part(cell.from_x_count * H, thread, threads), count, inputs, x_panels,
                   static_cast<T*>(args.dweight_ih), !first_chunk);
    weight_product(cell.from_h, thread, part(cell.from_h_count * H, thread, threads), count, units, h_panels,
                   static_cast<T*>(args.dweight_hh), !first_chunk);
    bias_sums(part(units.vectors, thread, threads), count);
  }

  // The chunk's x and previous h as panels, this thread's share of the entries.
  void gather(int thread, int64_t begin, int64_t end) const {
    const Schedule& schedule = args.schedule;
    const int64_t first = schedule.offset[begin];
    const int64_t count = schedule.offset[end] - first, elements = P::length(capacity);
    const Range mine = part(P::length(count), thread, threads);
    pack_rows<P, T>(mine, elements, inputs, x_panels, [&](int64_t k) {
      return row_pair<P, T>(
          [&](int64_t e) { return element<T>(args.x, schedule.time[first + e], schedule.batch[first + e]); }, k, count);
    });
    pack_rows<P, T>(mine, elements, padded_blocks(), h_panels, [&](int64_t k) {
      return row_pair<P, T>(
          [&](int64_t e) {
            const T* h = state_row(schedule.source[first + e]);
            if (!factors) return h;
            const T* factor = factors + schedule.batch[first + e] * padded;
            return static_cast<const T*>(multiplied(h, factor, padded, dropped[thread] + e % 2 * padded));
          },
          k, count);
    });
  }

  void work(int thread) const {
    const Schedule& schedule = args.schedule;
    prepare(thread);
    if (factors) barriers[0].wait(threads);
    for (int64_t end = schedule.steps; end > 0;) {
      int64_t begin = end - 1;
      while (begin > 0 && schedule.offset[end] - schedule.offset[begin - 1] <= capacity) begin--;
      gather(thread, begin, end);
      barriers[0].wait(threads);  // the last chunk's products are done with dG; the packs are complete
      if (thread < grid.threads()) sweep(thread, begin, end);
      barriers[0].wait(threads);
      products(thread, begin, end, end == schedule.steps && !args.resumed);
      barriers[0].wait(threads);
      if (stopped()) return;
      end = begin;
    }
  }

  void finish() const {
    if (args.unfinished) return;
    const int64_t B = args.sizes.B;
    for (int s = 0; s < cell.states; s++)
      for (int64_t b = 0; b < B; b++) {
        T* out = element<T>(args.dstate_out[s], 0, b);
        for (int64_t u = 0; u < H; u++) out[u] = ds_row(s, b)[u] + ds_initial[(s * B + b) * padded + u];
      }
    const auto biases = [&](void* out, const int* slots, int count) {
      if (!out) return;
      for (int s = 0; s < count; s++) copy_row<T>(bias + slots[s] * padded, H, static_cast<T*>(out) + s * H, 0);
    };
    biases(args.dbias_ih, cell.from_x, cell.from_x_count);
    biases(args.dbias_hh, cell.from_h, cell.from_h_count);
    for (int i = 0; i < cell.params; i++)
      copy_row<T>(bias + (cell.slots + i) * padded, H, static_cast<T*>(args.dparams) + i * H, 0);
    if (args.schedule.whole == 0) {
      copy_row<T>(nullptr, 0, static_cast<T*>(args.dweight_ih), cell.from_x_count * H * I);
      copy_row<T>(nullptr, 0, static_cast<T*>(args.dweight_hh), cell.from_h_count * H * H);
    }
  }
};

template <class T, class P>
StepCost backward_cost(const CellFunctions<T>& cell, const Sizes& sizes, const Schedule& schedule, double start) {
  const double products = double(cell.from_h_count * P::length(sizes.H));
  const int64_t vectors = ceil_div(sizes.H, lanes<T>);
  return {schedule.steps,
          schedule.max_rows,
          vectors,
          widest_panel,
          gradient_rows,
          products / 2 + 15 * cell.slots,
          products * double(vectors) * vector_bytes,
          false,
          start};
}

template <class T, class P>
size_t backward_workspace(const CellFunctions<T>& cell, const BackwardArgs& args, int threads) {
  return Backward<T, P>(cell, args, threads).carve(nullptr);
}

// The products outside the loop: two multiply-adds for each entry and weight, of which a core does two vectors a cycle.
template <class T>
double products_cycles(const CellFunctions<T>& cell, const BackwardArgs& args) {
  return double(args.schedule.entries) * double(cell.slots * args.sizes.H) * double(args.sizes.I + args.sizes.H) /
         lanes<T>;
}

// They are worth every thread once they take some times as long as waking it.
template <class T>
int backward_team(const CellFunctions<T>& cell, const BackwardArgs& args, const StepCost& cost, int threads) {
  return products_cycles(cell, args) > 4 * cost.start ? threads : choose_grid(cost, threads).threads();
}

template <class T, class P>
double backward_cycles(const CellFunctions<T>& cell, const BackwardArgs& args, int threads) {
  const StepCost cost = backward_cost<T, P>(cell, args.sizes, args.schedule, start_cycles());
  const int team = backward_team(cell, args, cost, threads);
  return estimate(cost, choose_grid(cost, team)) + products_cycles(cell, args) / team;
}

template <class T, class P>
void backward(const CellFunctions<T>& cell, const BackwardArgs& args, int threads) {
  const StepCost cost = backward_cost<T, P>(cell, args.sizes, args.schedule, start_cycles());
  Team team(backward_team(cell, args, cost, threads));
  Backward<T, P> call(cell, args, team.size());
  call.grid = choose_grid(cost, team.size());
  call.carve(args.workspace);
  for (int i = 0; i <= call.threads; i++) call.barriers[i] = Barrier{};
  team.run([](void* context, int thread, int) { static_cast<Backward<T, P>*>(context)->work(thread); }, &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
