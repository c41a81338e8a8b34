// SPDX-License-Identifier: Apache-2.0
// Scores of a few queries with a few keys at a time, the features along the vectors.
#pragma once

#include "../scores/score.h"
#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Keys of a tile, and queries at most: their accumulators, a row of keys and what phi needs are in registers at once.
constexpr int tile_keys = 4, tile_queries = vector_registers == 32 ? 5 : 2;

// Adds pairs of vectors, half of their lanes each, until one is left: lane i holds a part of the sum of vector i % N.
template <class T, int N>
PYRNN_FN Vec<T> fold_lanes(const Vec<T>* v) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    Vec<T> half[N / 2];
    PYRNN_UNROLL for (int i = 0; i < N / 2; i++) {
      half[i] = interleave<T>(v[i], v[i + N / 2], 0) + interleave<T>(v[i], v[i + N / 2], lanes<T> / 2);
    }
    return fold_lanes<T, N / 2>(half);
  }
}

// Adds lanes that are L/2, L/4, ... count apart: the first `count` lanes hold the sums.
template <class T, int count, int distance = lanes<T> / 2>
PYRNN_FN Vec<T> halve_lanes(Vec<T> v) {
  if constexpr (distance >= count) return halve_lanes<T, count, distance / 2>(v + exchange<distance, T>(v));
  return v;
}

// sums[i] = the sum of the lanes of rows[i]: lanes L/2 apart, then those L/4 apart and so on, for any N.
template <class T, int N>
PYRNN_FN void sum_lanes(const Vec<T>* rows, T* sums) {
  constexpr int L = lanes<T>, most = N < L ? N : L, first = most & (most - 1) ? most & -most : most;
  if constexpr (N > first) {
    sum_lanes<T, first>(rows, sums);
    sum_lanes<T, N - first>(rows + first, sums + first);
  } else {
    const Vec<T> folded = halve_lanes<T, N>(fold_lanes<T, N>(rows));
    if constexpr (N == L)
      store_unaligned(sums, folded);
    else
      PYRNN_UNROLL for (int i = 0; i < N; i++) sums[i] = folded[i];
  }
}

// Numbers without their signs, as integers: the larger one is larger there too, and what is not finite is the largest.
template <class T>
using Magnitudes = Vec<typename IndexOf<T>::type>;
template <class T>
PYRNN_FN Magnitudes<T> larger_of(Magnitudes<T> a, Magnitudes<T> b) {
  return a > b ? a : b;
}
template <class T, int distance = lanes<T> / 2>
PYRNN_FN T largest_magnitude(Magnitudes<T> v) {
  v = larger_of<T>(v, (Magnitudes<T>)exchange<distance, T>((Vec<T>)v));
  if constexpr (distance > 1) return largest_magnitude<T, distance / 2>(v);
  return ((Vec<T>)v)[0];
}

// out[d] = prepare(row[d]), finite up to whole vectors. Returns the size of the row: max |x_d|, NaN if one is not
// finite; for unit rows 1/|x|, zero for a row of zeros.
template <class Score, class T>
PYRNN_FN T prepare_row(const T* row, int64_t D, T* out) {
  constexpr int L = lanes<T>;
  const Magnitudes<T> signs = (Magnitudes<T>)-Vec<T>{};
  Vec<T> squares{};
  Magnitudes<T> largest{};
  for (int64_t d = 0; d < D; d += L) {
    const Vec<T> x = load_tail(row + d, D - d);
    prefetch(row + d + D);  // the next row
    if constexpr (Score::unit_rows)
      squares += x * x;
    else
      largest = larger_of<T>(largest, (Magnitudes<T>)x & ~signs);
    store(out + d, Score::prepare(x));
  }
  if constexpr (!Score::unit_rows) {
    const T size = largest_magnitude<T>(largest);
    return size + (size - size);
  }
  const T sum = sum_of_lanes<T>(squares);
  const T inverse = sum == 0 ? T(0) : T(1 / __builtin_sqrt(sum));
  for (int64_t d = 0; d < D; d += L) store(out + d, load(out + d) * inverse);
  return inverse;
}

// The largest of n sizes; not a number if one is not.
template <class T>
PYRNN_FN T largest_size(const T* sizes, int64_t n) {
  T largest = 0, zero = 0;
  for (int64_t i = 0; i < n; i++) {
    largest = sizes[i] > largest ? sizes[i] : largest;
    zero += sizes[i] - sizes[i];
  }
  return largest + zero;
}

// sums[m·tile_keys + n] = Σ_d w_d φ(q[m]_d, k[n]_d) over whole vectors; w is null for a score without weights. Rows may
// start anywhere. φ of the first query goes to kept[n], D numbers, if there is such a place.
template <class Score, class T, int MQ, bool keeps = false>
__attribute__((noinline)) void score_tile(const T* const* q, const T* const* k, const T* w, int64_t padded, T* sums,
                                          T* const* kept = nullptr, int64_t D = 0) {
  constexpr int L = lanes<T>, N = tile_keys;
  Vec<T> a[MQ * N] = {};
  for (int64_t d = 0; d < padded; d += L) {
    Vec<T> key[N], weight{};
    PYRNN_UNROLL for (int n = 0; n < N; n++) key[n] = load_unaligned(k[n] + d);
    if constexpr (Score::weighted) weight = load(w + d);
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
      const Vec<T> query = load_unaligned(q[m] + d);
      PYRNN_UNROLL for (int n = 0; n < N; n++) {
        const Vec<T> phi = Score::phi(query, key[n]);
        if constexpr (keeps) {
          store_tail(kept[n] + d, phi, D - d);
          __builtin_prefetch(kept[n] + d + N * D, 1, 2);  // of the next keys
        }
        if constexpr (Score::weighted)
          a[m * N + n] += weight * phi;
        else
          a[m * N + n] += phi;
      }
    }
  }
  sum_lanes<T, MQ * N>(a, sums);
}

// What sums need whose features go two at a time: Σ w_d φ_d = W · Σ 1/x_d with x = W/w + (W/w · q)·k, W = max |w_d|,
// and two of these share a reciprocal. For rows whose sizes leave the product of two in its range.
template <class T>
struct FeaturePairs {
  T* inverse;  // whole vectors: W/w_d of the features in pairs, w_d/W of those left over
  int64_t paired, padded;
  T largest, limit;  // W, and the sum of the sizes of two rows at most

  // w: whole vectors, zeros from D on.
  template <class Score>
  PYRNN_FN void prepare(const T* w, int64_t D, int64_t padded) {
    constexpr int L = lanes<T>, exponents = sizeof(T) == sizeof(double) ? 1022 : 126;
    this->padded = padded;
    paired = Score::pairs ? D / (2 * L) * 2 * L : 0;
    largest = 0;
    limit = -1;
    T smallest = T(__builtin_inf()), difference = 0;  // x - x is zero unless x is infinite or not a number
    for (int64_t d = 0; d < D; d++) {
      const T size = w[d] < 0 ? -w[d] : w[d];
      largest = size > largest ? size : largest;
      smallest = size < smallest ? size : smallest;
      difference += size - size;
    }
    if (paired == 0 || difference != 0 || !(smallest > 0)) return;
    for (int64_t d = 0; d < paired; d++) inverse[d] = largest / w[d];
    for (int64_t d = paired; d < padded; d++) inverse[d] = w[d] / largest;
    limit = T(0.34657359 * (exponents / 2 - 1 - __builtin_log2(double(largest) / double(smallest))));
  }

  // The row of a query that takes part in pairs, from one that is prepared.
  PYRNN_FN void fold(const T* query, T* out) const {
    constexpr int L = lanes<T>;
    for (int64_t d = 0; d < padded; d += L)
      store(out + d, d < paired ? load(query + d) * load(inverse + d) : load(query + d));
  }
};

// score_tile's sums for folded queries, two vectors of features at a time, those left over one by one. `ahead`, where
// there is one, is asked for meanwhile: 2·padded numbers.
template <class Score, class T, int MQ>
__attribute__((noinline)) void pair_tile(const FeaturePairs<T>& pairs, const T* const* q, const T* const* k,
                                         const T* ahead, T* sums) {
  constexpr int L = lanes<T>, N = tile_keys;
  Vec<T> a[MQ * N] = {};
  int64_t d = 0;
  for (; d < pairs.paired; d += 2 * L) {
    Vec<T> first[N], second[N];
    PYRNN_UNROLL for (int n = 0; n < N; n++) {
      first[n] = load_unaligned(k[n] + d);
      second[n] = load_unaligned(k[n] + d + L);
    }
    if (ahead) PYRNN_UNROLL for (int i = 0; i < 4; i++) prefetch(ahead + 2 * d + i * L);
    const Vec<T> c1 = load(pairs.inverse + d), c2 = load(pairs.inverse + d + L);
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
      const Vec<T> q1 = load_unaligned(q[m] + d), q2 = load_unaligned(q[m] + d + L);
      PYRNN_UNROLL for (int n = 0; n < N; n++)
          a[m * N + n] = Score::add_pair(a[m * N + n], c1 + q1 * first[n], c2 + q2 * second[n]);
    }
  }
  for (; d < pairs.padded; d += L)
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) PYRNN_UNROLL for (int n = 0; n < N; n++)
        a[m * N + n] += load(pairs.inverse + d) * Score::phi(load_unaligned(q[m] + d), load_unaligned(k[n] + d));
  sum_lanes<T, MQ * N>(a, sums);
  PYRNN_UNROLL for (int i = 0; i < MQ * N; i++) sums[i] *= pairs.largest;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
