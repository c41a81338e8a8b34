// SPDX-License-Identifier: Apache-2.0
// The kernels between the products of a staged layer: the cell on what lies in memory, and what goes over a whole row
// of units, the normalisation of products and of c, and h = o·output(c) behind its clip.
#pragma once

#include "late.h"
#include "varied.h"

namespace pyrnn {
namespace cuda {

// Of a step: what its kernels leave to one another.
template <class T>
struct StageRows {
  using A = Accumulator<T>;
  A* products;    // forward (B, from_h, padded); backward, (B, padded): of dG of the step after, times R
  A* made;        // (B, states, padded): the cell's states; in the backward, gradients of them
  A* past;        // backward (states, B, padded): gradients that pass the cell by
  A* dread;       // backward (B, reads, padded)
  T* hidden;      // (T, B, padded), or (B, padded) when nothing is kept: h before its projection; or null
  T* dprojected;  // (T, B, padded): gradient of the projected h; or null
  LateRows<T> late;
};

enum StepPart : int32_t { stage_read, stage_cell, stage_settle, stage_all };  // all: the cell, and what follows at once

template <class Cell, class T>
struct StageForward {
  using A = Accumulator<T>;
  using Values = UnitValues<Cell, A>;
  using V = typename Values::V;
  struct Args {
    ForwardPoint<Cell, T> point;
    StageRows<T> rows;
    Activations<A> curves;
    int64_t step;
    StepPart stage;
  };
  static constexpr int threads = pointwise_threads;
  static constexpr bool independent = true;

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    for_each_unit(context, args.point.H, [&](int64_t b, int64_t u) { unit(args, b, u); });
  }

  static PYRNN_FN void unit(const Args& args, int64_t b, int64_t u) {
    const ForwardPoint<Cell, T>& point = args.point;
    const StageRows<T>& rows = args.rows;
    const int64_t t = point.steps.time(args.step), padded = point.arena.padded;
    const bool active = point.steps.active(t, b);
    A s[Cell::states], s_new[Cell::states] = {};
    if (args.stage == stage_read && !active) return;
    point.load(args.step, b, u, s);
    if (args.stage != stage_settle) {
      A save[Cell::saved] = {};
      if (active) {
        A x[FromX<Cell>::count], h[FromH<Cell>::count], a[Cell::slots];
        point.load_inputs(args.step, b, u, x);
        const bool early = args.stage == stage_read;
        PYRNN_UNROLL for (int j = 0; j < FromH<Cell>::count; j++)
            h[j] = early && j >= Late<Cell>::early ? A(0) : rows.products[(b * FromH<Cell>::count + j) * padded + u];
        point.slots(u, x, h, a);
        V slot[Cell::slots], state[Cell::states], made[Cell::states], kept[Cell::saved], p[Cell::params + 1];
        PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) slot[k] = Values::slot(args.curves, a[k]);
        PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) state[k] = Values::value(args.curves, s[k]);
        if constexpr (late_of<Cell> > 0) {
          if (early) {
            V read[Late<Cell>::reads];
            Cell::read(slot, state, read);
            PYRNN_UNROLL for (int k = 0; k < Late<Cell>::reads; k++) rows.late.row(
                t, b, k)[u] = Narrow<T>::from(Values::number(read[k]) * point.regular.factor(point.at(t, b, u)));
            return;
          }
        }
        PYRNN_UNROLL for (int k = 0; k < Cell::params; k++)
            p[k] = Values::value(args.curves, widen(point.params[k * point.H + u]));
        Cell::forward(slot, state, p, made, kept);
        PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) s_new[k] = Values::number(made[k]);
        PYRNN_UNROLL for (int k = 0; k < Cell::saved; k++) save[k] = Values::number(kept[k]);
      }
      point.save_gates(t, b, u, save);
      if (args.stage == stage_cell) {
        PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) rows.made[(b * Cell::states + k) * padded + u] = s_new[k];
        if (rows.hidden)
          rows.hidden[((point.gates ? t : 0) * point.steps.B + b) * padded + u] = Narrow<T>::from(s_new[0]);
        return;
      }
    } else {
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) if (k > 0 || u < point.P)
          s_new[k] = rows.made[(b * Cell::states + k) * padded + u];
    }
    const T h = point.template settle<true>(args.step, b, u, s_new, s);
    if (u < point.P) point.arena.h_row(point.arena.slot(args.step + 1), b)[u] = h;
  }
};

// The same backward: `settle` comes first here, and takes what arrives at the states after the step apart. `all` is
// that and the cell at once.
template <class Cell, class T>
struct StageBackward {
  using A = Accumulator<T>;
  using Values = UnitValues<Cell, A>;
  using V = typename Values::V;
  using Point = BackwardPoint<Cell, T>;
  struct Args {
    Point point;
    StageRows<T> rows;
    Activations<A> curves;
    int64_t step;
    StepPart stage;
  };
  static constexpr int threads = pointwise_threads;
  static constexpr bool independent = true;

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    for_each_unit(context, args.point.H, [&](int64_t b, int64_t u) { unit(args, b, u); });
  }

  static PYRNN_FN void unit(const Args& args, int64_t b, int64_t u) {
    const Point& point = args.point;
    const StageRows<T>& rows = args.rows;
    const int64_t padded = point.arena.padded, B = point.steps.B;
    const int64_t t = args.step < 0 ? 0 : point.steps.time(args.step);
    const bool active = args.step >= 0 && point.steps.active(t, b);
    A d[Cell::states], past[Cell::states] = {}, da[Cell::slots] = {};
    if (args.stage == stage_settle || args.stage == stage_all) {
      point.load_gradient(b, u, d);
      if (u < point.P) point.receive(args.step, b, u, rows.products[b * padded + u], d);
      if (args.step < 0) return point.finish(b, u, A(0), d);
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) past[k] = d[k];
      if (active) {
        if (point.dy.data && u < point.P) d[0] += widen(element<T>(point.dy, t, b)[u]);
        point.pass_by(t, b, u, d, past);
      }
      if (args.stage == stage_settle) {
        PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
          point.of_state(rows.past, k, b)[u] = past[k];
          rows.made[(b * Cell::states + k) * padded + u] = active ? d[k] : A(0);
        }
        if (rows.dprojected && u < point.P)
          rows.dprojected[(t * B + b) * padded + u] = Narrow<T>::from(active ? d[0] : A(0));
        return;
      }
    } else {
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
        past[k] = point.of_state(rows.past, k, b)[u];
        d[k] = rows.made[(b * Cell::states + k) * padded + u];
      }
    }
    if (active) {
      A save[Cell::saved], s[Cell::states], dp[Cell::params + 1];
      point.load_saved(args.step, b, u, save, s);
      V kept[Cell::saved], state[Cell::states], gradient[Cell::states], slot[Cell::slots], p[Cell::params + 1],
          of_p[Cell::params + 1];
      PYRNN_UNROLL for (int k = 0; k < Cell::saved; k++) kept[k] = Values::value(args.curves, save[k]);
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
        state[k] = Values::value(args.curves, s[k]);
        gradient[k] = Values::value(args.curves, d[k]);
      }
      bool done = false;
      if constexpr (late_of<Cell> > 0) {
        if (args.stage == stage_read) {
          V dread[Late<Cell>::reads];
          PYRNN_UNROLL for (int k = 0; k < Late<Cell>::reads; k++)
              dread[k] = Values::value(args.curves, rows.dread[(b * Late<Cell>::reads + k) * padded + u] *
                                                        point.regular.factor(point.at(t, b, u)));
          PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++)
              slot[k] = Values::value(args.curves, rows.late.left_row(b, Cell::slots, k)[u]);
          Cell::read_backward(kept, state, dread, gradient, slot);
          done = true;
        }
      }
      if (!done) {
        PYRNN_UNROLL for (int k = 0; k < Cell::params; k++)
            p[k] = Values::value(args.curves, widen(point.params[k * point.H + u]));
        Cell::backward(kept, state, p, gradient, slot, of_p);
        PYRNN_UNROLL for (int k = 0; k < Cell::params; k++) dp[k] = Values::number(of_p[k]);
        point.add_params(b, u, dp);
      }
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] = Values::number(gradient[k]);
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) da[k] = Values::number(slot[k]);
    } else {
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] = 0;
    }
    PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) point.dslot(t, b, k)[u] = Narrow<T>::from(da[k]);
    if (late_of<Cell> > 0 && args.stage != stage_read) {  // the late products come between
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
        rows.made[(b * Cell::states + k) * padded + u] = d[k];
        point.of_state(rows.past, k, b)[u] = past[k];
      }
      PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) rows.late.left_row(b, Cell::slots, k)[u] = da[k];
      return;
    }
    PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] += past[k];
    point.cut(t, b, u, d);
    point.store_gradient(b, u, d);
  }
};

// ---- over the rows of units, a block each

constexpr int row_threads = 128;

// Sums over a block's threads, in their order; `shared`: (threads) numbers that no other sum uses.
template <class A, class Context>
PYRNN_FN A sum_of_block(Context& context, A mine, A* shared) {
  shared[context.thread] = mine;
  context.barrier();
  A sum = 0;
  for (int i = 0; i < row_threads; i++) sum += shared[i];
  return sum;
}
template <class A>
constexpr size_t row_shared = 2 * row_threads * sizeof(A);

constexpr double norm_epsilon = 1e-5;
PYRNN_FN float root(float x) { return sqrtf(x); }
PYRNN_FN double root(double x) { return sqrt(x); }

// Mean and inverse deviation of value(i), i < n.
template <class A, class Context, class Value>
PYRNN_FN void normal_of(Context& context, int64_t n, const Value& value, A& mean, A& inverse) {
  A* shared = reinterpret_cast<A*>(context.shared);
  A sum = 0, squares = 0;
  for (int64_t i = context.thread; i < n; i += row_threads) sum += value(i);
  mean = sum_of_block(context, sum, shared) / A(n);
  for (int64_t i = context.thread; i < n; i += row_threads) {
    const A centred = value(i) - mean;
    squares += centred * centred;
  }
  inverse = 1 / root(sum_of_block(context, squares, shared + row_threads) / A(n) + A(norm_epsilon));
}

// Normalises `count` slots of H numbers together: x = gain·x̂ + bias, in place. Rows are those of the steps from `from`
// on, (step, B). At skipped steps nothing but zeros is kept.
struct NormaliseArgs {
  void* x;  // sums, `distance` between rows, `padded` between slots
  const void *gain, *bias;  // (count·H); bias or null
  void *kept, *inverse;  // x̂ by time (T, B, …, padded), `kept_distance` between entries; sums (T, B); or null
  int64_t count, H, padded, distance, kept_distance, from;
  Steps steps;
};
template <class T>
struct Normalise {
  using A = Accumulator<T>;
  using Args = NormaliseArgs;
  static constexpr int threads = row_threads;
  static constexpr bool independent = false;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t n = args.count * args.H, row = context.block_x, b = row % args.steps.B;
    const int64_t t = args.steps.time(args.from + row / args.steps.B), entry = t * args.steps.B + b;
    const bool active = args.steps.active(t, b);
    A* x = static_cast<A*>(args.x) + row * args.distance;
    const auto at = [&](int64_t i) { return i / args.H * args.padded + i % args.H; };
    A mean = 0, inverse = 0;
    if (active) normal_of(context, n, [&](int64_t i) { return x[at(i)]; }, mean, inverse);
    for (int64_t i = context.thread; i < n; i += row_threads) {
      const A normal = active ? (x[at(i)] - mean) * inverse : A(0);
      if (args.kept) static_cast<T*>(args.kept)[entry * args.kept_distance + at(i)] = Narrow<T>::from(normal);
      const A shift = args.bias ? widen(static_cast<const T*>(args.bias)[i]) : A(0);
      x[at(i)] = widen(static_cast<const T*>(args.gain)[i]) * normal + shift;
    }
    if (args.inverse && context.thread == 0) static_cast<A*>(args.inverse)[entry] = inverse;
  }
};

// Back through it: gradients of the products from those of the slots `packed` (four bits each), of entries from `first`
// on, one a block.
struct NormaliseBackwardArgs {
  const void* dslots;  // (T, B, …, padded), as `normalised` and `dproducts`
  const void *normalised, *gain, *inverse;
  void* dproducts;
  uint32_t packed;
  int64_t count, H, padded, slots_distance, normal_distance, first;
};
template <class T>
struct NormaliseBackward {
  using A = Accumulator<T>;
  using Args = NormaliseBackwardArgs;
  static constexpr int threads = row_threads;
  static constexpr bool independent = false;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t n = args.count * args.H, entry = args.first + context.block_x;
    const T* d = static_cast<const T*>(args.dslots) + entry * args.slots_distance;
    const T* normal = static_cast<const T*>(args.normalised) + entry * args.normal_distance;
    T* out = static_cast<T*>(args.dproducts) + entry * args.normal_distance;
    const A inverse = static_cast<const A*>(args.inverse)[entry];
    const auto at = [&](int64_t i) { return i / args.H * args.padded + i % args.H; };
    const auto scaled = [&](int64_t i) {
      const int64_t slot = args.packed >> 4 * (i / args.H) & 15;
      return widen(d[slot * args.padded + i % args.H]) * widen(static_cast<const T*>(args.gain)[i]);
    };
    A sum = 0, along = 0;
    for (int64_t i = context.thread; i < n; i += row_threads) {
      sum += scaled(i);
      along += scaled(i) * widen(normal[at(i)]);
    }
    A* shared = reinterpret_cast<A*>(context.shared);
    const A mean = sum_of_block(context, sum, shared) / A(n);
    const A slope = sum_of_block(context, along, shared + row_threads) / A(n);
    for (int64_t i = context.thread; i < n; i += row_threads)
      out[at(i)] = Narrow<T>::from((scaled(i) - mean - widen(normal[at(i)]) * slope) * inverse);
  }
};

// h of o and c, which a cell has left in the places of h and c: c clipped, normalised where there is a gain, and back.
// `kept`, (T, B, 3, padded) or (B, 3, padded): o, c, x̂ of c.
template <class T>
struct ComposeArgs {
  using A = Accumulator<T>;
  A* made;  // (B, states, padded)
  A *kept, *inverse;
  A* dnormed;  // backward (T, B, padded): gradient of the normalised c, for the gain's
  T* hidden;  // as StageRows has it
  const T *gain, *bias;
  ClippedCurve<A> output;
  A clip;  // 0: none
  int32_t saves, backward;
  int64_t H, padded, states, step;
  Steps steps;
};
template <class T>
struct Compose {
  using A = Accumulator<T>;
  using Args = ComposeArgs<T>;
  static constexpr int threads = row_threads;
  static constexpr bool independent = false;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t b = context.block_x, t = args.steps.time(args.step);
    const int64_t entry = (args.saves ? t : 0) * args.steps.B + b;
    const bool active = args.steps.active(t, b);
    A *o = args.kept + entry * 3 * args.padded, *c = o + args.padded, *normal = c + args.padded;
    A *h = args.made + b * args.states * args.padded, *of_c = h + args.padded;
    const auto read_out = [&](int64_t u) {
      if (!args.gain) return c[u];
      return widen(args.gain[u]) * normal[u] + (args.bias ? widen(args.bias[u]) : A(0));
    };
    if (args.backward)
      back(context, args, entry, active, o, c, normal, h, of_c, read_out);
    else
      forth(context, args, entry, active, o, c, normal, h, of_c, read_out);
  }

  template <class Context, class ReadOut>
  static PYRNN_FN void forth(Context& context, const Args& args, int64_t entry, bool active, A* o, A* c, A* normal,
                             A* h, A* of_c, const ReadOut& read_out) {
    const int64_t H = args.H;
    for (int64_t u = context.thread; u < H; u += row_threads) {  // a thread reads what it wrote itself
      o[u] = active ? h[u] : A(0);
      c[u] = !active ? A(0) : args.clip > 0 ? min(args.clip, max(-args.clip, of_c[u])) : of_c[u];
      of_c[u] = c[u];
    }
    if (args.gain) {
      A mean = 0, inverse = 0;
      if (active) normal_of(context, H, [&](int64_t u) { return c[u]; }, mean, inverse);
      for (int64_t u = context.thread; u < H; u += row_threads) normal[u] = (c[u] - mean) * inverse;
      if (context.thread == 0) args.inverse[entry] = inverse;
    }
    for (int64_t u = context.thread; u < H; u += row_threads) {
      h[u] = active ? o[u] * args.output.value(read_out(u)) : A(0);
      if (args.hidden) args.hidden[entry * args.padded + u] = Narrow<T>::from(h[u]);
    }
  }

  template <class Context, class ReadOut>
  static PYRNN_FN void back(Context& context, const Args& args, int64_t entry, bool active, const A* o, const A* c,
                            const A* normal, A* h, A* of_c, const ReadOut& read_out) {
    const int64_t H = args.H;
    A* d = args.dnormed + entry * args.padded;
    A sum = 0, along = 0;
    for (int64_t u = context.thread; u < H; u += row_threads) {
      const A y = active ? args.output.value(read_out(u)) : A(0);
      d[u] = active ? h[u] * o[u] * args.output.slope(y) : A(0);
      h[u] *= y;
      if (!args.gain) continue;
      sum += d[u] * widen(args.gain[u]);
      along += d[u] * widen(args.gain[u]) * normal[u];
    }
    A mean = 0, slope = 0, inverse = 0;
    if (args.gain) {
      A* shared = reinterpret_cast<A*>(context.shared);
      mean = sum_of_block(context, sum, shared) / A(H);
      slope = sum_of_block(context, along, shared + row_threads) / A(H);
      inverse = args.inverse[entry];
    }
    for (int64_t u = context.thread; u < H; u += row_threads) {
      const A more = args.gain ? (d[u] * widen(args.gain[u]) - mean - normal[u] * slope) * inverse : d[u];
      const bool clipped = args.clip > 0 && max(c[u], -c[u]) >= args.clip;
      of_c[u] = clipped ? A(0) : of_c[u] + more;
    }
  }
};

}  // namespace cuda
}  // namespace pyrnn
