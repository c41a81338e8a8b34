// SPDX-License-Identifier: Apache-2.0
// How the threads of a call divide a step among them: a pure function of sizes, the same for every cell.
#pragma once

#include "gemm.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Thread i belongs to row group i / unit_groups and takes part i % unit_groups of the units. Row groups never meet; the
// threads of one row group meet once a step, because each needs the whole h.
struct Grid {
  int row_groups, unit_groups;
  PYRNN_FN int threads() const { return row_groups * unit_groups; }
};

// A thread's part of the pieces (block of units, tile of rows), which are numbered block by block: whole blocks, and at
// the seams some rows of a block that another thread shares. Without tiles to share, `pieces` are blocks.
struct StepPart {
  Range pieces;
  int64_t rows, tiles;

  // Calls work(blocks, rows) for one to three rectangles, in order.
  template <class Work>
  PYRNN_FN void for_each(const Work& work) const {
    for (int64_t piece = pieces.begin; piece < pieces.end;) {
      const int64_t block = piece / tiles, tile = piece % tiles, whole = tile ? 0 : (pieces.end - piece) / tiles;
      const int64_t end = whole ? tiles : smaller(tiles, tile + pieces.end - piece);
      work(Range{block, block + larger(whole, 1)},
           Range{part(rows, tile, tiles).begin, part(rows, end - 1, tiles).end});
      piece += whole ? whole * tiles : end - tile;
    }
  }
};

// Part i of n of a step of `rows` rows in tiles of at most `most`: nearly as many vectors of units times tiles as the
// others have, so that blocks that n does not divide leave no thread without work.
PYRNN_FN StepPart part_of_step(const Blocks& blocks, int64_t rows, int64_t most, int64_t i, int64_t n) {
  const int64_t tiles = rows ? ceil_div(rows, most) : 1;
  const auto seam = [&](int64_t i) {
    const int64_t before = blocks.vectors * tiles * i / n, vector = before / tiles;
    if (vector == blocks.vectors) return blocks.count * tiles;
    const int64_t block = ((vector + 1) * blocks.count - 1) / blocks.vectors;  // the one that has the vector
    return block * tiles + ceil_div(before - blocks[block].begin * tiles, blocks[block].size());
  };
  return {rows ? Range{seam(i), seam(i + 1)} : Range{0, 0}, rows, tiles};
}

struct StepCost {
  int64_t steps, rows;     // rows: sequences, at the widest step
  int64_t vectors;         // of units
  int widest, most;        // vectors in a block, rows in a tile
  double row_vector;       // cycles for one row and one vector of units
  double bytes;            // of weights read in a step
  bool apart;              // few rows: one row group, so that every thread count sums alike
  double start;            // cycles until the other threads are there
  double barrier = 1200;   // cycles of one
};

// Bytes of packed weights that a core's L2 holds beside the rows. Row groups that share a pack of that size each make
// their own: copying it costs less than fetching what the other cores have just written, from wherever they are.
constexpr size_t private_pack_bytes = 768 << 10;
PYRNN_FN int pack_copies(size_t bytes, int row_groups) { return bytes <= private_pack_bytes ? row_groups : 1; }

// Estimated cycles of a call. The constants were fitted to measurements on a Zen 5 (AVX-512): a tile of one row waits
// for the latency of its additions, one of two for what it reads of the weights, which beyond a core's L2 come at some
// 16 bytes a cycle, a barrier costs 0.3 µs.
inline double estimate(const StepCost& c, Grid grid) {
  const double l2_bytes = 900e3, bytes_per_cycle = 16, tile_overhead = 0.25;
  const int64_t rows = ceil_div(c.rows, grid.row_groups), blocks = ceil_div(c.vectors, c.widest);
  double tiles = 0;
  for_each_tile(rows, c.most, [&](int64_t, int n) {
    tiles += tile_overhead + (c.apart || n > 2 ? double(n) : n == 2 ? 2.5 : 2.0);
  });
  const int64_t pieces = blocks * (c.apart ? 1 : larger(1, ceil_div(rows, c.most)));
  const double share = double(ceil_div(pieces, grid.unit_groups)) / double(pieces);
  const double bytes = c.bytes * double(ceil_div(blocks, grid.unit_groups)) / double(blocks);
  double step = tiles * c.row_vector * double(c.vectors) * share;
  if (bytes > l2_bytes) step += bytes / bytes_per_cycle;
  if (grid.unit_groups > 1) step += c.barrier;
  return double(c.steps) * step + (grid.threads() > 1 ? c.start : 0);
}

inline Grid choose_grid(const StepCost& c, int threads) {
  Grid best{1, 1};
  double least = estimate(c, best);
  for (int units = 1; units <= threads && units <= ceil_div(c.vectors, c.widest); units++) {
    const int rows = c.apart ? 1 : int(smaller(threads / units, larger(c.rows, 1)));
    const double cost = estimate(c, {rows, units});
    if (cost < least) {
      least = cost;
      best = {rows, units};
    }
  }
  return best;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
