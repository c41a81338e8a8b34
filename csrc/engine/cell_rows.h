// SPDX-License-Identifier: Apache-2.0
// A cell on rows of units, behind pointers: what the engine, which is compiled once for all cells, knows of a cell.
// The products meet a cell in memory, at a tile that is still in L1, so one more cell costs a few small functions.
#pragma once

#include "../cells/cell.h"
#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Elements of an array type; none of a null pointer.
template <class Array>
constexpr int elements_of = 0;
template <int count>
constexpr int elements_of<const int[count]> = count;

template <class Cell, class = void>
constexpr bool is_ordered = false;
template <class Cell>
constexpr bool is_ordered<Cell, decltype(void(Cell::ordered))> = Cell::ordered;

template <class Cell>
struct FromX {
  static constexpr int count = elements_of<decltype(Cell::from_x)>;
  static constexpr int at(int i) { return Cell::from_x[i]; }
};
template <class Cell>
struct FromH {
  static constexpr int count = elements_of<decltype(Cell::from_h)>;
  static constexpr int at(int i) { return Cell::from_h[i]; }
};

// Distance between the rows of units in the states and the gates: whole vectors, so that no lane needs a mask there.
template <class T>
PYRNN_FN int64_t padded_units(int64_t H) {
  return round_up(H, lanes<T>);
}

// Where one sequence's step reads and writes.
template <class T>
struct StepRow {
  const void *x, *h;     // elements of the input and of the state's first row, as the products read them
  const T* start;        // (slots·padded) what the sums start from, in the order of the biases' pack
  const T* state;        // (states, padded)
  T *state_new, *y;      // (states, padded), (H)
  T* gates;              // (saved, padded), or null
};

// The slots of `count` rows and the units unit .. unit + vectors·L: (count, slots, vectors·L).
template <class T>
struct SlotTile {
  const T* slots;
  int64_t count, unit, vectors;
};

// Where the backward of one sequence's step reads and writes. Slot i of a unit u has its gradient at
// da[i·da_slot + u / C·da_column + u % C] with C = column_block; those of the parameters follow the slots'.
template <class T>
struct GradientRow {
  const T *gates, *state;  // (saved, padded), (states, padded)
  const T* dy;             // (H), or null
  T *ds, *da;              // ds: states, ds_state apart
  int64_t ds_state, da_slot, da_column;
};

// Numbers of a row of da that lie together: 256 bytes.
template <class T>
constexpr int column_block = 256 / int(sizeof(T));

// The sizes of a row of units, and its per-unit parameters (params, padded).
template <class T>
struct Varied;
template <class T>
struct Units {
  int64_t H, padded;
  const T* params;
  const Varied<T>* varied = nullptr;  // what changes inside the cell
};

// The values of a vector of units of row m: plain vectors here, in varied.h such that bring their activations.
template <class T>
struct PlainValues {
  using V = Vec<T>;
  PYRNN_FN PlainValues(const Units<T>&, int64_t, int64_t) {}
  PYRNN_FN V slot(Vec<T> v) const { return v; }
  PYRNN_FN V value(Vec<T> v) const { return v; }
  static PYRNN_FN Vec<T> number(V v) { return v; }
};

// The constants of a cell and its functions.
template <class T>
struct CellFunctions {
  int slots, states, saved, params;
  int from_x_count, from_h_count;
  const int *from_x, *from_h;
  void (*forward)(const Units<T>&, const SlotTile<T>&, const StepRow<T>* rows);
  void (*backward)(const Units<T>&, const GradientRow<T>&, Range vectors);
  bool ordered;
};

template <class Cell, class T, class Values = PlainValues<T>>
void cell_forward(const Units<T>& units, const SlotTile<T>& tile, const StepRow<T>* rows) {
  constexpr int L = lanes<T>;
  const int64_t padded = units.padded, width = tile.vectors * L;
  for (int64_t m = 0; m < tile.count; m++) {
    const StepRow<T> row = rows[m];
    for (int64_t v = 0; v < tile.vectors; v++) {
      const T* slots = tile.slots + m * Cell::slots * width + v * L;
      const int64_t unit = tile.unit + v * L;
      const Values values(units, m, unit);
      typename Values::V a[Cell::slots], s[Cell::states], p[Cell::params + 1], s_new[Cell::states], save[Cell::saved];
      PYRNN_UNROLL for (int i = 0; i < Cell::slots; i++) a[i] = values.slot(load(slots + i * width));
      PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) s[i] = values.value(load(row.state + i * padded + unit));
      PYRNN_UNROLL for (int i = 0; i < Cell::params; i++) p[i] = values.value(load(units.params + i * padded + unit));
      Cell::forward(a, s, p, s_new, save);
      PYRNN_UNROLL for (int i = 0; i < Cell::states; i++)
          store(row.state_new + i * padded + unit, Values::number(s_new[i]));
      store_tail(row.y + unit, Values::number(s_new[0]), units.H - unit);
      if (row.gates)
        PYRNN_UNROLL for (int i = 0; i < Cell::saved; i++)
            store(row.gates + i * padded + unit, Values::number(save[i]));
    }
  }
}

template <class Cell, class T, class Values = PlainValues<T>>
void cell_backward(const Units<T>& units, const GradientRow<T>& row, Range vectors) {
  constexpr int L = lanes<T>, C = column_block<T>;
  const int64_t padded = units.padded;
  for (int64_t unit = vectors.begin * L; unit < vectors.end * L; unit += L) {
    const Values values(units, 0, unit);
    typename Values::V save[Cell::saved], s[Cell::states], p[Cell::params + 1], d[Cell::states], da[Cell::slots],
        dp[Cell::params + 1];
    PYRNN_UNROLL for (int i = 0; i < Cell::saved; i++) save[i] = values.value(load(row.gates + i * padded + unit));
    PYRNN_UNROLL for (int i = 0; i < Cell::params; i++) p[i] = values.value(load(units.params + i * padded + unit));
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) {
      s[i] = values.value(load(row.state + i * padded + unit));
      d[i] = values.value(load(row.ds + i * row.ds_state + unit));
    }
    if (row.dy) d[0] = d[0] + values.value(load_tail(row.dy + unit, units.H - unit));
    Cell::backward(save, s, p, d, da, dp);
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) store(row.ds + i * row.ds_state + unit, Values::number(d[i]));
    T* out = row.da + unit / C * row.da_column + unit % C;
    PYRNN_UNROLL for (int i = 0; i < Cell::slots; i++) store(out + i * row.da_slot, Values::number(da[i]));
    PYRNN_UNROLL for (int i = 0; i < Cell::params; i++)
        store(out + (Cell::slots + i) * row.da_slot, Values::number(dp[i]));
  }
}

template <class Cell, class T, class Values = PlainValues<T>>
inline constexpr CellFunctions<T> cell_functions{Cell::slots,
                                                 Cell::states,
                                                 Cell::saved,
                                                 Cell::params,
                                                 FromX<Cell>::count,
                                                 FromH<Cell>::count,
                                                 Cell::from_x,
                                                 Cell::from_h,
                                                 cell_forward<Cell, T, Values>,
                                                 cell_backward<Cell, T, Values>,
                                                 is_ordered<Cell>};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
