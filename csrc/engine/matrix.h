// SPDX-License-Identifier: Apache-2.0
// Products of a few rows with a matrix that is packed once and read at every step.
#pragma once

#include "attention.h"
#include "pack.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// K rows of N columns, as panels [block of columns][k][vectors of the block]; or several such, the `heads` blocks down
// the diagonal of a matrix that is zero elsewhere.
template <class T>
struct PackedMatrix {
  static constexpr int width = panel_vectors * lanes<T>;
  T* data;
  int64_t K, N;
  int64_t heads = 1;

  // Of the whole: heads·K rows, heads·N columns.
  void carve(Carver& carver, int64_t rows, int64_t columns, int64_t count = 1) {
    heads = count;
    K = rows / heads;
    N = columns / heads;
    data = carver.take<T>(heads * K * round_up(N, lanes<T>));
  }
  PYRNN_FN int64_t size() const { return heads * K * N; }
  PYRNN_FN int64_t blocks() const { return heads * ceil_div(N, width); }
  PYRNN_FN int64_t head(int64_t block) const { return block / ceil_div(N, width); }
  PYRNN_FN int64_t first(int64_t block) const { return block % ceil_div(N, width) * width; }  // of its head's columns
  PYRNN_FN int64_t columns(int64_t block) const { return smaller(width, N - first(block)); }
  PYRNN_FN T* panel(int64_t block) const { return data + (head(block) * round_up(N, lanes<T>) + first(block)) * K; }

  // From row(k), N numbers each, k over the rows of every head.
  template <class Row>
  void pack_rows(const Row& row, Range mine) const {
    for (int64_t block = mine.begin; block < mine.end; block++)
      pack_panel<T>([&](int64_t k) { return row(head(block) * K + k); }, nullptr, first(block), K, columns(block),
                    int(ceil_div(columns(block), lanes<T>)), panel(block));
  }

  // From the transpose: N rows of K numbers, `distance` apart, head after head.
  void pack_transposed(const T* from, int64_t distance, Range mine) const {
    constexpr int L = lanes<T>;
    for (int64_t block = mine.begin; block < mine.end; block++) {
      const int64_t vectors = ceil_div(columns(block), L);
      for (int64_t v = 0; v < vectors; v++)
        pack_column<Plain<T>>(from + (head(block) * N + first(block) + v * L) * distance, distance,
                              smaller(L, columns(block) - v * L), K, panel(block) + v * L, vectors * L);
    }
  }

  // out(m) = Σ_k in(m)[k] · row k for m < M, or added to it.
  template <class In, class Out>
  PYRNN_FN void multiply(int64_t M, const In& in, const Out& out, bool add) const {
    for (int64_t block = 0; block < blocks(); block++) {
      const int64_t from = head(block) * K, to = head(block) * N + first(block);
      sum_block<T>(
          M, K, [&](int64_t m) { return in(m) + from; }, 1, panel(block), columns(block),
          [&](int64_t m) { return out(m) + to; }, add, false);
      if (stopped_after(block)) return;
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
