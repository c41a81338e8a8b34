// SPDX-License-Identifier: Apache-2.0
// The loop of a decoder for one way of multiplying: the steps of a cell, with queries, attention and attention layer
// between them. As a layer it allocates nothing and waits for nothing, so that all of it may be captured in a graph.
#pragma once

#include "attention_kernels.h"
#include "carver.h"
#include "decoder_rows.h"
#include "kernels.h"
#include "plan.h"
#include "product.h"

namespace pyrnn {
namespace cuda {

template <class Math>
struct DecoderOf {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  static constexpr int V = per_words<T>;

  const Decoder& d;
  const Machine& machine;
  const int64_t B = d.cell.sizes.B, Tq = d.cell.sizes.T, H = d.cell.sizes.H, W = d.cell.sizes.I;
  const int64_t D = d.attention.sizes.D, M = d.attention.sizes.Dv, I = d.I, fed = d.fed, O = d.O, J = M + H;
  const int64_t entries = Tq * B;
  const bool previous = d.query_previous != 0, layer = d.has_layer != 0;
  const bool feeds = fed > 0 && !previous;  // what a step gives to the one after it
  const Steps steps{Tq, B, 0, 0, nullptr, nullptr, nullptr};
  DecoderOf(const Decoder& d, const Machine& machine) : d(d), machine(machine) {}

  const AttentionFunctions& attention() const { return *attention_functions(d.attention.score, d.attention.number); }

  // ---- memory

  struct Forward {
    A* z = nullptr;  // (B, O)
  };
  size_t carve(void* base, Forward& scratch) const {
    Carver memory{static_cast<char*>(base)};
    if (layer) scratch.z = memory.take<A>(B * O);
    return memory.used;
  }
  struct Backward {
    T* dz = nullptr;        // (B, Tq, O)
    A* djoined = nullptr;   // (B, M + H)
    A *dfed, *partial;      // (B, fed)
  };
  size_t carve(void* base, Backward& scratch) const {
    Carver memory{static_cast<char*>(base)};
    if (layer) {
      scratch.dz = memory.take<T>(entries * O);
      scratch.djoined = memory.take<A>(B * J);
    }
    scratch.dfed = memory.take<A>(B * fed);
    scratch.partial = memory.take<A>(partial_size());
    return memory.used;
  }
  int memory(DecoderMemory* memory) const {
    Forward forward;
    Backward backward;
    *memory = {carve(nullptr, forward), carve(nullptr, backward)};
    return 0;
  }

  // ---- launches

  static const T* numbers(const void* data) { return static_cast<const T*>(data); }
  static T* numbers(void* data) { return static_cast<T*>(data); }
  static bool fits(const void* data, int64_t a, int64_t b) { return aligned(data) && a % V == 0 && b % V == 0; }
  Operand operand(const void* data, const Axis& row, const Axis& k, bool vector) const {
    return {data, row, k, vector, 0, steps};
  }
  // The rows of a step, of n numbers each, `distance` apart.
  Operand step_rows(const void* data, int64_t distance, int64_t n) const {
    return operand(data, plain_axis(B, distance), plain_axis(n, 1), fits(data, distance, 0));
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
  // out (rows, columns) of sums = a·bᵀ, or what was there and that.
  ProductArgs to_sums(const Operand& a, const Operand& b, void* out, int64_t out_row, bool accumulate) const {
    ProductArgs args{};
    args.a = a;
    args.b = b;
    args.splits = 1;
    args.kind = store_inputs;
    args.out = out;
    args.out_row = out_row;
    args.out_column = plain_axis(b.row.extent, 1);
    args.accumulate = accumulate;
    return args;
  }
  template <class Body>
  int by_rows(const typename Body::Args& args, int64_t columns, void* stream) const {
    Launch shape;
    shape.x = blocks_of(columns, Body::threads);
    shape.y = B;
    shape.stream = stream;
    return launch<Body>(shape, args);
  }

  // ---- forward

  int forward(const DecoderForward& call, const LayerFunctions& cell) const {
    Forward scratch;
    carve(call.workspace, scratch);
    const LayerInside inside = cell.inside(d.cell, machine, call.cell.states, nullptr);
    if (attention().start(call.attention)) return 1;
    if (cell.forward_step(call.cell, machine, -1, 0)) return 1;
    for (int64_t t = 0; t < Tq; t++) {
      const int64_t from = t / inside.at_once * inside.at_once, left = Tq - t;
      if (t == from && inputs(call, inside, t, left < inside.at_once ? left : inside.at_once, 0, 0, I)) return 1;
      if (previous && ask(call, inside, t)) return 1;
      if (previous && fed && emit(call, nullptr, t, t)) return 1;
      if (fed && inputs(call, inside, t, 1, t - from, I, fed)) return 1;
      if (cell.forward_step(call.cell, machine, t, from)) return 1;
      if (!previous && ask(call, inside, t)) return 1;
      if (give(call, scratch, t)) return 1;
    }
    return cell.forward_step(call.cell, machine, Tq, 0);
  }

  // The products of steps [t, t + count) with those columns of W_ih; their place in the workspace is `at`. The first
  // columns begin the sums, with the bias.
  int inputs(const DecoderForward& call, const LayerInside& inside, int64_t t, int64_t count, int64_t at,
             int64_t column, int64_t columns) const {
    const T* read = numbers(call.read) + t * W + column;
    const T* weights = numbers(call.cell.weight_ih) + column;
    const int64_t X = inside.from_x;
    ProductArgs args = to_sums(
        operand(read, nested_axis(count, B, W, Tq * W, nullptr), plain_axis(columns, 1), fits(read, W, 0)),
        operand(weights, plain_axis(X * H, W), plain_axis(columns, 1), fits(weights, W, 0)),
        static_cast<A*>(call.cell.workspace) + at * B * X * inside.padded, X * inside.padded, column > 0);
    args.out_column = nested_axis(X, H, inside.padded, 1, nullptr);
    args.bias = column > 0 ? nullptr : call.cell.bias_ih;
    return product<true, true>(args, call.cell.stream);
  }

  // The query of step t, and its context.
  int ask(const DecoderForward& call, const LayerInside& inside, int64_t t) const {
    const int64_t i = previous ? t : t + 1;
    const T* h = numbers(inside.h) + (inside.ring ? i % 2 : i) * B * inside.padded;
    T* query = numbers(const_cast<void*>(call.attention.query)) + t * D;
    if (call.weight_query) {
      ProductArgs args = to_sums(
          step_rows(h, inside.padded, H),
          operand(call.weight_query, plain_axis(D, H), plain_axis(H, 1), fits(call.weight_query, H, 0)), query, Tq * D,
          false);
      args.kind = store_weights;
      args.bias = call.bias_query;
      if (product<true, true>(args, call.cell.stream)) return 1;
    } else {
      typename EmitRows<T>::Args args{};
      args.from = h;
      args.from_row = inside.padded;
      args.bias = numbers(call.bias_query);
      args.out = query;
      args.out_row = Tq * D;
      args.n = D;
      if (by_rows<EmitRows<T>>(args, D, call.cell.stream)) return 1;
    }
    return attention().step(call.attention, t, numbers(call.joined) + t * J, Tq * J);
  }

  // What step t gives: its output, and what the cell reads beside x at the step after it.
  int give(const DecoderForward& call, const Forward& scratch, int64_t t) const {
    if (layer) {
      const T* joined = numbers(call.joined) + t * J;
      ProductArgs args = to_sums(
          step_rows(joined, Tq * J, J),
          operand(call.weight_attention, plain_axis(O, J), plain_axis(J, 1), fits(call.weight_attention, J, 0)),
          scratch.z, O, false);
      args.bias = call.bias_attention;
      if (product<true, true>(args, call.cell.stream)) return 1;
    }
    const bool next = feeds && t + 1 < Tq;
    return layer || next ? emit(call, scratch.z, t, next ? t + 1 : -1) : 0;
  }
  // tanh(z), or else the context, of step t as what step `next` reads; none if that is negative.
  int emit(const DecoderForward& call, const A* z, int64_t t, int64_t next) const {
    typename EmitRows<T>::Args args{};
    args.sums = z;
    args.from = numbers(call.joined) + t * J;
    args.from_row = Tq * J;
    args.out = z ? numbers(call.outputs) + t * O : nullptr;
    args.out_row = Tq * O;
    args.next = next < 0 ? nullptr : numbers(call.read) + next * W + I;
    args.next_row = Tq * W;
    args.n = z ? O : M;
    return by_rows<EmitRows<T>>(args, args.n, call.cell.stream);
  }

  // ---- backward

  int backward(const DecoderBackward& call, const LayerFunctions& cell) const {
    Backward scratch;
    carve(call.workspace, scratch);
    const LayerInside inside = cell.inside(d.cell, machine, call.cell.states, call.cell.workspace);
    void* stream = call.cell.stream;
    if (fill_bytes(scratch.dfed, 0, size_t(B * fed) * sizeof(A), stream)) return 1;
    if (cell.backward_step(call.cell, machine, Tq)) return 1;
    for (int64_t t = Tq - 1; t >= 0; t--) {
      if (layer && layer_back(call, scratch, t)) return 1;
      if (previous) {
        if (joined_back(call, scratch, inside, t, M, H, nullptr)) return 1;
        if (cell_back(call, scratch, inside, cell, t)) return 1;
        if (joined_back(call, scratch, inside, t, 0, M, fed ? scratch.dfed : nullptr)) return 1;
        if (ask_back(call, inside, t)) return 1;
      } else {
        if (joined_back(call, scratch, inside, t, 0, J, feeds && !layer ? scratch.dfed : nullptr)) return 1;
        if (ask_back(call, inside, t)) return 1;
        if (cell_back(call, scratch, inside, cell, t)) return 1;
      }
    }
    if (cell.backward_step(call.cell, machine, -1)) return 1;
    if (feeds && feed_back(call, scratch)) return 1;
    if (cell.backward_step(call.cell, machine, -2)) return 1;
    if (attention().rest_backward(call.attention)) return 1;
    return input_gradient(call, inside) || weights(call, scratch, inside);
  }

  int layer_back(const DecoderBackward& call, const Backward& scratch, int64_t t) const {
    T* dz = scratch.dz + t * O;
    const typename LayerRowsBackward<T>::Args args{call.doutputs ? numbers(call.doutputs) + t * O : nullptr,
                                                   numbers(call.outputs) + t * O,
                                                   feeds ? scratch.dfed : nullptr,
                                                   dz,
                                                   Tq * O,
                                                   O};
    if (by_rows<LayerRowsBackward<T>>(args, O, call.cell.stream)) return 1;
    const void* w = call.weight_attention;
    return product<true, false>(
        to_sums(step_rows(dz, Tq * O, O), operand(w, plain_axis(J, 1), plain_axis(O, J), fits(w, J, 0)),
                scratch.djoined, J, false),
        call.cell.stream);
  }

  int joined_back(const DecoderBackward& call, const Backward& scratch, const LayerInside& inside, int64_t t,
                  int64_t first, int64_t count, const A* more) const {
    typename JoinedRowsBackward<T>::Args args{};
    args.sums = scratch.djoined;
    args.from = call.doutputs ? numbers(call.doutputs) + t * O : nullptr;
    args.row = J;
    args.from_row = Tq * O;
    args.first = first;
    args.count = count;
    args.M = M;
    args.more = more;
    args.more_row = fed;
    args.out = numbers(const_cast<void*>(call.attention.dcontext)) + t * M;
    args.out_row = Tq * M;
    args.ds = static_cast<A*>(inside.ds);
    args.ds_row = inside.padded;
    return by_rows<JoinedRowsBackward<T>>(args, count, call.cell.stream);
  }

  // Through the attention of step t, and its query, to h.
  int ask_back(const DecoderBackward& call, const LayerInside& inside, int64_t t) const {
    if (attention().step_backward(call.attention, t)) return 1;
    const T* dquery = numbers(call.attention.dquery) + t * D;
    if (call.weight_query) {
      const void* w = call.weight_query;
      return product<true, false>(
          to_sums(step_rows(dquery, Tq * D, D), operand(w, plain_axis(H, 1), plain_axis(D, H), fits(w, H, 0)),
                  inside.ds, inside.padded, true),
          call.cell.stream);
    }
    typename JoinedRowsBackward<T>::Args args{};
    args.from = dquery;
    args.from_row = Tq * D;
    args.count = D;
    args.ds = static_cast<A*>(inside.ds);
    args.ds_row = inside.padded;
    return by_rows<JoinedRowsBackward<T>>(args, D, call.cell.stream);
  }

  // Through the cell of step t, to what was fed to it.
  int cell_back(const DecoderBackward& call, const Backward& scratch, const LayerInside& inside,
                const LayerFunctions& cell, int64_t t) const {
    if (cell.backward_step(call.cell, machine, t)) return 1;
    if (!fed) return 0;
    const T* w = numbers(call.cell.weight_ih) + I;
    return product<true, false>(
        to_sums(slots(inside, t, 1), operand(w, plain_axis(fed, 1), plain_axis(inside.from_x * H, W), fits(w, W, 0)),
                scratch.dfed, fed, false),
        call.cell.stream);
  }
  // The gradients of the slots that x adds to, of steps [t, t + count).
  Operand slots(const LayerInside& inside, int64_t t, int64_t count) const {
    const int64_t row = inside.slots * inside.padded;
    return operand(numbers(inside.dslots) + t * B * row, plain_axis(count * B, row),
                   nested_axis(inside.from_x, H, inside.padded, 1, inside.select), H % V == 0);
  }

  int feed_back(const DecoderBackward& call, const Backward& scratch) const {
    typename JoinedRowsBackward<T>::Args args{};
    args.sums = scratch.dfed;
    args.row = args.count = args.M = args.out_row = fed;
    args.out = numbers(call.dfeed);
    return by_rows<JoinedRowsBackward<T>>(args, fed, call.cell.stream);
  }

  int input_gradient(const DecoderBackward& call, const LayerInside& inside) const {
    const void* w = call.cell.weight_ih;
    ProductArgs args = to_sums(slots(inside, 0, Tq),
                               operand(w, plain_axis(I, 1), plain_axis(inside.from_x * H, W), fits(w, W, 0)), nullptr,
                               0, false);
    args.kind = store_dx;
    args.dx = {call.dx, I, Tq * I};
    args.steps = steps;
    return product<true, false>(args, call.cell.stream);
  }

  // ---- weights of queries and of the attention layer: one product each over all steps

  int64_t splits(int64_t rows, int64_t columns) const {
    return splits_of(blocks_of(rows, 64) * blocks_of(columns, 64), chunks_of<T>(entries), machine);
  }
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
  int64_t partial_size() const {
    const int64_t products = larger(splits(D, H) * D * H, layer ? splits(O, J) * O * J : 0);
    return larger(products, column_splits(entries) * larger(D, O));
  }
  int weights(const DecoderBackward& call, const Backward& scratch, const LayerInside& inside) const {
    void* stream = call.cell.stream;
    const T* dquery = numbers(call.attention.dquery);
    if (call.dweight_query) {
      // Entries in the order of time, as the states have them.
      const T* h = numbers(inside.h) + (previous ? 0 : B * inside.padded);
      if (weight_product(operand(dquery, plain_axis(D, 1), nested_axis(Tq, B, D, Tq * D, nullptr), fits(dquery, D, 0)),
                         operand(h, plain_axis(H, 1), plain_axis(entries, inside.padded), true), call.dweight_query,
                         scratch, stream))
        return 1;
    }
    if (call.dbias_query && column_sum(dquery, D, call.dbias_query, scratch, stream)) return 1;
    if (!layer) return 0;
    if (weight_product(operand(scratch.dz, plain_axis(O, 1), plain_axis(entries, O), fits(scratch.dz, O, 0)),
                       operand(call.joined, plain_axis(J, 1), plain_axis(entries, J), fits(call.joined, J, 0)),
                       call.dweight_attention, scratch, stream))
      return 1;
    return call.dbias_attention ? column_sum(scratch.dz, O, call.dbias_attention, scratch, stream) : 0;
  }
  int weight_product(const Operand& rows, const Operand& columns, void* out, const Backward& scratch,
                     void* stream) const {
    ProductArgs args{};
    args.a = rows;
    args.b = columns;
    args.splits = splits(rows.row.extent, columns.row.extent);
    args.kind = args.splits > 1 ? store_partial : store_weights;
    args.out = args.splits > 1 ? static_cast<void*>(scratch.partial) : out;
    args.out_row = columns.row.extent;
    if (product<false, false>(args, stream)) return 1;
    return args.splits > 1 ? sum(scratch, out, args.splits, rows.row.extent * columns.row.extent, stream) : 0;
  }
  // Of all entries, n numbers each.
  int column_sum(const T* in, int64_t n, void* out, const Backward& scratch, void* stream) const {
    using Body = ColumnSum<T, T>;
    const int64_t count = column_splits(entries);
    Launch shape;
    shape.x = blocks_of(n, Body::threads);
    shape.y = count;
    shape.stream = stream;
    if (launch<Body>(shape, {in, scratch.partial, entries, n, count, plain_axis(n, 1), nullptr, 0, {}})) return 1;
    return sum(scratch, out, count, n, stream);
  }
  int sum(const Backward& scratch, void* out, int64_t count, int64_t size, void* stream) const {
    Launch shape;
    shape.x = blocks_of(size, Sum<T>::threads);
    shape.stream = stream;
    return launch<Sum<T>>(shape, {scratch.partial, out, count, size, 0, 0});
  }
};

}  // namespace cuda
}  // namespace pyrnn
