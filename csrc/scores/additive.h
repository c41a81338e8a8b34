// SPDX-License-Identifier: Apache-2.0
// Additive score (Bahdanau et al. 2015): s = Σ_d w_d tanh(q_d + k_d), in two forms.
#pragma once

#include "score.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct AdditiveDirect {
  using Fallback = AdditiveDirect;
  static constexpr bool weighted = true, product = false, unit_rows = false, pairs = false;
  static constexpr int offset = 0, factor = 1, slope_factor = 1;
  static constexpr double limit[] = {0, 0};

  template <class V>
  static PYRNN_FN V prepare(V x) {
    return x;
  }
  template <class V>
  static PYRNN_FN V phi(V q, V k) {
    return tanh(q + k);
  }
  template <class V>
  static PYRNN_FN V slope(V phi) {
    return 1 - phi * phi;
  }
};

// tanh(q + k) = 1 - 2 / (1 + e^2q · e^2k): the exponentials are taken once per row, a pair costs a multiply-add and a
// reciprocal. Beyond the limits e^2q · e^2k leaves the range of the reciprocal.
struct Additive {
  using Fallback = AdditiveDirect;
  static constexpr bool weighted = true, product = false, unit_rows = false, pairs = true;
  static constexpr int offset = 1, factor = -2, slope_factor = 4;
  static constexpr double limit[] = {43, 353};

  template <class V>
  static PYRNN_FN V prepare(V x) {
    return exp_twice(x);
  }
  template <class V>
  static PYRNN_FN V phi(V q, V k) {
    return reciprocal(1 + q * k);
  }
  template <class V>
  static PYRNN_FN V add_pair(V sum, V x, V y) {
    return sum + (x + y) * reciprocal(x * y);
  }
  template <class V>
  static PYRNN_FN V slope(V phi) {
    return phi - phi * phi;
  }
  template <class V>
  static PYRNN_FN V slope(V phi, V times_phi) {
    return times_phi - times_phi * phi;
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
