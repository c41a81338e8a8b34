// SPDX-License-Identifier: Apache-2.0
// Layers whose step is no single product with a cell behind it: a cell that makes what its last slots read out of the
// first ones (GRU with reset before the product), layer normalisation of the products (Ba et al. 2016), projection of h
// to fewer numbers (Sak et al. 2014), and what comes between c and h: its clip, its normalisation. A thread has
// sequences of its own and runs all their steps; the stages of a step meet in memory that is in L1 or L2.
#pragma once

#include "matrix.h"
#include "sequence_forward.h"
#include "varied.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// What a late slot reads, and the way back; null for cells that have none.
template <class T>
struct ReadFunctions {
  int late, reads;  // the last so many of from_h, and how many vectors they read
  void (*read)(const Units<T>&, const T* slots, const T* state, T* out);  // out (reads, padded)
  void (*read_saved)(const Units<T>&, const T* gates, const T* state, T* out);
  // Adds to ds (states, ds_state apart) and to da (slots, da_slot apart).
  void (*read_backward)(const Units<T>&, const T* gates, const T* state, const T* dread, T* ds, int64_t ds_state, T* da,
                        int64_t da_slot);
};

template <class Cell, class = void>
constexpr int late_slots = 0;
template <class Cell>
constexpr int late_slots<Cell, decltype(void(Cell::late))> = Cell::late;
template <class Cell, class = void>
constexpr int late_reads = late_slots<Cell> > 0;
template <class Cell>
constexpr int late_reads<Cell, decltype(void(Cell::reads))> = Cell::reads;

// Whether a step of the cell is no plain product of h with the weights as they are given. Layers of those without late
// slots are fused for all that: they have no product of h, or one with zeros for some of the weights.
template <class Cell>
constexpr bool is_staged_cell = late_slots<Cell> > 0 || FromH<Cell>::count == 0 || is_ordered<Cell>;

// The vectors at `unit` of `count` rows that are `padded` apart.
template <class T, class Values>
PYRNN_FN void load_rows(const Values& values, const T* from, int count, int64_t padded, int64_t unit,
                        typename Values::V* out) {
  for (int i = 0; i < count; i++) out[i] = values.value(load(from + i * padded + unit));
}

template <class T, class Values>
PYRNN_FN void store_rows(const Values&, const typename Values::V* from, int count, int64_t padded, int64_t unit,
                         T* out) {
  for (int i = 0; i < count; i++) store(out + i * padded + unit, Values::number(from[i]));
}

template <class Cell, class T, class Values = PlainValues<T>>
ReadFunctions<T> read_functions() {
  if constexpr (late_slots<Cell> == 0) {
    return {};
  } else {
    using V = typename Values::V;
    constexpr int L = lanes<T>;
    ReadFunctions<T> f{};
    static_assert(Cell::late % late_reads<Cell> == 0, "as many slots to each vector");
    f.late = Cell::late;
    f.reads = late_reads<Cell>;
    f.read = [](const Units<T>& u, const T* slots, const T* state, T* out) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        const Values values(u, 0, unit);
        V a[Cell::slots], s[Cell::states], v[late_reads<Cell>];
        for (int i = 0; i < Cell::slots; i++) a[i] = values.slot(load(slots + i * u.padded + unit));
        load_rows(values, state, Cell::states, u.padded, unit, s);
        Cell::read(a, s, v);
        store_rows(values, v, late_reads<Cell>, u.padded, unit, out);
      }
    };
    f.read_saved = [](const Units<T>& u, const T* gates, const T* state, T* out) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        const Values values(u, 0, unit);
        V save[Cell::saved], s[Cell::states], v[late_reads<Cell>];
        load_rows(values, gates, Cell::saved, u.padded, unit, save);
        load_rows(values, state, Cell::states, u.padded, unit, s);
        Cell::read_saved(save, s, v);
        store_rows(values, v, late_reads<Cell>, u.padded, unit, out);
      }
    };
    f.read_backward = [](const Units<T>& u, const T* gates, const T* state, const T* dread, T* ds, int64_t ds_state,
                         T* da, int64_t da_slot) {
      for (int64_t unit = 0; unit < u.padded; unit += L) {
        const Values values(u, 0, unit);
        V save[Cell::saved], s[Cell::states], v[late_reads<Cell>], d[Cell::states], a[Cell::slots];
        load_rows(values, gates, Cell::saved, u.padded, unit, save);
        load_rows(values, state, Cell::states, u.padded, unit, s);
        load_rows(values, dread, late_reads<Cell>, u.padded, unit, v);
        load_rows(values, ds, Cell::states, ds_state, unit, d);
        load_rows(values, da, Cell::slots, da_slot, unit, a);
        Cell::read_backward(save, s, v, d, a);
        store_rows(values, d, Cell::states, ds_state, unit, ds);
        store_rows(values, a, Cell::slots, da_slot, unit, da);
      }
    };
    return f;
  }
}

template <class Cell, class T>
ReadFunctions<T> read_functions_of(const Variation& variation) {
  if constexpr (varies<Cell>)
    if (variation.varied) return read_functions<Cell, T, VariedValues<T>>();
  return read_functions<Cell, T>();
}

constexpr double norm_epsilon = 1e-5;

// Calls work(i, u, k, turn) for each vector of `count` rows of H numbers: of row i from unit u on, k numbers. `turn` is
// a constant, 0 and 1 in turn: sums of two kinds wait for one another half as long.
template <class T, class Work>
PYRNN_FN void each_vector(int count, int64_t H, const Work& work) {
  constexpr int L = lanes<T>;
  for (int i = 0; i < count; i++) {
    int64_t u = 0;
    for (; u + L < H; u += 2 * L) {
      work(i, u, H - u, Constant<0>{});
      work(i, u + L, H - u - L, Constant<1>{});
    }
    if (u < H) work(i, u, H - u, Constant<0>{});
  }
}

// The sum of the numbers of both vectors.
template <class T>
PYRNN_FN T sum_lanes(const Vec<T> (&both)[2]) {
  alignas(vector_bytes) T numbers[lanes<T>];
  store(numbers, both[0] + both[1]);
  for (int half = lanes<T> / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) numbers[j] += numbers[j + half];
  return numbers[0];
}

// The first k numbers of a vector, zeros behind them.
template <class T>
PYRNN_FN Vec<T> first_lanes(Vec<T> v, int64_t k) {
  if (k >= lanes<T>) return v;
  alignas(vector_bytes) T numbers[lanes<T>]{};
  store_tail(numbers, v, k);
  return load(numbers);
}

// x̂ = (x - mean)·inverse has mean 0 and variance 1.
template <class T>
struct Normal {
  Vec<T> mean, inverse;
  PYRNN_FN Vec<T> of(Vec<T> x) const { return (x - mean) * inverse; }
};

// Over all numbers of x (count, padded), H in a row.
template <class T>
Normal<T> normal_of(const T* x, int count, int64_t H, int64_t padded) {
  const T n = T(count * H);
  Vec<T> sum[2]{}, squares[2]{};
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k, auto turn) {
    sum[decltype(turn)::value] += load_tail(x + i * padded + u, k);
  });
  const Vec<T> mean = broadcast(sum_lanes<T>(sum) / n);
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k, auto turn) {
    const Vec<T> centred = first_lanes<T>(load_tail(x + i * padded + u, k) - mean, k);
    squares[decltype(turn)::value] += centred * centred;
  });
  return {mean, broadcast(1 / T(__builtin_sqrt(double(sum_lanes<T>(squares) / n) + norm_epsilon)))};
}

// d (count rows, `distance` apart) from the gradient of gain·x̂, from(i) its rows, which may be d's.
template <class T, class From>
void normalise_backward(const From& from, const T* normalised, const T* gain, T inverse, int count, int64_t H,
                        int64_t padded, T* d, int64_t distance) {
  const T n = T(count * H);
  Vec<T> sum[2]{}, product[2]{};
  const auto scaled = [&](int i, int64_t u, int64_t k) {
    return load_tail(from(i) + u, k) * load_tail(gain + i * H + u, k);
  };
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k, auto turn) {
    const Vec<T> v = scaled(i, u, k);
    sum[decltype(turn)::value] += v;
    product[decltype(turn)::value] += v * load_tail(normalised + i * padded + u, k);
  });
  const Vec<T> mean = broadcast(sum_lanes<T>(sum) / n), along = broadcast(sum_lanes<T>(product) / n);
  each_vector<T>(count, H, [&](int i, int64_t u, int64_t k, auto) {
    const Vec<T> known = load_tail(normalised + i * padded + u, k);
    store_tail(d + i * distance + u, (scaled(i, u, k) - mean - known * along) * broadcast(inverse), k);
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
  int64_t heads;
  bool norm, projected;
  bool apart;  // h = o·output(c), c clipped or normalised before, is not the cell's
  int early, late, reads;
  const Weights& given;
  Varied<T> varied;
  ClippedCurve<T> output;
  T clip;  // of c; 0: none

  StagedRows(const CellFunctions<T>& cell, const ReadFunctions<T>& reading, const Sizes& sizes, const Weights& weights,
             const Variation& variation, const Regularization& regularization)
      : cell(cell), reading(reading), I(sizes.I), H(sizes.H), padded(padded_units<T>(H)),
        P(weights.weight_hr ? weights.P : H), heads(larger(1, weights.heads)), norm(weights.norm_ih != nullptr),
        projected(weights.weight_hr != nullptr), apart(weights.norm_c || variation.cell_clip > 0),
        early(cell.from_h_count - reading.late), late(reading.late), reads(reading.reads), given(weights),
        clip(T(variation.cell_clip)) {
    if (!variation.varied) return;
    varied.set(variation, regularization, apart);
    output.set(variation.output, 0);
  }

  // Which of the vectors that the late slots read is that of place i in the weights.
  PYRNN_FN int read_of(int i) const { return (i - early) * reads / late; }

  // Of an ordered cell's weights of h, or their gradient, those that count, and zeros, in the given rows and columns of
  // each block.
  void order(const Weights& weights, const void* of_h, Range rows, Range columns, T* out) const {
    const T *order = static_cast<const T*>(weights.params), *from = static_cast<const T*>(of_h);
    for (int i = 0; i < cell.from_h_count; i++, out += H * H, from += H * H)
      for (int64_t u = rows.begin; u < smaller(rows.end, H); u++)
        for (int64_t k = columns.begin; k < smaller(columns.end, H); k += lanes<T>) {
          const int64_t n = smaller(columns.end, H) - k;
          const Vec<T> counts = if_read(load_tail(from + u * H + k, n), load_tail(order + k, n), broadcast(order[u]));
          store_tail(out + u * H + k, counts, n);
        }
  }

  // Numbers of a state.
  PYRNN_FN int64_t width(int state) const { return state == 0 ? P : H; }

  // Rows kept for backward: what the cell saves, with normalisation x̂ of both products and the inverses, and with
  // projection what is projected.
  PYRNN_FN int kept() const { return saved_and_norm() + projected + (apart ? apart_rows : 0); }
  PYRNN_FN int saved_and_norm() const { return cell.saved + (norm ? cell.from_x_count + cell.from_h_count + 2 : 0); }
  PYRNN_FN int64_t unprojected() const { return saved_and_norm() * padded; }
  PYRNN_FN int64_t normalised_x() const { return cell.saved * padded; }
  PYRNN_FN int64_t normalised_h() const { return (cell.saved + cell.from_x_count) * padded; }
  PYRNN_FN int64_t inverses() const { return (cell.saved + cell.from_x_count + cell.from_h_count) * padded; }

  // What is kept where h is made apart: o, c, and with normalisation its x̂ and the inverse.
  static constexpr int apart_rows = 4;
  PYRNN_FN int64_t apart_at() const { return (saved_and_norm() + projected) * padded; }

  // What h is the output's activation of, for the vector at unit u.
  PYRNN_FN Vec<T> read_out(const T* kept, int64_t u) const {
    if (!given.norm_c) return load(kept + padded + u);
    const Vec<T> gain = load_tail(static_cast<const T*>(given.norm_c) + u, H - u);
    const Vec<T> v = gain * load(kept + 2 * padded + u);
    return given.bias_c ? v + load_tail(static_cast<const T*>(given.bias_c) + u, H - u) : v;
  }

  // The cell has left o and c in the place of its states: clips c and makes h of both. kept (apart_rows, padded).
  void compose(T* state, T* y, T* kept) const {
    for (int64_t u = 0; u < padded; u += lanes<T>) {
      Vec<T> c = load(state + padded + u);
      if (clip > 0) c = min(broadcast(clip), max(broadcast(-clip), c));
      store(kept + u, load(state + u));
      store(kept + padded + u, c);
      store(kept + 2 * padded + u, c);
      store(state + padded + u, c);
    }
    if (given.norm_c) {
      T* x = kept + 2 * padded;
      const Normal<T> normal = normal_of(x, 1, H, padded);
      each_vector<T>(1, H,
                     [&](int, int64_t u, int64_t k, auto) { store_tail(x + u, normal.of(load_tail(x + u, k)), k); });
      kept[3 * padded] = normal.inverse[0];
    }
    for (int64_t u = 0; u < padded; u += lanes<T>) {
      const Vec<T> h = load(kept + u) * output.value(read_out(kept, u));
      store(state + u, h);
      store_tail(y + u, h, H - u);
    }
  }

  // From the gradients of h and c those of what the cell left; `dnormed` (padded): of the normalised c.
  void decompose(const T* kept, T* dh, T* dc, T* dnormed, T* scratch) const {
    for (int64_t u = 0; u < padded; u += lanes<T>) {
      const Vec<T> y = output.value(read_out(kept, u)), d = load(dh + u);
      const Vec<T> of_c = d * load(kept + u) * output.slope(y);
      store(dh + u, d * y);
      store(scratch + u, of_c);
      if (dnormed) store(dnormed + u, of_c);
    }
    if (given.norm_c)
      normalise_backward([&](int) { return scratch; }, kept + 2 * padded, static_cast<const T*>(given.norm_c),
                         kept[3 * padded], 1, H, padded, scratch, padded);
    for (int64_t u = 0; u < padded; u += lanes<T>) {
      const Vec<T> d = load(dc + u) + load(scratch + u), c = load(kept + padded + u);
      store(dc + u, clip > 0 ? (max(c, -c) < clip ? d : Vec<T>{}) : d);
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
