// SPDX-License-Identifier: Apache-2.0
// What a decoder does to the rows of one step beside products: one number a thread.
#pragma once

#include "launch.h"

namespace pyrnn {
namespace cuda {

// Rows (B, n) of one step: out = tanh(sums), or from + bias; `next` gets the same, for the step after.
template <class T>
struct EmitRows {
  using A = Accumulator<T>;
  struct Args {
    const A* sums;  // (B, n), or null
    const T* from;
    int64_t from_row;
    const T* bias;  // (n), or null
    T *out, *next;  // null: not wanted
    int64_t out_row, next_row, n;
  };
  static constexpr int threads = 128;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread, b = context.block_y;
    if (i >= args.n) return;
    A value = args.sums ? tanh_of(args.sums[b * args.n + i]) : widen(args.from[b * args.from_row + i]);
    if (args.bias) value += widen(args.bias[i]);
    if (args.out) args.out[b * args.out_row + i] = Narrow<T>::from(value);
    if (args.next) args.next[b * args.next_row + i] = Narrow<T>::from(value);
  }
  static PYRNN_FN float tanh_of(float x) { return ::tanhf(x); }
  static PYRNN_FN double tanh_of(double x) { return ::tanh(x); }
};

// Back through the layer's tanh: dz = (doutputs + more)·(1 - outputs²), rows (B, n) of one step.
template <class T>
struct LayerRowsBackward {
  using A = Accumulator<T>;
  struct Args {
    const T *doutputs, *outputs;  // doutputs null: zeros
    const A* more;                // (B, n), or null
    T* dz;
    int64_t row, n;
  };
  static constexpr int threads = 128;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread, b = context.block_y;
    if (i >= args.n) return;
    const int64_t at = b * args.row + i;
    const A y = widen(args.outputs[at]);
    A d = args.doutputs ? A(widen(args.doutputs[at])) : A(0);
    if (args.more) d += args.more[b * args.n + i];
    args.dz[at] = Narrow<T>::from(d * (1 - y * y));
  }
};

// Gradients of [context; h], rows (B, M + H) of one step: those before M are written, with `more` added, the others are
// added to `ds`. Columns from `first` on, `count` of them.
template <class T>
struct JoinedRowsBackward {
  using A = Accumulator<T>;
  struct Args {
    const A* sums;  // (B, row), or null
    const T* from;  // rows `from_row` apart, or null: zeros
    int64_t row, from_row, first, count, M;
    const A* more;  // (B, more_row), or null
    int64_t more_row;
    T* out;
    int64_t out_row;
    A* ds;
    int64_t ds_row;
  };
  static constexpr int threads = 128;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t j = int64_t(context.block_x) * threads + context.thread, i = args.first + j, b = context.block_y;
    if (j >= args.count) return;
    A d = args.sums ? args.sums[b * args.row + i] : args.from ? A(widen(args.from[b * args.from_row + i])) : A(0);
    if (i >= args.M) {
      args.ds[b * args.ds_row + i - args.M] += d;
      return;
    }
    if (args.more) d += args.more[b * args.more_row + i];
    args.out[b * args.out_row + i] = Narrow<T>::from(d);
  }
};

}  // namespace cuda
}  // namespace pyrnn
