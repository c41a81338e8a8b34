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
struct Sigmoid {
  template <class V>
  static PYRNN_FN V f(V x) {
    return reciprocal(1 + exp(-x));
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    return y * (1 - y);
  }
};

struct Tanh {
  template <class V>
  static PYRNN_FN V f(V x) {
    return tanh(x);
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    return 1 - y * y;
  }
};

struct Relu {
  template <class V>
  static PYRNN_FN V f(V x) {
    return positive(x);
  }
  template <class V>
  static PYRNN_FN V df(V y) {
    return where_positive(y, V{} + 1);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
