// SPDX-License-Identifier: Apache-2.0
// Register tiles of a matrix product: rows of broadcast numbers times panels of packed vectors.
#pragma once

#include "numbers.h"
#include "parallel.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Rows of a tile whose accumulators are `width` vectors each, so that the registers also hold a row of the panel and a
// broadcast (32 registers), or one vector of the panel and a column of broadcasts (16 registers).
constexpr int tile_accumulators = vector_registers == 32 ? 24 : 12;
constexpr int tile_rows(int width) { return tile_accumulators / width < 8 ? tile_accumulators / width : 8; }

// The slots of a plain matrix product: one, and it is the first.
struct OneSlot {
  static constexpr int count = 1;
  static constexpr int at(int) { return 0; }
};

// Where vector j of a panel row (slots, each NV vectors) adds into.
template <class Slots, int NV>
constexpr int accumulator(int j) {
  return Slots::at(j / NV) * NV + j % NV;
}

// Every j: a[m][j] += sum over the K elements of x[m][k] · panel[k][j], the panel rows NS·NV vectors wide. Slot s of
// the panel adds into accumulators Slots::at(s)·NV ...: a cell's slots need not all take part. KU > 1 sums every KU-th
// k apart, for tiles of few rows that would otherwise wait for the latency of the addition.
template <class P, class Slots, int NV, int MR, int ACC, int KU = 1, class V>
PYRNN_FN void multiply_rows(V (&a)[MR][ACC], const typename P::Number* panel, const typename P::Factor* const* x,
                            int64_t K) {
  using Number = typename P::Number;
  using Factor = typename P::Factor;
  constexpr int NS = Slots::count, L = lanes<Number>;
  const Factor* row[MR];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) row[m] = x[m];
  if constexpr (KU == 1) {
    for (int64_t k = 0; k < K; k++, panel += NS * NV * L) {
      if constexpr (P::panel_first) {
        PYRNN_UNROLL for (int j = 0; j < NS * NV; j++) {
          const Vec<Number> w = load(panel + j * L);
          PYRNN_UNROLL for (int m = 0; m < MR; m++) P::add(a[m][accumulator<Slots, NV>(j)], row[m][k], w);
        }
      } else {
        PYRNN_UNROLL for (int m = 0; m < MR; m++) {
          const Factor b = row[m][k];
          PYRNN_UNROLL for (int j = 0; j < NS * NV; j++)
              P::add(a[m][accumulator<Slots, NV>(j)], b, load(panel + j * L));
        }
      }
    }
  } else {
    V apart[KU][MR][NS * NV] = {};
    int64_t k = 0;
    for (; k + KU <= K; k += KU, panel += KU * NS * NV * L) {
      PYRNN_UNROLL for (int u = 0; u < KU; u++) PYRNN_UNROLL for (int m = 0; m < MR; m++) {
        const Factor b = row[m][k + u];
        PYRNN_UNROLL for (int j = 0; j < NS * NV; j++) P::add(apart[u][m][j], b, load(panel + (u * NS * NV + j) * L));
      }
    }
    for (; k < K; k++, panel += NS * NV * L)
      PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < NS * NV; j++)
          P::add(apart[0][m][j], row[m][k], load(panel + j * L));
    PYRNN_UNROLL for (int u = 0; u < KU; u++) PYRNN_UNROLL for (int m = 0; m < MR; m++)
        PYRNN_UNROLL for (int j = 0; j < NS * NV; j++) a[m][accumulator<Slots, NV>(j)] += apart[u][m][j];
  }
}

// a[m][j] += sum over the K elements of x[k·stride + m] · panel[k][j]: the product with a transposed left side.
template <class P, int NV, int MR, class V>
PYRNN_FN void multiply_columns(V (&a)[MR][NV], const typename P::Number* panel, const typename P::Factor* x,
                               int64_t stride, int64_t K) {
  using Number = typename P::Number;
  constexpr int L = lanes<Number>;
  for (int64_t k = 0; k < K; k++, panel += NV * L, x += stride) PYRNN_UNROLL for (int v = 0; v < NV; v++) {
      const Vec<Number> w = load(panel + v * L);
      PYRNN_UNROLL for (int m = 0; m < MR; m++) P::add(a[m][v], x[m], w);
    }
}

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls work(Constant<n>) for the run-time number n, 1 <= n <= Most.
template <int Most, class Work>
PYRNN_FN void with_constant(int n, const Work& work) {
  if constexpr (Most > 1) {
    if (n < Most) return with_constant<Most - 1>(n, work);
  }
  work(Constant<Most>{});
}

// Between the i-th and the next of many pieces of work that take up to a millisecond each: whether the call is over.
PYRNN_FN bool stopped_after(int64_t i) { return i % 16 == 15 && stopped(); }

// Cuts `rows` rows into tiles of at most `most`, as even as can be, and calls tile(first, rows of the tile).
template <class Tile>
PYRNN_FN void for_each_tile(int64_t rows, int most, const Tile& tile) {
  const int64_t count = ceil_div(rows, most);
  for (int64_t i = 0; i < count; i++) {
    const Range r = part(rows, i, count);
    tile(r.begin, int(r.size()));
  }
}

// The same for tiles that are work, until the call is over.
template <class Tile>
PYRNN_FN void run_tiles(int64_t rows, int most, const Tile& tile) {
  const int64_t count = ceil_div(rows, most);
  for (int64_t i = 0; i < count; i++) {
    const Range r = part(rows, i, count);
    tile(r.begin, int(r.size()));
    if (stopped_after(i)) return;
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
