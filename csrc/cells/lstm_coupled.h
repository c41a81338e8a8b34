// SPDX-License-Identifier: Apache-2.0
// LSTM with coupled input and forget gate, CIFG in Greff et al. 2015: what is forgotten makes room for what comes in.
//   i = σ(a_i)   g = tanh(a_g)   o = σ(a_o)
//   c' = (1 - i)·c + i·g         h' = o·tanh(c')
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct LstmCoupled {
  static constexpr int slots = 3, states = 2, saved = 3, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 1, 2};
  static constexpr const char* roles = "fgh";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V i = Sigmoid::f(a[0]), g = Tanh::f(a[1]), o = Sigmoid::f(a[2]);
    const V c = s[1] + i * (g - s[1]);
    s_new[0] = o * Tanh::f(c);
    s_new[1] = c;
    save[0] = i;
    save[1] = g;
    save[2] = o;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V i = save[0], g = save[1], o = save[2];
    const V y = Tanh::f(s[1] + i * (g - s[1]));
    const V dc = ds[1] + ds[0] * o * Tanh::df(y);
    da[0] = dc * (g - s[1]) * Sigmoid::df(i);
    da[1] = dc * i * Tanh::df(g);
    da[2] = ds[0] * y * Sigmoid::df(o);
    ds[0] = V{};
    ds[1] = dc * (1 - i);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
