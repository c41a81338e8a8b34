// SPDX-License-Identifier: Apache-2.0
// MUT3, found by a search over architectures (Jozefowicz, Zaremba & Sutskever 2015): as MUT2, but the update gate sees
// h squashed.
//   r = σ(a_r)   z = σ(a_z), whose product is R_z tanh(h)   n = tanh(a_n), whose product is R_n (r·h)
//   h' = z·n + (1 - z)·h
#pragma once

#include "mut2.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Mut3 : Mut2 {
  static constexpr int late = 2, reads = 2;

  template <class V>
  static PYRNN_FN void read(const V* a, const V* s, V* out) {
    out[0] = Tanh::f(s[0]);
    Mut2::read(a, s, out + 1);
  }

  template <class V>
  static PYRNN_FN void read_saved(const V* save, const V* s, V* out) {
    out[0] = Tanh::f(s[0]);
    Mut2::read_saved(save, s, out + 1);
  }

  template <class V>
  static PYRNN_FN void read_backward(const V* save, const V* s, const V* dread, V* ds, V* da) {
    ds[0] = ds[0] + dread[0] * Tanh::df(Tanh::f(s[0]));
    Mut2::read_backward(save, s, dread + 1, ds, da);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
