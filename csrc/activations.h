// SPDX-License-Identifier: Apache-2.0
// Activations: f(x), and df(y), the derivative as a function of the output y = f(x).
#pragma once

#include "scalar.h"
#if !defined(__CUDACC__)  // a GPU's lane holds one value at a time
#include "math.h"
#endif

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Relative accuracy is kept for very negative x (4 ULP down to where e^-x overflows, zero below).
// A value that brings activations of its own (engine/varied.h): `gate` in the place of the sigmoid, `squash` in that of
// the others.
template <class V>
inline constexpr bool brings_activations = false;

struct Sigmoid {
  template <class V>
  static PYRNN_FN V f(V x) {
    if constexpr (brings_activations<V>)
      return x.gate();
    else
      return reciprocal(1 + exp(-x));
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    if constexpr (brings_activations<V>)
      return y.gate_slope();
    else
      return y * (1 - y);
  }
};

struct Tanh {
  template <class V>
  static PYRNN_FN V f(V x) {
    if constexpr (brings_activations<V>)
      return x.squash();
    else
      return tanh(x);
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    if constexpr (brings_activations<V>)
      return y.squash_slope();
    else
      return 1 - y * y;
  }
};

struct Relu {
  template <class V>
  static PYRNN_FN V f(V x) {
    if constexpr (brings_activations<V>)
      return x.squash();
    else
      return positive(x);
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    if constexpr (brings_activations<V>)
      return y.squash_slope();
    else
      return where_positive(y, V{} + 1);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
