// SPDX-License-Identifier: Apache-2.0
// What cells have in common whose last slot's product is that of r·h, with the gate r = σ(a_0).
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct ResetRead {
  static constexpr int late = 1;

  template <class V>
  static PYRNN_FN void read(const V* a, const V* s, V* out) {
    out[0] = Sigmoid::f(a[0]) * s[0];
  }

  template <class V>
  static PYRNN_FN void read_saved(const V* save, const V* s, V* out) {
    out[0] = save[0] * s[0];
  }

  template <class V>
  static PYRNN_FN void read_backward(const V* save, const V* s, const V* dread, V* ds, V* da) {
    da[0] = da[0] + dread[0] * s[0] * Sigmoid::df(save[0]);
    ds[0] = ds[0] + dread[0] * save[0];
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
