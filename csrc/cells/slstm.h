// SPDX-License-Identifier: Apache-2.0
// Scalar LSTM with exponential gates (Beck et al. 2024), one head, in the paper's stabilised form.
//   m' = max(a_f + m, a_i)   i = exp(a_i - m')   f = exp(a_f + m - m')   z = tanh(a_z)   o = σ(a_o)
//   c' = f·c + i·z   n' = f·n + i   h' = o·c'/n'
// With d = a_f + m - a_i one of i and f is 1, the other e^-|d|. The state n is positive, or zero where all of it is.
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Slstm {
  static constexpr int slots = 4, states = 4, saved = 4, params = 0;  // states h, c, n, m
  static constexpr int from_x[] = {0, 1, 2, 3};
  static constexpr int from_h[] = {0, 1, 2, 3};

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V d = a[1] + s[3] - a[0], up = positive(d);
    const V i = exp(-up), f = exp(d - up), z = Tanh::f(a[2]), o = Sigmoid::f(a[3]);
    const V c = f * s[1] + i * z, n = f * s[2] + i;
    s_new[0] = o * c * reciprocal(n);
    s_new[1] = c;
    s_new[2] = n;
    s_new[3] = a[0] + up;
    save[0] = i;
    save[1] = f;
    save[2] = z;
    save[3] = o;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V i = save[0], f = save[1], z = save[2], o = save[3];
    const V inverse = reciprocal(f * s[2] + i), y = (f * s[1] + i * z) * inverse;
    const V dy = ds[0] * o * inverse;
    const V dc = ds[1] + dy, dn = ds[2] - dy * y;
    const V dd = where_positive(f - i, ds[3] - (dc * z + dn) * i, (dc * s[1] + dn * s[2]) * f);
    da[0] = ds[3] - dd;
    da[1] = dd;
    da[2] = dc * i * Tanh::df(z);
    da[3] = ds[0] * y * Sigmoid::df(o);
    ds[0] = V{};
    ds[1] = dc * f;
    ds[2] = dn * f;
    ds[3] = dd;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
