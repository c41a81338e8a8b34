// SPDX-License-Identifier: Apache-2.0
// LSTM with the forget gate only, JANET (van der Westhuizen & Lasenby 2018), with the paper's β = 1.
//   f = σ(a_f)   i = 1 - σ(a_f - β)   g = tanh(a_g)
//   h' = f·h + i·g
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Janet {
  static constexpr int slots = 2, states = 1, saved = 3, params = 0;
  static constexpr int from_x[] = {0, 1};
  static constexpr int from_h[] = {0, 1};
  static constexpr const char* roles = "fg";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V f = Sigmoid::f(a[0]), i = Sigmoid::f(1 - a[0]), g = Tanh::f(a[1]);
    s_new[0] = f * s[0] + i * g;
    save[0] = f;
    save[1] = g;
    save[2] = i;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V f = save[0], g = save[1], i = save[2];
    da[0] = ds[0] * (s[0] * Sigmoid::df(f) - g * Sigmoid::df(i));
    da[1] = ds[0] * i * Tanh::df(g);
    ds[0] = ds[0] * f;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
