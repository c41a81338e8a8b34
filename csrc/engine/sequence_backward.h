// SPDX-License-Identifier: Apache-2.0
// A layer over a sequence, backward: a reverse sweep in chunks of steps, and after each chunk, while its dG is in
// cache, the products that need no recursion: dx, the gradients of the weights and of the biases.
//
// Every sum has one order, whatever the number of threads: a thread owns outputs, never a part of a sum.
#pragma once

#include "backward_layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Products in pieces, so many for each thread that one whose core is slower leaves some to the others; but a piece has
// so many rows of a tile, or units, that tiles are whole.
constexpr int64_t pieces_each = 8, least_rows = 4 * gradient_rows, least_units = 16;

template <class T, class P>
struct Backward : BackwardLayout<T, P> {
  using Layout = BackwardLayout<T, P>;
  using Layout::args, Layout::barriers, Layout::bias, Layout::capacity, Layout::cell, Layout::dg, Layout::dg_columns,
      Layout::dg_rows, Layout::dropped, Layout::ds, Layout::ds_initial, Layout::each, Layout::entries, Layout::factors,
      Layout::grid, Layout::H, Layout::h_panels, Layout::I, Layout::inputs, Layout::local, Layout::more_hh,
      Layout::more_ih, Layout::padded, Layout::params, Layout::prepare, Layout::queues, Layout::room, Layout::rows,
      Layout::shards, Layout::shares, Layout::teams, Layout::threads, Layout::units, Layout::x_panels;
  using Layout::ds_row, Layout::group_barrier, Layout::h_weights, Layout::sequences_of_shard, Layout::shards_of,
      Layout::state_row, Layout::sums, Layout::team_barrier, Layout::x_weights;
  using Layout::Layout;
  using typename Layout::Number, typename Layout::Factor, typename Layout::Stage;

  // The cell's derivative at step i: dy and the state's gradient become dG and the gradient of the previous state.
  void pointwise(int thread, const int32_t* list, int64_t count, Range mine, const Chunk& chunk) const {
    constexpr int L = lanes<T>;
    const Schedule& schedule = args.schedule;
    const Units<T> row_units{H, padded, params};
    for (int64_t n = 0; n < count; n++) {
      const int64_t e = list[n], t = schedule.time[e], b = schedule.batch[e], place = chunk.place[e - chunk.first];
      const T* dy = args.dy.data ? element<T>(args.dy, t, b) : nullptr;
      const bool zoned = has_zoneout(args.regularization);
      T *share = zoned ? shares[thread] : nullptr, *past = share + cell.states * padded;
      if (zoned) {
        const Range zone{mine.begin * L, mine.end * L};
        zoneout_shares(args.regularization, cell.states, t, b, zone, padded, share);
        dy = zoneout_backward(cell.states, share, dy, ds_row(0, b), args.sizes.B * padded, zone, H, padded, past);
      }
      cell.backward(
          row_units,
          {static_cast<const T*>(args.gates) + e * cell.saved * padded, state_row(schedule.source[e]), dy, ds_row(0, b),
           dg.at(0, 0, place), args.sizes.B * padded, dg.block(1, 0) - dg.block(0, 0), dg.block(0, 1) - dg.block(0, 0)},
          mine);
      if (zoned)
        for (int s = 0; s < cell.states; s++)
          for (int64_t u = mine.begin * L; u < mine.end * L; u++) ds_row(s, b)[u] += past[s * padded + u];
      if constexpr (P::prepared)
        for (int i = 0; i < cell.slots; i++)
          for (int64_t unit = mine.begin * L; unit < mine.end * L; unit += L)
            P::store_half(dg_rows.at(i, unit, place), load(dg.at(i, unit, place)));
    }
  }

  // out[n] (+)= dG · weights for the entries at the places `local`, over the blocks `mine`.
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

  // The chunk's steps, backwards, for this thread's rows and units. A block of units that two threads share is cut
  // between sequences, so that a number of ds has the same thread at every step.
  void sweep(int thread, const Chunk& chunk) const {
    const Schedule& schedule = args.schedule;
    const int group = thread % each / grid.unit_groups, unit_part = thread % each % grid.unit_groups;
    const Range all = teams == 1 ? Range{0, args.sizes.B} : sequences_of_shard(thread / each);
    const Range sequences = sequences_of_group(schedule, args.sizes.B, all, grid, group);
    const StepPart share = part_of_step(units, sequences.size(), gradient_rows, unit_part, grid.unit_groups);
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
    for (int64_t i = chunk.end - 1; i >= chunk.begin; i--) {
      const int64_t rows = schedule.offset[i + 1] - schedule.offset[i];
      if (patience.ends((1 + rows * units.vectors / (teams * grid.threads())) * cell.slots * H)) return;
      for_each(i, [&](int64_t count, Range, Range vectors) { pointwise(thread, list, count, vectors, chunk); });
      if (i > 0) for_each(i - 1, [&](int64_t count, Range, Range vectors) { fetch(list, count, vectors); });
      group_barrier(thread).wait(grid.unit_groups);
      for_each(i, [&](int64_t count, Range blocks, Range vectors) {
        for (int64_t n = 0; n < count; n++) {
          mine[n] = chunk.place[list[n] - chunk.first];
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

  // dG of `size` units of one column block and some entries, element by element `column_block` apart.
  PYRNN_FN const Factor* columns(int thread, int slot, int64_t unit, int64_t size, Range places) const {
    const T* from = dg.at(slot, unit, places.begin);
    [[maybe_unused]] const int64_t count = places.size();
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

  // The gradient of a weight, (+)= dGᵀ · panels for a shard's entries of a chunk, in pieces: some units of a slot, and
  // a block of inputs, or all of these where a column of dG has to be prepared.
  void weight_product(const Queue& queue, int thread, Range places, const int* slots, int slot_count,
                      const Blocks& blocks, const Number* panels, T* dweight, bool add, bool ordered) const {
    const int64_t wide = P::prepared ? blocks.count : 1, across = blocks.count / wide;
    int64_t size = column_block<T>;
    while (size > least_units && slot_count * ceil_div(H, size) * across < wanted_pieces()) size /= 2;
    const int64_t down = ceil_div(H, size);
    queue.run(thread % each, slot_count * down * across, [&](int64_t piece) {
      const int64_t slot = piece / across / down, unit = piece / across % down * size;
      const int64_t height = smaller(size, H - unit), first = piece % across * wide;
      const Factor* column = columns(thread, slots[slot], unit, height, places);
      for (int64_t block = first; block < first + wide; block++)
        weight_piece(column, height, places, blocks, block, panels, dweight + (slot * H + unit) * blocks.units, add);
      if (ordered) order_rows(unit, height, blocks[first], dweight);
    });
  }
  PYRNN_FN int64_t wanted_pieces() const { return each == 1 ? 1 : pieces_each * each; }

  PYRNN_FN void weight_piece(const Factor* column, int64_t height, Range places, const Blocks& blocks, int64_t block,
                             const Number* panels, T* out, bool add) const {
    const Range v = blocks[block];
    const int64_t unit = v.begin * lanes<T>;
    const Number* panel = panels + panel_offset<T>(blocks, block, P::length(room), 1) +
                          P::length(places.begin) * v.size() * lanes<T>;
    with_constant<widest_panel>(int(v.size()), [&](auto width) {
      run_tiles(height, gradient_rows, [&](int64_t first, int n) {
        with_constant<gradient_rows>(n, [&](auto n) {
          weight_tile<T, P, decltype(width)::value, decltype(n)::value>(column + first, P::length(places.size()), panel,
                                                                        out + first * blocks.units + unit, blocks.units,
                                                                        blocks.units - unit, add);
        });
      });
    });
  }

  // Of an ordered cell, some rows and vectors of the gradient of weight_hh: zeros where a weight does not count.
  void order_rows(int64_t unit, int64_t height, Range vectors, T* dweight) const {
    const T* order = static_cast<const T*>(args.weights.params);
    for (int64_t u = unit; u < unit + height; u++)
      for (int64_t k = vectors.begin * lanes<T>; k < smaller(H, vectors.end * lanes<T>); k += lanes<T>) {
        T* row = dweight + u * H + k;
        store_tail(row, if_read(load_tail(row, H - k), load_tail(order + k, H - k), broadcast(order[u])), H - k);
      }
  }

  void bias_sums(T* bias, Range vectors, Range places) const {
    constexpr int L = lanes<T>;
    for (int s = 0; s < sums(); s++)
      for (int64_t unit = vectors.begin * L; unit < vectors.end * L; unit += L) {
        Vec<T> sum = load(bias + s * padded + unit);
        const T* column = dg.at(s, unit, places.begin);
        for (int64_t e = 0; e < places.size(); e++) sum += load(column + e * column_block<T>);
        store(bias + s * padded + unit, sum);
      }
  }

  void products(int thread, int shard, const Chunk& chunk, bool first_chunk) const {
    const Range places = chunk.places[shard];
    bias_sums(bias + shard * sums() * padded, part(units.vectors, thread % each, each), places);
    weight_product(queues[shard][Layout::weights_of_x], thread, places, cell.from_x, cell.from_x_count, inputs,
                   x_panels, shard ? more_ih : static_cast<T*>(args.dweight_ih), !first_chunk, false);
    weight_product(queues[shard][Layout::weights_of_h], thread, places, cell.from_h, cell.from_h_count, units, h_panels,
                   shard ? more_hh : static_cast<T*>(args.dweight_hh), !first_chunk, cell.ordered);
    if (!args.dx.data) return;
    const int64_t most = larger(1, places.size() / least_rows);
    const int64_t parts = smaller(most, round_up(ceil_div(wanted_pieces(), inputs.count), each));
    queues[shard][Layout::inputs_of_chunk].run(thread % each, parts * inputs.count, [&](int64_t piece) {
      const Range mine = part(places.size(), piece / inputs.count, parts);
      const int64_t block = piece % inputs.count;
      int64_t* list = local[thread];
      T** out = rows[thread];
      for (int64_t n = 0; n < mine.size(); n++) {
        list[n] = places.begin + mine.begin + n;
        const int64_t e = chunk.first + chunk.entry[list[n]];
        out[n] = element<T>(args.dx, args.schedule.time[e], args.schedule.batch[e]);
      }
      gradient_rows_product(cell.from_x, cell.from_x_count, list, out, mine.size(), inputs, {block, block + 1},
                            x_weights(thread), args.dx_accumulate != 0);
    });
  }

  // x and the previous h of a shard's entries as panels.
  void gather(int thread, int shard, const Chunk& chunk) const {
    const Schedule& schedule = args.schedule;
    const auto entry = [&](int64_t place) { return chunk.first + chunk.entry[place]; };
    const auto pack = [&](Stage stage, const Blocks& blocks, Number* panels, const auto& row) {
      const Range places = chunk.places[shard], all{P::length(places.begin), P::length(places.end)};
      const int64_t parts = ceil_div(all.size(), least_rows);
      queues[shard][stage].run(thread % each, parts, [&](int64_t piece) {
        const int64_t k = all.begin + piece * least_rows;
        pack_rows<P, T>({k, smaller(all.end, k + least_rows)}, P::length(room), blocks, panels,
                        [&](int64_t k) { return row_pair<P, T>(row, k, places.end); });
      });
    };
    pack(Layout::gather_x, inputs, x_panels, [&](int64_t place) {
      const int64_t e = entry(place);
      return element<T>(args.x, schedule.time[e], schedule.batch[e]);
    });
    if (!cell.from_h_count) return;
    pack(Layout::gather_h, padded_blocks(), h_panels, [&](int64_t place) {
      const int64_t e = entry(place);
      const T* h = state_row(schedule.source[e]);
      if (!factors) return h;
      const T* factor = factors + schedule.batch[e] * padded;
      return static_cast<const T*>(multiplied(h, factor, padded, dropped[thread] + place % 2 * padded));
    });
  }

  // For this team, which is not in the stages first .. last - 1 of its shards.
  void reset(int thread, int first, int last) const {
    const Range mine = shards_of(thread);
    for (int64_t shard = mine.begin; thread % each == 0 && shard < mine.end; shard++)
      for (int stage = first; stage < last; stage++) queues[shard][stage].reset();
  }

  void work(int thread) const {
    const Schedule& schedule = args.schedule;
    const Range mine = shards_of(thread);
    prepare(thread);
    reset(thread, 0, Layout::stages);
    barriers[0].wait(threads);
    for (int64_t end = schedule.steps; end > 0;) {
      int64_t begin = end - 1;
      while (begin > 0 && schedule.offset[end] - schedule.offset[begin - 1] <= capacity) begin--;
      const Chunk chunk = this->chunk(thread, begin, end);
      if (thread % each < grid.threads()) sweep(thread, chunk);
      for (int64_t shard = mine.begin; shard < mine.end; shard++) gather(thread, int(shard), chunk);
      team_barrier(thread).wait(each);
      reset(thread, Layout::gather_x, Layout::weights_of_x);
      for (int64_t shard = mine.begin; shard < mine.end; shard++)
        products(thread, int(shard), chunk, end == schedule.steps && !args.resumed);
      team_barrier(thread).wait(each);
      reset(thread, Layout::weights_of_x, Layout::stages);
      if (stopped()) return;
      end = begin;
    }
    if (shards == 1 || args.unfinished) return;
    barriers[0].wait(threads);
    const auto join = [&](const T* more, int64_t size, void* out) {
      const Range mine = part(size, thread, threads);
      for (int64_t i = mine.begin; i < mine.end; i++) static_cast<T*>(out)[i] += more[i];
    };
    join(more_ih, cell.from_x_count * H * I, args.dweight_ih);
    join(more_hh, cell.from_h_count * H * H, args.dweight_hh);
  }

  void finish() const {
    if (args.unfinished) return;
    const int64_t B = args.sizes.B;
    for (int s = 0; s < cell.states; s++)
      for (int64_t b = 0; b < B; b++) {
        T* out = element<T>(args.dstate_out[s], 0, b);
        for (int64_t u = 0; u < H; u++) out[u] = ds_row(s, b)[u] + ds_initial[(s * B + b) * padded + u];
      }
    for (int64_t i = 0; shards > 1 && i < sums() * padded; i++) bias[i] += bias[sums() * padded + i];
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
  StepCost of_team = cost;
  of_team.rows = ceil_div(cost.rows, call.teams);
  of_team.start = 0;
  call.grid = choose_grid(of_team, call.each);
  call.carve(args.workspace);
  for (int i = 0; i <= 2 * call.threads; i++) call.barriers[i] = Barrier{};
  team.run([](void* context, int thread, int) { static_cast<Backward<T, P>*>(context)->work(thread); }, &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
