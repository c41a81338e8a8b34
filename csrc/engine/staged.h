// SPDX-License-Identifier: Apache-2.0
// Layers whose step is no single product with a cell behind it: a cell that makes what its last slots read out of the
// first ones (GRU with reset before the product), layer normalisation of the products (Ba et al. 2016), and projection
// of h to fewer numbers (Sak et al. 2014). A thread has sequences of its own and runs all their steps; the stages of a
// step meet in memory that is in L1 or L2.
#pragma once

#include "matrix.h"
#include "sequence_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// What a late slot reads, and the way back; null for cells that have none.
template <class T>
struct ReadFunctions {
  int late, reads;  // the last so many of from_h, and how many vectors they read
  void (*read)(const Units<T>&, const T* slots, const T* state, T* out);  // out (reads, padded)
  void (*read_saved)(const Units<T>&, const T* gates, const T* state, T* out);
  // Adds to ds (states, ds_state apart) and to da (slots, padded).
  void (*read_backward)(const Units<T>&, const T* gates, const T* state, const T* dread, T* ds, int64_t ds_state,
                        T* da);
};

template <class Cell, class = void>
constexpr int late_slots = 0;
template <class Cell>
constexpr int late_slots<Cell, decltype(void(Cell::late))> = Cell::late;
template <class Cell, class = void>
constexpr int late_reads = late_slots<Cell> > 0;
template <class Cell>
constexpr int late_reads<Cell, decltype(void(Cell::reads))> = Cell::reads;

// Whether a step of the cell is no plain product of h.
template <class Cell>
constexpr bool is_staged_cell = late_slots<Cell> > 0 || FromH<Cell>::count == 0 || is_ordered<Cell>;

// The vectors at `unit` of `count` rows that are `padded` apart.
template <class T>
PYRNN_FN void load_rows(const T* from, int count, int64_t padded, int64_t unit, Vec<T>* out) {
  for (int i = 0; i < count; i++) out[i] = load(from + i * padded + unit);
}

template <class T>
PYRNN_FN void store_rows(const Vec<T>* from, int count, int64_t padded, int64_t unit, T* out) {
  for (int i = 0; i < count; i++) store(out + i * padded + unit, from[i]);
}

template <class Cell, class T>
ReadFunctions<T> read_functions() {
  if constexpr (late_slots<Cell> == 0) {
    return {};
  } else {
    using V = Vec<T>;
    constexpr int L = lanes<T>;
    ReadFunctions<T> f{};
    static_assert(Cell::late % late_reads<Cell> == 0, "as many slots to each vector");
    f.late = Cell::late;
    f.reads = late_reads<Cell>;
    f.read = [](const Units<T>& u, const T* slots, const T* state, T* out) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        V a[Cell::slots], s[Cell::states], v[late_reads<Cell>];
        load_rows(slots, Cell::slots, u.padded, unit, a);
        load_rows(state, Cell::states, u.padded, unit, s);
        Cell::read(a, s, v);
        store_rows(v, late_reads<Cell>, u.padded, unit, out);
      }
    };
    f.read_saved = [](const Units<T>& u, const T* gates, const T* state, T* out) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        V save[Cell::saved], s[Cell::states], v[late_reads<Cell>];
        load_rows(gates, Cell::saved, u.padded, unit, save);
        load_rows(state, Cell::states, u.padded, unit, s);
        Cell::read_saved(save, s, v);
        store_rows(v, late_reads<Cell>, u.padded, unit, out);
      }
    };
    f.read_backward = [](const Units<T>& u, const T* gates, const T* state, const T* dread, T* ds, int64_t ds_state,
                         T* da) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        V save[Cell::saved], s[Cell::states], v[late_reads<Cell>], d[Cell::states], a[Cell::slots];
        load_rows(gates, Cell::saved, u.padded, unit, save);
        load_rows(state, Cell::states, u.padded, unit, s);
        load_rows(dread, late_reads<Cell>, u.padded, unit, v);
        load_rows(ds, Cell::states, ds_state, unit, d);
        load_rows(da, Cell::slots, u.padded, unit, a);
        Cell::read_backward(save, s, v, d, a);
        store_rows(d, Cell::states, ds_state, unit, ds);
        store_rows(a, Cell::slots, u.padded, unit, da);
      }
    };
    return f;
  }
}

constexpr double norm_epsilon = 1e-5;

// Calls work(i, u, k) for each vector of `count` rows of H numbers: of row i from unit u on, k numbers.
template <class T, class Work>
PYRNN_FN void each_vector(int count, int64_t H, const Work& work) {
  for (int i = 0; i < count; i++)
    for (int64_t u = 0; u < H; u += lanes<T>) work(i, u, H - u);
}

// The sum of a vector's numbers.
template <class T>
PYRNN_FN T sum_lanes(Vec<T> v) {
  alignas(vector_bytes) T numbers[lanes<T>];
  store(numbers, v);
  for (int half = lanes<T> / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) numbers[j] += numbers[j + half];
  return numbers[0];
}

// x (count, padded) of H numbers each, in place: x̂ = (x - mean)/√(variance + ε) over all of them; returns the inverse.
template <class T>
T normalise(T* x, int count, int64_t H, int64_t padded) {
  const T n = T(count * H);
  Vec<T> sum{}, squares{};
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k) { sum += load_tail(x + i * padded + u, k); });
  const Vec<T> mean = broadcast(sum_lanes<T>(sum) / n);
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k) {
    T* at = x + i * padded + u;
    const Vec<T> centred = load_tail(at, k) - mean;
    store_tail(at, centred, k);
    const Vec<T> known = load_tail(at, k);  // zeros past the end
    squares += known * known;
  });
  const T inverse = 1 / T(__builtin_sqrt(double(sum_lanes<T>(squares) / n) + norm_epsilon));
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k) {
    T* at = x + i * padded + u;
    store_tail(at, load_tail(at, k) * broadcast(inverse), k);
  });
  return inverse;
}

// dx from the gradient of gain·x̂, in place.
template <class T>
void normalise_backward(T* d, const T* normalised, const T* gain, T inverse, int count, int64_t H, int64_t padded) {
  const T n = T(count * H);
  Vec<T> sum{}, product{};
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k) {
    T* at = d + i * padded + u;
    const Vec<T> scaled = load_tail(at, k) * load_tail(gain + i * H + u, k);
    store_tail(at, scaled, k);
    sum += scaled;
    product += scaled * load_tail(normalised + i * padded + u, k);
  });
  const Vec<T> mean = broadcast(sum_lanes<T>(sum) / n), along = broadcast(sum_lanes<T>(product) / n);
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k) {
    T* at = d + i * padded + u;
    const Vec<T> known = load_tail(normalised + i * padded + u, k);
    store_tail(at, (load_tail(at, k) - mean - known * along) * broadcast(inverse), k);
  });
}

// The sizes of a staged layer, and where its rows are. Products of x and h are lists of slots: x's, h's early ones, h's
// late ones; each of the three is normalised by itself.
template <class T>
struct StagedRows {
  const CellFunctions<T>& cell;
  ReadFunctions<T> reading;
  int64_t I, H, padded;
  int64_t P;  // numbers of h
  bool norm, projected;
  int early, late, reads;

  StagedRows(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const Sizes& sizes, const Weights& weights)
      : cell(cell), reading(reading), I(sizes.I), H(sizes.H), padded(padded_units<T>(H)),
        P(weights.weight_hr ? weights.P : H), norm(weights.norm_ih != nullptr), projected(weights.weight_hr != nullptr),
        early(cell.from_h_count - reading.late), late(reading.late), reads(reading.reads) {}

  // Which of the vectors that the late slots read is that of place i in the weights.
  PYRNN_FN int read_of(int i) const { return (i - early) * reads / late; }

  // Of an ordered cell's weights of h, or their gradient, those that count, and zeros, in the given rows and columns of
  // each block.
  void order(const Weights& weights, const void* of_h, Range rows, Range columns, T* out) const {
    const T *order = static_cast<const T*>(weights.params), *from = static_cast<const T*>(of_h);
    for (int i = 0; i < cell.from_h_count; i++, out += H * H, from += H * H)
      for (int64_t u = rows.begin; u < smaller(rows.end, H); u++)
        for (int64_t k = columns.begin; k < smaller(columns.end, H); k++)
          out[u * H + k] = order[k] >= order[u] ? from[u * H + k] : T(0);
  }

  // Numbers of a state.
  PYRNN_FN int64_t width(int state) const { return state == 0 ? P : H; }

  // Rows kept for backward: what the cell saves, with normalisation x̂ of both products and the inverses, and with
  // projection what is projected.
  PYRNN_FN int kept() const { return saved_and_norm() + projected; }
  PYRNN_FN int saved_and_norm() const { return cell.saved + (norm ? cell.from_x_count + cell.from_h_count + 2 : 0); }
  PYRNN_FN int64_t unprojected() const { return saved_and_norm() * padded; }
  PYRNN_FN int64_t normalised_x() const { return cell.saved * padded; }
  PYRNN_FN int64_t normalised_h() const { return (cell.saved + cell.from_x_count) * padded; }
  PYRNN_FN int64_t inverses() const { return (cell.saved + cell.from_x_count + cell.from_h_count) * padded; }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
