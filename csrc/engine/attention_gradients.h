// SPDX-License-Identifier: Apache-2.0
// From the gradients of the scores to those of queries, keys and the weight of the score: matrix products where the
// score is one, else one pass over all pairs for every few features.
#pragma once

#include "attention_history.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Vectors of features whose panels are prepared together: four lines of memory of every row. So many queries at most
// share a tile that reads every key once and keeps nothing.
constexpr int slice_vectors = 4, few_queries = tile_queries < slice_vectors ? tile_queries : slice_vectors;

template <class Score, class T>
struct PairGradients {
  static constexpr int L = lanes<T>;
  const AttentionArgs& args;
  const AttentionGradients& g;
  int threads;
  AttentionSizes s = args.sizes;
  int64_t padded = round_up(s.D, L);
  int64_t parts = feature_parts(ceil_div(s.D, slice_vectors* L));  // pieces of a sequence, parts of its features

  T* ds;        // (B, Tq, Tk): the gradients of the weights, then of the scores before the scale
  T* partial;   // (B, padded): of weight_score, sequence by sequence
  T* all_keys;  // (B, Tk, padded), prepared; for queries that come one after the other
  PerThread<T> panel;

  PairGradients(const AttentionArgs& args, const AttentionGradients& g, int threads)
      : args(args), g(g), threads(threads) {}

  PYRNN_FN int64_t row(int64_t b, int64_t i) const { return b * s.Tq + i; }
  PYRNN_FN int64_t feature_parts(int64_t blocks) const {
    return larger(1, smaller(blocks, ceil_div(threads > 1 ? 4 * threads : 1, larger(s.B, 1))));
  }
  PYRNN_FN int64_t panel_size() const { return slice_vectors * L * (2 * s.Tq + 3 * s.Tk); }

  // Rows of keys or values that no query attends to have no gradient.
  PYRNN_FN void clear_rows(T* out, int64_t columns, int64_t b, Range keys, Range blocks, int64_t width) const {
    const int64_t from = blocks.begin * width, to = smaller(blocks.end * width, columns);
    for (int64_t j = 0; j < s.Tk; j++) {
      if (j >= keys.begin && j < keys.end) continue;
      T* row = out + (b * s.Tk + j) * columns;
      for (int64_t c = from; c < to; c++) row[c] = 0;
    }
  }

  // A score that is a product: dquery = ds · key, dkey = dsᵀ · query, over one part of the features.
  void product_features(int thread, int64_t piece) const {
    const int64_t b = piece / parts;
    const Range blocks = part(column_blocks<T>(s.D), piece % parts, parts);
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    const T* gradient = ds + row(b, 0) * s.Tk + keys.begin;
    const T* key = static_cast<const T*>(args.key) + (b * s.Tk + keys.begin) * s.D;
    const T* query = static_cast<const T*>(args.query) + row(b, 0) * s.D;
    const T* q_size = static_cast<const T*>(args.query_size) + row(b, 0);
    const T* k_size = static_cast<const T*>(args.key_size) + b * s.Tk + keys.begin;
    weighted_sums<T>(
        s.Tq, keys.size(), [&](int64_t i) { return gradient + i * s.Tk; }, 1, [&](int64_t j) { return key + j * s.D; },
        Score::unit_rows ? k_size : nullptr, s.D, blocks, panel[thread], static_cast<T*>(g.dquery) + row(b, 0) * s.D,
        s.D);
    clear_rows(static_cast<T*>(g.dkey), s.D, b, keys, blocks, panel_vectors * L);
    weighted_sums<T>(
        keys.size(), s.Tq, [&](int64_t j) { return gradient + j; }, s.Tk, [&](int64_t i) { return query + i * s.D; },
        Score::unit_rows ? q_size : nullptr, s.D, blocks, panel[thread],
        static_cast<T*>(g.dkey) + (b * s.Tk + keys.begin) * s.D, s.D, false,
        written_around<T>(g.dkey, s.B * s.Tk, s.D));
  }

  // The gradient of x/|x| to that of x: (d - u (u·d)) / |x|, with u = x/|x|.
  void unit_row(const T* x, T inverse, T* d) const {
    bool any = false;
    for (int64_t i = 0; i < s.D; i++) any = any || d[i] != 0;
    if (!any) return;  // whatever x holds
    T along = 0;
    for (int64_t i = 0; i < s.D; i++) along += x[i] * inverse * d[i];
    for (int64_t i = 0; i < s.D; i++) d[i] = inverse == 0 ? T(0) : (d[i] - x[i] * inverse * along) * inverse;
  }
  void unit_rows(int64_t b) const {
    const T *q_size = static_cast<const T*>(args.query_size), *k_size = static_cast<const T*>(args.key_size);
    for (int64_t i = row(b, 0); i < row(b + 1, 0); i++)
      unit_row(static_cast<const T*>(args.query) + i * s.D, q_size[i], static_cast<T*>(g.dquery) + i * s.D);
    for (int64_t j = b * s.Tk; j < (b + 1) * s.Tk; j++)
      unit_row(static_cast<const T*>(args.key) + j * s.D, k_size[j], static_cast<T*>(g.dkey) + j * s.D);
  }

  // Whether every pair of a sequence is within the limits of the score's form.
  PYRNN_FN bool within_limit(int64_t b, Range keys) const {
    const T q = largest_size(static_cast<const T*>(args.query_size) + row(b, 0), s.Tq);
    const T k = largest_size(static_cast<const T*>(args.key_size) + b * s.Tk + keys.begin, keys.size());
    return q + k <= T(Score::limit[sizeof(T) == sizeof(double)]);
  }

  // Whether one pair is; the others are computed in the score's other form.
  PYRNN_FN bool pair_within_limit(int64_t at, int64_t key) const {
    return static_cast<const T*>(args.query_size)[at] + static_cast<const T*>(args.key_size)[key] <=
           T(Score::limit[sizeof(T) == sizeof(double)]);
  }

  // What the gradients of a sequence's scores sum up to, of those in the score's own form.
  template <bool careful>
  PYRNN_FN T sum_of_gradients(int64_t b, Range keys) const {
    T sum = 0;
    for (int64_t i = row(b, 0); i < row(b + 1, 0); i++)
      for (int64_t j = keys.begin; j < keys.end; j++)
        if (!careful || pair_within_limit(i, b * s.Tk + j)) sum += ds[i * s.Tk + j];
    return sum;
  }

  void additive_features(int thread, int64_t piece) const {
    const int64_t b = piece / parts;
    const Range slices = part(ceil_div(s.D, slice_vectors * L), piece % parts, parts);
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    clear_rows(static_cast<T*>(g.dkey), s.D, b, keys, slices, slice_vectors * L);
    const bool within = within_limit(b, keys);
    const T sum_of_ds = within ? sum_of_gradients<false>(b, keys) : sum_of_gradients<true>(b, keys);
    for (int64_t slice = slices.begin; slice < slices.end && !stopped(); slice++)
      if (within && s.Tq == 1 && args.phi)
        additive_few<1, true>(b, keys, slice, sum_of_ds);
      else if (within && s.Tq > 0 && s.Tq <= few_queries)
        with_constant<few_queries>(
            int(s.Tq), [&](auto queries) { additive_few<decltype(queries)::value>(b, keys, slice, sum_of_ds); });
      else if (within)
        additive_slice<false>(thread, b, keys, slice, sum_of_ds);
      else
        additive_slice<true>(thread, b, keys, slice, sum_of_ds);
  }

  // Some vectors of the features of one sequence's queries and keys, [row][L] each.
  struct Panels {
    const T *q, *k, *raw_q, *raw_k;  // prepared, and as they are
    T* dk;
    const T* gradient;  // of the scores, from the first query and key on
    int64_t first_row, first_key;
    const T* next;  // what the first tile asks for, a line of every key: of the next slice
    Vec<T> dw, dw_raw;
  };

  // What the sums of slopes from feature d on are multiplied by in the end.
  PYRNN_FN Vec<T> weight_of_slopes(int64_t d) const {
    return T(Score::slope_factor) * load_tail(static_cast<const T*>(args.weight_score) + d, larger(0, s.D - d));
  }

  // The gradients of a few vectors of features where one tile takes all queries: a key is read and its gradient written
  // once, nothing is kept in between. Of a single query φ may be there from the forward, even in the place of dkey.
  template <int MQ, bool kept = false>
  void additive_few(int64_t b, Range keys, int64_t slice, T sum_of_ds) const {
    constexpr int V = MQ > 2 ? slice_vectors / 2 : slice_vectors;
    const T* from = static_cast<const T*>(kept ? args.phi : args.key);
    for (int64_t first = slice * slice_vectors * L; first < smaller((slice + 1) * slice_vectors * L, s.D);
         first += V * L) {
      Vec<T> q[MQ][V], dq[MQ][V] = {}, dw[MQ][V] = {}, w[V];
      PYRNN_UNROLL for (int v = 0; v < V; v++) {
        const int64_t d = first + v * L;
        w[v] = weight_of_slopes(d);
        if constexpr (!kept)
          PYRNN_UNROLL for (int m = 0; m < MQ; m++) q[m][v] = Score::prepare(
              load_tail(static_cast<const T*>(args.query) + row(b, m) * s.D + d, larger(0, s.D - d)));
      }
      for (int64_t j = keys.begin; j < keys.end; j++) {
        const int64_t at = (b * s.Tk + j) * s.D + first;
        PYRNN_UNROLL for (int v = 0; v < V; v++) {
          const int64_t n = larger(0, s.D - first - v * L);
          prefetch(from + at + (V + v) * L);  // the next vectors of the row
          __builtin_prefetch(static_cast<T*>(g.dkey) + at + (V + v) * L, 1, 2);
          const Vec<T> x = load_tail(from + at + v * L, n);
          Vec<T> key{};
          if constexpr (!kept) key = Score::prepare(x);
          Vec<T> of_key{};
          PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
            const Vec<T> of_score = broadcast(ds[row(b, m) * s.Tk + j]), phi = kept ? x : Score::phi(q[m][v], key);
            const Vec<T> of_phi = of_score * phi, of_sum = Score::slope(phi, of_phi);
            dq[m][v] += of_sum;
            of_key += of_sum;
            dw[m][v] += of_phi;
          }
          store_tail(static_cast<T*>(g.dkey) + at + v * L, of_key * w[v], n);
        }
      }
      PYRNN_UNROLL for (int v = 0; v < V; v++) {
        const int64_t d = first + v * L;
        PYRNN_UNROLL for (int m = 0; m < MQ; m++)
            store_tail(static_cast<T*>(g.dquery) + row(b, m) * s.D + d, dq[m][v] * w[v], larger(0, s.D - d));
        PYRNN_UNROLL for (int m = 1; m < MQ; m++) dw[0][v] += dw[m][v];
        if (d < s.D) store(partial + b * padded + d, Score::offset * sum_of_ds + T(Score::factor) * dw[0][v]);
      }
    }
  }

  // The gradients of a few vectors of features of one sequence, in panels [vector][row]: nothing but L1 is read.
  // Careful: pairs are looked at one by one; a gradient of zero takes no part, whatever query and key hold.
  template <bool careful>
  void additive_slice(int thread, int64_t b, Range keys, int64_t slice, T sum_of_ds) const {
    using Fallback = typename Score::Fallback;
    const int64_t first = slice * slice_vectors * L, Tq = s.Tq, Tk = keys.size();
    const int vectors = int(smaller(slice_vectors, ceil_div(s.D - first, L)));
    T *q = panel[thread], *k = q + slice_vectors * L * Tq, *dk = k + slice_vectors * L * Tk;
    T *raw_q = dk + slice_vectors * L * Tk, *raw_k = raw_q + slice_vectors * L * Tq;
    const auto load_panel = [&](const void* array, int64_t row, int64_t rows, T* to, T* raw, bool asks) {
      const T* from = static_cast<const T*>(array) + row * s.D + first;
      for (int64_t i = 0; i < rows; i++, from += s.D)
        for (int v = 0; v < vectors; v++) {
          const Vec<T> x = load_tail(from + v * L, s.D - first - v * L);
          if (asks) prefetch(from + (slice_vectors + v) * L);  // the next slice
          store(to + (v * rows + i) * L, Score::prepare(x));
          if (careful) store(raw + (v * rows + i) * L, Fallback::prepare(x));
        }
    };
    const int64_t first_key = b * s.Tk + keys.begin;
    const bool far = s.B * s.Tk * s.D * int64_t(sizeof(T)) > far_bytes;
    load_panel(args.query, row(b, 0), Tq, q, raw_q, true);
    load_panel(args.key, first_key, Tk, k, raw_k, !far);
    const T* gradient = ds + row(b, 0) * s.Tk + keys.begin;
    for (int64_t i = 0; i < vectors * Tk; i++) store(dk + i * L, Vec<T>{});
    for (int v = 0; v < vectors; v++) {
      const int64_t columns = s.D - first - v * L;
      const Vec<T> w = weight_of_slopes(first + v * L);
      Panels panels{q + v * Tq * L,
                    k + v * Tk * L,
                    raw_q + v * Tq * L,
                    raw_k + v * Tk * L,
                    dk + v * Tk * L,
                    gradient,
                    row(b, 0),
                    first_key,
                    far ? static_cast<const T*>(args.key) + first_key * s.D + first + (slice_vectors + v) * L : nullptr,
                    {},
                    {}};
      run_tiles(Tq, tile_queries, [&](int64_t i, int n) {
        const Range wanted = attended(args.bounds + row(b, i) * 2, {0, n}, keys);
        with_constant<tile_queries>(n, [&](auto rows) {
          constexpr int MQ = decltype(rows)::value;
          Vec<T> dq[MQ];
          additive_tile<careful, MQ>(panels, i, {wanted.begin - keys.begin, wanted.end - keys.begin}, dq);
          for (int m = 0; m < MQ; m++)
            store_tail(static_cast<T*>(g.dquery) + row(b, i + m) * s.D + first + v * L, dq[m] * w, columns);
        });
      });
      store(partial + b * padded + first + v * L,
            Score::offset * sum_of_ds + T(Score::factor) * panels.dw + panels.dw_raw);
    }
    // The lines of a row together: one at a time, rows 4 KiB apart would push each other out of L1.
    T* dkey = static_cast<T*>(g.dkey) + first_key * s.D + first;
    Vec<T> w[slice_vectors];
    for (int v = 0; v < vectors; v++) w[v] = weight_of_slopes(first + v * L);
    const bool around = written_around<T>(g.dkey, s.B * s.Tk, s.D);
    for (int64_t j = 0; j < Tk; j++, dkey += s.D)
      for (int v = 0; v < vectors; v++) {
        const Vec<T> of_key = load(dk + (v * Tk + j) * L) * w[v];
        if (around)
          store_around(dkey + v * L, of_key);
        else
          store_tail(dkey + v * L, of_key, s.D - first - v * L);
      }
    if (around) stored_around();
  }

  template <bool careful, int MQ>
  PYRNN_FN void additive_tile(Panels& p, int64_t i, Range keys, Vec<T> (&dq)[MQ]) const {
    using Fallback = typename Score::Fallback;
    Vec<T> query[MQ], sum[MQ] = {};
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
      query[m] = load(p.q + (i + m) * L);
      dq[m] = Vec<T>{};
    }
    for (int64_t j = keys.begin; j < keys.end; j++) {
      const Vec<T> key = load(p.k + j * L);
      if (p.next) prefetch(p.next + j * s.D);
      Vec<T> of_key = load(p.dk + j * L);
      PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
        const T of_score = p.gradient[(i + m) * s.Tk + j];
        if (careful && of_score == 0) continue;
        if (careful && !pair_within_limit(p.first_row + i + m, p.first_key + j)) {
          const Vec<T> phi = Fallback::phi(load(p.raw_q + (i + m) * L), load(p.raw_k + j * L));
          const T ratio = T(Fallback::slope_factor) / T(Score::slope_factor);
          const Vec<T> slope = Fallback::slope(phi), d = broadcast(of_score * ratio);
          dq[m] += d * slope;
          of_key += d * slope;
          p.dw_raw += broadcast(of_score) * phi;
        } else {
          const Vec<T> phi = Score::phi(query[m], key), of_phi = broadcast(of_score) * phi;
          const Vec<T> of_sum = Score::slope(phi, of_phi);  // two sums of it: adding is not multiplying twice
          dq[m] += of_sum;
          of_key += of_sum;
          sum[m] += of_phi;
        }
      }
      store(p.dk + j * L, of_key);
    }
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) p.dw += sum[m];
    p.next = nullptr;
  }

  void features(int thread, int64_t piece) const {
    if constexpr (Score::product)
      product_features(thread, piece);
    else
      additive_features(thread, piece);
  }

  // dquery of one query and n keys from `first_key` on; a pair whose gradient is zero takes no part.
  void additive_query(int64_t at, int64_t first_key, int64_t n, T* prepared) const {
    using Fallback = typename Score::Fallback;
    constexpr int NV = 4;
    const T* raw = static_cast<const T*>(args.query) + at * s.D;
    const T* gradient = ds + at * s.Tk + first_key % larger(s.Tk, 1);
    prepare_row<Score>(raw, s.D, prepared);
    for (int64_t first = 0; first < padded; first += NV * L) {
      with_constant<NV>(int(smaller(NV, (padded - first) / L)), [&](auto vectors) {
        constexpr int V = decltype(vectors)::value;
        Vec<T> q[V], sum[V] = {};
        PYRNN_UNROLL for (int v = 0; v < V; v++) q[v] = load(prepared + first + v * L);
        for (int64_t j = 0; j < n; j++) {
          if (gradient[j] == 0) continue;
          if (pair_within_limit(at, first_key + j)) {
            const T* k = all_keys + (first_key + j) * padded + first;
            PYRNN_UNROLL for (int v = 0; v < V; v++)
                sum[v] += gradient[j] * Score::slope(Score::phi(q[v], load(k + v * L)));
          } else {
            const T* k = static_cast<const T*>(args.key) + (first_key + j) * s.D;
            for (int v = 0; v < V; v++) {
              const int64_t d = first + v * L;
              const Vec<T> phi = Fallback::phi(load_tail(raw + d, s.D - d), load_tail(k + d, s.D - d));
              sum[v] += gradient[j] * (T(Fallback::slope_factor) / T(Score::slope_factor)) * Fallback::slope(phi);
            }
          }
        }
        PYRNN_UNROLL for (int v = 0; v < V; v++) {
          const int64_t d = first + v * L;
          store_tail(static_cast<T*>(g.dquery) + at * s.D + d, weight_of_slopes(d) * sum[v], s.D - d);
        }
      });
    }
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
