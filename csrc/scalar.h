// SPDX-License-Identifier: Apache-2.0
// The names of simd.h and math.h for one value at a time, and Dual: a value with its derivative, for the tests.
#pragma once

#include <math.h>

#include "fn.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

PYRNN_FN float exp(float x) { return ::expf(x); }
PYRNN_FN double exp(double x) { return ::exp(x); }
PYRNN_FN float exp_twice(float x) { return ::expf(x + x); }
PYRNN_FN double exp_twice(double x) { return ::exp(x + x); }
PYRNN_FN float tanh(float x) { return ::tanhf(x); }
PYRNN_FN double tanh(double x) { return ::tanh(x); }
PYRNN_FN float reciprocal(float x) { return 1 / x; }
PYRNN_FN double reciprocal(double x) { return 1 / x; }
PYRNN_FN float log_1p(float x) { return ::log1pf(x); }
PYRNN_FN double log_1p(double x) { return ::log1p(x); }
// NaN stays NaN.
PYRNN_FN float min(float bound, float x) { return bound < x ? bound : x; }
PYRNN_FN double min(double bound, double x) { return bound < x ? bound : x; }
PYRNN_FN float max(float bound, float x) { return bound > x ? bound : x; }
PYRNN_FN double max(double bound, double x) { return bound > x ? bound : x; }
PYRNN_FN double positive(double x) { return 0 > x ? 0 : x; }
PYRNN_FN float positive(float x) { return 0 > x ? 0 : x; }
template <class V>
PYRNN_FN V where_positive(V y, V then) {
  return y > 0 ? then : V(0);
}
template <class V>
PYRNN_FN V where_positive(V y, V then, V otherwise) {
  return y > 0 ? then : otherwise;
}

// v + d·ε with ε² = 0: running a cell's forward on it gives the exact directional derivative.
struct Dual {
  double v, d;
};
PYRNN_FN Dual operator-(Dual a) { return {-a.v, -a.d}; }
PYRNN_FN Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
PYRNN_FN Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
PYRNN_FN Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }
PYRNN_FN Dual operator+(double a, Dual b) { return {a + b.v, b.d}; }
PYRNN_FN Dual operator-(double a, Dual b) { return {a - b.v, -b.d}; }
PYRNN_FN Dual operator*(double a, Dual b) { return {a * b.v, a * b.d}; }
PYRNN_FN Dual exp(Dual a) { return {::exp(a.v), ::exp(a.v) * a.d}; }
PYRNN_FN Dual exp_twice(Dual a) { return exp(a + a); }
PYRNN_FN Dual tanh(Dual a) {
  const double c = ::cosh(a.v);
  return {::tanh(a.v), a.d / (c * c)};
}
PYRNN_FN Dual reciprocal(Dual a) { return {1 / a.v, -a.d / (a.v * a.v)}; }
PYRNN_FN Dual where_positive(Dual y, Dual then, Dual otherwise) { return y.v > 0 ? then : otherwise; }
PYRNN_FN Dual positive(Dual a) { return 0 > a.v ? Dual{0, 0} : a; }

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
