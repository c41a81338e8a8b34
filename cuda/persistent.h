// SPDX-License-Identifier: Apache-2.0
// The tier for small and middle H: one kernel for many steps, the weights resident in registers and shared memory.
//
// A block owns 8 units and some sequences; its warps share out k. What it needs of the step before, h or the gradient
// of the slots, comes from all blocks through a buffer that is written once: it starts as a NaN that no block writes,
// and whoever needs a word polls it until it is something else. So there is no barrier across the grid, and data and
// flag are one word, so that no order between words matters either.
//
// Every block must run at the same time: the launch is cooperative.
#pragma once

#include "plan.h"
#include "stepwise.h"

namespace pyrnn {
namespace cuda {

// The weights of 8 units: for every chunk of k, N columns of tiles. Warp w of W holds the chunks w, w + W, ….
template <class Math, int N, int W>
struct Resident {
  using T = typename Math::Number;
  static constexpr int together = chunks_in_flight(Math::exact), in_registers = chunks_in_registers(N, Math::exact);
  Words held[in_registers][N];
  Words* shared;  // (chunks of a warp beyond those, N, W, lanes)
  int chunks, warp, lane;

  PYRNN_FN Words& beyond(int q, int n) const {
    return shared[(((q - in_registers) * N + n) * W + warp) * warp_lanes + lane];
  }

  // value(chunk, n, i): the i-th number of this lane's 16 bytes.
  template <class Value>
  PYRNN_FN void load(const Value& value) {
    const auto words = [&](int q, int n) {
      T numbers[per_words<T>];
      PYRNN_UNROLL for (int i = 0; i < per_words<T>; i++) numbers[i] = q * W + warp < chunks ? value(q * W + warp, n, i)
                                                                                             : T{};
      Words packed;
      memcpy(&packed, numbers, sizeof packed);
      return packed;
    };
    PYRNN_UNROLL for (int q = 0; q < in_registers; q++) PYRNN_UNROLL for (int n = 0; n < N; n++)
        held[q][n] = words(q, n);
    for (int q = in_registers; q < chunks_of_warp(chunks, W); q++)
      PYRNN_UNROLL for (int n = 0; n < N; n++) beyond(q, n) = words(q, n);
  }

  // c += this warp's chunks. source(chunk, half): where this lane's 16 bytes of row `group` + 8·half are, or null.
  template <class Context, class Source>
  PYRNN_FN void sum(Context& context, float (&c)[N][4], const Source& source) const {
    PYRNN_UNROLL for (int q = 0; q < in_registers; q += together) {
      if (q * W + warp < chunks)
        add(context, c, source, q, [&](int i, int n) -> const Words& { return held[q + i][n]; });
    }
    for (int q = in_registers; q * W + warp < chunks; q += together)
      add(context, c, source, q, [&](int i, int n) -> const Words& { return beyond(q + i, n); });
  }

  template <class Context, class Source, class Weights>
  PYRNN_FN void add(Context& context, float (&c)[N][4], const Source& source, int q, const Weights& weights) const {
    const Words* from[together][2];
    Words row[together][2];
    PYRNN_UNROLL for (int i = 0; i < together; i++) PYRNN_UNROLL for (int half = 0; half < 2; half++) {
      const int chunk = (q + i) * W + warp;
      from[i][half] = chunk < chunks ? source(chunk, half) : nullptr;
      row[i][half] = from[i][half] ? context.load_exchange(from[i][half]) : Words{{0, 0, 0, 0}};
    }
    PYRNN_UNROLL for (int i = 0; i < together; i++)
        PYRNN_UNROLL for (int half = 0; half < 2; half++) while (missing(row[i][half])) {
      context.pause();
      row[i][half] = context.load_exchange(from[i][half]);
    }
    context.converge();
    PYRNN_UNROLL for (int i = 0; i < together; i++) if ((q + i) * W + warp < chunks)
        PYRNN_UNROLL for (int n = 0; n < N; n++) Math::multiply(context, c[n], row[i][0], row[i][1], weights(i, n));
  }
  static PYRNN_FN bool missing(const Words& words) {
    return unwritten<T>(words.word[0]) || unwritten<T>(words.word[1]) || unwritten<T>(words.word[2]) ||
           unwritten<T>(words.word[3]);
  }
};

// Writes this lane's number and its neighbour's as whole words: lanes 2i and 2i + 1 hold neighbouring units.
template <class T, class Context>
PYRNN_FN void store_number(Context& context, T* to, T number, bool mine) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t other = context.shuffle_xor(number.bits, 1);
    if (mine && context.lane() % 2 == 0)
      context.store_exchange(reinterpret_cast<uint32_t*>(to), number.bits | other << 16);
  } else {
    if (mine) context.store_exchange(reinterpret_cast<uint32_t*>(to), bits_of(number));
  }
}

// What forward and backward share: the tiles of a block's sequences, and the sum across its warps.
template <class Math, int N, int W>
struct Exchange {
  using T = typename Math::Number;
  static constexpr int threads = W * warp_lanes, pitch = partial_pitch(N);
  static constexpr int pairs = most_row_tiles * tile_rows * resident_units / threads;  // of a thread, at most
  static constexpr int tile_floats = W * tile_rows * pitch;

  // Shared memory: weights, two buffers of partial sums, the states of this block's units.
  struct Shape {
    int chunks, row_tiles, group;  // group: row tiles between two barriers
    PYRNN_FN size_t partial_at() const { return resident_bytes(chunks, N, W, Math::exact); }
    PYRNN_FN size_t states_at() const { return partial_at() + partial_bytes(group, N, W); }
  };

  // Pair p of a thread within a group: its sequence (counted from the group's first) and unit.
  static PYRNN_FN int pair_row(int thread, int p) { return (thread + p * threads) / resident_units; }
  static PYRNN_FN int pair_unit(int thread) { return thread % resident_units; }

  static PYRNN_FN void store_partial(float* partial, int warp, int lane, int tile, const float (&c)[N][4]) {
    float* to = partial + tile * tile_floats + warp * tile_rows * pitch;
    PYRNN_UNROLL for (int n = 0; n < N; n++) PYRNN_UNROLL for (int i = 0; i < 4; i++)
        to[accumulator_row(lane, i) * pitch + n * tile_columns + accumulator_column(lane, i)] = c[n][i];
  }
  // Over the warps, in their order.
  static PYRNN_FN void sum_partial(const float* partial, int row, int unit, float (&sum)[N]) {
    const float* from = partial + row / tile_rows * tile_floats + row % tile_rows * pitch + unit;
    PYRNN_UNROLL for (int n = 0; n < N; n++) {
      sum[n] = 0;
      PYRNN_UNROLL for (int w = 0; w < W; w++) sum[n] += from[w * tile_rows * pitch + n * tile_columns];
    }
  }
};

// Steps [from, from + count) of the units 8·x.. and the sequences of row block y.
template <class Cell, class Math, int W>
struct PersistentForward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  static constexpr int N = FromH<Cell>::count, threads = W * warp_lanes;
  static constexpr bool independent = false;
  using Blocks = Exchange<Math, N, W>;
  using Shape = typename Blocks::Shape;
  struct Args {
    ForwardPoint<Cell, T> point;
    Shape shape;
    int64_t from, count;
    const T* weight_hh;
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const ForwardPoint<Cell, T>& point = args.point;
    const Shape& shape = args.shape;
    const int lane = context.lane(), warp = context.thread / warp_lanes, group = group_of(lane), piece = piece_of(lane);
    const int64_t H = point.H, B = point.steps.B, u0 = int64_t(context.block_x) * resident_units;
    const int64_t b0 = int64_t(context.block_y) * shape.row_tiles * tile_rows;
    Resident<Math, N, W> weights;
    weights.shared = reinterpret_cast<Words*>(context.shared);
    weights.chunks = shape.chunks;
    weights.warp = warp;
    weights.lane = lane;
    weights.load([&](int chunk, int n, int i) {
      const int64_t k = int64_t(chunk) * per_chunk<T> + piece * per_words<T> + i;
      return u0 + group < H && k < H ? args.weight_hh[(n * H + u0 + group) * H + k] : T{};
    });
    float* partial = reinterpret_cast<float*>(context.shared + shape.partial_at());
    float* states = reinterpret_cast<float*>(context.shared + shape.states_at());  // (row, state, unit)
    const int unit = Blocks::pair_unit(context.thread);
    const int64_t u = u0 + unit;
    const auto state_at = [&](int row) { return states + row * Cell::states * resident_units + unit; };
    for (int row = Blocks::pair_row(context.thread, 0); row < shape.row_tiles * tile_rows;
         row += threads / resident_units) {
      A s[Cell::states] = {};
      if (b0 + row < B && u < H) point.load(args.from, b0 + row, u, s);
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) state_at(row)[k * resident_units] = s[k];
    }

    int turn = 0;
    for (int64_t i = args.from; i < args.from + args.count; i++) {
      const int64_t slot = point.arena.slot(i), next = point.arena.slot(i + 1);
      for (int tile = 0; tile < shape.row_tiles; tile += shape.group, turn ^= 1) {
        const int tiles = shape.row_tiles - tile < shape.group ? shape.row_tiles - tile : shape.group;
        const int rows = tiles * tile_rows, first = tile * tile_rows;
        float* sums = partial + turn * shape.group * Blocks::tile_floats;
        // Before anything is waited for: these come from far away.
        A x[Blocks::pairs][FromX<Cell>::count] = {};
        PYRNN_UNROLL for (int p = 0; p < Blocks::pairs; p++) {
          const int row = Blocks::pair_row(context.thread, p);
          if (row < rows && b0 + first + row < B && u < H) point.load_inputs(i, b0 + first + row, u, x[p]);
        }
        for (int m = 0; m < tiles; m++) {
          float c[N][4] = {};
          weights.sum(context, c, [&](int chunk, int half) -> const Words* {
            const int64_t b = b0 + first + m * tile_rows + group + 8 * half;
            if (b >= B) return nullptr;
            return reinterpret_cast<const Words*>(point.arena.h_row(slot, b) + chunk * per_chunk<T>) + piece;
          });
          Blocks::store_partial(sums, warp, lane, m, c);
        }
        // One barrier is enough: two buffers take turns, and whoever writes this one again has passed the next barrier.
        context.barrier();
        PYRNN_UNROLL for (int p = 0; p < Blocks::pairs; p++) {
          const int row = Blocks::pair_row(context.thread, p);
          if (row >= rows) continue;  // by whole warps
          const int64_t b = b0 + first + row;
          T h_new{};
          if (b < B && u < H) {
            A h[N], s[Cell::states];
            Blocks::sum_partial(sums, row, unit, h);
            float* kept = state_at(first + row);
            PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) s[k] = kept[k * resident_units];
            h_new = point.advance(i, b, u, x[p], h, s);
            PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) kept[k * resident_units] = s[k];
          }
          store_number(context, point.arena.h_row(next, b < B ? b : 0) + u, h_new, b < B);
        }
      }
    }
  }
};

// All steps, descending, and the gradient of the initial state.
template <class Cell, class Math, int W>
struct PersistentBackward {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Point = BackwardPoint<Cell, T>;
  static constexpr int R = FromH<Cell>::count, threads = W * warp_lanes;
  static constexpr bool independent = false;
  using Blocks = Exchange<Math, 1, W>;
  using Shape = typename Blocks::Shape;
  struct Args {
    Point point;
    Shape shape;  // chunks: of all slots that h adds into
    const T* weight_hh;
  };

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const Point& point = args.point;
    const Shape& shape = args.shape;
    const int lane = context.lane(), warp = context.thread / warp_lanes, group = group_of(lane), piece = piece_of(lane);
    const int64_t H = point.H, B = point.steps.B, u0 = int64_t(context.block_x) * resident_units;
    const int64_t b0 = int64_t(context.block_y) * shape.row_tiles * tile_rows;
    const int slot_chunks = shape.chunks / R;
    Resident<Math, 1, W> weights;
    weights.shared = reinterpret_cast<Words*>(context.shared);
    weights.chunks = shape.chunks;
    weights.warp = warp;
    weights.lane = lane;
    weights.load([&](int chunk, int, int i) {
      const int64_t k = int64_t(chunk % slot_chunks) * per_chunk<T> + piece * per_words<T> + i;
      return u0 + group < H && k < H ? args.weight_hh[(chunk / slot_chunks * H + k) * H + u0 + group] : T{};
    });
    float* partial = reinterpret_cast<float*>(context.shared + shape.partial_at());
    float* states = reinterpret_cast<float*>(context.shared + shape.states_at());  // (row, state, unit)
    const int unit = Blocks::pair_unit(context.thread);
    const int64_t u = u0 + unit;
    const auto gradient_at = [&](int row) { return states + row * Cell::states * resident_units + unit; };
    for (int row = Blocks::pair_row(context.thread, 0); row < shape.row_tiles * tile_rows;
         row += threads / resident_units) {
      A d[Cell::states] = {};
      if (b0 + row < B && u < H) point.load_gradient(b0 + row, u, d);
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) gradient_at(row)[k * resident_units] = d[k];
    }

    int turn = 0;
    for (int64_t i = point.steps.T - 1; i >= -1; i--) {
      const bool exchanged = i + 1 < point.steps.T;
      const int64_t later = exchanged ? point.steps.time(i + 1) : 0, t = i >= 0 ? point.steps.time(i) : 0;
      for (int tile = 0; tile < shape.row_tiles; tile += shape.group, turn ^= 1) {
        const int tiles = shape.row_tiles - tile < shape.group ? shape.row_tiles - tile : shape.group;
        const int rows = tiles * tile_rows, first = tile * tile_rows;
        float* sums = partial + turn * shape.group * Blocks::tile_floats;
        typename Point::Kept kept[Blocks::pairs] = {};
        PYRNN_UNROLL for (int p = 0; p < Blocks::pairs; p++) {
          const int row = Blocks::pair_row(context.thread, p);
          if (i >= 0 && row < rows && b0 + first + row < B && u < H) point.load(i, b0 + first + row, u, kept[p]);
        }
        for (int m = 0; m < tiles; m++) {
          float c[1][4] = {};
          if (exchanged)
            weights.sum(context, c, [&](int chunk, int half) -> const Words* {
              const int64_t b = b0 + first + m * tile_rows + group + 8 * half;
              if (b >= B) return nullptr;
              const T* row = point.dslot(later, b, FromH<Cell>::at(chunk / slot_chunks));
              return reinterpret_cast<const Words*>(row + chunk % slot_chunks * per_chunk<T>) + piece;
            });
          Blocks::store_partial(sums, warp, lane, m, c);
        }
        context.barrier();
        PYRNN_UNROLL for (int p = 0; p < Blocks::pairs; p++) {
          const int row = Blocks::pair_row(context.thread, p);
          if (row >= rows) continue;  // by whole warps
          const int64_t b = b0 + first + row;
          T out[Cell::slots] = {};
          if (b < B && u < H) {
            A product[1], d[Cell::states];
            Blocks::sum_partial(sums, row, unit, product);
            float* gradient = gradient_at(first + row);
            PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] = gradient[k * resident_units];
            if (i < 0)
              point.finish(b, u, product[0], d);
            else
              point.retreat(i, b, u, product[0], kept[p], d, out);
            PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) gradient[k * resident_units] = d[k];
          }
          if (i >= 0)
            PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++)
                store_number(context, point.dslot(t, b < B ? b : 0, k) + u, out[k], b < B);
        }
      }
    }
  }
};

// Zeros in the columns [H, padded) of every row: exchange buffers are read in whole chunks.
struct PaddingArgs {
  void* data;
  int64_t rows, H, padded;
};
template <class T>
struct ClearPadding {
  using Args = PaddingArgs;
  static constexpr int threads = 256;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t width = args.padded - args.H, i = int64_t(context.block_x) * threads + context.thread;
    if (i < args.rows * width) static_cast<T*>(args.data)[i / width * args.padded + args.H + i % width] = T{};
  }
};

}  // namespace cuda
}  // namespace pyrnn
