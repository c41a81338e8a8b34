// SPDX-License-Identifier: Apache-2.0
// Register tiles of the backward's products, on the gradients of the slots of a chunk's entries.
#pragma once

#include "cell_rows.h"
#include "gemm.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// dG, the gradient of the slots, for the entries of a chunk: [slot][column block][entry][column_block]. Rows of a block
// are 256 bytes apart, so both readers stream: the sweep and dx along a row, the weights' gradients down a column.
// `width` elements make up column_block units. Planes are `pitch` entries apart.
template <class T, class Element = T, int width = column_block<T>>
struct SlotGradients {
  Element* data;
  int64_t column_blocks, pitch;
  PYRNN_FN Element* block(int slot, int64_t column) const {
    return data + (slot * column_blocks + column) * pitch * width;
  }
  PYRNN_FN Element* at(int slot, int64_t unit, int64_t entry) const {
    return block(slot, unit / column_block<T>) + entry * width + unit % column_block<T> * width / column_block<T>;
  }
  size_t size(int slots) const { return size_t(slots * column_blocks * pitch * width); }
};
// For `capacity` entries. One step's entries of all planes are written and read together: 4 KiB, sixteen rows, apart
// they would share the sets of L1.
PYRNN_FN int64_t plane_pitch(int64_t capacity) { return round_up(capacity, 16) + 5; }
template <class T, class P>
using RowGradients = SlotGradients<T, typename P::Factor, column_block<T> / (P::pairs ? 2 : 1)>;

// A tile of out[m][j] = initial + sum over slots and units of dG[entry m][slot][unit] · panel[slot, unit][j].
// `panel` holds the slots' rows one after the other. Only `slots` of the list `slot` are summed.
template <class T, class P, int NV, int MR>
__attribute__((noinline)) void gradient_tile(const RowGradients<T, P>& dg, const int* slot, Range slots, int64_t H,
                                             const typename P::Number* panel, const int64_t* entry, T* const* out,
                                             int64_t columns, bool add) {
  constexpr int L = lanes<T>, C = column_block<T>, width = C / (P::pairs ? 2 : 1);
  Vec<T> a[MR][NV] = {};
  if (add)
    PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int v = 0; v < NV; v++)
        a[m][v] = load_tail(out[m] + v * L, columns - v * L);
  for (int64_t s = slots.begin; s < slots.end; s++)
    for (int64_t column = 0; column * C < H; column++) {
      const typename P::Factor* row[MR];
      const typename P::Factor* block = dg.block(slot[s], column);
      PYRNN_UNROLL for (int m = 0; m < MR; m++) row[m] = block + entry[m] * width;
      const int64_t K = P::length(smaller(C, H - column * C));
      multiply_rows<P, OneSlot, NV, MR, NV>(a, panel, row, K);
      panel += K * NV * L;
    }
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int v = 0; v < NV; v++)
      store_tail(out[m] + v * L, a[m][v], columns - v * L);
}

// out[m][j] (+)= sum over the chunk's entries of dG[entry][unit m] · panel[entry][j].
template <class T, class P, int NV, int MR>
__attribute__((noinline)) void weight_tile(const typename P::Factor* dg, int64_t elements,
                                           const typename P::Number* panel, T* out, int64_t stride, int64_t columns,
                                           bool add) {
  constexpr int L = lanes<T>;
  Vec<T> a[MR][NV] = {};
  if (add)
    PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int v = 0; v < NV; v++)
        a[m][v] = load_tail(out + m * stride + v * L, columns - v * L);
  multiply_columns<P, NV, MR>(a, panel, dg, column_block<T>, elements);
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int v = 0; v < NV; v++)
      store_tail(out + m * stride + v * L, a[m][v], columns - v * L);
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
