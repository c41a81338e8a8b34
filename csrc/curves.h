// SPDX-License-Identifier: Apache-2.0
// The activations that a call may choose in place of a cell's own, and values that bring them along: the cell's own
// text on such values is the varied cell. `Of` says what they consist of: Number, a vector or a number, and Scalar.
#pragma once

#include "activations.h"
#include "kernels.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// f(x).
template <class Of>
PYRNN_FN typename Of::Number curve_value(const CurveChoice& choice, typename Of::Number x) {
  using V = typename Of::Number;
  using T = typename Of::Scalar;
  const V zero{}, alpha = zero + T(choice.alpha), beta = zero + T(choice.beta);
  switch (choice.curve) {
    case curve_sigmoid:
      return Sigmoid::f(x);
    case curve_tanh:
      return Tanh::f(x);
    case curve_relu:
      return Relu::f(x);
    case curve_hardsigmoid:
      return min(zero + T(1), max(zero, alpha * x + beta));
    case curve_softsign:
      return x / (1 + max(x, -x));
    case curve_affine:
      return alpha * x + beta;
    case curve_leakyrelu:
      return x > 0 ? x : alpha * x;
    case curve_thresholdedrelu:
      return x > alpha ? x : zero;
    case curve_scaledtanh:
      return alpha * Tanh::f(beta * x);
    case curve_elu: {
      const V t = Tanh::f(min(zero, x) / 2);  // e^x - 1 = 2t/(1 - t), which keeps its accuracy near zero
      return x > 0 ? x : alpha * (t + t) / (1 - t);
    }
    default:
      return max(zero, x) + log_1p(exp(-max(x, -x)));
  }
}

// f'(x) from y = f(x).
template <class Of>
PYRNN_FN typename Of::Number curve_slope(const CurveChoice& choice, typename Of::Number y) {
  using V = typename Of::Number;
  using T = typename Of::Scalar;
  const V zero{}, one = zero + T(1), alpha = zero + T(choice.alpha), beta = zero + T(choice.beta);
  switch (choice.curve) {
    case curve_sigmoid:
      return Sigmoid::df(y);
    case curve_tanh:
      return Tanh::df(y);
    case curve_relu:
      return Relu::df(y);
    case curve_hardsigmoid:
      return y > 0 ? (y < 1 ? alpha : zero) : zero;
    case curve_softsign:
      return (1 - max(y, -y)) * (1 - max(y, -y));
    case curve_affine:
      return alpha;
    case curve_leakyrelu:
      return y > 0 ? one : alpha;
    case curve_thresholdedrelu:
      return y != 0 ? one : zero;
    case curve_scaledtanh:
      return choice.alpha == 0 ? zero : beta * (alpha - y * y / alpha);
    case curve_elu:
      return y > 0 ? one : y + alpha;
    default:
      return 1 - exp(-y);
  }
}

// A Number, where it finds its activations, and what it comes from, which decides which one it meets: a
// pre-activation meets the candidate's, c the output's. A `Source` has the activations and their slopes, and
// `candidate_slope` takes what `candidate` gave.
template <class Source>
struct VariedValue {
  static constexpr int from_slot = 1, from_output = 2;
  typename Source::Number v;
  uintptr_t at;  // Source; 0 of a constant
  int origin;

  PYRNN_FN const Source& source() const { return *reinterpret_cast<const Source*>(at); }
  PYRNN_FN VariedValue gate() const { return {source().gate(v), at, 0}; }
  PYRNN_FN VariedValue gate_slope() const { return {source().gate_slope(v), at, 0}; }
  PYRNN_FN VariedValue squash() const {
    if (origin & from_slot) return {source().candidate(v), at, 0};
    return {source().output(v), at, from_output};
  }
  PYRNN_FN VariedValue squash_slope() const {
    return {origin & from_output ? source().output_slope(v) : source().candidate_slope(v), at, 0};
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
  friend PYRNN_FN VariedValue operator-(typename Source::Scalar a, VariedValue b) { return {a - b.v, b.at, b.origin}; }
};
template <class Source>
inline constexpr bool brings_activations<VariedValue<Source>> = true;

template <class Cell, class = void>
constexpr const char* roles_of = "";
template <class Cell>
constexpr const char* roles_of<Cell, decltype(void(Cell::roles))> = Cell::roles;
template <class Cell>
constexpr bool varies = roles_of<Cell>[0] != 0;

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
