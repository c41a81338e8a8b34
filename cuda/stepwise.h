// SPDX-License-Identifier: Apache-2.0
// The tier that always works: one kernel a step, the product with R and the cell in its epilogue.
#pragma once

#include "product.h"

namespace pyrnn {
namespace cuda {

constexpr int pointwise_threads = 128;

// Every (sequence, unit) pair of a grid of (units / threads, sequences) blocks.
template <class Context, class Run>
PYRNN_FN void for_each_unit(const Context& context, int64_t units, const Run& run) {
  const int64_t u = int64_t(context.block_x) * pointwise_threads + context.thread;
  if (u < units) run(int64_t(context.block_y), u);
}

// The states that the first step starts from, and zeros in the padding of h.
template <class Cell, class T>
struct Start {
  using Args = ForwardPoint<Cell, T>;
  static constexpr int threads = pointwise_threads;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& point) {
    for_each_unit(context, point.arena.padded, [&](int64_t b, int64_t u) {
      T* h = point.arena.h_row(point.arena.slot(0), b) + u;
      *h = u < point.H ? point.start(b, u) : Narrow<T>::from(0);
    });
  }
};

// The states after the last step, as the caller wants them.
template <class Cell, class T>
struct Finish {
  struct Args {
    Arena<T> arena;
    int64_t slot, H, P;
    View state_out[Cell::states];
  };
  static constexpr int threads = pointwise_threads;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    for_each_unit(context, args.H, [&](int64_t b, int64_t u) {
      PYRNN_UNROLL for (int s = 0; s < Cell::states; s++) {
        if (s == 0 && u >= args.P) continue;
        T* out = element<T>(args.state_out[s], 0, b) + u;
        if constexpr (Cell::states > 1) {
          if (s > 0) {
            *out = Narrow<T>::from(args.arena.row(args.slot, s, b)[u]);
            continue;
          }
        }
        *out = args.arena.state_row(args.slot, b)[u];
      }
    });
  }
};

// The gradient of the last states, zeros for what resets and parameters add to.
template <class Cell, class T>
struct StartBackward {
  struct Args {
    BackwardPoint<Cell, T> point;
    View dstate[Cell::states];
  };
  static constexpr int threads = pointwise_threads;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const BackwardPoint<Cell, T>& point = args.point;
    for_each_unit(context, point.H, [&](int64_t b, int64_t u) {
      PYRNN_UNROLL for (int s = 0; s < Cell::states; s++) {
        const bool given = args.dstate[s].data && (s > 0 || u < point.P);
        point.of_state(point.ds, s, b)[u] = given ? widen(element<T>(args.dstate[s], 0, b)[u]) : Accumulator<T>(0);
        point.of_state(point.dinitial, s, b)[u] = 0;
      }
      PYRNN_UNROLL for (int k = 0; k < Cell::params; k++)
          point.dparams[(k * point.steps.B + b) * point.arena.padded + u] = 0;
    });
  }
};

// Step i of all sequences: blocks of 64 sequences by 16 units, all slots of a unit in one lane.
template <class Cell, class Math>
struct StepForward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Block = Tile<Math, 2, 2, 2, FromH<Cell>::count, true, true>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = 2 * tile_columns;
  static constexpr bool independent = false;
  struct Args {
    ForwardPoint<Cell, T> point;
    int64_t step;
    Operand h, weights;  // (B, H); (from_h · units, H), those of block 0
  };

  // Column j·units + v of block x is unit x·units + v of the j-th slot.
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const ForwardPoint<Cell, T>& point = args.point;
    Block tile;
    const int64_t first_unit = int64_t(context.block_x) * units, first_row = int64_t(context.block_y) * rows;
    tile.sum(context, args.h, first_row, args.weights, 0, tile_columns, units, 0, chunks_of<T>(point.H), first_unit);
    const int64_t b0 = first_row + Block::warp_row(context.thread) * 2 * tile_rows;
    const int64_t u0 = first_unit + Block::warp_column(context.thread) * tile_columns;
    PYRNN_UNROLL for (int m = 0; m < 2; m++) PYRNN_UNROLL for (int i = 0; i < 4; i++) {
      const int64_t b = b0 + m * tile_rows + accumulator_row(context.lane(), i);
      const int64_t u = u0 + accumulator_column(context.lane(), i);
      if (b >= point.steps.B || u >= point.H) continue;
      A x[FromX<Cell>::count], h[FromH<Cell>::count], s[Cell::states];
      point.load(args.step, b, u, s);
      point.load_inputs(args.step, b, u, x);
      PYRNN_UNROLL for (int j = 0; j < FromH<Cell>::count; j++) h[j] = tile.c[m][j][i];
      point.arena.h_row(point.arena.slot(args.step + 1), b)[u] = point.advance(args.step, b, u, x, h, s);
    }
  }
};

// Step i, descending to -1, which only finishes. dG of step i + 1 times R, then the cell's derivative.
template <class Cell, class Math>
struct StepBackward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Block = Tile<Math, 2, 2, 2, 2, true, false>;
  static constexpr int threads = Block::threads, rows = Block::rows, units = Block::columns;
  static constexpr bool independent = false;
  struct Args {
    BackwardPoint<Cell, T> point;
    int64_t step;
    Operand dslots, weights;  // (B, from_h · H), (H, from_h · H)
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const BackwardPoint<Cell, T>& point = args.point;
    Block tile;
    const int64_t first_unit = int64_t(context.block_x) * units, first_row = int64_t(context.block_y) * rows;
    const int64_t chunks = args.step + 1 < point.steps.T ? chunks_of<T>(args.dslots.k.extent) : 0;
    tile.sum(context, args.dslots, first_row, args.weights, first_unit, 2 * tile_columns, tile_columns, 0, chunks);
    const int64_t b0 = first_row + Block::warp_row(context.thread) * 2 * tile_rows;
    const int64_t u0 = first_unit + Block::warp_column(context.thread) * 2 * tile_columns;
    PYRNN_UNROLL for (int m = 0; m < 2; m++) PYRNN_UNROLL for (int n = 0; n < 2; n++)
        PYRNN_UNROLL for (int i = 0; i < 4; i++) {
      const int64_t b = b0 + m * tile_rows + accumulator_row(context.lane(), i);
      const int64_t u = u0 + n * tile_columns + accumulator_column(context.lane(), i);
      if (b >= point.steps.B || u >= point.H) continue;
      A d[Cell::states];
      point.load_gradient(b, u, d);
      if (args.step < 0) {
        point.finish(b, u, tile.c[m][n][i], d);
        continue;
      }
      typename BackwardPoint<Cell, T>::Kept kept{};
      T out[Cell::slots];
      point.load(args.step, b, u, kept);
      point.retreat(args.step, b, u, tile.c[m][n][i], kept, d, out);
      point.store_gradient(b, u, d);
      const int64_t t = point.steps.time(args.step);
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) point.dslot(t, b, k)[u] = out[k];
    }
  }
};

// A grid of the blocks of `Body` over the sequences and units of a layer `of`.
template <class Body, class Of>
Launch step_shape(const Of& of, void* stream) {
  Launch shape;
  shape.x = (of.H + Body::units - 1) / Body::units;
  shape.y = (of.B + Body::rows - 1) / Body::rows;
  shape.shared = Body::Block::shared;
  shape.stream = stream;
  return shape;
}

// Their launches, of a layer `Of`.
template <class Cell, class Math, class Of>
struct PlainSteps {
  using T = typename Math::Number;
  static constexpr int R = FromH<Cell>::count;
  const Of& of;

  int forward(const LayerForward& call, const ForwardPoint<Cell, T>& point, int64_t i) const {
    using Body = StepForward<Cell, Math>;
    typename Body::Args args{};
    args.point = point;
    args.step = i;
    args.h = {
        point.arena.h_row(point.arena.slot(i), 0), plain_axis(of.B, of.padded), plain_axis(of.H, 1), 1, 0, of.steps};
    args.weights = {call.weight_hh,
                    nested_axis(R, Body::units, of.H * of.H, of.H, nullptr),
                    plain_axis(of.H, 1),
                    of.fits(call.weight_hh, of.H, 0),
                    0,
                    of.steps};
    args.weights.row.inner_exists = of.H;
    return launch<Body>(step_shape<Body>(of, call.stream), args);
  }

  int backward(const LayerBackward& call, const BackwardPoint<Cell, T>& point, int64_t i) const {
    using Body = StepBackward<Cell, Math>;
    typename Body::Args args{};
    args.point = point;
    args.step = i;
    const int64_t t = i + 1 < of.Steps_ ? of.steps.time(i + 1) : 0;
    args.dslots = {point.dslot(t, 0, 0),
                   plain_axis(of.B, Cell::slots * of.padded),
                   of.slot_columns(R, of.H, of.padded, Cell::from_h),
                   of.H % Of::V == 0,
                   0,
                   of.steps};
    args.weights = {
        call.weight_hh, plain_axis(of.H, 1), plain_axis(R * of.H, of.H), of.fits(call.weight_hh, of.H, 0), 0, of.steps};
    return launch<Body>(step_shape<Body>(of, call.stream), args);
  }
};

}  // namespace cuda
}  // namespace pyrnn
