// SPDX-License-Identifier: Apache-2.0
// The gradients that need no order of time, of weights, biases and x: one product or sum each over all steps.
#pragma once

#include "carver.h"
#include "late.h"
#include "plan.h"

namespace pyrnn {
namespace cuda {

// Gradients of what the products of x and h add into: (T, B, each, padded), and which of `each` they are.
template <class T>
struct SlotRows {
  const T* data;
  int64_t each;
  const int *x, *h;
};

// Of a layer `Of`. A `Scratch` has `partial`, memory for the parts of a sum, and the parameters' sums.
template <class Cell, class Math, class Of>
struct LayerSums {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Slots = Late<Cell>;
  static constexpr int X = FromX<Cell>::count, R = FromH<Cell>::count;
  const Of& of;

  int64_t splits(int64_t columns, int64_t rows) const {
    return splits_of(blocks_of(rows, 64) * blocks_of(columns, 64), chunks_of<T>(of.entries), of.machine);
  }
  int64_t partial_size() const {
    int64_t most = column_splits(of.entries) * Cell::slots * of.H;
    const auto product = [&](int64_t rows, int64_t columns) {
      const int64_t size = splits(columns, rows) * rows * columns;
      most = size > most ? size : most;
    };
    product(X * of.H, of.I);
    product(Slots::early * of.H, of.P);
    product(of.P, of.H);
    product(Slots::each * of.H, of.H);
    return most;
  }

  template <class Scratch>
  int all(const LayerBackward& call, const Scratch& scratch, const BackwardPoint<Cell, T>& point,
          const SlotRows<T>& rows) const {
    const int64_t I = of.I, H = of.H;
    const auto rows_of = [&](int count, const int* select) {
      return Operand{rows.data,
                     of.slot_columns(count, H, of.padded, select),
                     plain_axis(of.entries, rows.each * of.padded),
                     H % Of::V == 0,
                     0,
                     of.steps};
    };
    const int32_t skips = of.layer.lengths || of.layer.mask;
    if (call.dweight_ih) {
      const Operand x{call.x.data,
                      plain_axis(I, 1),
                      nested_axis(of.Steps_, of.B, call.x.step, call.x.row, nullptr),
                      of.fits(call.x.data, call.x.step, call.x.row),
                      skips,
                      of.steps};
      if (weight(rows_of(X, rows.x), x, call.dweight_ih, scratch.partial, call.stream)) return 1;
    }
    if (call.dweight_hh) {
      const Operand h{point.arena.h_row(point.arena.first(), 0),
                      plain_axis(of.P, 1),
                      plain_axis(of.entries, of.padded),
                      1,
                      skips,
                      of.steps};
      if (weight(rows_of(Slots::early, rows.h), h, call.dweight_hh, scratch.partial, call.stream)) return 1;
      for (int k = 0; k < Slots::reads; k++) {
        const Operand read{of.late_rows(call.states, nullptr).row(0, 0, k),
                           plain_axis(H, 1),
                           plain_axis(of.entries, Slots::reads * of.padded),
                           1,
                           skips,
                           of.steps};
        const int first = Slots::first(k);
        if (weight(rows_of(Slots::each, rows.h + first), read, static_cast<T*>(call.dweight_hh) + first * H * H,
                   scratch.partial, call.stream))
          return 1;
      }
    }
    if (call.dbias_ih && bias(call.dbias_ih, X, Cell::from_x, scratch, call.stream)) return 1;
    if (call.dbias_hh && bias(call.dbias_hh, R, Cell::from_h, scratch, call.stream)) return 1;
    if (Cell::params > 0 && call.dparams)
      for (int k = 0; k < Cell::params; k++) {
        const A* from = scratch.dparams + k * of.B * of.padded;
        if (columns<A>(from, of.B, of.padded, 1, plain_axis(H, 1), static_cast<T*>(call.dparams) + k * H,
                       scratch.partial, call.stream))
          return 1;
      }
    return call.dx.data ? input(call, rows) : 0;
  }

  // out (rows, columns), of operands whose k are the entries.
  int weight(const Operand& rows, const Operand& columns, void* out, A* partial, void* stream) const {
    ProductArgs args{};
    args.a = rows;
    args.b = columns;
    args.splits = splits(columns.row.extent, rows.row.extent);
    args.kind = args.splits > 1 ? store_partial : store_weights;
    args.out = args.splits > 1 ? static_cast<void*>(partial) : out;
    args.out_row = columns.row.extent;
    args.steps = of.steps;
    if (of.template product<false, false>(args, stream)) return 1;
    return args.splits > 1 ? sum(partial, out, args.splits, rows.row.extent * columns.row.extent, stream) : 0;
  }

  int sum(const A* partial, void* out, int64_t count, int64_t size, void* stream) const {
    Launch shape;
    shape.x = blocks_of(size, Sum<T>::threads);
    shape.stream = stream;
    return launch<Sum<T>>(shape, {partial, out, count, size, 0, 0});
  }

  // out[column] = sum over rows of in, times `times` unless that is null.
  template <class From>
  int columns(const From* in, int64_t rows, int64_t distance, int64_t splits, const Axis& columns, void* out,
              A* partial, void* stream, const From* times = nullptr, int64_t times_distance = 0,
              const Axis& times_columns = {}) const {
    using Body = ColumnSum<T, From>;
    Launch shape;
    shape.x = blocks_of(columns.extent, Body::threads);
    shape.y = splits;
    shape.stream = stream;
    if (launch<Body>(shape, {in, partial, rows, distance, splits, columns, times, times_distance, times_columns}))
      return 1;
    return sum(partial, out, splits, columns.extent, stream);
  }

  template <class Scratch>
  int bias(void* out, int count, const int* select, const Scratch& scratch, void* stream) const {
    return columns<T>(scratch.dslots, of.entries, Cell::slots * of.padded, column_splits(of.entries),
                      of.slot_columns(count, of.H, of.padded, select), out, scratch.partial, stream);
  }

  int input(const LayerBackward& call, const SlotRows<T>& rows) const {
    ProductArgs args{};
    args.a = {rows.data,
              plain_axis(of.entries, rows.each * of.padded),
              of.slot_columns(X, of.H, of.padded, rows.x),
              of.H % Of::V == 0,
              0,
              of.steps};
    args.b = {call.weight_ih, plain_axis(of.I, 1), plain_axis(X * of.H, of.I), of.fits(call.weight_ih, of.I, 0), 0,
              of.steps};
    args.splits = 1;
    args.kind = store_dx;
    args.dx = call.dx;
    args.accumulate = call.dx_accumulate;
    args.steps = of.steps;
    return of.template product<true, false>(args, call.stream);
  }
};

}  // namespace cuda
}  // namespace pyrnn
