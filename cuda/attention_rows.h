// SPDX-License-Identifier: Apache-2.0
// Softmax of rows of scores, forward and backward; weighted sums of rows.
#pragma once

#include "attention.h"

namespace pyrnn {
namespace cuda {

// weights (rows, Tk) = softmax of scores, which may be the same memory; a row without a pair becomes zeros. A warp has
// a row; the largest score and the sum are found in one pass.
template <class T>
struct SoftmaxRow {
  using A = Accumulator<T>;
  struct Args {
    const A* scores;
    T* weights;
    int64_t rows, Tk, distance;  // from a row to the next
  };
  static constexpr int threads = 128;
  static constexpr bool independent = false;

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t row = int64_t(context.block_x) * (threads / warp_lanes) + context.thread / warp_lanes;
    if (row >= args.rows) return;
    const A* s = args.scores + row * args.distance;
    A largest = minus_infinity<A>(), sum = 0;
    for (int64_t j = context.lane(); j < args.Tk; j += warp_lanes) {
      const A x = s[j];
      if (x == minus_infinity<A>()) continue;
      if (x > largest) {
        sum *= exp_of(largest - x);
        largest = x;
      }
      sum += exp_of(x - largest);
    }
    const A all = over_lanes(context, largest, [](A a, A b) { return a > b ? a : b; });
    if (sum != 0) sum *= exp_of(largest - all);
    sum = over_lanes(context, sum, [](A a, A b) { return a + b; });
    const A factor = 1 / sum;
    T* w = args.weights + row * args.distance;
    for (int64_t j = context.lane(); j < args.Tk; j += warp_lanes) {
      const A x = s[j];
      w[j] = Narrow<T>::from(x == minus_infinity<A>() ? A(0) : exp_of(x - all) * factor);
    }
  }
  static PYRNN_FN float exp_of(float x) { return ::expf(x); }
  static PYRNN_FN double exp_of(double x) { return ::exp(x); }
};

// ds = scale·p·(dp - Σ p·dp), dp = products + dweights, in the place of the products; what belongs to a weight of zero
// is zero, whatever its dp is.
template <class T>
struct SoftmaxRowBackward {
  using A = Accumulator<T>;
  struct Args {
    const T *weights, *dweights;  // dweights null: zeros
    A* ds;
    int32_t products;  // whether there are products in ds
    A scale;
    int64_t rows, Tk, distance;
  };
  static constexpr int threads = 128;
  static constexpr bool independent = false;

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t row = int64_t(context.block_x) * (threads / warp_lanes) + context.thread / warp_lanes;
    if (row >= args.rows) return;
    const int64_t at = row * args.distance;
    const auto dp = [&](int64_t j) {
      const A x = args.products ? args.ds[at + j] : A(0);
      return args.dweights ? x + widen(args.dweights[at + j]) : x;
    };
    A sum = 0;
    for (int64_t j = context.lane(); j < args.Tk; j += warp_lanes) {
      const A p = widen(args.weights[at + j]);
      if (p != 0) sum += p * dp(j);
    }
    sum = over_lanes(context, sum, [](A a, A b) { return a + b; });
    for (int64_t j = context.lane(); j < args.Tk; j += warp_lanes) {
      const A p = widen(args.weights[at + j]);
      args.ds[at + j] = p == 0 ? A(0) : args.scale * p * (dp(j) - sum);
    }
  }
};

// out (B, M, C) = Σ_k weight(b, m, k)·x (B, K, C): the context, and the gradients of values and of products. A weight
// of zero takes no part, whatever x holds; chunks of k without any other weight are not read.
template <class T, class W>
struct WeightedSum {
  using A = Accumulator<T>;
  struct Args {
    const W* weight;
    int64_t batch, row, column;  // strides of the weights
    const T* x;
    T* out;
    int64_t M, K, C, out_batch;
  };
  static constexpr int rows = 16, columns = 64, chunk = 32, threads = 128;
  static constexpr int row_tile = 2, column_tile = 4, weight_row = rows + 4;
  static constexpr bool independent = false;

  struct Shared {
    alignas(16) A x[chunk * columns];       // (chunk, columns)
    alignas(16) A weight[chunk * weight_row];  // (chunk, weight_row)
    int32_t some[2], odd[2];
  };
  static constexpr size_t shared = sizeof(Shared);

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    Shared& s = *reinterpret_cast<Shared*>(context.shared);
    const int64_t b = context.block_x, first_row = int64_t(context.block_y) * rows;
    const int64_t first_column = int64_t(context.block_z) * columns;
    const int thread = context.thread, column = thread % (columns / column_tile) * column_tile;
    const int row = thread / (columns / column_tile) * row_tile;
    const W* weight = args.weight + b * args.batch;
    const T* x = args.x + b * args.K * args.C;
    A sums[row_tile][column_tile] = {};
    if (thread < 2) s.some[thread] = s.odd[thread] = 0;
    int turn = 0;
    for (int64_t k = 0; k < args.K; k += chunk, turn ^= 1) {
      context.barrier();
      // What the last turn found has been read by all.
      if (thread == 0) s.some[turn ^ 1] = s.odd[turn ^ 1] = 0;
      load_weights(args, s, turn, thread, weight, first_row, k);
      context.barrier();
      if (!s.some[turn]) continue;
      PYRNN_UNROLL for (int i = thread; i < chunk * columns; i += threads) {
        const int64_t at = k + i / columns, c = first_column + i % columns;
        const A value = at < args.K && c < args.C ? A(widen(x[at * args.C + c])) : A(0);
        if (value - value != 0) s.odd[turn] = 1;
        s.x[i] = value;
      }
      context.barrier();
      if (s.odd[turn])
        add<true>(s, row, column, sums);
      else
        add<false>(s, row, column, sums);
    }
    PYRNN_UNROLL for (int r = 0; r < row_tile; r++) PYRNN_UNROLL for (int c = 0; c < column_tile; c++) {
      const int64_t m = first_row + row + r, n = first_column + column + c;
      if (m < args.M && n < args.C) args.out[b * args.out_batch + m * args.C + n] = Narrow<T>::from(sums[r][c]);
    }
  }

  // Along the axis whose numbers are neighbours in memory.
  static PYRNN_FN void load_weights(const Args& args, Shared& s, int turn, int thread, const W* weight,
                                    int64_t first_row, int64_t k) {
    PYRNN_UNROLL for (int i = thread; i < chunk * rows; i += threads) {
      const int at = args.column == 1 ? i % chunk : i / rows, m = args.column == 1 ? i / chunk : i % rows;
      const bool there = k + at < args.K && first_row + m < args.M;
      const A w = there ? A(widen(weight[(first_row + m) * args.row + (k + at) * args.column])) : A(0);
      if (w != 0) s.some[turn] = 1;
      s.weight[at * weight_row + m] = w;
    }
  }

  template <bool careful>
  static PYRNN_FN void add(const Shared& s, int row, int column, A (&sums)[row_tile][column_tile]) {
    PYRNN_UNROLL for (int k = 0; k < chunk; k++) {
      const Four<A> x = *reinterpret_cast<const Four<A>*>(s.x + k * columns + column);
      PYRNN_UNROLL for (int r = 0; r < row_tile; r++) {
        const A w = s.weight[k * weight_row + row + r];
        if (careful && w == 0) continue;
        PYRNN_UNROLL for (int c = 0; c < column_tile; c++) sums[r][c] += w * x.at[c];
      }
    }
  }
};

}  // namespace cuda
}  // namespace pyrnn
