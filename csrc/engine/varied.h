// SPDX-License-Identifier: Apache-2.0
// A cell with other activations, with its pre-activations clipped, or with dropout of its candidate: the cell's own
// text on vectors that bring their activations along. Each is chosen at run time behind a call, so one more costs
// nothing.
#pragma once

#include "../curves.h"
#include "regularize.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
struct OfVectors {
  using Number = Vec<T>;
  using Scalar = T;
};

// y = f(x). Out of line: every caller gets the same bits, so an image of a bound can be recognised.
template <class T>
__attribute__((noinline)) void activate(const CurveChoice& choice, const Vec<T>& x, Vec<T>& y) {
  y = curve_value<OfVectors<T>>(choice, x);
}

// f'(x) from y = f(x).
template <class T>
__attribute__((noinline)) void slope_at(const CurveChoice& choice, const Vec<T>& y, Vec<T>& slope) {
  slope = curve_slope<OfVectors<T>>(choice, y);
}

// A curve behind a clip of what it reads. Its derivative is zero where its value is that of a bound, or beyond.
template <class T>
struct ClippedCurve {
  CurveChoice choice;
  T bound;  // 0: none
  T low, high;

  void set(const CurveChoice& chosen, double clip) {
    choice = chosen;
    bound = T(clip);
    if (bound == 0) return;
    Vec<T> at_bound, at_negative;
    activate<T>(choice, broadcast(bound), at_bound);
    activate<T>(choice, broadcast(-bound), at_negative);
    low = at_bound[0] < at_negative[0] ? at_bound[0] : at_negative[0];
    high = at_bound[0] < at_negative[0] ? at_negative[0] : at_bound[0];
  }
  PYRNN_FN Vec<T> value(Vec<T> x) const {
    Vec<T> y;
    activate<T>(choice, bound == 0 ? x : min(broadcast(bound), max(broadcast(-bound), x)), y);
    return y;
  }
  PYRNN_FN Vec<T> slope(Vec<T> y) const {
    Vec<T> d;
    slope_at<T>(choice, y, d);
    if (bound == 0) return d;
    return y > low ? (y < high ? d : Vec<T>{}) : Vec<T>{};
  }
};

// What changes inside a cell for the rows of one step.
template <class T>
struct Varied {
  ClippedCurve<T> gate, candidate, output;
  const T* mask;  // (rows, padded): what the candidates are multiplied by; null: nothing
  T kept;         // the probability behind it: the factor of a unit that is kept is its inverse

  // With `apart` the engine itself takes h = o·output(c): the cell leaves o in the place of h.
  void set(const Variation& v, const Regularization& r, bool apart) {
    gate.set(v.gate, v.gate_clip);
    candidate.set(v.candidate, v.gate_clip);
    output.set(apart ? CurveChoice{curve_affine, 0, 1} : v.output, 0);
    mask = nullptr;
    kept = T(1 - r.dropout);
  }
};

// Those of one vector of units.
template <class T>
struct VariedUnits : OfVectors<T> {
  const Varied<T>* varied;
  Vec<T> mask;

  PYRNN_FN Vec<T> gate(Vec<T> x) const { return varied->gate.value(x); }
  PYRNN_FN Vec<T> gate_slope(Vec<T> y) const { return varied->gate.slope(y); }
  PYRNN_FN Vec<T> candidate(Vec<T> x) const {
    const Vec<T> y = varied->candidate.value(x);
    return varied->mask ? y * mask : y;
  }
  PYRNN_FN Vec<T> candidate_slope(Vec<T> y) const {
    return varied->mask ? varied->candidate.slope(y * varied->kept) * mask : varied->candidate.slope(y);
  }
  PYRNN_FN Vec<T> output(Vec<T> x) const { return varied->output.value(x); }
  PYRNN_FN Vec<T> output_slope(Vec<T> y) const { return varied->output.slope(y); }
};

template <class T>
struct VariedValues {
  using V = VariedValue<VariedUnits<T>>;
  VariedUnits<T> units;

  PYRNN_FN VariedValues(const Units<T>& of, int64_t row, int64_t unit) : units{{}, of.varied, Vec<T>{}} {
    if (of.varied->mask) units.mask = load(of.varied->mask + row * of.padded + unit);
  }
  PYRNN_FN V slot(Vec<T> v) const { return {v, reinterpret_cast<uintptr_t>(&units), V::from_slot}; }
  PYRNN_FN V value(Vec<T> v) const { return {v, reinterpret_cast<uintptr_t>(&units), 0}; }
  static PYRNN_FN Vec<T> number(V v) { return v.v; }
};

// The functions of a cell in a call that may vary it.
template <class Cell, class T>
const CellFunctions<T>& functions_of(const Variation& variation) {
  if constexpr (varies<Cell>)
    if (variation.varied) return cell_functions<Cell, T, VariedValues<T>>;
  return cell_functions<Cell, T>;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
