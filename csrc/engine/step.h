// SPDX-License-Identifier: Apache-2.0
// One step of a cell for a tile of rows: both products in registers, the cell in their epilogue.
#pragma once

#include "../cells/cell.h"
#include "gemm.h"
#include "pack.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Cell>
struct FromX {
  static constexpr int count = int(sizeof(Cell::from_x) / sizeof(int));
  static constexpr int at(int i) { return Cell::from_x[i]; }
};
template <class Cell>
struct FromH {
  static constexpr int count = int(sizeof(Cell::from_h) / sizeof(int));
  static constexpr int at(int i) { return Cell::from_h[i]; }
};

// Vectors of units in a block: all the slots of a block are in registers at once.
template <class Cell>
constexpr int widest_block = Cell::slots >= 4 ? 1 : 4 / Cell::slots;

template <class Cell, class T>
PYRNN_FN Blocks unit_blocks(int64_t H) {
  return Blocks(H, lanes<T>, widest_block<Cell>);
}

// Distance between the rows of units in the states and the gates: whole vectors, so that no lane needs a mask there.
template <class T>
PYRNN_FN int64_t padded_units(int64_t H) {
  return round_up(H, lanes<T>);
}

// Where one sequence's step reads and writes. x (I); or where the input's product was made before, its sums with the
// biases, in the order of the biases' pack (slots·padded).
template <class T>
struct StepRow {
  const T *x, *state;  // state (states, padded)
  T *state_new, *y;    // (states, padded), (H)
  T* gates;            // (saved, padded), or null
};

// A layer's weights as the tiles read them.
template <class Cell, class T>
struct PackedLayer {
  Blocks blocks;
  int64_t I, H, padded;
  T *x_panels, *h_panels, *bias;

  PYRNN_FN PackedLayer(int64_t I, int64_t H)
      : blocks(unit_blocks<Cell, T>(H)), I(I), H(H), padded(padded_units<T>(H)) {}

  // Places the layer at `base`; returns its bytes.
  PYRNN_FN size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    x_panels = memory.take<T>(padded * I * FromX<Cell>::count);
    h_panels = memory.take<T>(padded * H * FromH<Cell>::count);
    bias = memory.take<T>(padded * Cell::slots);
    return memory.used;
  }

  void pack(const T* weight_ih, const T* weight_hh, const T* bias_ih, const T* bias_hh, Range mine) const {
    pack_slots<T>(weight_ih, FromX<Cell>::count, I, blocks, mine, x_panels);
    pack_slots<T>(weight_hh, FromH<Cell>::count, H, blocks, mine, h_panels);
    pack_bias<Cell, T>(bias_ih, bias_hh, blocks, mine, bias);
  }
};

// How a call makes its sums: it changes their order, so all of a call does as one.
//   together  both products in the step, one k after the other
//   apart     the k of a tile of one to three rows in parts, which keeps it busy
//   hoisted   apart, and the input's product was made before the step
enum class Sums { together, apart, hoisted };

template <class Cell, class T, int NV, int MR, Sums sums>
__attribute__((noinline)) void step_tile(const PackedLayer<Cell, T>& layer, const StepRow<T>* rows, int64_t block) {
  constexpr int L = lanes<T>, ACC = Cell::slots * NV;
  constexpr int KU = sums == Sums::together || MR * ACC * 2 > tile_accumulators
                         ? 1
                         : (MR * ACC * 4 > tile_accumulators ? 2 : 4);
  const int64_t first = layer.blocks[block].begin;
  const T* x[MR];
  const T* h[MR];
  Vec<T> a[MR][ACC];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) {
    x[m] = rows[m].x;
    h[m] = rows[m].state;
    const T* from = (sums == Sums::hoisted ? x[m] : layer.bias) + first * L * Cell::slots;
    PYRNN_UNROLL for (int j = 0; j < ACC; j++) a[m][j] = load(from + j * L);
  }
  if constexpr (sums != Sums::hoisted)
    multiply_rows<T, FromX<Cell>, NV, MR, ACC, KU>(a, layer.x_panels + first * L * layer.I * FromX<Cell>::count, x,
                                                   layer.I);
  multiply_rows<T, FromH<Cell>, NV, MR, ACC, KU>(a, layer.h_panels + first * L * layer.H * FromH<Cell>::count, h,
                                                 layer.H);

  PYRNN_UNROLL for (int m = 0; m < MR; m++) {
    const StepRow<T> row = rows[m];
    PYRNN_UNROLL for (int v = 0; v < NV; v++) {
      const int64_t unit = (first + v) * L;
      Vec<T> slot[Cell::slots], state[Cell::states], state_new[Cell::states], save[Cell::saved];
      PYRNN_UNROLL for (int s = 0; s < Cell::slots; s++) slot[s] = a[m][s * NV + v];
      PYRNN_UNROLL for (int s = 0; s < Cell::states; s++) state[s] = load(row.state + s * layer.padded + unit);
      Cell::forward(slot, state, static_cast<const Vec<T>*>(nullptr), state_new, save);
      PYRNN_UNROLL for (int s = 0; s < Cell::states; s++) store(row.state_new + s * layer.padded + unit, state_new[s]);
      store_tail(row.y + unit, state_new[0], layer.H - unit);
      if (row.gates)
        PYRNN_UNROLL for (int s = 0; s < Cell::saved; s++) store(row.gates + s * layer.padded + unit, save[s]);
    }
  }
}

// Below this many sequences a call sums K apart.
constexpr int64_t few_rows = 3;

// The input's product with the biases for a tile of rows: out[m] (slots·padded).
template <class Cell, class T, int NV, int MR>
__attribute__((noinline)) void input_tile(const PackedLayer<Cell, T>& layer, const T* const* x, T* const* out,
                                          int64_t block) {
  constexpr int L = lanes<T>, ACC = Cell::slots * NV;
  const int64_t first = layer.blocks[block].begin, at = first * L * Cell::slots;
  Vec<T> a[MR][ACC];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < ACC; j++)
      a[m][j] = load(layer.bias + at + j * L);
  multiply_rows<T, FromX<Cell>, NV, MR, ACC>(a, layer.x_panels + first * L * layer.I * FromX<Cell>::count, x, layer.I);
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < ACC; j++)
      store(out[m] + at + j * L, a[m][j]);
}

// The same for `count` rows and the blocks `mine`.
template <class Cell, class T>
PYRNN_FN void input_rows(const PackedLayer<Cell, T>& layer, const T* const* x, T* const* out, int64_t count,
                         Range mine) {
  constexpr int most = tile_rows(Cell::slots * widest_block<Cell>);
  for (int64_t block = mine.begin; block < mine.end; block++)
    with_constant<widest_block<Cell>>(int(layer.blocks[block].size()), [&](auto width) {
      for_each_tile(count, most, [&](int64_t first, int n) {
        with_constant<most>(n, [&](auto rows) {
          input_tile<Cell, T, decltype(width)::value, decltype(rows)::value>(layer, x + first, out + first, block);
        });
      });
    });
}

// Advances `count` rows through the blocks `mine`. `pass` counts the steps: every other one takes the blocks in
// descending order, because what a step read last is what the cache still holds when the weights exceed it.
template <class Cell, class T>
PYRNN_FN void step_rows(const PackedLayer<Cell, T>& layer, const StepRow<T>* rows, int64_t count, Range mine, Sums sums,
                        int64_t pass) {
  static_assert(Cell::params == 0, "per-unit parameters are not read by the engine");
  constexpr int most = tile_rows(Cell::slots * widest_block<Cell>);
  for (int64_t i = 0; i < mine.size(); i++) {
    const int64_t block = pass % 2 ? mine.end - 1 - i : mine.begin + i;
    const auto tile = [&](auto width, auto n, int64_t first) {
      constexpr int NV = decltype(width)::value, MR = decltype(n)::value;
      if constexpr (MR <= few_rows) {
        if (sums == Sums::apart) return step_tile<Cell, T, NV, MR, Sums::apart>(layer, rows + first, block);
        if (sums == Sums::hoisted) return step_tile<Cell, T, NV, MR, Sums::hoisted>(layer, rows + first, block);
      }
      step_tile<Cell, T, NV, MR, Sums::together>(layer, rows + first, block);
    };
    with_constant<widest_block<Cell>>(int(layer.blocks[block].size()), [&](auto width) {
      for_each_tile(count, most,
                    [&](int64_t first, int n) { with_constant<most>(n, [&](auto n) { tile(width, n, first); }); });
    });
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
