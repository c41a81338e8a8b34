// SPDX-License-Identifier: Apache-2.0
// One step of a cell for a tile of rows: both products in registers, the cell in their epilogue.
#pragma once

#include "cell_rows.h"
#include "gemm.h"
#include "pack.h"
#include "plan.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// What the products of a step know of a cell: how many slots it has, and which of them x and h feed, as sets of bits.
// Cells of one shape share their code.
template <int count, unsigned x, unsigned h>
struct Shape {
  static constexpr int slots = count;
  static constexpr unsigned from_x = x, from_h = h;
};

// The slots of a set, in ascending order. A table, because the compiler keeps accumulators in registers only where it
// sees through their numbers.
struct SlotList {
  int slot[max_slots];
};
constexpr SlotList list_slots(unsigned set) {
  SlotList list{};
  int count = 0;
  for (int slot = 0; slot < max_slots; slot++)
    if (set >> slot & 1u) list.slot[count++] = slot;
  return list;
}
template <unsigned set>
struct SlotSet {
  static constexpr int count = __builtin_popcount(set);
  static constexpr SlotList list = list_slots(set);
  static constexpr int at(int i) { return list.slot[i]; }
};

template <class Slots>
constexpr unsigned slot_bits() {
  unsigned set = 0;
  for (int i = 0; i < Slots::count; i++) set |= 1u << Slots::at(i);
  return set;
}
// A cell without a product of h shares the code of those that have one, which is then of no numbers.
template <class Cell>
using ShapeOf = Shape<Cell::slots, slot_bits<FromX<Cell>>(),
                      FromH<Cell>::count ? slot_bits<FromH<Cell>>() : slot_bits<FromX<Cell>>()>;

// Vectors of units in a block: all the slots of a block are in registers at once.
constexpr int widest_block(int slots) { return slots >= 4 ? 1 : 4 / slots; }

template <class T>
PYRNN_FN Blocks unit_blocks(int64_t H, int slots) {
  return Blocks(H, lanes<T>, widest_block(slots));
}

// A layer's weights as the tiles read them.
template <class T, class P>
struct PackedLayer {
  const CellFunctions<T>& cell;
  Blocks blocks;
  int64_t I, H, padded;
  int64_t read;  // numbers of h that its product reads
  typename P::Number *x_panels, *h_panels;
  T *bias, *params;

  PYRNN_FN PackedLayer(const CellFunctions<T>& cell, int64_t I, int64_t H)
      : cell(cell), blocks(unit_blocks<T>(H, cell.slots)), I(I), H(H), padded(padded_units<T>(H)),
        read(cell.from_h_count ? H : 0) {}

  // Places the layer at `base`; returns its bytes.
  PYRNN_FN size_t carve(void* base) {
    Carver memory{static_cast<char*>(base)};
    x_panels = memory.take<typename P::Number>(padded * P::length(I) * cell.from_x_count);
    h_panels = memory.take<typename P::Number>(padded * P::length(H) * cell.from_h_count);
    bias = memory.take<T>(padded * cell.slots);
    params = memory.take<T>(padded * cell.params);
    return memory.used;
  }

  void pack(const Weights& weights, Range mine) const {
    pack_slots<P>(static_cast<const T*>(weights.weight_ih), cell.from_x_count, I, blocks, mine, x_panels);
    pack_slots<P>(static_cast<const T*>(weights.weight_hh), cell.from_h_count, H, blocks, mine, h_panels);
    if (cell.ordered) order_panels(static_cast<const T*>(weights.params), mine);
    pack_bias(cell, static_cast<const T*>(weights.bias_ih), static_cast<const T*>(weights.bias_hh), blocks, mine, bias);
    pack_params(static_cast<const T*>(weights.params), cell.params, blocks, mine, padded, params);
  }
  // Of an ordered cell, zeros for what does not count.
  void order_panels(const T* order, Range mine) const {
    if constexpr (!P::prepared)
      for (int64_t b = mine.begin; b < mine.end; b++) {
        T* panel = h_panels + panel_offset<T>(blocks, b, H, cell.from_h_count);
        for (int64_t k = 0; k < H; k++)
          for (int s = 0; s < cell.from_h_count; s++)
            for (int64_t i = blocks[b].begin * lanes<T>; i < blocks[b].end * lanes<T>; i += lanes<T>, panel += lanes<T>)
              store(panel, if_read(load(panel), broadcast(order[k]), load_tail(order + i, H - i)));
      }
  }
  PYRNN_FN const typename P::Number* x_panel(int64_t block) const {
    return x_panels + panel_offset<T>(blocks, block, P::length(I), cell.from_x_count);
  }
  PYRNN_FN const typename P::Number* h_panel(int64_t block) const {
    return h_panels + panel_offset<T>(blocks, block, P::length(H), cell.from_h_count);
  }
  PYRNN_FN Units<T> units() const { return {H, padded, params}; }
};

// How a call makes its sums: it changes their order, so all of a call does as one.
//   together  both products in the step, one k after the other
//   apart     the k of a tile of one to three rows in parts, which keeps it busy
//   hoisted   apart, and the input's product was made before the step
enum class Sums { together, apart, hoisted };

template <class Shape, class T, class P, int NV, int MR, Sums sums>
__attribute__((noinline)) void step_tile(const PackedLayer<T, P>& layer, const StepRow<T>* rows, int64_t block) {
  constexpr int L = lanes<T>, ACC = Shape::slots * NV;
  constexpr int KU = sums == Sums::together || MR * ACC * 2 > tile_accumulators
                         ? 1
                         : (MR * ACC * 4 > tile_accumulators ? 2 : 4);
  const int64_t first = layer.blocks[block].begin;
  const typename P::Factor *x[MR], *h[MR];
  Vec<T> a[MR][ACC];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) {
    x[m] = static_cast<const typename P::Factor*>(rows[m].x);
    h[m] = static_cast<const typename P::Factor*>(rows[m].h);
    const T* start = rows[m].start + first * L * Shape::slots;
    PYRNN_UNROLL for (int j = 0; j < ACC; j++) a[m][j] = load(start + j * L);
  }
  if constexpr (sums != Sums::hoisted)
    multiply_rows<P, SlotSet<Shape::from_x>, NV, MR, ACC, KU>(a, layer.x_panel(block), x, P::length(layer.I));
  multiply_rows<P, SlotSet<Shape::from_h>, NV, MR, ACC, KU>(a, layer.h_panel(block), h, P::length(layer.read));

  alignas(64) T slots[MR * ACC * L];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < ACC; j++)
      store(slots + (m * ACC + j) * L, a[m][j]);
  layer.cell.forward(layer.units(), {slots, MR, first * L, NV}, rows);
}

// Below this many sequences a call sums K apart.
constexpr int64_t few_rows = 3;

// The input's product with the biases for a tile of rows: out[m] (slots·padded).
template <class Shape, class T, class P, int NV, int MR>
__attribute__((noinline)) void input_tile(const PackedLayer<T, P>& layer, const typename P::Factor* const* x,
                                          T* const* out, int64_t block) {
  constexpr int L = lanes<T>, ACC = Shape::slots * NV;
  const int64_t first = layer.blocks[block].begin, at = first * L * Shape::slots;
  Vec<T> a[MR][ACC];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < ACC; j++)
      a[m][j] = load(layer.bias + at + j * L);
  multiply_rows<P, SlotSet<Shape::from_x>, NV, MR, ACC>(a, layer.x_panel(block), x, P::length(layer.I));
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < ACC; j++)
      store(out[m] + at + j * L, a[m][j]);
}

// The same for `count` rows and the blocks `mine`.
template <class Shape, class T, class P>
PYRNN_FN void input_rows(const PackedLayer<T, P>& layer, const typename P::Factor* const* x, T* const* out,
                         int64_t count, Range mine) {
  constexpr int most = tile_rows(Shape::slots * widest_block(Shape::slots));
  for (int64_t block = mine.begin; block < mine.end; block++) {
    with_constant<widest_block(Shape::slots)>(int(layer.blocks[block].size()), [&](auto width) {
      run_tiles(count, most, [&](int64_t first, int n) {
        with_constant<most>(n, [&](auto rows) {
          input_tile<Shape, T, P, decltype(width)::value, decltype(rows)::value>(layer, x + first, out + first, block);
        });
      });
    });
    if (stopped_after(block)) return;
  }
}

// Part i of n of a step of `count` rows. Of a few rows no tile is shared: its size changes the order of the sums.
template <class Shape, class T, class P>
PYRNN_FN StepPart step_part(const PackedLayer<T, P>& layer, int64_t count, Sums sums, int i, int n) {
  constexpr int most = tile_rows(Shape::slots * widest_block(Shape::slots));
  return part_of_step(layer.blocks, count, sums == Sums::together ? most : larger(count, 1), i, n);
}

// Advances `count` rows through the blocks `mine`. `pass` counts the steps: every other one takes the blocks in
// descending order, because what a step read last is what the cache still holds when the weights exceed it.
template <class Shape, class T, class P>
PYRNN_FN void step_rows(const PackedLayer<T, P>& layer, const StepRow<T>* rows, int64_t count, Range mine, Sums sums,
                        int64_t pass) {
  constexpr int most = tile_rows(Shape::slots * widest_block(Shape::slots));
  for (int64_t i = 0; i < mine.size(); i++) {
    const int64_t block = pass % 2 ? mine.end - 1 - i : mine.begin + i;
    const auto tile = [&](auto width, auto n, int64_t first) {
      constexpr int NV = decltype(width)::value, MR = decltype(n)::value;
      if constexpr (MR <= few_rows) {
        if (sums == Sums::apart) return step_tile<Shape, T, P, NV, MR, Sums::apart>(layer, rows + first, block);
        if (sums == Sums::hoisted) return step_tile<Shape, T, P, NV, MR, Sums::hoisted>(layer, rows + first, block);
      }
      step_tile<Shape, T, P, NV, MR, Sums::together>(layer, rows + first, block);
    };
    with_constant<widest_block(Shape::slots)>(int(layer.blocks[block].size()), [&](auto width) {
      run_tiles(count, most,
                [&](int64_t first, int n) { with_constant<most>(n, [&](auto n) { tile(width, n, first); }); });
    });
    if (stopped_after(i)) return;
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
