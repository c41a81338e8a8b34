// SPDX-License-Identifier: Apache-2.0
// Which kernels run a layer, and in what shape: a pure function of sizes and of the device's properties.
#pragma once

#include "abi.h"
#include "launch.h"
#include "steps.h"

namespace pyrnn {
namespace cuda {

// What the plan knows of a layer.
struct Problem {
  Sizes sizes;
  int slots, states, from_x, from_h;
  int bytes, accumulator_bytes;  // of a number, of a sum
  bool tensor, exact;            // products on tensor cores; of split operands
  bool staged = false;           // more comes between the products of a step than the cell
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

// ---- the persistent tiers

constexpr int resident_units = tile_columns;        // units of a block
constexpr int resident_warps = 8;                   // of a block; they share out k
constexpr int most_row_tiles = 4;                   // tiles of 16 sequences between two barriers

// Loads that a lane has under way at once, times two. Exact float32 splits every operand, for which it needs registers.
PYRNN_FN constexpr int chunks_in_flight(bool exact) { return exact ? 2 : 4; }
// Chunks of a warp whose weights stay in registers, for N columns of tiles: 64 registers of a thread (exact: 32), or a
// little more.
PYRNN_FN constexpr int chunks_in_registers(int N, bool exact) {
  const int flight = chunks_in_flight(exact), most = 4 * flight / N;
  return most < flight ? flight : most / flight * flight;
}
PYRNN_FN constexpr int chunks_of_warp(int chunks, int warps) { return (chunks + warps - 1) / warps; }

// Shared memory of a block: the weights that are not in registers, two buffers of partial sums, the units' states.
PYRNN_FN constexpr size_t resident_bytes(int chunks, int N, int warps, bool exact) {
  const int beyond = chunks_of_warp(chunks, warps) - chunks_in_registers(N, exact);
  return beyond > 0 ? size_t(beyond) * N * warps * warp_lanes * sizeof(Words) : 0;
}
PYRNN_FN constexpr int partial_pitch(int N) { return N * tile_columns + 4; }
PYRNN_FN constexpr size_t partial_bytes(int group, int N, int warps) {
  return size_t(2) * group * warps * tile_rows * partial_pitch(N) * sizeof(float);
}
PYRNN_FN constexpr size_t state_bytes(int row_tiles, int states) {
  return size_t(states) * row_tiles * tile_rows * resident_units * sizeof(float);
}

// How a layer lies on the grid. Blocks that own the same units of other sequences never meet.
struct Placement {
  bool fits;
  int chunks, row_tiles, group;  // of k; of a block's sequences; of those between two barriers
  int64_t unit_blocks, row_blocks;
  size_t shared;
};

inline Placement place(const Problem& p, bool backward, const Machine& machine) {
  Placement place{};
  if (!p.tensor || p.staged || machine.major < 8 || !machine.together || p.sizes.B < 1 || p.sizes.T < 1) return place;
  const int N = backward ? 1 : p.from_h;
  const int64_t tiles = (p.sizes.B + tile_rows - 1) / tile_rows;
  place.unit_blocks = (p.sizes.H + resident_units - 1) / resident_units;
  if (place.unit_blocks > machine.multiprocessors) return place;
  const int64_t groups = machine.multiprocessors / place.unit_blocks;
  place.row_tiles = int(groups < tiles ? (tiles + groups - 1) / groups : 1);
  place.row_blocks = (tiles + place.row_tiles - 1) / place.row_tiles;
  place.chunks = int(padded_units(p.sizes.H) * p.bytes / 64) * (backward ? p.from_h : 1);
  for (place.group = place.row_tiles < most_row_tiles ? place.row_tiles : most_row_tiles; place.group > 0;
       place.group--) {
    place.shared = resident_bytes(place.chunks, N, resident_warps, p.exact) +
                   partial_bytes(place.group, N, resident_warps) + state_bytes(place.row_tiles, p.states);
    place.fits = place.shared <= size_t(machine.shared_bytes);
    if (place.fits) return place;
  }
  return place;
}

// The tier that a layer takes; `wanted` is kept where it can be, and tier_automatic is the answer where it cannot.
inline Tier choose_tier(const Problem& p, bool backward, int32_t wanted, const Machine& machine) {
  if (wanted == tier_stepwise) return tier_stepwise;
  const bool fits = place(p, backward, machine).fits;
  if (wanted == tier_grid) return fits ? tier_grid : tier_automatic;
  if (wanted == tier_cluster) return tier_automatic;
  return fits && p.sizes.T > 1 ? tier_grid : tier_stepwise;
}

}  // namespace cuda
}  // namespace pyrnn
