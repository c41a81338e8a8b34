// SPDX-License-Identifier: Apache-2.0
// MUT2, found by a search over architectures (Jozefowicz, Zaremba & Sutskever 2015).
//   r = σ(a_r)   z = σ(a_z)   n = tanh(a_n), whose product is R_n (r·h)
//   h' = z·n + (1 - z)·h
// Where the paper's reset gate adds x itself, which takes as many inputs as units, a product of x stands.
#pragma once

#include "reset_read.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Mut2 : ResetRead {
  static constexpr int slots = 3, states = 1, saved = 3, params = 0;
  static constexpr int from_x[] = {0, 1, 2};
  static constexpr int from_h[] = {0, 1, 2};

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V r = Sigmoid::f(a[0]), z = Sigmoid::f(a[1]), n = Tanh::f(a[2]);
    s_new[0] = s[0] + z * (n - s[0]);
    save[0] = r;
    save[1] = z;
    save[2] = n;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V z = save[1], n = save[2];
    da[0] = V{};
    da[1] = ds[0] * (n - s[0]) * Sigmoid::df(z);
    da[2] = ds[0] * z * Tanh::df(n);
    ds[0] = ds[0] * (1 - z);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
