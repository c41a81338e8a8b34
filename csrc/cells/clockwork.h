// SPDX-License-Identifier: Apache-2.0
// Clockwork RNN (Koutník et al. 2014): a unit runs at every so-manieth step alone, and reads those as slow as it or
// slower.
//   k > 0:   h' = h          k' = k - 1
//   k <= 0:  h' = tanh(a)    k' = period - 1
// k counts the steps until the unit runs again; from a state of zeros every unit runs at once, as at t = 0.
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Clockwork {
  static constexpr int slots = 1, states = 2, saved = 1, params = 1;
  static constexpr int from_x[] = {0};
  static constexpr int from_h[] = {0};
  static constexpr bool ordered = true;  // of the recurrent weights, those from a unit with a smaller period are zero
  static constexpr const char* param_name = "period";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V* p, V* s_new, V* save) {
    save[0] = Tanh::f(a[0]);
    s_new[0] = where_positive(s[1], s[0], save[0]);
    s_new[1] = -1 + where_positive(s[1], s[1], p[0]);
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V*, V* ds, V* da, V* dp) {
    da[0] = where_positive(s[1], V{}, ds[0] * Tanh::df(save[0]));
    dp[0] = where_positive(s[1], V{}, ds[1]);
    ds[0] = where_positive(s[1], ds[0]);
    ds[1] = where_positive(s[1], ds[1]);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
