// SPDX-License-Identifier: Apache-2.0
// LSTM whose gates see the cell state (Gers & Schmidhuber 2000; Gers, Schraudolph & Schmidhuber 2002).
//   i = σ(a_i + p_i·c)   f = σ(a_f + p_f·c)   g = tanh(a_g)
//   c' = f·c + i·g       o = σ(a_o + p_o·c')  h' = o·tanh(c')
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct LstmPeephole {
  static constexpr int slots = 4, states = 2, saved = 4, params = 3;
  static constexpr int from_x[] = {0, 1, 2, 3};
  static constexpr int from_h[] = {0, 1, 2, 3};
  static constexpr const char* roles = "fgh";
  static constexpr const char* param_name = "peephole";  // p_i, p_f, p_o

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V* p, V* s_new, V* save) {
    const V i = Sigmoid::f(a[0] + p[0] * s[1]), f = Sigmoid::f(a[1] + p[1] * s[1]), g = Tanh::f(a[2]);
    const V c = f * s[1] + i * g;
    const V o = Sigmoid::f(a[3] + p[2] * c);
    s_new[0] = o * Tanh::f(c);
    s_new[1] = c;
    save[0] = i;
    save[1] = f;
    save[2] = g;
    save[3] = o;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V* p, V* ds, V* da, V* dp) {
    const V i = save[0], f = save[1], g = save[2], o = save[3];
    const V c = f * s[1] + i * g, y = Tanh::f(c);
    da[3] = ds[0] * y * Sigmoid::df(o);
    const V dc = ds[1] + ds[0] * o * Tanh::df(y) + da[3] * p[2];
    da[0] = dc * g * Sigmoid::df(i);
    da[1] = dc * s[1] * Sigmoid::df(f);
    da[2] = dc * i * Tanh::df(g);
    dp[0] = da[0] * s[1];
    dp[1] = da[1] * s[1];
    dp[2] = da[3] * c;
    ds[0] = V{};
    ds[1] = dc * f + da[0] * p[0] + da[1] * p[1];
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
