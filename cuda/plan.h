// SPDX-License-Identifier: Apache-2.0
// Which kernels run a layer, and in what shape: a pure function of sizes and of the device's properties.
#pragma once

#include "launch.h"
#include "steps.h"

namespace pyrnn {
namespace cuda {

// What the plan knows of a layer.
struct Problem {
  Sizes sizes;
  int slots, states, from_x, from_h;
  int bytes, accumulator_bytes;  // of a number, of a sum
  bool tensor;                   // products on tensor cores
};

// Bytes of input products that are computed before the steps that use them: they should stay in the second-level cache.
constexpr int64_t inputs_bytes = 32 << 20;

// Steps whose input products are computed at once.
inline int64_t steps_at_once(const Problem& p) {
  const int64_t step = p.sizes.B * p.from_x * padded_units(p.sizes.H) * p.accumulator_bytes;
  const int64_t fit = step > 0 ? inputs_bytes / step : p.sizes.T;
  return fit < 1 ? 1 : fit < p.sizes.T ? fit : p.sizes.T < 1 ? 1 : p.sizes.T;
}

// Into how many parts the sum over `k` chunks of a product with `tiles` tiles is cut, so that every multiprocessor has
// work. It depends on sizes and on the device's size only: the order of a sum never changes from run to run.
inline int64_t splits_of(int64_t tiles, int64_t chunks, const Machine& machine) {
  const int64_t wanted = tiles > 0 ? 2 * machine.multiprocessors / tiles : 1, most = chunks / 8;
  const int64_t splits = wanted < most ? wanted : most;
  return splits < 1 ? 1 : splits;
}

// Rows of a matrix that are summed by one thread of a column sum, at least.
inline int64_t column_splits(int64_t rows) {
  const int64_t splits = rows / 64;
  return splits < 1 ? 1 : splits > 128 ? 128 : splits;
}

}  // namespace cuda
}  // namespace pyrnn
