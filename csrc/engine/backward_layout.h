// SPDX-License-Identifier: Apache-2.0
// What a layer's backward works on: the weights as it reads them, the gradients of a chunk's slots and of the state.
#pragma once

#include "gradient_tile.h"
#include "queue.h"
#include "sequence_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

constexpr int widest_panel = 4;
constexpr int gradient_rows = tile_rows(widest_panel);
// Slots of a panel that are summed in one pass: as many as leave room in L2 for the rows.
constexpr int64_t panel_bytes = 384 << 10;

// Sequences are halved where the weights are small: each half has weights' gradients of its own, which are added at the
// end. Then two threads, or two teams of as many, meet twice in a call, and nothing crosses from core to core: where
// their caches are far apart, fetching what another core wrote takes as long as a backward of a small layer computes.
// The halves follow from sizes alone, so that sums have one order for every number of threads.
constexpr int most_shards = 2;
constexpr int64_t least_shard_rows = 4, most_shard_pack = 1 << 20, most_shard_gradients = 4 << 20;  // bytes

template <class T, class P>
int shard_count(const CellFunctions<T>& cell, const Sizes& sizes, const Schedule& schedule) {
  const int64_t I = sizes.I, H = sizes.H;
  const int64_t pack = cell.from_h_count * P::length(H) * padded_units<T>(H) * int64_t(sizeof(typename P::Number));
  const int64_t gradients = (cell.from_x_count * I + cell.from_h_count * H) * H * int64_t(sizeof(T));
  return schedule.max_rows >= most_shards * least_shard_rows && pack <= most_shard_pack &&
                 gradients <= most_shard_gradients
             ? most_shards
             : 1;
}

// Entries in a chunk: enough to make up for reading and writing the weights' gradients once a chunk.
template <class T, class P>
int64_t chunk_entries(const CellFunctions<T>& cell, const Sizes& sizes, const Schedule& schedule) {
  const int64_t shards = shard_count<T, P>(cell, sizes, schedule);
  const int64_t wanted = smaller(1024, shards * larger(256, smaller(sizes.H, sizes.I)));
  return larger(schedule.max_rows, smaller(wanted, schedule.whole));
}

// A chunk of steps: its entries lie in dG and the panels shard by shard, in order.
struct Chunk {
  int64_t begin, end, first;  // steps; the first entry
  Range places[most_shards];  // of a shard's entries
  int64_t *entry, *place;     // the entry at a place, and the place of an entry, both counted from the first
};

template <class T, class P>
struct BackwardLayout {
  using Number = typename P::Number;
  using Factor = typename P::Factor;
  const CellFunctions<T>& cell;
  const BackwardArgs& args;
  enum Stage { gather_x, gather_h, weights_of_x, weights_of_h, inputs_of_chunk, stages };
  int64_t I, H, padded, capacity;
  int64_t room;  // places for a chunk: as many for each shard as there are entries, since one may be ahead of another
  Blocks units, inputs;
  int threads, shards;
  int teams, each;  // of threads: one for each shard, or one for all shards; and how many are in a team
  Grid grid;  // of a team

  Number *h_packs, *x_packs;  // weight_hh, weight_ih as panels [block][slot, unit][vectors of the block], in copies
  Number *x_panels, *h_panels;  // the chunk's x and previous h: [block][entry][vectors of the block]
  T *ds, *ds_initial;  // (states, B, padded): gradient of the current state; of the initial one, from resets
  T* bias;  // (shards, slots + params, padded): sums over all entries
  T *more_ih, *more_hh;  // the second shard's gradients of the weights
  T* params;  // (params, padded)
  SlotGradients<T> dg;
  RowGradients<T, P> dg_rows;  // dG as the sweep and dx read it
  PerThread<Factor> dg_columns{};  // (capacity, column_block): one column block as the weights' gradients read it
  Barrier* barriers;
  Queue queues[most_shards][stages];
  PerThread<int32_t> entries;  // (max_rows)
  PerThread<int64_t> local;  // (capacity): entries, counted from the chunk's first
  PerThread<int64_t> places;  // (2, room): a chunk's
  PerThread<T*> rows;  // (capacity): the rows that a product writes
  T* factors{};  // (B, padded): the forward's dropout of h
  PerThread<T> dropped{};  // (max_rows, padded): h as the product read it, or its gradient
  PerThread<T> shares{};  // (2, states, padded): zoneout, and the gradient that goes past the cell

  BackwardLayout(const CellFunctions<T>& cell, const BackwardArgs& args, int threads)
      : cell(cell), args(args), I(args.sizes.I), H(args.sizes.H), padded(padded_units<T>(H)),
        capacity(chunk_entries<T, P>(cell, args.sizes, args.schedule)), units(H, lanes<T>, widest_panel),
        inputs(I, lanes<T>, widest_panel), threads(threads), shards(shard_count<T, P>(cell, args.sizes, args.schedule)),
        teams(threads % shards == 0 ? shards : 1), each(threads / teams) {
    room = shards * round_up(capacity, 2);
  }

  size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    // First, because another segment finds these where they are, with however many threads.
    ds = memory.take<T>(cell.states * args.sizes.B * padded);
    ds_initial = memory.take<T>(cell.states * args.sizes.B * padded);
    bias = memory.take<T>(shards * sums() * padded);
    more_ih = memory.take<T>((shards - 1) * cell.from_x_count * H * I);
    more_hh = memory.take<T>((shards - 1) * cell.from_h_count * H * H);
    h_packs = memory.take<Number>(h_pack_size() * pack_copies(h_pack_size() * sizeof(Number), threads));
    x_packs = memory.take<Number>(x_pack_size() * pack_copies(x_pack_size() * sizeof(Number), threads));
    x_panels = memory.take<Number>(P::length(room) * inputs.vectors * lanes<T>);
    h_panels = memory.take<Number>(cell.from_h_count ? P::length(room) * units.vectors * lanes<T> : 0);
    params = memory.take<T>(cell.params * padded);
    dg.column_blocks = ceil_div(H, column_block<T>);
    dg.pitch = plane_pitch(room);
    dg.data = memory.take<T>(int64_t(dg.size(sums())));
    dg_rows = {reinterpret_cast<Factor*>(dg.data), dg.column_blocks, dg.pitch};
    if (P::prepared) {
      dg_rows.data = memory.take<Factor>(int64_t(dg_rows.size(cell.slots)));
      dg_columns = memory.take_per_thread<Factor>(threads, P::length(room) * column_block<T>);
    }
    barriers = memory.take<Barrier>(1 + 2 * threads);
    for (int shard = 0; shard < shards; shard++)
      for (Queue& queue : queues[shard]) {
        queue.carve(memory, threads);
        queue.threads = each;
      }
    entries = memory.take_per_thread<int32_t>(threads, args.schedule.max_rows);
    local = memory.take_per_thread<int64_t>(threads, capacity);
    places = memory.take_per_thread<int64_t>(threads, 2 * room);
    rows = memory.take_per_thread<T*>(threads, capacity);
    if (drops()) {
      factors = memory.take<T>(args.sizes.B * padded);
      dropped = memory.take_per_thread<T>(threads, larger(2, args.schedule.max_rows) * padded);
    }
    if (has_zoneout(args.regularization)) shares = memory.take_per_thread<T>(threads, 2 * cell.states * padded);
    return memory.used;
  }

  // Whether the product of h saw less than h.
  PYRNN_FN bool drops() const { return cell.from_h_count && has_dropout(args.regularization); }
  // Planes of dG: the slots', and behind them those of the per-unit parameters.
  PYRNN_FN int sums() const { return cell.slots + cell.params; }
  PYRNN_FN int64_t h_pack_size() const { return cell.from_h_count * P::length(H) * units.vectors * lanes<T>; }
  PYRNN_FN int64_t x_pack_size() const { return cell.from_x_count * P::length(H) * inputs.vectors * lanes<T>; }
  // Whether every row group has its own copy of the weights.
  PYRNN_FN bool own_h_packs() const { return h_pack_size() * int64_t(sizeof(Number)) <= int64_t(private_pack_bytes); }
  PYRNN_FN Number* h_weights(int thread) const {
    const int copy = thread / each * grid.row_groups + thread % each / grid.unit_groups;
    return h_packs + (own_h_packs() ? copy * h_pack_size() : 0);
  }
  PYRNN_FN Number* x_weights(int thread) const {
    return x_packs + (pack_copies(x_pack_size() * sizeof(Number), threads) == 1 ? 0 : thread * x_pack_size());
  }

  // Of thread: its team's barrier and that of its row group; the first barrier is for all.
  PYRNN_FN Barrier& team_barrier(int thread) const { return barriers[1 + thread / each]; }
  PYRNN_FN Barrier& group_barrier(int thread) const {
    return barriers[1 + threads + thread / each * each + thread % each / grid.unit_groups];
  }

  PYRNN_FN Range sequences_of_shard(int shard) const {
    const int64_t half = shards == 1 ? args.sizes.B : args.schedule.half;
    return shard == 0 ? Range{0, half} : Range{half, args.sizes.B};
  }
  // The shards that a thread's team has.
  PYRNN_FN Range shards_of(int thread) const {
    return teams == 1 ? Range{0, shards} : Range{thread / each, thread / each + 1};
  }

  PYRNN_FN Chunk chunk(int thread, int64_t begin, int64_t end) const {
    const Schedule& schedule = args.schedule;
    const int64_t first = schedule.offset[begin], count = schedule.offset[end] - first;
    Chunk c{begin, end, first, {}, places[thread], places[thread] + room};
    for (int shard = 0; shard < shards; shard++) {
      const Range mine = sequences_of_shard(shard);
      int64_t at = c.places[shard].begin = shard * room / shards;
      for (int64_t e = 0; e < count; e++) {
        if (schedule.batch[first + e] < mine.begin || schedule.batch[first + e] >= mine.end) continue;
        c.entry[at] = e;
        c.place[e] = at++;
      }
      c.places[shard].end = at;
    }
    return c;
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

  // Rows `mine` of an ordered cell's panels, of which those that do not count become zeros.
  void order_panels(Range mine, int64_t elements, Number* pack) const {
    if constexpr (!P::prepared) {
      const T* order = static_cast<const T*>(args.weights.params);
      for (int64_t k = mine.begin; k < mine.end; k++)
        for (int64_t b = 0; b < units.count; b++) {
          const Range v = units[b];
          T* panel = pack + panel_offset<T>(units, b, elements, 1) + k * v.size() * lanes<T>;
          for (int64_t i = v.begin * lanes<T>; i < v.end * lanes<T>; i += lanes<T>, panel += lanes<T>)
            store(panel, if_read(load(panel), load_tail(order + i, H - i), broadcast(order[k % H])));
        }
    }
  }

  void prepare(int thread) const {
    const int64_t B = args.sizes.B;
    const int64_t h_rows = cell.from_h_count * P::length(H), x_rows = cell.from_x_count * P::length(H);
    if (!own_h_packs() || thread % each < grid.threads()) {
      const Range mine = own_h_packs() ? part(h_rows, thread % each % grid.unit_groups, grid.unit_groups)
                                       : part(h_rows, thread, threads);
      pack_weights(static_cast<const T*>(args.weights.weight_hh), mine, h_rows, units, h_weights(thread));
      if (cell.ordered) order_panels(mine, h_rows, h_weights(thread));
    }
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
    if (drops())
      for (int64_t b = mine.begin; b < mine.end; b++)
        dropout_factors(args.regularization, 0, b, padded, factors + b * padded);
    const Range bias_part = part(shards * sums() * padded, thread, threads);
    for (int64_t i = bias_part.begin; !args.resumed && i < bias_part.end; i++) bias[i] = 0;
    pack_params(static_cast<const T*>(args.weights.params), cell.params, units, part(units.count, thread, threads),
                padded, params);
    if (args.dx.data && !args.dx_accumulate && !args.resumed)
      clear_idle<T>(args.schedule, args.dx, B, I, part(args.schedule.idles, thread, threads));
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
