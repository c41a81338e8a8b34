// SPDX-License-Identifier: Apache-2.0
// A cell with other activations, with its pre-activations clipped, or with dropout of its candidate: the cell's own
// text on values that bring their activations along. Each is chosen at run time behind a call, so one more costs
// nothing.
#pragma once

#include <math.h>

#include "regularize.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

PYRNN_FN float log_1p(float x) { return ::log1pf(x); }
PYRNN_FN double log_1p(double x) { return ::log1p(x); }

// y = f(x). Out of line: every caller gets the same bits, so an image of a bound can be recognised.
template <class T>
__attribute__((noinline)) void activate(const CurveChoice& choice, const Vec<T>& x, Vec<T>& y) {
  const Vec<T> zero{}, alpha = broadcast(T(choice.alpha)), beta = broadcast(T(choice.beta));
  switch (choice.curve) {
    case curve_sigmoid:
      y = Sigmoid::f(x);
      return;
    case curve_tanh:
      y = Tanh::f(x);
      return;
    case curve_relu:
      y = Relu::f(x);
      return;
    case curve_hardsigmoid:
      y = min(broadcast(T(1)), max(zero, alpha * x + beta));
      return;
    case curve_softsign:
      y = x / (1 + max(x, -x));
      return;
    case curve_affine:
      y = alpha * x + beta;
      return;
    case curve_leakyrelu:
      y = x > 0 ? x : alpha * x;
      return;
    case curve_thresholdedrelu:
      y = x > alpha ? x : zero;
      return;
    case curve_scaledtanh:
      y = alpha * Tanh::f(beta * x);
      return;
    case curve_elu: {
      const Vec<T> t = Tanh::f(min(zero, x) / 2);  // e^x - 1 = 2t/(1 - t), which keeps its accuracy near zero
      y = x > 0 ? x : alpha * (t + t) / (1 - t);
      return;
    }
    default: {
      Vec<T> e = exp(-max(x, -x));
      for (int j = 0; j < lanes<T>; j++) e[j] = log_1p(e[j]);
      y = max(zero, x) + e;
    }
  }
}

// f'(x) from y = f(x).
template <class T>
__attribute__((noinline)) void slope_at(const CurveChoice& choice, const Vec<T>& y, Vec<T>& slope) {
  const Vec<T> zero{}, one = broadcast(T(1)), alpha = broadcast(T(choice.alpha)), beta = broadcast(T(choice.beta));
  switch (choice.curve) {
    case curve_sigmoid:
      slope = Sigmoid::df(y);
      return;
    case curve_tanh:
      slope = Tanh::df(y);
      return;
    case curve_relu:
      slope = Relu::df(y);
      return;
    case curve_hardsigmoid:
      slope = y > 0 ? (y < 1 ? alpha : zero) : zero;
      return;
    case curve_softsign:
      slope = (1 - max(y, -y)) * (1 - max(y, -y));
      return;
    case curve_affine:
      slope = alpha;
      return;
    case curve_leakyrelu:
      slope = y > 0 ? one : alpha;
      return;
    case curve_thresholdedrelu:
      slope = y != 0 ? one : zero;
      return;
    case curve_scaledtanh:
      slope = choice.alpha == 0 ? zero : beta * (alpha - y * y / alpha);
      return;
    case curve_elu:
      slope = y > 0 ? one : y + alpha;
      return;
    default:
      slope = 1 - exp(-y);
  }
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
struct VariedUnits {
  const Varied<T>* varied;
  Vec<T> mask;
};

// A number, where it finds its activations, and what it comes from, which decides which one it meets: a pre-activation
// meets the candidate's, c the output's.
template <class T>
struct VariedValue {
  static constexpr int from_slot = 1, from_output = 2;
  Vec<T> v;
  uintptr_t at;  // VariedUnits; 0 of a constant
  int origin;

  PYRNN_FN const VariedUnits<T>& units() const { return *reinterpret_cast<const VariedUnits<T>*>(at); }
  PYRNN_FN VariedValue gate() const { return {units().varied->gate.value(v), at, 0}; }
  PYRNN_FN VariedValue gate_slope() const { return {units().varied->gate.slope(v), at, 0}; }
  PYRNN_FN VariedValue squash() const {
    const Varied<T>& varied = *units().varied;
    if (!(origin & from_slot)) return {varied.output.value(v), at, from_output};
    const Vec<T> y = varied.candidate.value(v);
    return {varied.mask ? y * units().mask : y, at, 0};
  }
  PYRNN_FN VariedValue squash_slope() const {
    const Varied<T>& varied = *units().varied;
    if (origin & from_output) return {varied.output.slope(v), at, 0};
    if (!varied.mask) return {varied.candidate.slope(v), at, 0};
    return {varied.candidate.slope(v * varied.kept) * units().mask, at, 0};
  }

  friend PYRNN_FN VariedValue operator-(VariedValue a) { return {-a.v, a.at, a.origin}; }
  friend PYRNN_FN VariedValue operator+(VariedValue a, VariedValue b) {
    return {a.v + b.v, a.at | b.at, a.origin | b.origin};
  }
  friend PYRNN_FN VariedValue operator-(VariedValue a, VariedValue b) {
    return {a.v - b.v, a.at | b.at, a.origin | b.origin};
  }
  friend PYRNN_FN VariedValue operator*(VariedValue a, VariedValue b) {
    return {a.v * b.v, a.at | b.at, a.origin | b.origin};
  }
  friend PYRNN_FN VariedValue operator-(T a, VariedValue b) { return {a - b.v, b.at, b.origin}; }
};
template <class T>
inline constexpr bool brings_activations<VariedValue<T>> = true;

template <class T>
struct VariedValues {
  using V = VariedValue<T>;
  VariedUnits<T> units;

  PYRNN_FN VariedValues(const Units<T>& of, int64_t row, int64_t unit) : units{of.varied, Vec<T>{}} {
    if (of.varied->mask) units.mask = load(of.varied->mask + row * of.padded + unit);
  }
  PYRNN_FN V slot(Vec<T> v) const { return {v, reinterpret_cast<uintptr_t>(&units), V::from_slot}; }
  PYRNN_FN V value(Vec<T> v) const { return {v, reinterpret_cast<uintptr_t>(&units), 0}; }
  static PYRNN_FN Vec<T> number(V v) { return v.v; }
};

template <class Cell, class = void>
constexpr const char* roles_of = "";
template <class Cell>
constexpr const char* roles_of<Cell, decltype(void(Cell::roles))> = Cell::roles;
template <class Cell>
constexpr bool varies = roles_of<Cell>[0] != 0;

// The functions of a cell in a call that may vary it.
template <class Cell, class T>
const CellFunctions<T>& functions_of(const Variation& variation) {
  if constexpr (varies<Cell>)
    if (variation.varied) return cell_functions<Cell, T, VariedValues<T>>;
  return cell_functions<Cell, T>;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
