// SPDX-License-Identifier: Apache-2.0
// Layers with options that come between the products and the cell, or between cells: layer normalisation, projection,
// chosen activations, clips, normalised c. Every stage of a step is a kernel, and they meet in memory, as in
// csrc/engine/staged.h; products are the plain ones.
#pragma once

#include "stages.h"
#include "sums.h"

namespace pyrnn {
namespace cuda {

inline bool is_varied(const Layer& layer) { return layer.variation.varied || layer.variation.gate_clip > 0; }
// h = o·output(c) is made outside the cell.
inline bool is_apart(const Layer& layer) { return layer.cell_norm || layer.variation.cell_clip > 0; }
inline bool is_staged(const Layer& layer) {
  return layer.layer_norm || layer.P > 0 || is_varied(layer) || is_apart(layer);
}

constexpr int counting[2 * max_slots] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// What the backward needs beside the gates; in inference it is scratch of one step.
template <class T>
struct StagedKept {
  using A = Accumulator<T>;
  T* normal;          // (T, B, from_x + from_h, padded): x̂ of the products
  A* inverse;         // (3, T, B): of the products of x, of h, of the late ones
  A *apart, *of_c;    // (T, B, 3, padded), (T, B): as Compose has them
  T* hidden;          // (T, B, padded): h before its projection
};

template <class T>
struct StagedScratch {
  using A = Accumulator<T>;
  StageRows<T> rows;
  T* dproducts;  // (T, B, from_x + from_h, padded)
  A* dnormed;    // (T, B, padded)
};

template <class T>
struct StagedMemory {
  StagedKept<T> kept;
  StagedScratch<T> scratch;
};

template <class Cell, class Math, class Of>
struct StagedSteps : StagedMemory<typename Math::Number> {
  using T = typename Math::Number;
  using A = Accumulator<T>;
  using Slots = Late<Cell>;
  static constexpr int X = FromX<Cell>::count, R = FromH<Cell>::count, S = Cell::states;
  using StagedMemory<T>::kept, StagedMemory<T>::scratch;
  const Of& of;

  bool norm() const { return of.layer.layer_norm; }
  bool apart() const { return is_apart(of.layer); }
  bool projected() const { return of.layer.P > 0; }

  void carve_kept(Carver& memory) {
    const int64_t entries = of.layer.save ? of.entries : of.B;
    const bool saves = of.layer.save && norm();
    kept = {};
    if (saves) kept.normal = memory.take<T>(entries * (X + R) * of.padded);
    if (saves) kept.inverse = memory.take<A>(3 * entries);
    if (apart()) kept.apart = memory.take<A>(entries * 3 * of.padded);
    if (apart()) kept.of_c = memory.take<A>(entries);
    if (projected()) kept.hidden = memory.take<T>(entries * of.padded);
    scratch.rows.hidden = kept.hidden;
  }
  void carve_forward(Carver& memory) {
    scratch.rows.products = memory.take<A>(of.B * R * of.padded);
    scratch.rows.made = memory.take<A>(of.B * S * of.padded);
  }
  void carve_backward(Carver& memory) {
    const int64_t row = of.B * of.padded, all = of.entries * of.padded;
    scratch.rows.products = memory.take<A>(row);
    scratch.rows.made = memory.take<A>(S * row);
    scratch.rows.past = memory.take<A>(S * row);
    scratch.rows.dread = memory.take<A>(Slots::reads * row);
    if (projected()) scratch.rows.dprojected = memory.take<T>(all);
    if (norm()) scratch.dproducts = memory.take<T>((X + R) * all);
    if (apart()) scratch.dnormed = memory.take<A>(all);
  }

  // ---- launches

  template <class Body, class Point>
  int stage(const Point& point, int64_t i, StepPart which, void* stream) const {
    typename Body::Args args{point, scratch.rows, activations_of<Cell, T>(of.layer.variation, apart()), i, which};
    return launch<Body>(of.units_by_rows(stream), args);
  }
  static Launch row_shape(int64_t rows, void* stream) {
    Launch shape;
    shape.x = rows;
    shape.shared = row_shared<A>;
    shape.stream = stream;
    return shape;
  }

  // Sums (B, columns) with `distance` between rows and `padded` between blocks of `block` columns.
  template <bool AlongK>
  int product(const Operand& rows, const Operand& columns, A* out, int64_t distance, int64_t block,
              void* stream) const {
    ProductArgs args{};
    args.a = rows;
    args.b = columns;
    args.splits = 1;
    args.kind = store_inputs;
    args.out = out;
    args.out_column = nested_axis(columns.row.extent / block, block, of.padded, 1, nullptr);
    args.out_row = distance;
    return of.template product<true, AlongK>(args, stream);
  }
  Operand matrix(const void* data, int64_t rows, int64_t columns) const {
    return {data, plain_axis(rows, columns), plain_axis(columns, 1), of.fits(data, columns, 0), 0, of.steps};
  }
  // As columns, of which k are the matrix's rows.
  Operand transposed(const void* data, int64_t rows, int64_t columns) const {
    return {data, plain_axis(columns, 1), plain_axis(rows, columns), of.fits(data, columns, 0), 0, of.steps};
  }
  Operand rows_of(const T* data, int64_t distance, int64_t numbers) const {
    return {data, plain_axis(of.B, distance), plain_axis(numbers, 1), 1, 0, of.steps};
  }
  const T* weights(const void* weight_hh, int first) const {
    return static_cast<const T*>(weight_hh) + first * of.H * of.P;
  }

  // `first` and `count` of the X + R products; `group`: which of the three.
  int normalise(A* x, int64_t rows, int64_t distance, const void* gain, const void* bias, int first, int count,
                int group, int64_t from, void* stream) const {
    NormaliseArgs args{};
    args.x = x;
    args.gain = gain;
    args.bias = bias;
    if (kept.normal) args.kept = kept.normal + first * of.padded;
    if (kept.inverse) args.inverse = kept.inverse + group * of.entries;
    args.count = count;
    args.H = of.H;
    args.padded = of.padded;
    args.distance = distance;
    args.kept_distance = (X + R) * of.padded;
    args.from = from;
    args.steps = of.steps;
    return launch<Normalise<T>>(row_shape(rows, stream), args);
  }
  int back_through_norm(const BackwardPoint<Cell, T>& point, const void* gain, uint32_t packed, int first, int count,
                        int group, int64_t entry, int64_t entries, void* stream) const {
    NormaliseBackwardArgs args{};
    args.dslots = point.dslots;
    args.normalised = kept.normal + first * of.padded;
    args.gain = gain;
    args.inverse = kept.inverse + group * of.entries;
    args.dproducts = scratch.dproducts + first * of.padded;
    args.packed = packed;
    args.count = count;
    args.H = of.H;
    args.padded = of.padded;
    args.slots_distance = Cell::slots * of.padded;
    args.normal_distance = (X + R) * of.padded;
    args.first = entry;
    return launch<NormaliseBackward<T>>(row_shape(entries, stream), args);
  }
  template <class Call>
  int compose(const Call& call, int64_t i, bool backward, void* stream) const {
    ComposeArgs<T> args{};
    args.made = scratch.rows.made;
    args.kept = kept.apart;
    args.inverse = kept.of_c;
    args.dnormed = scratch.dnormed;
    args.hidden = kept.hidden;
    args.gain = static_cast<const T*>(call.norm_c);
    args.bias = static_cast<const T*>(call.bias_c);
    const Variation& v = of.layer.variation;
    args.output.template set<A>(v.varied ? v.output : CurveChoice{curve_tanh, 0, 0}, 0);
    args.clip = A(v.cell_clip);
    args.saves = of.layer.save;
    args.backward = backward;
    args.H = of.H;
    args.padded = of.padded;
    args.states = S;
    args.step = i;
    args.steps = of.steps;
    return launch<Compose<T>>(row_shape(of.B, stream), args);
  }

  // ---- forward

  // Of the steps [from, from + count), whose products lie in `inputs`.
  int inputs(const LayerForward& call, A* inputs, int64_t from, int64_t count) const {
    if (!norm()) return 0;
    return normalise(inputs, count * of.B, X * of.padded, call.norm_ih, call.bias_ih, 0, X, 0, from, call.stream);
  }

  // Products of the slots [first, first + count) of from_h with `rows`.
  int products(const LayerForward& call, const Operand& rows, int first, int count) const {
    return product<true>(rows, matrix(weights(call.weight_hh, first), count * of.H, of.P),
                         scratch.rows.products + first * of.padded, R * of.padded, of.H, call.stream);
  }
  int normalise_h(const LayerForward& call, int first, int count, int group, int64_t i) const {
    if (!norm()) return 0;
    return normalise(scratch.rows.products + first * of.padded, of.B, R * of.padded,
                     static_cast<const T*>(call.norm_hh) + first * of.H, nullptr, X + first, count, group, i,
                     call.stream);
  }

  int forward(const LayerForward& call, const ForwardPoint<Cell, T>& point, int64_t i) const {
    using Body = StageForward<Cell, T>;
    const Operand h = rows_of(point.arena.h_row(point.arena.slot(i), 0), of.padded, of.P);
    if (products(call, h, 0, Slots::early) || normalise_h(call, 0, Slots::early, 1, i)) return 1;
    if constexpr (late_of<Cell> > 0) {
      if (stage<Body>(point, i, stage_read, call.stream)) return 1;
      for (int k = 0; k < Slots::reads; k++) {
        const T* read = scratch.rows.late.row(of.steps.time(i), 0, k);
        if (products(call, rows_of(read, Slots::reads * of.padded, of.H), Slots::first(k), Slots::each)) return 1;
      }
      if (normalise_h(call, Slots::early, late_of<Cell>, 2, i)) return 1;
    }
    if (!apart() && !projected()) return stage<Body>(point, i, stage_all, call.stream);
    if (stage<Body>(point, i, stage_cell, call.stream)) return 1;
    if (apart() && compose(call, i, false, call.stream)) return 1;
    if (projected()) {
      const T* hidden = kept.hidden + (of.layer.save ? of.steps.time(i) : 0) * of.B * of.padded;
      if (product<true>(rows_of(hidden, of.padded, of.H), matrix(call.weight_hr, of.P, of.H), scratch.rows.made,
                        S * of.padded, of.P, call.stream))
        return 1;
    }
    return stage<Body>(point, i, stage_settle, call.stream);
  }

  // ---- backward

  // Where the gradients of the products are, and those of the slots [first, first + count) of from_h at time t.
  SlotRows<T> gradients(const BackwardPoint<Cell, T>& point) const {
    if (norm()) return {scratch.dproducts, X + R, counting, counting + X};
    return {point.dslots, Cell::slots, Cell::from_x, Cell::from_h};
  }
  Operand gradient(const BackwardPoint<Cell, T>& point, int64_t t, int first, int count) const {
    const SlotRows<T> all = gradients(point);
    const int64_t distance = all.each * of.padded;
    return {all.data + t * of.B * distance,
            plain_axis(of.B, distance),
            of.slot_columns(count, of.H, of.padded, all.h + first),
            of.H % Of::V == 0,
            0,
            of.steps};
  }

  // Step i, descending to -1, which only finishes.
  int backward(const LayerBackward& call, const BackwardPoint<Cell, T>& point, int64_t i) const {
    using Body = StageBackward<Cell, T>;
    const bool parted = apart() || projected();
    if (stage<Body>(point, i, parted || i < 0 ? stage_settle : stage_all, call.stream)) return 1;
    if (i < 0) return 0;
    const int64_t t = of.steps.time(i);
    if (projected()) {
      const T* dh = scratch.rows.dprojected + t * of.B * of.padded;
      if (product<false>(rows_of(dh, of.padded, of.P), transposed(call.weight_hr, of.P, of.H), scratch.rows.made,
                         S * of.padded, of.H, call.stream))
        return 1;
    }
    if (apart() && compose(call, i, true, call.stream)) return 1;
    if (parted && stage<Body>(point, i, stage_cell, call.stream)) return 1;
    if constexpr (late_of<Cell> > 0) {
      if (norm() && back_through_norm(point, static_cast<const T*>(call.norm_hh) + Slots::early * of.H,
                                      FromH<Cell>::packed >> 4 * Slots::early, X + Slots::early, late_of<Cell>, 2,
                                      t * of.B, of.B, call.stream))
        return 1;
      for (int k = 0; k < Slots::reads; k++)
        if (product<false>(gradient(point, t, Slots::first(k), Slots::each),
                           transposed(weights(call.weight_hh, Slots::first(k)), Slots::each * of.H, of.H),
                           scratch.rows.dread + k * of.padded, Slots::reads * of.padded, of.H, call.stream))
          return 1;
      if (stage<Body>(point, i, stage_read, call.stream)) return 1;
    }
    if (norm() &&
        back_through_norm(point, call.norm_hh, FromH<Cell>::packed, X, Slots::early, 1, t * of.B, of.B, call.stream))
      return 1;
    return product<false>(gradient(point, t, 0, Slots::early),
                          transposed(weights(call.weight_hh, 0), Slots::early * of.H, of.P), scratch.rows.products,
                          of.padded, of.P, call.stream);
  }

  // After the steps: the products of x, and what only these layers have.
  template <class Scratch>
  int gradients(const LayerBackward& call, const BackwardPoint<Cell, T>& point, const Scratch& memory) const {
    const auto& sums = of.sums();
    const int64_t padded = of.padded, H = of.H, rows = of.entries;
    if (norm() && back_through_norm(point, call.norm_ih, FromX<Cell>::packed, 0, X, 0, 0, rows, call.stream)) return 1;
    if (sums.all(call, memory, point, gradients(point))) return 1;
    const auto gain = [&](const A* d, int64_t distance, const Axis& column, const A* times, int64_t times_distance,
                          const Axis& times_column, void* out) {
      return sums.columns(d, rows, distance, column_splits(rows), column, out, memory.partial, call.stream, times,
                          times_distance, times_column);
    };
    const auto gains = [&](int count, const int* select, int first, void* out) {
      return sums.columns(point.dslots, rows, Cell::slots * padded, column_splits(rows),
                          of.slot_columns(count, H, padded, select), out, memory.partial, call.stream,
                          kept.normal + first * padded, (X + R) * padded, nested_axis(count, H, padded, 1, nullptr));
    };
    if (norm() && (gains(X, Cell::from_x, 0, call.dnorm_ih) || gains(R, Cell::from_h, X, call.dnorm_hh))) return 1;
    const Axis units = plain_axis(H, 1);
    if (call.dnorm_c && gain(scratch.dnormed, padded, units, kept.apart + 2 * padded, 3 * padded, units, call.dnorm_c))
      return 1;
    if (call.dbias_c && gain(scratch.dnormed, padded, units, nullptr, 0, units, call.dbias_c)) return 1;
    if (!projected()) return 0;
    const int32_t skips = of.layer.lengths || of.layer.mask;
    const Operand dh{scratch.rows.dprojected, plain_axis(of.P, 1), plain_axis(rows, padded), 1, 0, of.steps};
    const Operand hidden{kept.hidden, plain_axis(H, 1), plain_axis(rows, padded), 1, skips, of.steps};
    return sums.weight(dh, hidden, call.dweight_hr, memory.partial, call.stream);
  }
};

}  // namespace cuda
}  // namespace pyrnn
