// SPDX-License-Identifier: Apache-2.0
// MUT1, found by a search over architectures (Jozefowicz, Zaremba & Sutskever 2015): the update gate does not see h,
// and the input is squashed by itself.
//   r = σ(a_r)   z = σ(a_z), of x alone   n = tanh(tanh(a_nx) + a_nh), whose product of h is R_n (r·h)
//   h' = z·n + (1 - z)·h
// Where the paper adds x itself, which takes as many inputs as units, a product of x stands.
#pragma once

#include "reset_read.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Mut1 : ResetRead {
  static constexpr int slots = 4, states = 1, saved = 4, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 3};

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V r = Sigmoid::f(a[0]), z = Sigmoid::f(a[1]), x = Tanh::f(a[2]);
    const V n = Tanh::f(x + a[3]);
    s_new[0] = s[0] + z * (n - s[0]);
    save[0] = r;
    save[1] = z;
    save[2] = n;
    save[3] = x;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V z = save[1], n = save[2], x = save[3];
    const V dn = ds[0] * z * Tanh::df(n);
    da[0] = V{};
    da[1] = ds[0] * (n - s[0]) * Sigmoid::df(z);
    da[2] = dn * Tanh::df(x);
    da[3] = dn;
    ds[0] = ds[0] * (1 - z);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
