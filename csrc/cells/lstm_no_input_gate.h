// SPDX-License-Identifier: Apache-2.0
// LSTM without input gate, NIG in Greff et al. 2015.
//   f = σ(a_f)   g = tanh(a_g)   o = σ(a_o)
//   c' = f·c + g                 h' = o·tanh(c')
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct LstmNoInputGate {
  static constexpr int slots = 3, states = 2, saved = 3, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 1, 2};
  static constexpr const char* roles = "fgh";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V f = Sigmoid::f(a[0]), g = Tanh::f(a[1]), o = Sigmoid::f(a[2]);
    const V c = f * s[1] + g;
    s_new[0] = o * Tanh::f(c);
    s_new[1] = c;
    save[0] = f;
    save[1] = g;
    save[2] = o;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V f = save[0], g = save[1], o = save[2];
    const V y = Tanh::f(f * s[1] + g);
    const V dc = ds[1] + ds[0] * o * Tanh::df(y);
    da[0] = dc * s[1] * Sigmoid::df(f);
    da[1] = dc * Tanh::df(g);
    da[2] = ds[0] * y * Sigmoid::df(o);
    ds[0] = V{};
    ds[1] = dc * f;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
