// SPDX-License-Identifier: Apache-2.0
// Minimal gated unit (Zhou et al. 2016): one gate forgets and resets.
//   f = σ(a_f)   n = tanh(a_n), whose product is R_n (f·h)
//   h' = (1 - f)·h + f·n
#pragma once

#include "reset_read.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Mgu : ResetRead {
  static constexpr int slots = 2, states = 1, saved = 2, params = 0;
  static constexpr int from_x[] = {0, 1};
  static constexpr int from_h[] = {0, 1};
  static constexpr const char* roles = "fg";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V*, V* s_new, V* save) {
    const V f = Sigmoid::f(a[0]), n = Tanh::f(a[1]);
    s_new[0] = s[0] + f * (n - s[0]);
    save[0] = f;
    save[1] = n;
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V*) {
    const V f = save[0], n = save[1];
    da[0] = ds[0] * (n - s[0]) * Sigmoid::df(f);
    da[1] = ds[0] * f * Tanh::df(n);
    ds[0] = ds[0] * (1 - f);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
