// SPDX-License-Identifier: Apache-2.0
// Products: q·k (Luong et al. 2015; scaled by 1/√D in Vaswani et al. 2017), and the cosine of the angle between them
// (Graves et al. 2014).
#pragma once

#include "score.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

struct Dot {
  using Fallback = Dot;
  static constexpr bool weighted = false, product = true, unit_rows = false, pairs = false;
  static constexpr int offset = 0, factor = 1;
  static constexpr double limit[] = {0, 0};

  template <class V>
  static PYRNN_FN V prepare(V x) {
    return x;
  }
  template <class V>
  static PYRNN_FN V phi(V q, V k) {
    return q * k;
  }
};

struct Cosine : Dot {
  static constexpr bool unit_rows = true;
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
