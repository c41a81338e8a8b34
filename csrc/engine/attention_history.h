// SPDX-License-Identifier: Apache-2.0
// Scores that depend on the weights of the queries before: location-aware (Chorowski et al. 2015), coverage (See et al.
// 2017). A query waits for the one before it, so a sequence belongs to one thread; what a sequence carries from query
// to query is its own.
//
//   s_ij = Σ_d w_d tanh(q_id + k_jd + Σ_f U_df x_fj),   x_f = filter_f ⋆ α_{i-1},   the last x of coverage Σ_{i'<i}
//   α_i'
#pragma once

#include "attention.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// What both directions need of one sequence: padded rows, U feature by feature, and the features of one query.
template <class T>
struct HistoryRows {
  static constexpr int L = lanes<T>;
  AttentionArgs args;
  int64_t padded, count;  // features: the filters, then coverage
  T* weight;  // weight_score in whole vectors
  T* location;  // (count, padded)
  T *key_rows, *coverage_now;  // (B, Tk, padded), (B, Tk)
  PerThread<T> query_row, features;

  PYRNN_FN bool covers() const { return args.history.coverage != nullptr; }

  void carve(Carver& carver, const AttentionArgs& all, int threads) {
    args = all;
    padded = round_up(args.sizes.D, L);
    count = args.history.filters + (covers() ? 1 : 0);
    weight = carver.take<T>(padded);
    location = carver.take<T>(count * padded);
    key_rows = carver.take<T>(args.sizes.B * args.sizes.Tk * padded);
    coverage_now = carver.take<T>(covers() ? args.sizes.B * args.sizes.Tk : 0);
    query_row = carver.take_per_thread<T>(threads, padded);
    features = carver.take_per_thread<T>(threads, count * args.sizes.Tk);
  }

  void prepare() {
    const int64_t D = args.sizes.D;
    for (int64_t i = 0; i < count * padded; i++) location[i] = 0;
    for (int64_t i = 0; i < padded; i++) weight[i] = i < D ? static_cast<const T*>(args.weight_score)[i] : T(0);
    for (int64_t f = 0; f < args.history.filters; f++)
      for (int64_t d = 0; d < D; d++)
        location[f * padded + d] = static_cast<const T*>(args.history.location)[d * args.history.filters + f];
    if (covers())
      for (int64_t d = 0; d < D; d++)
        location[(count - 1) * padded + d] = static_cast<const T*>(args.history.coverage)[d];
  }

  PYRNN_FN void copy_padded(const T* from, T* to) const {
    for (int64_t d = 0; d < padded; d += L) store(to + d, load_tail(from + d, args.sizes.D - d));
  }

  PYRNN_FN T* key_row(int64_t b, int64_t j) const { return key_rows + (b * args.sizes.Tk + j) * padded; }
  void load_keys(int64_t b) const {
    const T* key = static_cast<const T*>(args.key) + b * args.sizes.Tk * args.sizes.D;
    for (int64_t j = 0; j < args.sizes.Tk; j++) copy_padded(key + j * args.sizes.D, key_row(b, j));
  }

  // The weights of the query before query i of sequence b; null: zeros.
  PYRNN_FN const T* weights_before(int64_t b, int64_t i) const {
    const int64_t Tk = args.sizes.Tk;
    if (i > 0) return static_cast<const T*>(args.weights) + (b * args.sizes.Tq + i - 1) * Tk;
    return args.previous ? static_cast<const T*>(args.previous) + b * Tk : nullptr;
  }

  // x_f = filter_f ⋆ weights, zeros beyond the ends.
  void filter_features(const T* weights, T* x) const {
    const int64_t Tk = args.sizes.Tk, width = args.history.width, half = width / 2;
    for (int64_t f = 0; f < args.history.filters; f++) {
      const T* filter = static_cast<const T*>(args.history.filter) + f * width;
      T* out = x + f * Tk;
      for (int64_t j = 0; j < Tk; j++) out[j] = 0;
      if (!weights) continue;
      for (int64_t u = 0; u < width; u++) {
        const int64_t shift = u - half;
        for (int64_t j = larger(0, -shift); j < smaller(Tk, Tk - shift); j++) out[j] += filter[u] * weights[j + shift];
      }
    }
  }

  // The coverage of query i from that of query i - 1, in place.
  void advance_coverage(int64_t b, int64_t i, T* c) const {
    const int64_t Tk = args.sizes.Tk;
    const T* from = static_cast<const T*>(args.history.coverage_from);
    const T* before = i > 0 ? weights_before(b, i) : nullptr;
    for (int64_t j = 0; j < Tk; j++) c[j] = i > 0 ? c[j] + before[j] : (from ? from[b * Tk + j] : T(0));
  }
};

template <class T>
struct HistoryForward : HistoryRows<T> {
  using Base = HistoryRows<T>;
  using Base::args, Base::padded, Base::count, Base::weight, Base::location, Base::L;

  // The scores of query i with the keys of its bounds.
  void scores(int thread, int64_t b, int64_t i, T* out) const {
    const int64_t Tk = args.sizes.Tk, row = b * args.sizes.Tq + i;
    T* x = this->features[thread];
    if (i == 0) this->load_keys(b);
    this->filter_features(this->weights_before(b, i), x);
    if (this->covers()) {
      T* now = this->coverage_now + b * Tk;
      this->advance_coverage(b, i, now);
      for (int64_t j = 0; j < Tk; j++) x[(count - 1) * Tk + j] = now[j];
    }
    T* q = this->query_row[thread];
    this->copy_padded(static_cast<const T*>(args.query) + row * args.sizes.D, q);
    const Range keys = row_bounds(args, row);
    for (int64_t j = keys.begin; j < keys.end; j += tile_keys) {
      const int64_t n = smaller(tile_keys, keys.end - j);
      const T* k[tile_keys];
      const T* x_of[tile_keys];
      for (int a = 0; a < tile_keys; a++) {
        k[a] = this->key_row(b, j + smaller(a, n - 1));
        x_of[a] = x + j + smaller(a, n - 1);
      }
      Vec<T> sum[tile_keys] = {};
      for (int64_t d = 0; d < padded; d += L) {
        Vec<T> z[tile_keys];
        const Vec<T> query = load(q + d);
        PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) z[a] = query + load(k[a] + d);
        for (int64_t f = 0; f < count; f++) {
          const Vec<T> u = load(location + f * padded + d);
          PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) z[a] += u * broadcast(x_of[a][f * Tk]);
        }
        const Vec<T> w = load(weight + d);
        PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) sum[a] += w * tanh(z[a]);
      }
      T sums[tile_keys];
      sum_lanes<T, tile_keys>(sum, sums);
      for (int a = 0; a < n; a++) out[j + a] = sums[a];
    }
  }
};

// Backward, query after query from the last. The gradients of sums over sequences stand in one row of `partial` for
// each sequence: weight_score, then the location features, `padded` numbers each; of the filters in `filters`.
template <class T>
struct HistoryBackward : HistoryRows<T> {
  using Base = HistoryRows<T>;
  using Base::args, Base::padded, Base::count, Base::weight, Base::location, Base::L;
  T *partial, *filters;
  T *coverages, *key_gradient, *coverage_gradient;  // (B, Tq, Tk), (B, Tk, padded), (B, Tk)
  PerThread<T> feature_gradient, products;

  void carve_all(Carver& carver, const AttentionArgs& all, int threads) {
    this->carve(carver, all, threads);
    const AttentionSizes& s = args.sizes;
    partial = carver.take<T>(s.B * (1 + count) * padded);
    filters = carver.take<T>(s.B * args.history.filters * args.history.width);
    coverages = carver.take<T>(this->covers() ? s.B * s.Tq * s.Tk : 0);
    key_gradient = carver.take<T>(s.B * s.Tk * padded);
    coverage_gradient = carver.take<T>(s.B * s.Tk);
    feature_gradient = carver.take_per_thread<T>(threads, count * s.Tk);
    products = carver.take_per_thread<T>(threads, count * tile_keys * L);
  }

  PYRNN_FN T* partial_row(int64_t b, int64_t i) const { return partial + (b * (1 + count) + i) * padded; }

  void begin(int64_t b) const {
    const AttentionSizes& s = args.sizes;
    this->load_keys(b);
    for (int64_t i = 0; i < (1 + count) * padded; i++) partial_row(b, 0)[i] = 0;
    const int64_t taps = args.history.filters * args.history.width;
    for (int64_t i = 0; i < taps; i++) filters[b * taps + i] = 0;
    for (int64_t i = 0; i < s.Tk * padded; i++) key_gradient[b * s.Tk * padded + i] = 0;
    for (int64_t j = 0; j < s.Tk; j++) coverage_gradient[b * s.Tk + j] = 0;
    for (int64_t i = 0; this->covers() && i < s.Tq; i++) {
      T* c = coverages + (b * s.Tq + i) * s.Tk;
      for (int64_t j = 0; j < s.Tk; j++) c[j] = i > 0 ? c[j - s.Tk] : T(0);
      this->advance_coverage(b, i, c);
    }
  }

  // ds: the gradient of the scores of query i. Adds to carry, the gradient of the weights of the query before.
  void row(int thread, int64_t b, int64_t i, const T* ds, T* dquery, T* carry) const {
    const int64_t Tk = args.sizes.Tk, D = args.sizes.D, at = b * args.sizes.Tq + i;
    T *x = this->features[thread], *dx = feature_gradient[thread];
    T* q = this->query_row[thread];
    this->copy_padded(static_cast<const T*>(args.query) + at * D, q);
    this->filter_features(this->weights_before(b, i), x);
    if (this->covers())
      for (int64_t j = 0; j < Tk; j++) x[(count - 1) * Tk + j] = coverages[at * Tk + j];
    for (int64_t n = 0; n < count * Tk; n++) dx[n] = 0;
    for (int64_t d = 0; d < D; d++) dquery[d] = 0;
    const Range keys = row_bounds(args, at);
    for (int64_t j = keys.begin; j < keys.end; j += tile_keys) {
      const int n = int(smaller(tile_keys, keys.end - j));
      bool any = false;
      for (int a = 0; a < n; a++) any = any || ds[j + a] != 0;
      if (any) tile(thread, b, j, n, q, ds, x, dx, dquery);
    }
    previous(b, i, dx, carry);
    T* dc = coverage_gradient + b * Tk;
    for (int64_t j = 0; this->covers() && j < Tk; j++) dc[j] += dx[(count - 1) * Tk + j];
  }

  void tile(int thread, int64_t b, int64_t j, int n, const T* q, const T* ds, const T* x, T* dx, T* dquery) const {
    const int64_t Tk = args.sizes.Tk, D = args.sizes.D;
    const T* k[tile_keys];
    T* dk[tile_keys];
    const T* x_of[tile_keys];
    Vec<T> score_gradient[tile_keys];
    for (int a = 0; a < tile_keys; a++) {
      const int64_t key = j + (a < n ? a : n - 1);
      const T gradient = a < n ? ds[key] : T(0);
      score_gradient[a] = broadcast(gradient);
      // A key without a part in the gradient is left out, whatever it holds: the tile takes another's row for it.
      int64_t row = key;
      for (int c = 0; gradient == 0 && c < n; c++)
        if (ds[j + c] != 0) row = j + c;
      k[a] = this->key_row(b, row);
      dk[a] = key_gradient + (b * Tk + row) * padded;
      x_of[a] = x + row;
    }
    Vec<T>* sums = reinterpret_cast<Vec<T>*>(products[thread]);
    for (int64_t f = 0; f < count * tile_keys; f++) sums[f] = Vec<T>{};
    for (int64_t d = 0; d < padded; d += L) {
      Vec<T> z[tile_keys];
      const Vec<T> query = load(q + d), w = load(weight + d);
      PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) z[a] = query + load(k[a] + d);
      for (int64_t f = 0; f < count; f++) {
        const Vec<T> u = load(location + f * padded + d);
        PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) z[a] += u * broadcast(x_of[a][f * Tk]);
      }
      Vec<T> dw = load(partial_row(b, 0) + d), dq = load_tail(dquery + d, D - d);
      PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) {
        const Vec<T> t = tanh(z[a]);
        dw += score_gradient[a] * t;
        z[a] = score_gradient[a] * w * (1 - t * t);
        dq += z[a];
        store(dk[a] + d, load(dk[a] + d) + z[a]);
      }
      store(partial_row(b, 0) + d, dw);
      store_tail(dquery + d, dq, D - d);
      for (int64_t f = 0; f < count; f++) {
        const Vec<T> u = load(location + f * padded + d);
        Vec<T> du = load(partial_row(b, 1 + f) + d);
        PYRNN_UNROLL for (int a = 0; a < tile_keys; a++) {
          du += z[a] * broadcast(x_of[a][f * Tk]);
          sums[f * tile_keys + a] += u * z[a];
        }
        store(partial_row(b, 1 + f) + d, du);
      }
    }
    for (int64_t f = 0; f < count; f++) {
      T of_keys[tile_keys];
      sum_lanes<T, tile_keys>(sums + f * tile_keys, of_keys);
      for (int a = 0; a < n; a++) dx[f * Tk + j + a] = of_keys[a];
    }
  }

  // From the gradients of the filtered features to those of the filters and of the weights before.
  void previous(int64_t b, int64_t i, const T* dx, T* carry) const {
    const int64_t Tk = args.sizes.Tk, width = args.history.width, half = width / 2;
    const T* weights = this->weights_before(b, i);
    for (int64_t f = 0; f < args.history.filters; f++) {
      const T* filter = static_cast<const T*>(args.history.filter) + f * width;
      T* dfilter = filters + (b * args.history.filters + f) * width;
      for (int64_t u = 0; u < width; u++) {
        const int64_t shift = u - half;
        T sum = 0;
        for (int64_t j = larger(0, -shift); j < smaller(Tk, Tk - shift); j++) {
          carry[j + shift] += filter[u] * dx[f * Tk + j];
          if (weights) sum += dx[f * Tk + j] * weights[j + shift];
        }
        dfilter[u] += sum;
      }
    }
  }

  void end(int64_t b, T* dkey) const {
    const int64_t D = args.sizes.D, first = b * args.sizes.Tk;
    for (int64_t j = first; j < first + args.sizes.Tk; j++)
      for (int64_t d = 0; d < D; d += L) store_tail(dkey + j * D + d, load(key_gradient + j * padded + d), D - d);
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
