// SPDX-License-Identifier: Apache-2.0
// Simple recurrent network (Elman 1990): h' = φ(a).
#pragma once

#include "cell.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Activation>
struct Rnn {
  static constexpr int slots = 1, states = 1, saved = 1, params = 0;
  static constexpr int from_x[] = {0};
  static constexpr int from_h[] = {0};
  static constexpr const char* roles = "g";

  template <class V>
  static PYRNN_FN void forward(const V* a, const V*, const V*, V* s_new, V* save) {
    s_new[0] = save[0] = Activation::f(a[0]);
  }

  template <class V>
  static PYRNN_FN void backward(const V* save, const V*, const V*, V* ds, V* da, V*) {
    da[0] = ds[0] * Activation::df(save[0]);
    ds[0] = V{};
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
