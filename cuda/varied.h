// SPDX-License-Identifier: Apache-2.0
// Activations that a call chose, and its clips: csrc/curves.h for one unit, as a kernel's arguments have them.
#pragma once

#include "../csrc/curves.h"
#include "steps.h"

#if defined(__CUDACC__)
#define PYRNN_OUT_OF_LINE __host__ __device__ __noinline__
#else
#define PYRNN_OUT_OF_LINE __attribute__((noinline))
#endif

namespace pyrnn {
namespace cuda {

template <class A>
struct OfUnits {
  using Number = A;
  using Scalar = A;
};

// Out of line: a cell asks for several, each of them a choice among all.
template <class A>
PYRNN_OUT_OF_LINE A value_of(const CurveChoice& choice, A x) {
  return curve_value<OfUnits<A>>(choice, x);
}
template <class A>
PYRNN_OUT_OF_LINE A slope_of(const CurveChoice& choice, A y) {
  return curve_slope<OfUnits<A>>(choice, y);
}

// A curve behind a clip of what it reads. Its derivative is zero where its value is that of a bound, or beyond, as far
// as the rounded value tells.
template <class A>
struct ClippedCurve {
  CurveChoice choice;
  A bound;  // 0: none
  A low, high;

  // `T`: the numbers that values are kept in.
  template <class T>
  void set(const CurveChoice& chosen, double clip) {
    choice = chosen;
    bound = A(clip);
    if (bound == 0) return;
    const A one = value_of(choice, bound), other = value_of(choice, -bound);
    // The device's functions may differ in the last bits, and so round to the next number.
    const A slack = sizeof(A) == 8 ? A(2e-15) : A(1e-6);
    const auto kept = [&](A y, A towards) {
      return widen(Narrow<T>::from(y + slack * (towards < y ? -abs_of(y) : abs_of(y))));
    };
    low = one < other ? kept(one, other) : kept(other, one);
    high = one < other ? kept(other, one) : kept(one, other);
  }
  static A abs_of(A y) { return y < 0 ? -y : y; }
  PYRNN_FN A value(A x) const { return value_of(choice, bound == 0 ? x : min(bound, max(-bound, x))); }
  PYRNN_FN A slope(A y) const { return bound != 0 && (y <= low || y >= high) ? A(0) : slope_of(choice, y); }
};

// The activations of a cell.
template <class A>
struct Activations : OfUnits<A> {
  ClippedCurve<A> of_gates, of_candidate, of_output;

  PYRNN_FN A gate(A x) const { return of_gates.value(x); }
  PYRNN_FN A gate_slope(A y) const { return of_gates.slope(y); }
  PYRNN_FN A candidate(A x) const { return of_candidate.value(x); }
  PYRNN_FN A candidate_slope(A y) const { return of_candidate.slope(y); }
  PYRNN_FN A output(A x) const { return of_output.value(x); }
  PYRNN_FN A output_slope(A y) const { return of_output.slope(y); }
};

template <class Cell>
constexpr int own_candidate = curve_tanh;
template <>
inline constexpr int own_candidate<Rnn<Relu>> = curve_relu;

// Those of a call; `apart`: h = o·output(c) is made outside the cell, which leaves o in the place of h.
template <class Cell, class T>
Activations<Accumulator<T>> activations_of(const Variation& v, bool apart) {
  const CurveChoice sigmoid{curve_sigmoid, 0, 0}, own{own_candidate<Cell>, 0, 0}, tanh{curve_tanh, 0, 0};
  Activations<Accumulator<T>> chosen{};
  chosen.of_gates.template set<T>(v.varied ? v.gate : sigmoid, v.gate_clip);
  chosen.of_candidate.template set<T>(v.varied ? v.candidate : own, v.gate_clip);
  chosen.of_output.template set<T>(apart ? CurveChoice{curve_affine, 0, 1} : v.varied ? v.output : tanh, 0);
  return chosen;
}

// What a cell is run on: values that bring their activations, or numbers where it has none to choose.
template <class Cell, class A, bool Varies = varies<Cell>>
struct UnitValues {
  using V = A;
  static PYRNN_FN V slot(const Activations<A>&, A x) { return x; }
  static PYRNN_FN V value(const Activations<A>&, A x) { return x; }
  static PYRNN_FN A number(V x) { return x; }
};
template <class Cell, class A>
struct UnitValues<Cell, A, true> {
  using V = VariedValue<Activations<A>>;
  static PYRNN_FN V slot(const Activations<A>& from, A x) {
    return {x, reinterpret_cast<uintptr_t>(&from), V::from_slot};
  }
  static PYRNN_FN V value(const Activations<A>& from, A x) { return {x, reinterpret_cast<uintptr_t>(&from), 0}; }
  static PYRNN_FN A number(V x) { return x.v; }
};

}  // namespace cuda
}  // namespace pyrnn
