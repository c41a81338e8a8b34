// SPDX-License-Identifier: Apache-2.0
// Products of a few rows with a matrix that is packed once and read at every step.
#pragma once

#include "attention.h"
#include "pack.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// K rows of N columns, as panels [block of columns][k][vectors of the block].
template <class T>
struct PackedMatrix {
  static constexpr int width = panel_vectors * lanes<T>;
  T* data;
  int64_t K, N;

  void carve(Carver& carver, int64_t rows, int64_t columns) {
    K = rows;
    N = columns;
    data = carver.take<T>(K * round_up(N, lanes<T>));
  }
  PYRNN_FN int64_t blocks() const { return ceil_div(N, width); }
  PYRNN_FN int64_t columns(int64_t block) const { return smaller(width, N - block * width); }
  PYRNN_FN T* panel(int64_t block) const { return data + block * width * K; }

  // From row(k), N numbers each.
  template <class Row>
  void pack_rows(const Row& row, Range mine) const {
    for (int64_t block = mine.begin; block < mine.end; block++)
      pack_panel<T>(row, nullptr, block * width, K, columns(block), int(ceil_div(columns(block), lanes<T>)),
                    panel(block));
  }

  // From the transpose: N rows of K numbers, `distance` apart.
  void pack_transposed(const T* from, int64_t distance, Range mine) const {
    constexpr int L = lanes<T>;
    for (int64_t block = mine.begin; block < mine.end; block++) {
      const int64_t vectors = ceil_div(columns(block), L);
      for (int64_t v = 0; v < vectors; v++)
        pack_column<Plain<T>>(from + (block * width + v * L) * distance, distance, smaller(L, columns(block) - v * L),
                              K, panel(block) + v * L, vectors * L);
    }
  }

  // out(m) = Σ_k in(m)[k] · row k for m < M, or added to it.
  template <class In, class Out>
  PYRNN_FN void multiply(int64_t M, const In& in, const Out& out, bool add) const {
    for (int64_t block = 0; block < blocks(); block++) {
      sum_block<T>(
          M, K, in, 1, panel(block), columns(block), [&](int64_t m) { return out(m) + block * width; }, add, false);
      if (stopped_after(block)) return;
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
