// SPDX-License-Identifier: Apache-2.0
// Gated recurrent unit (Cho et al. 2014) with the reset gate after the product, as PyTorch and cuDNN have it.
//   r = σ(a_r)   z = σ(a_z)   n = tanh(a_nx + r·a_nh)
//   h' = (1 - z)·n + z·h
// The slots nx and nh stay apart because r gates nh alone.
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Gru {
  static constexpr int slots = 4, states = 1, saved = 4, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 1, 3};
  static constexpr const char* roles = "fg";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V r = Sigmoid::f(a[0]), z = Sigmoid::f(a[1]);
    const V n = Tanh::f(a[2] + r * a[3]);
    s_new[0] = n + z * (s[0] - n);
    save[0] = r;
    save[1] = z;
    save[2] = n;
    save[3] = a[3];
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V r = save[0], z = save[1], n = save[2], nh = save[3];
    const V dn = ds[0] * (1 - z) * Tanh::df(n);
    da[0] = dn * nh * Sigmoid::df(r);
    da[1] = ds[0] * (s[0] - n) * Sigmoid::df(z);
    da[2] = dn;
    da[3] = dn * r;
    ds[0] = ds[0] * z;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
