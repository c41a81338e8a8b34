// SPDX-License-Identifier: Apache-2.0
// Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers, Schmidhuber & Cummins 2000).
//   i = σ(a_i)   f = σ(a_f)   g = tanh(a_g)   o = σ(a_o)
//   c' = f·c + i·g            h' = o·tanh(c')
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Lstm {
  static constexpr int slots = 4, states = 2, saved = 4, params = 0;
  static constexpr int from_x[] = {0, 1, 2, 3};
  static constexpr int from_h[] = {0, 1, 2, 3};
  static constexpr const char* roles = "fgh";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V i = Sigmoid::f(a[0]), f = Sigmoid::f(a[1]), g = Tanh::f(a[2]), o = Sigmoid::f(a[3]);
    const V c = f * s[1] + i * g;
    s_new[0] = o * Tanh::f(c);
    s_new[1] = c;
    save[0] = i;
    save[1] = f;
    save[2] = g;
    save[3] = o;
  }

  // tanh(c') is computed again from the saved gates: cheaper than one more number kept for every unit and step.
  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V i = save[0], f = save[1], g = save[2], o = save[3];
    const V y = Tanh::f(f * s[1] + i * g);
    const V dc = ds[1] + ds[0] * o * Tanh::df(y);
    da[0] = dc * g * Sigmoid::df(i);
    da[1] = dc * s[1] * Sigmoid::df(f);
    da[2] = dc * i * Tanh::df(g);
    da[3] = ds[0] * y * Sigmoid::df(o);
    ds[0] = V{};
    ds[1] = dc * f;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
