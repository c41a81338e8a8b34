// SPDX-License-Identifier: Apache-2.0
// Products of matrices whose rows and columns lie anywhere: operands are staged chunk by chunk in shared memory.
#pragma once

#include "launch.h"
#include "steps.h"

namespace pyrnn {
namespace cuda {

// Where index i of one axis of a matrix lies: i = outer·inner_extent + inner.
struct Axis {
  int64_t extent, inner_extent, outer_stride, inner_stride;
  int64_t inner_exists;                // inner indices from there on are not there and read as zero; 0: all are
  int32_t selects, select[max_slots];  // the outer index is looked up when `selects`
  // `shift` is added to the inner index.
  PYRNN_FN bool exists(int64_t i, int64_t shift) const {
    return i < extent &&
           (inner_exists == 0 || uint32_t(i) % uint32_t(inner_extent) + uint32_t(shift) < uint32_t(inner_exists));
  }
  PYRNN_FN int64_t offset(int64_t i) const {
    const uint32_t outer = uint32_t(i) / uint32_t(inner_extent), inner = uint32_t(i) - outer * uint32_t(inner_extent);
    return (selects ? select[outer] : int32_t(outer)) * outer_stride + inner * inner_stride;
  }
};

// An axis of plain indices, and one of `outer` blocks of `inner`, looked up in `select` unless that is null.
inline Axis plain_axis(int64_t extent, int64_t stride) {
  return {extent, extent > 0 ? extent : 1, 0, stride, 0, 0, {}};
}
inline Axis nested_axis(int64_t outer, int64_t inner, int64_t outer_stride, int64_t inner_stride, const int* select) {
  Axis axis{outer * inner, inner > 0 ? inner : 1, outer_stride, inner_stride, 0, select != nullptr, {}};
  if (select)
    for (int64_t i = 0; i < outer; i++) axis.select[i] = select[i];
  return axis;
}

// A matrix (row, k) of numbers T.
struct Operand {
  const void* data;
  Axis row, k;
  int32_t vector;         // 16 bytes along the contiguous axis can be loaded at once
  int32_t skips;          // k counts entries t·B + b, those that are not active read as zero
  Steps steps;
};

// Stages rows [first, first + Rows) of one chunk of k: loaded to registers, then stored to shared memory.
template <class T, bool KContiguous, int Rows, int Threads>
struct Stage {
  static constexpr int V = per_words<T>, pieces = Rows * chunk_words;
  static constexpr int count = (pieces + Threads - 1) / Threads;
  Words words[count];

  // Thread's i-th piece: its row and k in the tile, V numbers along the contiguous axis.
  static PYRNN_FN void place(int thread, int i, int& row, int& k) {
    const int piece = thread + i * Threads;
    if (KContiguous) {
      row = piece / chunk_words;
      k = piece % chunk_words * V;
    } else {
      row = piece % (Rows / V) * V;
      k = piece / (Rows / V);
    }
  }

  PYRNN_FN void load(int thread, const Operand& m, int64_t first_row, int64_t first_k, int64_t row_shift) {
    const T* data = static_cast<const T*>(m.data) + row_shift * m.row.inner_stride;
    PYRNN_UNROLL for (int i = 0; i < count; i++) {
      int in_row, in_k;
      if (pieces % Threads != 0 && thread + i * Threads >= pieces) continue;
      place(thread, i, in_row, in_k);
      const int64_t row = first_row + in_row, k = first_k + in_k;
      words[i] = Words{{0, 0, 0, 0}};
      if (!m.row.exists(row, row_shift) || k >= m.k.extent) continue;
      if (!KContiguous && m.skips && !m.steps.active(k / m.steps.B, k % m.steps.B)) continue;
      const int64_t left = KContiguous ? m.k.extent - k : m.row.extent - row;
      if (m.vector && left >= V) {
        words[i] = *reinterpret_cast<const Words*>(data + m.row.offset(row) + m.k.offset(k));
      } else {
        T value[V];
        PYRNN_UNROLL for (int j = 0; j < V; j++)
            value[j] = j < left ? data[m.row.offset(KContiguous ? row : row + j) + m.k.offset(KContiguous ? k + j : k)]
                                : T{};
        memcpy(&words[i], value, sizeof(Words));
      }
    }
  }

  // `to`: (Rows, chunk).
  PYRNN_FN void store(int thread, Words* to) const {
    PYRNN_UNROLL for (int i = 0; i < count; i++) {
      if (pieces % Threads != 0 && thread + i * Threads >= pieces) continue;
      int row, k;
      place(thread, i, row, k);
      if (KContiguous) {
        to[row * chunk_words + k / V] = words[i];
      } else {
        T value[V];
        memcpy(value, &words[i], sizeof(Words));
        PYRNN_UNROLL for (int j = 0; j < V; j++) reinterpret_cast<T*>(to + (row + j) * chunk_words)[k] = value[j];
      }
    }
  }
};

// A block's tile: WM x WN warps, each with MT x NT tiles of 16 x 8. Warp (wm, wn) holds the rows from 16·MT·wm on and,
// for n < NT, the 8 columns from wn·warp_step + n·column_step on.
template <class Math, int WM, int WN, int MT, int NT, bool RowsAlongK, bool ColumnsAlongK>
struct Tile {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  static constexpr int rows = WM * MT * tile_rows, columns = WN * NT * tile_columns, threads = WM * WN * warp_lanes;
  static constexpr size_t shared = 2 * (rows + columns) * chunk_words * sizeof(Words);

  A c[MT][NT][4];

  static PYRNN_FN int warp_row(int thread) { return thread / warp_lanes % WM; }
  static PYRNN_FN int warp_column(int thread) { return thread / warp_lanes / WM; }

  // Sums k over the chunks [begin, end). `column_shift` is added to the inner index of b's rows.
  template <class Context>
  PYRNN_FN void sum(Context& context, const Operand& a, int64_t first_row, const Operand& b, int64_t first_column,
                    int warp_step, int column_step, int64_t begin, int64_t end, int64_t column_shift = 0) {
    PYRNN_UNROLL for (int m = 0; m < MT; m++) PYRNN_UNROLL for (int n = 0; n < NT; n++)
        PYRNN_UNROLL for (int i = 0; i < 4; i++) c[m][n][i] = 0;
    Words* buffer = reinterpret_cast<Words*>(context.shared);
    constexpr int size = (rows + columns) * chunk_words;
    Stage<T, RowsAlongK, rows, threads> stage_a;
    Stage<T, ColumnsAlongK, columns, threads> stage_b;
    const auto fetch = [&](int64_t chunk) {
      stage_a.load(context.thread, a, first_row, chunk * per_chunk<T>, 0);
      stage_b.load(context.thread, b, first_column, chunk * per_chunk<T>, column_shift);
    };
    const int row = warp_row(context.thread) * MT * tile_rows, column = warp_column(context.thread) * warp_step;
    if (begin < end) fetch(begin);
    for (int64_t chunk = begin; chunk < end; chunk++) {
      Words* here = buffer + (chunk - begin) % 2 * size;
      stage_a.store(context.thread, here);
      stage_b.store(context.thread, here + rows * chunk_words);
      // One barrier a chunk is enough: who stores chunk + 2 has passed the barrier of chunk + 1, as have all others,
      // and so is done with this chunk.
      context.barrier();
      if (chunk + 1 < end) fetch(chunk + 1);
      multiply_chunk<Math, MT, NT>(context, c, here + row * chunk_words, here + (rows + column) * chunk_words,
                                   column_step);
    }
  }
};

template <class T>
PYRNN_FN int64_t chunks_of(int64_t k) {
  return (k + per_chunk<T> - 1) / per_chunk<T>;
}

enum StoreKind : int32_t { store_inputs, store_dx, store_weights, store_partial };

struct ProductArgs {
  Operand a, b;
  int64_t splits;  // of k; more than one with store_partial only
  StoreKind kind;
  void* out;
  Axis out_column;          // store_inputs: where a column lies in `out`
  int64_t out_row;          // store_inputs, store_weights: distance of rows
  const void* bias;         // added to columns, or null
  View dx;                  // store_dx
  int32_t accumulate;       // store_dx, store_inputs
  Steps steps;
};

// out (rows of a, rows of b) = a·bᵀ.
template <class Math, bool RowsAlongK, bool ColumnsAlongK>
struct Product {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Args = ProductArgs;
  using Block = Tile<Math, 2, 2, 2, 4, RowsAlongK, ColumnsAlongK>;
  static constexpr int threads = Block::threads;
  static constexpr bool independent = false;

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    Block tile;
    const int64_t first_row = int64_t(context.block_x) * Block::rows;
    const int64_t first_column = int64_t(context.block_y) * Block::columns;
    const int64_t chunks = chunks_of<T>(args.a.k.extent);
    tile.sum(context, args.a, first_row, args.b, first_column, 4 * tile_columns, tile_columns,
             chunks * context.block_z / args.splits, chunks * (context.block_z + 1) / args.splits);
    PYRNN_UNROLL for (int m = 0; m < 2; m++) PYRNN_UNROLL for (int n = 0; n < 4; n++)
        PYRNN_UNROLL for (int i = 0; i < 4; i++) {
      const int64_t row = first_row + (Block::warp_row(context.thread) * 2 + m) * tile_rows +
                          accumulator_row(context.lane(), i);
      const int64_t column = first_column + (Block::warp_column(context.thread) * 4 + n) * tile_columns +
                             accumulator_column(context.lane(), i);
      if (row < args.a.row.extent && column < args.b.row.extent)
        store(args, context.block_z, row, column, tile.c[m][n][i]);
    }
  }

  static PYRNN_FN void store(const Args& args, int64_t split, int64_t row, int64_t column, A value) {
    const int64_t rows = args.a.row.extent, columns = args.b.row.extent;
    if (args.bias) value += widen(static_cast<const T*>(args.bias)[column]);
    switch (args.kind) {
      case store_inputs: {
        A* out = static_cast<A*>(args.out) + row * args.out_row + args.out_column.offset(column);
        *out = args.accumulate ? *out + value : value;
        break;
      }
      case store_dx: {
        const int64_t t = row / args.steps.B, b = row % args.steps.B;
        T* out = element<T>(args.dx, t, b) + column;
        if (!args.steps.active(t, b)) value = 0;
        *out = Narrow<T>::from(args.accumulate ? widen(*out) + value : value);
        break;
      }
      case store_weights:
        static_cast<T*>(args.out)[row * args.out_row + column] = Narrow<T>::from(value);
        break;
      case store_partial:
        static_cast<A*>(args.out)[(split * rows + row) * columns + column] = value;
        break;
    }
  }
};

// out[i] = sum of partial[0..count)[i], in order.
struct SumArgs {
  const void* partial;
  void* out;
  int64_t count, size;
  int64_t columns, distance;  // of rows of `out`; no columns: it is contiguous
};
template <class T>
struct Sum {
  using Args = SumArgs;
  static constexpr int threads = 256;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread;
    if (i >= args.size) return;
    Accumulator<T> sum = 0;
    for (int64_t k = 0; k < args.count; k++) sum += static_cast<const Accumulator<T>*>(args.partial)[k * args.size + i];
    const int64_t at = args.columns ? i / args.columns * args.distance + i % args.columns : i;
    static_cast<T*>(args.out)[at] = Narrow<T>::from(sum);
  }
};

// Sums over rows: partial[z][column] = sum of part z of the rows of in (rows, distance), times those of `times`.
struct ColumnSumArgs {
  const void* in;
  void* partial;
  int64_t rows, row_distance, splits;
  Axis column;
  const void* times;  // null: one
  int64_t times_distance;
  Axis times_column;
};
template <class T, class From>
struct ColumnSum {
  using Args = ColumnSumArgs;
  static constexpr int threads = 256;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread;
    if (i >= args.column.extent) return;
    const From* in = static_cast<const From*>(args.in) + args.column.offset(i);
    const From* times = args.times ? static_cast<const From*>(args.times) + args.times_column.offset(i) : nullptr;
    Accumulator<T> sum = 0;
    const int64_t end = args.rows * (context.block_y + 1) / args.splits;
    for (int64_t r = args.rows * context.block_y / args.splits; r < end; r++)
      sum += widen(in[r * args.row_distance]) * (times ? widen(times[r * args.times_distance]) : 1);
    static_cast<Accumulator<T>*>(args.partial)[context.block_y * args.column.extent + i] = sum;
  }
};

}  // namespace cuda
}  // namespace pyrnn
