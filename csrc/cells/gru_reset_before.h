// SPDX-License-Identifier: Apache-2.0
// Gated recurrent unit as it was first, with the reset gate before the product (Cho et al. 2014).
//   r = σ(a_r)   z = σ(a_z)   n = tanh(a_n), whose product is R_n (r·h)
//   h' = (1 - z)·n + z·h
#pragma once

#include "reset_read.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct GruResetBefore : ResetRead {
  static constexpr int slots = 3, states = 1, saved = 3, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 1, 2};
  static constexpr const char* roles = "fg";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V r = Sigmoid::f(a[0]), z = Sigmoid::f(a[1]), n = Tanh::f(a[2]);
    s_new[0] = n + z * (s[0] - n);
    save[0] = r;
    save[1] = z;
    save[2] = n;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V z = save[1], n = save[2];
    da[0] = V{};
    da[1] = ds[0] * (s[0] - n) * Sigmoid::df(z);
    da[2] = ds[0] * (1 - z) * Tanh::df(n);
    ds[0] = ds[0] * z;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
