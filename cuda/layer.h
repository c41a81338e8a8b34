// SPDX-License-Identifier: Apache-2.0
// The launches of one layer in one direction. No allocation, no wait: all of it may be captured in a graph.
#pragma once

#include "carver.h"
#include "heads.h"
#include "late.h"
#include "masks.h"
#include "persistent.h"
#include "staged.h"
#include "sums.h"

namespace pyrnn {
namespace cuda {

template <class Cell, class Math>
struct LayerOf {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  static constexpr int X = FromX<Cell>::count, R = FromH<Cell>::count, V = per_words<T>;
  static constexpr bool late = late_of<Cell> > 0, resident = Math::tensor && !late;
  using Slots = Late<Cell>;

  const Layer& layer;
  const Machine& machine;
  const int64_t Steps_, B, I, H, P, padded, entries;
  const Steps steps;
  const Problem problem;

  LayerOf(const Layer& layer, const Machine& machine)
      : layer(layer), machine(machine), Steps_(layer.sizes.T), B(layer.sizes.B), I(layer.sizes.I), H(layer.sizes.H),
        P(layer.P > 0 ? layer.P : H), padded(padded_units(H)), entries(Steps_ * B), steps(steps_of(layer)),
        problem{layer.sizes,    Cell::slots,    Cell::states, X,           R,
                int(sizeof(T)), int(sizeof(A)), resident,     Math::exact, is_staged(layer)} {}

  Arena<T> arena(const void* data) const {
    Arena<T> a{};
    a.rest_ring = !layer.save;
    a.rest_slots = layer.save ? Steps_ + 1 : 2;
    a.ring = !layer.save && tier(false) != tier_grid;
    a.slots = a.ring ? 2 : Steps_ + 1;
    a.B = B;
    a.padded = padded;
    a.reverse = layer.reverse;
    Carver memory{static_cast<char*>(const_cast<void*>(data))};
    a.h = memory.take<T>(a.slots * B * padded);
    a.rest = memory.take<A>((Cell::states - 1) * a.rest_slots * B * padded);
    if (drops()) a.whole = memory.take<T>(a.slots * B * padded);
    return a;
  }
  size_t states_bytes() const {
    return arena_bytes() + piece_bytes<T>((layer.save ? entries : B) * Slots::reads * padded);
  }
  size_t arena_bytes() const {
    const Arena<T> a = arena(nullptr);
    return piece_bytes<T>(a.slots * B * padded) * (drops() ? 2 : 1) +
           piece_bytes<A>((Cell::states - 1) * a.rest_slots * B * padded);
  }

  LateRows<T> late_rows(const void* states, A* left) const {
    char* read = static_cast<char*>(const_cast<void*>(states)) + arena_bytes();
    return {reinterpret_cast<T*>(read), left, layer.save, B, Slots::reads, padded};
  }

  // ---- masks

  bool drops() const { return layer.regularization.dropout > 0; }
  bool zones() const {
    bool any = false;
    for (int s = 0; s < Cell::states; s++) any = any || layer.regularization.zoneout[s] > 0;
    return any;
  }
  int64_t mask_bytes() const { return drops() || (zones() && layer.regularization.training) ? entries * padded : 0; }
  // What a call's points know of them; they are drawn to `masks`.
  int draw(uint8_t* masks, Regular<A>& regular, void* stream) const {
    const Regularization& r = layer.regularization;
    regular = {mask_bytes() ? masks : nullptr, zones(), drops(), {}, r.dropout < 1 ? A(1 / (1 - r.dropout)) : A(0)};
    for (int s = 0; s < Cell::states; s++) regular.zoneout[s] = A(r.zoneout[s]);
    if (!mask_bytes()) return 0;
    Launch shape;
    shape.x = blocks_of(mask_bytes(), DrawMasks::threads);
    shape.stream = stream;
    return launch<DrawMasks>(shape, masks_of(layer, Cell::states, masks));
  }
  template <class N>
  static size_t piece_bytes(int64_t count) {
    Carver memory{nullptr};
    memory.take<N>(count);
    return memory.used;
  }

  // Vectors of 16 bytes fit rows that are a multiple of them apart.
  static bool fits(const void* data, int64_t a, int64_t b) { return aligned(data) && a % V == 0 && b % V == 0; }

  Launch units_by_rows(void* stream) const {
    Launch shape;
    shape.x = blocks_of(padded, pointwise_threads);
    shape.y = B;
    shape.stream = stream;
    return shape;
  }

  Tier tier(bool backward) const { return choose_tier(problem, backward, layer.tier, machine); }
  int refuse_tier() const { return fail("tier", "expected one that this layer fits on this device"); }

  // ---- heads: products read the dense matrix that the blocks stand for

  bool heads() const { return layer.heads > 1; }
  int64_t dense_size() const { return heads() ? R * H * H : 0; }
  int launch_heads(const void* from, void* to, bool gather, void* stream) const {
    Launch shape;
    shape.x = blocks_of(gather ? R * H * (H / layer.heads) : R * H * H, HeadBlocks<T>::threads);
    shape.stream = stream;
    return launch<HeadBlocks<T>>(shape, {from, to, R * H, H, H / layer.heads, gather});
  }
  template <class Call>
  int spread_heads(Call& call, T* dense) const {
    if (!heads()) return 0;
    const void* blocks = call.weight_hh;
    call.weight_hh = dense;
    return launch_heads(blocks, dense, false, call.stream);
  }

  LayerSums<Cell, Math, LayerOf> sums() const { return {*this}; }

  // ---- forward

  int64_t at_once() const { return steps_at_once(problem); }

  using Staged = StagedSteps<Cell, Math, LayerOf>;
  bool staged() const { return is_staged(layer); }
  // Its memory: what is kept lies behind the gates, or, where nothing is, in the workspace with the rest.
  size_t gates_bytes() const {
    if (!layer.save) return 0;
    Staged steps{{}, *this};
    Carver memory{nullptr};
    memory.take<T>(entries * Cell::saved * padded);
    if (staged()) steps.carve_kept(memory);
    return memory.used;
  }
  StagedMemory<T> staged_memory(const void* states, const void* gates, Carver& workspace, A* left,
                                bool backward) const {
    Staged steps{{}, *this};
    if (!staged()) return steps;
    Carver memory{static_cast<char*>(const_cast<void*>(gates))};
    memory.take<T>(entries * Cell::saved * padded);
    steps.carve_kept(layer.save ? memory : workspace);
    if (backward)
      steps.carve_backward(workspace);
    else
      steps.carve_forward(workspace);
    steps.scratch.rows.late = late_rows(states, left);
    return steps;
  }

  struct ForwardScratch {
    A *inputs, *left;
    T* dense;
    uint8_t* masks;
    StagedMemory<T> stages;
  };
  size_t carve_forward(const LayerForward& call, ForwardScratch& scratch) const {
    Carver memory{static_cast<char*>(call.workspace)};
    scratch.inputs = memory.take<A>(at_once() * B * X * padded);
    scratch.left = memory.take<A>(late ? B * Slots::early * padded : 0);
    scratch.dense = memory.take<T>(dense_size());
    scratch.masks = memory.take<uint8_t>(mask_bytes());
    scratch.stages = staged_memory(call.states, call.gates, memory, scratch.left, false);
    return memory.used;
  }

  LayerMemory forward_memory() const {
    ForwardScratch forward;
    return {states_bytes(), gates_bytes(), carve_forward({}, forward)};
  }

  ForwardPoint<Cell, T> forward_point(const LayerForward& call) const {
    ForwardPoint<Cell, T> point{};
    point.steps = steps;
    point.arena = arena(call.states);
    point.H = H;
    point.P = P;
    point.inputs = static_cast<const A*>(call.workspace);
    point.bias_hh = static_cast<const T*>(call.bias_hh);
    point.params = static_cast<const T*>(call.params);
    point.y = call.y;
    for (int s = 0; s < Cell::states; s++) point.state[s] = call.state[s];
    point.gates = static_cast<T*>(call.gates);
    point.every = static_cast<T*>(call.every);
    return point;
  }

  // x·W_ihᵀ + bias of the steps [from, from + count).
  int input_product(const LayerForward& call, int64_t from, int64_t count) const {
    ProductArgs args{};
    const int64_t step = layer.reverse ? -call.x.step : call.x.step;
    const T* x = static_cast<const T*>(call.x.data) + steps.time(from) * call.x.step;
    args.a = {
        x,    nested_axis(count, B, step, call.x.row, nullptr), plain_axis(I, 1), fits(x, call.x.step, call.x.row), 0,
        steps};
    args.b = {call.weight_ih, plain_axis(X * H, I), plain_axis(I, 1), fits(call.weight_ih, I, 0), 0, steps};
    args.splits = 1;
    args.kind = store_inputs;
    args.out = call.workspace;
    args.out_column = nested_axis(X, H, padded, 1, nullptr);
    args.out_row = X * padded;
    args.bias = layer.layer_norm ? nullptr : call.bias_ih;  // behind the normalisation
    return product<true, true>(args, call.stream);
  }

  template <bool RowsAlongK, bool ColumnsAlongK>
  int product(const ProductArgs& args, void* stream) const {
    using Body = Product<Math, RowsAlongK, ColumnsAlongK>;
    Launch shape;
    shape.x = blocks_of(args.a.row.extent, Body::Block::rows);
    shape.y = blocks_of(args.b.row.extent, Body::Block::columns);
    shape.z = args.splits;
    shape.shared = Body::Block::shared;
    shape.stream = stream;
    return launch<Body>(shape, args);
  }

  int forward(const LayerForward& given) const {
    LayerForward call = given;
    ForwardPoint<Cell, T> point = forward_point(call);
    ForwardScratch scratch;
    carve_forward(call, scratch);
    if (spread_heads(call, scratch.dense)) return 1;
    if (draw(scratch.masks, point.regular, call.stream)) return 1;
    const Tier chosen = tier(false);
    if (chosen == tier_automatic) return refuse_tier();
    if (chosen == tier_grid && clear_exchange(point.arena, call.stream)) return 1;
    if (launch<Start<Cell, T>>(units_by_rows(call.stream), point)) return 1;
    for (int64_t from = 0; from < Steps_; from += at_once()) {
      const int64_t count = from + at_once() < Steps_ ? at_once() : Steps_ - from;
      if (input_product(call, from, count)) return 1;
      if (staged() && Staged{scratch.stages, *this}.inputs(call, scratch.inputs, from, count)) return 1;
      point.inputs_from = from;
      if (chosen == tier_grid) {
        if (persistent_forward(call, point, from, count)) return 1;
        continue;
      }
      for (int64_t i = from; i < from + count; i++)
        if (step_forward(call, point, scratch, i)) return 1;
    }
    return finish(call, point);
  }

  int finish(const LayerForward& call, const ForwardPoint<Cell, T>& point) const {
    typename Finish<Cell, T>::Args finish{};
    finish.arena = point.arena;
    finish.slot = point.arena.slot(Steps_);
    finish.H = H;
    finish.P = P;
    for (int s = 0; s < Cell::states; s++) finish.state_out[s] = call.state_out[s];
    return launch<Finish<Cell, T>>(units_by_rows(call.stream), finish);
  }

  // All slots of h but the first step's, which is written before anyone polls.
  int clear_exchange(const Arena<T>& arena, void* stream) const {
    const size_t slot = size_t(B * padded) * sizeof(T);
    if (fill_bytes(arena.h, unwritten_byte, slot * size_t(arena.slots), stream)) return 1;
    return clear_padding(arena.h, arena.slots * B, stream);
  }
  int clear_padding(T* data, int64_t rows, void* stream) const {
    Launch shape;
    shape.x = blocks_of(rows * (padded - H), ClearPadding<T>::threads);
    shape.stream = stream;
    return launch<ClearPadding<T>>(shape, {data, rows, H, padded});
  }

  // The blocks of a persistent kernel, and what they know of their place.
  template <class Body>
  Launch placed(const Placement& place, typename Body::Args& args, void* stream) const {
    args.shape = {place.chunks, place.row_tiles, place.group};
    Launch shape;
    shape.x = place.unit_blocks;
    shape.y = place.row_blocks;
    shape.shared = place.shared;
    shape.together = true;
    shape.stream = stream;
    return shape;
  }

  int persistent_forward(const LayerForward& call, const ForwardPoint<Cell, T>& point, int64_t from,
                         int64_t count) const {
    if constexpr (resident) {
      using Body = PersistentForward<Cell, Math, resident_warps>;
      typename Body::Args args{point, {}, from, count, static_cast<const T*>(call.weight_hh)};
      const Launch shape = placed<Body>(place(problem, false, machine), args, call.stream);
      return launch<Body>(shape, args);
    }
    return refuse_tier();
  }

  int persistent_backward(const LayerBackward& call, const BackwardPoint<Cell, T>& point) const {
    if constexpr (resident) {
      const int64_t rows = entries * Cell::slots;
      if (fill_bytes(point.dslots, unwritten_byte, size_t(rows * padded) * sizeof(T), call.stream)) return 1;
      if (clear_padding(point.dslots, rows, call.stream)) return 1;
      using Body = PersistentBackward<Cell, Math, resident_warps>;
      typename Body::Args args{point, {}, static_cast<const T*>(call.weight_hh)};
      const Launch shape = placed<Body>(place(problem, true, machine), args, call.stream);
      return launch<Body>(shape, args);
    }
    return refuse_tier();
  }

  int step_forward(const LayerForward& call, const ForwardPoint<Cell, T>& point, const ForwardScratch& scratch,
                   int64_t i) const {
    if (staged()) return Staged{scratch.stages, *this}.forward(call, point, i);
    if constexpr (late) {
      return LateSteps<Cell, Math, LayerOf>{*this, late_rows(call.states, scratch.left)}.forward(call, point, i);
    } else {
      return PlainSteps<Cell, Math, LayerOf>{*this}.forward(call, point, i);
    }
  }
  // ---- backward

  struct Scratch {
    T *dslots, *dense, *ddense;
    A *ds, *dinitial, *dparams, *left, *partial;
    uint8_t* masks;
    StagedMemory<T> stages;
  };
  size_t carve(const LayerBackward& call, Scratch& scratch) const {
    Carver memory{static_cast<char*>(call.workspace)};
    scratch.dslots = memory.take<T>(entries * Cell::slots * padded);
    scratch.ds = memory.take<A>(Cell::states * B * padded);
    scratch.dinitial = memory.take<A>(Cell::states * B * padded);
    scratch.dparams = memory.take<A>(Cell::params * B * padded);
    scratch.left = memory.take<A>(late ? B * Cell::slots * padded : 0);
    scratch.partial = memory.take<A>(sums().partial_size());
    scratch.dense = memory.take<T>(dense_size());
    scratch.ddense = memory.take<T>(dense_size());
    scratch.masks = memory.take<uint8_t>(mask_bytes());
    scratch.stages = staged_memory(call.states, call.gates, memory, scratch.left, true);
    return memory.used;
  }
  size_t backward_workspace() const {
    Scratch scratch;
    return carve({}, scratch);
  }

  typename StartBackward<Cell, T>::Args backward_point(const LayerBackward& call, const Scratch& scratch) const {
    typename StartBackward<Cell, T>::Args start{};
    BackwardPoint<Cell, T>& point = start.point;
    point.steps = steps;
    point.arena = arena(call.states);
    point.H = H;
    point.P = P;
    point.gates = static_cast<const T*>(call.gates);
    point.params = static_cast<const T*>(call.params);
    point.dy = call.dy;
    point.dslots = scratch.dslots;
    point.ds = scratch.ds;
    point.dinitial = scratch.dinitial;
    point.dparams = scratch.dparams;
    for (int s = 0; s < Cell::states; s++) {
      start.dstate[s] = call.dstate[s];
      point.dstate_out[s] = call.dstate_out[s];
      point.dstates[s] = call.dstates[s];
    }
    return start;
  }

  // What needs no order of time.
  int gradients(const LayerBackward& call, const Scratch& scratch, const BackwardPoint<Cell, T>& point) const {
    return sums().all(call, scratch, point, {scratch.dslots, Cell::slots, Cell::from_x, Cell::from_h});
  }

  int backward(const LayerBackward& given) const {
    LayerBackward call = given;
    Scratch scratch;
    carve(call, scratch);
    if (spread_heads(call, scratch.dense)) return 1;
    if (heads()) call.dweight_hh = scratch.ddense;
    typename StartBackward<Cell, T>::Args start = backward_point(call, scratch);
    BackwardPoint<Cell, T>& point = start.point;
    if (draw(scratch.masks, point.regular, call.stream)) return 1;
    if (launch<StartBackward<Cell, T>>(units_by_rows(call.stream), start)) return 1;
    const Tier chosen = tier(true);
    if (chosen == tier_automatic) return refuse_tier();
    if (chosen == tier_grid) {
      if (persistent_backward(call, point)) return 1;
    } else {
      for (int64_t i = Steps_ - 1; i >= -1; i--)
        if (step_backward(call, point, scratch, i)) return 1;
    }
    if (staged()) {
      if (Staged{scratch.stages, *this}.gradients(call, point, scratch)) return 1;
    } else if (gradients(call, scratch, point)) {
      return 1;
    }
    return heads() ? launch_heads(scratch.ddense, given.dweight_hh, true, call.stream) : 0;
  }

  // The columns (j, u) of the gradient of the slots, for those slots that x or h adds into.
  static Axis slot_columns(int count, int64_t H, int64_t padded, const int* select) {
    return nested_axis(count, H, padded, 1, select);
  }

  int step_backward(const LayerBackward& call, const BackwardPoint<Cell, T>& point, const Scratch& scratch,
                    int64_t i) const {
    if (staged()) return Staged{scratch.stages, *this}.backward(call, point, i);
    if constexpr (late) {
      return LateSteps<Cell, Math, LayerOf>{*this, late_rows(call.states, scratch.left)}.backward(call, point, i);
    } else {
      return PlainSteps<Cell, Math, LayerOf>{*this}.backward(call, point, i);
    }
  }
};

}  // namespace cuda
}  // namespace pyrnn
