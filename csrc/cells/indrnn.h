// SPDX-License-Identifier: Apache-2.0
// Independently recurrent network (Li et al. 2018): a unit sees its own past alone, through one weight.
//   h' = φ(a + u·h)
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Activation>
struct IndRnn {
  static constexpr int slots = 1, states = 1, saved = 1, params = 1;
  static constexpr int from_x[] = {0};
  static constexpr const int* from_h = nullptr;  // no product of h
  static constexpr const char* param_name = "hh";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V* s, const V* p, V* s_new, V* save) {
    s_new[0] = save[0] = Activation::f(a[0] + p[0] * s[0]);
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V* s, const V* p, V* ds, V* da, V* dp) {
    da[0] = ds[0] * Activation::df(save[0]);
    dp[0] = da[0] * s[0];
    ds[0] = da[0] * p[0];
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
