// SPDX-License-Identifier: Apache-2.0
// Weights in the order in which the tiles read them.
#pragma once

#include "cell_rows.h"
#include "numbers.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// The first vector of block b stands at this offset of a pack of K rows, `slots` slots.
template <class T>
PYRNN_FN int64_t panel_offset(const Blocks& blocks, int64_t block, int64_t K, int slots) {
  return blocks[block].begin * lanes<T> * K * slots;
}

// One vector column of a panel: out[k·stride + i] = element k of row i, for `units` <= L rows of K numbers, zero
// beyond.
template <class P, class T>
PYRNN_FN void pack_column(const T* weight, int64_t row, int64_t units, int64_t K, typename P::Number* out,
                          int64_t stride) {
  using Number = typename P::Number;
  constexpr int L = lanes<T>;
  const int64_t whole = P::pairs ? K / 2 : K;
  int64_t k = 0;
  if (units == L) {
    for (; k + L <= whole; k += L) {
      Vec<T> square[L];  // moved as they are, whatever they hold
      PYRNN_UNROLL for (int i = 0; i < L; i++) square[i] = (Vec<T>)P::elements(weight + i * row, k);
      transpose<T>(square);
      PYRNN_UNROLL for (int i = 0; i < L; i++) store(out + (k + i) * stride, (Vec<Number>)square[i]);
    }
  }
  for (; k < P::length(K); k++)
    for (int i = 0; i < L; i++) out[k * stride + i] = i < units ? P::element(weight + i * row, k, K) : Number(0);
}

// For forward: weight (slots·H, K) -> [block][element][slot][units of the block].
template <class P, class T>
void pack_slots(const T* weight, int slots, int64_t K, const Blocks& blocks, Range mine, typename P::Number* pack) {
  constexpr int L = lanes<T>;
  for (int64_t b = mine.begin; b < mine.end; b++) {
    const Range v = blocks[b];
    typename P::Number* panel = pack + panel_offset<T>(blocks, b, P::length(K), slots);
    for (int s = 0; s < slots; s++)
      for (int64_t i = v.begin; i < v.end; i++)
        pack_column<P>(weight + (s * blocks.units + i * L) * K, K, smaller(L, blocks.units - i * L), K,
                       panel + (s * v.size() + i - v.begin) * L, slots * v.size() * L);
  }
}

// For forward: [block][slot][units of the block], the sum of the biases of each slot (either may be absent).
template <class T>
void pack_bias(const CellFunctions<T>& cell, const T* bias_ih, const T* bias_hh, const Blocks& blocks, Range mine,
               T* pack) {
  constexpr int L = lanes<T>;
  const auto add = [&](const T* bias, const int* slots, int count) {
    if (!bias) return;
    for (int64_t b = mine.begin; b < mine.end; b++) {
      const Range v = blocks[b];
      T* panel = pack + panel_offset<T>(blocks, b, 1, cell.slots);
      for (int s = 0; s < count; s++)
        for (int64_t u = v.begin * L; u < smaller(v.end * L, blocks.units); u++)
          panel[slots[s] * v.size() * L + u - v.begin * L] += bias[s * blocks.units + u];
    }
  };
  for (int64_t i = blocks[mine.begin].begin * L * cell.slots;
       mine.size() && i < blocks[mine.end - 1].end * L * cell.slots; i++)
    pack[i] = 0;
  add(bias_ih, cell.from_x, cell.from_x_count);
  add(bias_hh, cell.from_h, cell.from_h_count);
}

// Per-unit parameters (params, H) -> (params, padded), zero beyond.
template <class T>
void pack_params(const T* params, int count, const Blocks& blocks, Range mine, int64_t padded, T* pack) {
  if (!count || !mine.size()) return;
  for (int i = 0; i < count; i++)
    for (int64_t u = blocks[mine.begin].begin * lanes<T>; u < blocks[mine.end - 1].end * lanes<T>; u++)
      pack[i * padded + u] = u < blocks.units ? params[i * blocks.units + u] : T(0);
}

// Weights of h of an ordered cell, or their gradients, from a unit `read` to a unit `reader`, by the numbers that order
// them: zero where the cell does not read.
template <class V>
PYRNN_FN V if_read(V weight, V read, V reader) {
  return (V)((decltype(read >= reader))weight & (read >= reader));
}

// The rows of numbers that element k is made of: rows k, or 2k and 2k + 1, the second null where there is none.
template <class T>
struct RowPair {
  const T *first, *second;
};
template <class P, class T, class Row>
PYRNN_FN RowPair<T> row_pair(const Row& row, int64_t k, int64_t rows) {
  if (!P::pairs) return {row(k), nullptr};
  return {row(2 * k), 2 * k + 1 < rows ? row(2 * k + 1) : nullptr};
}

// Puts elements k of `mine`, made of the rows pair(k) of `blocks.units` numbers, into panels [block][k of K][units of
// the block].
template <class P, class T, class Pair>
PYRNN_FN void pack_rows(Range mine, int64_t K, const Blocks& blocks, typename P::Number* pack, const Pair& pair) {
  constexpr int L = lanes<T>;
  for (int64_t k = mine.begin; k < mine.end; k++) {
    const RowPair<T> from = pair(k);
    for (int64_t b = 0; b < blocks.count; b++) {
      const Range v = blocks[b];
      typename P::Number* panel = pack + panel_offset<T>(blocks, b, K, 1) + k * v.size() * L;
      for (int64_t i = v.begin; i < v.end; i++) {
        const int64_t n = blocks.units - i * L;
        store(panel + (i - v.begin) * L,
              P::join(load_tail(from.first + i * L, n), from.second ? load_tail(from.second + i * L, n) : Vec<T>{}));
      }
    }
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
