// SPDX-License-Identifier: Apache-2.0
// LSTM with full gate recurrence, FGR in Greff et al. 2015: the gates see what they were a step before.
//   i = σ(a_i)   f = σ(a_f)   g = tanh(a_g)   o = σ(a_o)
//   c' = f·c + i·g            h' = o·tanh(c')
// The blocks of weight_hh: of h into i f g o; then of the old i, of the old f, of the old o, each into i f o.
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct LstmGateRecurrence {
  static constexpr int slots = 4, states = 5, saved = 4, params = 0, late = 9, reads = 3;  // states h, c, i, f, o
  static constexpr int from_x[] = {0, 1, 2, 3};
  static constexpr int from_h[] = {0, 1, 2, 3, 0, 1, 3, 0, 1, 3, 0, 1, 3};

  template <class V>
  static PYRNN_FN void read(const V*, const V* s, V* out) {
    for (int k = 0; k < reads; k++) out[k] = s[2 + k];
  }

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V i = Sigmoid::f(a[0]), f = Sigmoid::f(a[1]), g = Tanh::f(a[2]), o = Sigmoid::f(a[3]);
    const V c = f * s[1] + i * g;
    s_new[0] = o * Tanh::f(c);
    s_new[1] = c;
    s_new[2] = save[0] = i;
    s_new[3] = save[1] = f;
    save[2] = g;
    s_new[4] = save[3] = o;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V i = save[0], f = save[1], g = save[2], o = save[3];
    const V y = Tanh::f(f * s[1] + i * g);
    const V dc = ds[1] + ds[0] * o * Tanh::df(y);
    da[0] = (dc * g + ds[2]) * Sigmoid::df(i);
    da[1] = (dc * s[1] + ds[3]) * Sigmoid::df(f);
    da[2] = dc * i * Tanh::df(g);
    da[3] = (ds[0] * y + ds[4]) * Sigmoid::df(o);
    ds[1] = dc * f;
    ds[0] = ds[2] = ds[3] = ds[4] = V{};
  }

  template <class V>
  static PYRNN_FN void read_saved(const V*, const V* s, V* out) {
    for (int k = 0; k < reads; k++) out[k] = s[2 + k];
  }

  template <class V>
  static PYRNN_FN void read_backward(const V*, const V*, const V* dread, V* ds, V*) {
    for (int k = 0; k < reads; k++) ds[2 + k] = ds[2 + k] + dread[k];
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
