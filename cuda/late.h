// SPDX-License-Identifier: Apache-2.0
// Cells whose last slots read what they make of the first ones, such as the GRU with the reset gate before the product:
// two kernels a step, a product each, whatever the tier of other cells. What late products read is kept.
#pragma once

#include "stepwise.h"

namespace pyrnn {
namespace cuda {

// Of from_h: the slots that read h, and those that read each of the other vectors.
template <class Cell>
struct Late {
  static constexpr int reads = reads_of<Cell>, early = FromH<Cell>::count - late_of<Cell>;
  static constexpr int each = late_of<Cell> / (reads > 0 ? reads : 1);
  static PYRNN_FN constexpr int first(int k) { return early + k * each; }
};

// What late products read, and what the first kernel of a step leaves to the second one.
template <class T>
struct LateRows {
  T* read;  // (T, B, reads, padded), or (B, reads, padded) when nothing is kept
  Accumulator<T>*
      left;  // forward (B, early, padded): products of h; backward (B, slots, padded): gradient of the slots
  int32_t kept;
  int64_t B, reads, padded;
  PYRNN_FN T* row(int64_t t, int64_t b, int k) const { return read + (((kept ? t : 0) * B + b) * reads + k) * padded; }
  PYRNN_FN Accumulator<T>* left_row(int64_t b, int rows, int row) const { return left + (b * rows + row) * padded; }
};

// Runs f(m, i, b, u) for the sums that this lane has of a tile of N columns: rows m·16, units of a block of 16.
template <class Block, class Context, class F>
PYRNN_FN void each_sum(Context& context, int64_t B, int64_t H, const F& f) {
  const int64_t b0 = int64_t(context.block_y) * Block::rows + Block::warp_row(context.thread) * 2 * tile_rows;
  const int64_t u0 = (int64_t(context.block_x) * 2 + Block::warp_column(context.thread)) * tile_columns;
  PYRNN_UNROLL for (int m = 0; m < 2; m++) PYRNN_UNROLL for (int i = 0; i < 4; i++) {
    const int64_t b = b0 + m * tile_rows + accumulator_row(context.lane(), i);
    const int64_t u = u0 + accumulator_column(context.lane(), i);
    if (b < B && u < H) f(m, i, b, u);
  }
}

// Sums a tile for each vector that is read, of operands a and b.
template <class Block, class Context, int reads>
PYRNN_FN void sum_each(Context& context, Block (&tile)[reads], const Operand (&a)[reads], const Operand (&b)[reads],
                       int64_t first_column, int column_step, int64_t chunks, int64_t column_shift) {
  PYRNN_UNROLL for (int k = 0; k < reads; k++) {
    if (k > 0) context.barrier();  // the buffers of the product before are free
    tile[k].sum(context, a[k], int64_t(context.block_y) * Block::rows, b[k], first_column, tile_columns, column_step, 0,
                chunks, column_shift);
  }
}

// The products of h, and what the late slots read.
template <class Cell, class Math>
struct EarlyForward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Of = Late<Cell>;
  using Block = Tile<Math, 2, 2, 2, Of::early, true, true>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = 2 * tile_columns;
  static constexpr bool independent = false;
  struct Args {
    ForwardPoint<Cell, T> point;
    LateRows<T> late;
    int64_t step;
    Operand h, weights;  // (B, H); (early · units, H), those of block 0
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const ForwardPoint<Cell, T>& point = args.point;
    Block tile;
    tile.sum(context, args.h, int64_t(context.block_y) * rows, args.weights, 0, tile_columns, units, 0,
             chunks_of<T>(point.H), int64_t(context.block_x) * units);
    each_sum<Block>(context, point.steps.B, point.H, [&](int m, int i, int64_t b, int64_t u) {
      const int64_t t = point.steps.time(args.step);
      A x[FromX<Cell>::count], h[FromH<Cell>::count] = {}, s[Cell::states], a[Cell::slots], v[Of::reads];
      point.load(args.step, b, u, s);
      point.load_inputs(args.step, b, u, x);
      PYRNN_UNROLL for (int j = 0; j < Of::early; j++) args.late.left_row(b, Of::early, j)[u] = h[j] = tile.c[m][j][i];
      point.slots(u, x, h, a);
      Cell::read(a, s, v);
      PYRNN_UNROLL for (int k = 0; k < Of::reads; k++)
          args.late.row(t, b, k)[u] = Narrow<T>::from(v[k] * point.regular.factor(point.at(t, b, u)));
    });
  }
};

// The late products, and the cell.
template <class Cell, class Math>
struct LateForward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Of = Late<Cell>;
  using Block = Tile<Math, 2, 2, 2, Of::each, true, true>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = 2 * tile_columns;
  static constexpr bool independent = false;
  struct Args {
    ForwardPoint<Cell, T> point;
    LateRows<T> late;
    int64_t step;
    Operand operand[Of::reads], weights[Of::reads];  // (B, H); (each · units, H), those of block 0
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const ForwardPoint<Cell, T>& point = args.point;
    Block tile[Of::reads];
    sum_each(context, tile, args.operand, args.weights, 0, units, chunks_of<T>(point.H),
             int64_t(context.block_x) * units);
    each_sum<Block>(context, point.steps.B, point.H, [&](int m, int i, int64_t b, int64_t u) {
      A x[FromX<Cell>::count], h[FromH<Cell>::count], s[Cell::states];
      point.load(args.step, b, u, s);
      point.load_inputs(args.step, b, u, x);
      PYRNN_UNROLL for (int j = 0; j < Of::early; j++) h[j] = args.late.left_row(b, Of::early, j)[u];
      PYRNN_UNROLL for (int k = 0; k < Of::reads; k++) PYRNN_UNROLL for (int j = 0; j < Of::each; j++)
          h[Of::first(k) + j] = tile[k].c[m][j][i];
      point.arena.h_row(point.arena.slot(args.step + 1), b)[u] = point.advance(args.step, b, u, x, h, s);
    });
  }
};

// Step i, descending to -1, which only finishes: dG of the slots that h feeds at step i + 1 times R, then the cell's
// derivative, and of the slots' gradients those of the late ones.
template <class Cell, class Math>
struct LateBackward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Block = Tile<Math, 2, 2, 2, 1, true, false>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = 2 * tile_columns;
  static constexpr bool independent = false;
  struct Args {
    BackwardPoint<Cell, T> point;
    LateRows<T> late;
    int64_t step;
    Operand dslots, weights;  // (B, early · H), (H, early · H)
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const BackwardPoint<Cell, T>& point = args.point;
    Block tile;
    const int64_t chunks = args.step + 1 < point.steps.T ? chunks_of<T>(args.dslots.k.extent) : 0;
    tile.sum(context, args.dslots, int64_t(context.block_y) * rows, args.weights, int64_t(context.block_x) * units,
             tile_columns, tile_columns, 0, chunks);
    each_sum<Block>(context, point.steps.B, point.H, [&](int m, int i, int64_t b, int64_t u) {
      A d[Cell::states];
      point.load_gradient(b, u, d);
      if (args.step < 0) return point.finish(b, u, tile.c[m][0][i], d);
      typename BackwardPoint<Cell, T>::Kept kept{};
      A da[Cell::slots];
      point.load(args.step, b, u, kept);
      point.through_cell(args.step, b, u, tile.c[m][0][i], kept, d, da);
      point.store_gradient(b, u, d);
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) args.late.left_row(b, Cell::slots, k)[u] = da[k];
      const int64_t t = point.steps.time(args.step);
      PYRNN_UNROLL for (int j = Late<Cell>::early; j < FromH<Cell>::count; j++)
          point.dslot(t, b, FromH<Cell>::at(j))[u] = Narrow<T>::from(da[FromH<Cell>::at(j)]);
    });
  }
};

// The same step: through the late products to what they read, and so to the states and the other slots.
template <class Cell, class Math>
struct EarlyBackward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Of = Late<Cell>;
  using Block = Tile<Math, 2, 2, 2, 1, true, false>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = 2 * tile_columns;
  static constexpr bool independent = false;
  struct Args {
    BackwardPoint<Cell, T> point;
    LateRows<T> late;
    int64_t step;
    Operand operand[Of::reads], weights[Of::reads];  // (B, each · H), (H, each · H)
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const BackwardPoint<Cell, T>& point = args.point;
    Block tile[Of::reads];
    sum_each(context, tile, args.operand, args.weights, int64_t(context.block_x) * units, tile_columns,
             chunks_of<T>(args.operand[0].k.extent), 0);
    each_sum<Block>(context, point.steps.B, point.H, [&](int m, int i, int64_t b, int64_t u) {
      const int64_t t = point.steps.time(args.step);
      A d[Cell::states], da[Cell::slots], dread[Of::reads];
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) da[k] = args.late.left_row(b, Cell::slots, k)[u];
      if (point.steps.active(t, b)) {
        typename BackwardPoint<Cell, T>::Kept kept{};
        point.load(args.step, b, u, kept);
        point.load_gradient(b, u, d);
        PYRNN_UNROLL for (int k = 0; k < Of::reads; k++)
            dread[k] = tile[k].c[m][0][i] * point.regular.factor(point.at(t, b, u));
        Cell::read_backward(kept.save, kept.s, dread, d, da);
        point.cut(t, b, u, d);
        point.store_gradient(b, u, d);
      }
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) point.dslot(t, b, k)[u] = Narrow<T>::from(da[k]);
    });
  }
};

// Their launches, of a layer `Of`.
template <class Cell, class Math, class Of>
struct LateSteps {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Slots = Late<Cell>;
  const Of& of;
  LateRows<T> rows;

  // From the slot `first` of from_h on.
  const T* weights(const void* weight_hh, int first) const {
    return static_cast<const T*>(weight_hh) + first * of.H * of.H;
  }
  Operand columns(const void* weight_hh, int first, int count, int units) const {
    const T* w = weights(weight_hh, first);
    Operand operand{
        w,       nested_axis(count, units, of.H * of.H, of.H, nullptr), plain_axis(of.H, 1), of.fits(w, of.H, 0), 0,
        of.steps};
    operand.row.inner_exists = of.H;
    return operand;
  }
  Operand transposed(const void* weight_hh, int first, int count) const {
    const T* w = weights(weight_hh, first);
    return {w, plain_axis(of.H, 1), plain_axis(count * of.H, of.H), of.fits(w, of.H, 0), 0, of.steps};
  }
  Operand gradients(const BackwardPoint<Cell, T>& point, int64_t t, int first, int count) const {
    return {point.dslot(t, 0, 0),
            plain_axis(of.B, Cell::slots * of.padded),
            of.slot_columns(count, of.H, of.padded, Cell::from_h + first),
            of.H % Of::V == 0,
            0,
            of.steps};
  }

  // The kernel behind the first one: a product for each vector that is read, of operand(k) and weights(first slot).
  template <class Then, class Point, class Operands, class Weights>
  int then(const Point& point, int64_t i, const Operands& operand, const Weights& weights, void* stream) const {
    typename Then::Args args{point, rows, i, {}, {}};
    for (int k = 0; k < Slots::reads; k++) {
      args.operand[k] = operand(k);
      args.weights[k] = weights(Slots::first(k));
    }
    return launch<Then>(step_shape<Then>(of, stream), args);
  }

  int forward(const LayerForward& call, const ForwardPoint<Cell, T>& point, int64_t i) const {
    using First = EarlyForward<Cell, Math>;
    using Then = LateForward<Cell, Math>;
    typename First::Args first{point, rows, i, {}, {}};
    first.h = {
        point.arena.h_row(point.arena.slot(i), 0), plain_axis(of.B, of.padded), plain_axis(of.H, 1), 1, 0, of.steps};
    first.weights = columns(call.weight_hh, 0, Slots::early, First::units);
    if (launch<First>(step_shape<First>(of, call.stream), first)) return 1;
    const auto read = [&](int k) {
      return Operand{rows.row(of.steps.time(i), 0, k),
                     plain_axis(of.B, Slots::reads * of.padded),
                     plain_axis(of.H, 1),
                     1,
                     0,
                     of.steps};
    };
    return then<Then>(
        point, i, read, [&](int slot) { return columns(call.weight_hh, slot, Slots::each, Then::units); }, call.stream);
  }

  int backward(const LayerBackward& call, const BackwardPoint<Cell, T>& point, int64_t i) const {
    using First = LateBackward<Cell, Math>;
    using Then = EarlyBackward<Cell, Math>;
    typename First::Args first{point, rows, i, {}, {}};
    first.dslots = gradients(point, i + 1 < of.Steps_ ? of.steps.time(i + 1) : 0, 0, Slots::early);
    first.weights = transposed(call.weight_hh, 0, Slots::early);
    if (launch<First>(step_shape<First>(of, call.stream), first)) return 1;
    if (i < 0) return 0;
    return then<Then>(
        point, i, [&](int k) { return gradients(point, of.steps.time(i), Slots::first(k), Slots::each); },
        [&](int slot) { return transposed(call.weight_hh, slot, Slots::each); }, call.stream);
  }
};

}  // namespace cuda
}  // namespace pyrnn
