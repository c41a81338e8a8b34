// SPDX-License-Identifier: Apache-2.0
// Attention, backward: the gradient of the weights, row by row that of the scores, then what they give to queries, keys
// and values. A thread owns outputs, never a part of a sum.
#pragma once

#include "../scores/dot.h"
#include "attention_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Vectors of features whose panels are prepared together: four lines of memory of every row.
constexpr int slice_vectors = 4;

template <class Score, class T>
struct AttentionBackward {
  static constexpr int L = lanes<T>;
  const AttentionArgs& args;
  const AttentionGradients& g;
  int threads;
  bool stepwise;
  AttentionSizes s = args.sizes;
  int64_t padded = round_up(s.D, L), value_padded = round_up(s.Dv, L);
  Pieces pieces = cut_pieces(s, value_padded * int64_t(sizeof(T)), threads);
  Pieces rows = row_pieces(s, args.alignment, has_history(), threads);
  // Pieces of a sequence for the gradients of values, and of queries and keys: parts of their features.
  int64_t value_parts = feature_parts(column_blocks<T>(s.Dv)), parts = feature_parts(ceil_div(s.D, slice_vectors * L));

  T* ds;  // (B, Tq, Tk): of the weights, then of the scores before the scale
  T* partial;  // (B, padded): of weight_score, sequence by sequence
  T* row_sums;  // (B, Tq): of ds
  T* carry;     // (B, 2, Tk): of the weights of the query at hand and of the one before it, in turns
  T *all_keys, *all_values;  // (B, Tk, padded), (B, Tk, value_padded); stepwise only
  PerThread<T> query_rows, value_rows, panel, scratch;
  HistoryBackward<T> history;
  Queue* queue;  // one for each stage
  Barrier* barrier;

  // Stepwise: the queries come one after the other, from the last; only their gradients are wanted meanwhile.
  AttentionBackward(const AttentionArgs& args, const AttentionGradients& g, int threads, bool stepwise = false)
      : args(args), g(g), threads(threads), stepwise(stepwise) {}

  PYRNN_FN bool has_history() const { return args.history.filters > 0 || args.history.coverage; }
  PYRNN_FN int64_t feature_parts(int64_t blocks) const {
    return larger(1, smaller(blocks, ceil_div(threads > 1 ? 4 * threads : 1, larger(s.B, 1))));
  }
  PYRNN_FN int64_t row(int64_t b, int64_t i) const { return b * s.Tq + i; }
  PYRNN_FN const T* weights_row(int64_t at) const { return static_cast<const T*>(args.weights) + at * s.Tk; }

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    carve(carver);
    return carver.used;
  }
  void carve(Carver& carver) {
    ds = carver.take<T>(s.B * s.Tq * s.Tk);
    partial = carver.take<T>(Score::weighted && !has_history() ? s.B * padded : 0);
    row_sums = carver.take<T>(s.B * s.Tq);
    carry = carver.take<T>(s.B * 2 * s.Tk);
    all_keys = carver.take<T>(stepwise && Score::weighted && !has_history() ? s.B * s.Tk * padded : 0);
    all_values = carver.take<T>(stepwise && s.Dv % L ? s.B * s.Tk * value_padded : 0);
    query_rows = carver.take_per_thread<T>(
        threads, larger(stepwise ? padded : 0, (stepwise ? 1 : pieces.most_queries()) * value_padded));
    value_rows = carver.take_per_thread<T>(threads, stepwise ? 0 : pieces.most_keys() * value_padded);
    panel = carver.take_per_thread<T>(threads, larger(larger(s.Tk, s.Tq) * panel_vectors * L,
                                                      slice_vectors * L * (2 * s.Tq + 3 * s.Tk)));
    scratch = carver.take_per_thread<T>(threads, 2 * s.Tk);
    if (has_history()) history.carve_all(carver, args, threads);
    queue = carver.take<Queue>(4);
    barrier = carver.take<Barrier>(1);
  }

  void prepare() {
    for (int i = 0; i < 4; i++) queue[i] = Queue{};
    *barrier = Barrier{};
    if (has_history()) history.prepare();
  }

  PYRNN_FN bool pair_wanted(int64_t at, int64_t j) const {
    return j >= args.bounds[2 * at] && j < args.bounds[2 * at + 1] && (!args.mask || args.mask[at * s.Tk + j]);
  }

  // What the context says of the weights: ds_ij = dcontext_i · value_j, for the pairs that there are.
  void products(int thread, int64_t piece) const {
    const int64_t b = pieces.batch(piece);
    const Range queries = pieces.queries(piece);
    const Range keys = attended(args.bounds + row(b, 0) * 2, queries, pieces.keys(piece));
    const T* dcontext = static_cast<const T*>(g.dcontext) + row(b, queries.begin) * s.Dv;
    const T* value = static_cast<const T*>(args.value) + (b * s.Tk + keys.begin) * s.Dv;
    T *q_rows = query_rows[thread], *v_rows = value_rows[thread];
    if (s.Dv % L != 0) {
      for (int64_t i = 0; i < queries.size(); i++)
        prepare_row<Dot>(dcontext + i * s.Dv, s.Dv, q_rows + i * value_padded);
      for (int64_t j = 0; j < keys.size(); j++)
        prepare_row<Dot>(value + j * s.Dv, s.Dv, v_rows + j * value_padded);
    }
    product_block(b, queries, keys, s.Dv % L ? q_rows : dcontext, s.Dv % L ? v_rows : value);
  }

  // ds of a block of pairs; rows are value_padded apart.
  void product_block(int64_t b, Range queries, Range keys, const T* dcontext, const T* value) const {
    const ScoreBlock<Dot, T> block{dcontext, value, value_padded, value_padded, nullptr, value_padded};
    block.run(
        queries.size(), keys.size(),
        [&](int64_t first, int m, int64_t j, int n) {
          for (int a = 0; a < m; a++)
            for (int c = 0; c < n; c++)
              if (pair_wanted(row(b, queries.begin + first + a), keys.begin + j + c)) return true;
          return false;
        },
        [&](int64_t first, int m, int64_t j, int n, const T* sums) {
          for (int a = 0; a < m; a++)
            for (int c = 0; c < n; c++)
              ds[row(b, queries.begin + first + a) * s.Tk + keys.begin + j + c] = sums[a * tile_keys + c];
        });
  }

  // From the gradient of the weights of a row to that of its scores. `more` is what later rows say of these weights,
  // null: nothing; `before` gets what this row says of the weights of the row before.
  void unalign(int64_t b, int64_t i, const T* more, T* before, T* scratch) const {
    const int64_t at = row(b, i), Tk = s.Tk;
    const Range keys = row_bounds(args, at);
    T* d = ds + at * Tk;
    const T* dweights = g.dweights ? static_cast<const T*>(g.dweights) + at * Tk : nullptr;
    const T* bias = args.bias ? static_cast<const T*>(args.bias) + at * Tk : nullptr;
    const uint8_t* mask = args.mask ? args.mask + at * Tk : nullptr;
    for (int64_t j = 0; j < keys.begin; j++) d[j] = 0;
    for (int64_t j = keys.end; j < Tk; j++) d[j] = 0;
    for (int64_t j = keys.begin; j < keys.end; j++) {
      const bool pair = (!mask || mask[j]) && !(bias && bias[j] == masked_score<T>());
      d[j] = pair ? d[j] + (dweights ? dweights[j] : T(0)) + (more ? more[j] : T(0)) : T(0);
    }
    const T* w = weights_row(at);
    if (args.center) {
      const T center = static_cast<const T*>(args.center)[at], sigma = T(args.sigma);
      T sum = 0;
      for (int64_t j = keys.begin; j < keys.end; j++) sum += w[j] == 0 ? T(0) : d[j] * w[j] * (T(j) - center);
      static_cast<T*>(g.dcenter)[at] = sum / (sigma * sigma);
      gaussian_row(d + keys.begin, keys, center, sigma);
    }
    const T* kept = args.kept ? static_cast<const T*>(args.kept) + at * Tk : nullptr;
    const T* p = args.center ? kept : w;
    if (args.alignment == align_softmax) {
      softmax_row_backward(p + keys.begin, d + keys.begin, keys.size());
    } else if (args.alignment == align_sparsemax) {
      sparsemax_row_backward(p + keys.begin, d + keys.begin, keys.size());
    } else {
      const T* previous = i > 0 ? w - Tk : static_cast<const T*>(args.previous);
      if (i == 0 && previous) previous += b * Tk;
      monotonic_row_backward(kept, previous, d, scratch, scratch + Tk, before, Tk);
      for (int64_t j = 0; j < Tk; j++) d[j] = kept[j] == 0 ? T(0) : scratch[Tk + j] * kept[j] * (1 - kept[j]);
    }
    T sum = 0;
    for (int64_t j = keys.begin; j < keys.end; j++) {
      sum += d[j];
      d[j] *= T(args.scale);
    }
    row_sums[at] = sum;
  }

  PYRNN_FN bool in_order() const { return has_history() || args.alignment == align_monotonic; }
  PYRNN_FN T* carry_row(int64_t b, int64_t i) const { return carry + (2 * b + i % 2) * s.Tk; }

  // Query i of sequence b, its products being done, where queries go from the last to the first.
  void unalign_in_order(int thread, int64_t b, int64_t i) const {
    const int64_t Tk = s.Tk;
    T *more = carry_row(b, i), *before = carry_row(b, i + 1);
    if (i == s.Tq - 1) {
      for (int64_t j = 0; j < Tk; j++) more[j] = 0;
      if (has_history()) history.begin(b);
    }
    for (int64_t j = 0; j < Tk; j++) before[j] = 0;
    unalign(b, i, more, before, scratch[thread]);
    if (has_history())
      history.row(thread, b, i, ds + row(b, i) * Tk, static_cast<T*>(g.dquery) + row(b, i) * s.D, before);
    // All later queries have the coverage of these weights; that of the first has its own place.
    if (args.history.coverage && i > 0)
      for (int64_t j = 0; j < Tk; j++) before[j] += history.coverage_gradient[b * Tk + j];
  }

  // After the first query of sequence b.
  void end_sequence(int64_t b) const {
    const int64_t Tk = s.Tk;
    if (!in_order()) return;
    if (s.Tq == 0) {
      for (int64_t j = 0; j < Tk; j++) carry_row(b, 1)[j] = 0;
      if (has_history()) history.begin(b);
    }
    if (has_history()) history.end(b, static_cast<T*>(g.dkey));
    for (int64_t j = 0; j < Tk; j++) {
      if (g.dprevious) static_cast<T*>(g.dprevious)[b * Tk + j] = carry_row(b, 1)[j];
      if (g.dcoverage_from) static_cast<T*>(g.dcoverage_from)[b * Tk + j] = history.coverage_gradient[b * Tk + j];
    }
  }

  void unalign_rows(int thread, int64_t piece) const {
    const int64_t b = rows.batch(piece);
    const Range queries = rows.queries(piece);
    for (int64_t i = queries.end - 1; i >= queries.begin; i--)
      if (in_order())
        unalign_in_order(thread, b, i);
      else
        unalign(b, i, nullptr, nullptr, scratch[thread]);
    end_sequence(b);
  }

  // Stepwise: before the queries of sequence b.
  void prepare_sequence(int64_t b) const {
    if (s.Dv % L)
      for (int64_t j = b * s.Tk; j < (b + 1) * s.Tk; j++)
        prepare_row<Dot>(static_cast<const T*>(args.value) + j * s.Dv, s.Dv, all_values + j * value_padded);
    if constexpr (Score::weighted) {
      if (has_history()) return;
      for (int64_t j = b * s.Tk; j < (b + 1) * s.Tk; j++)
        prepare_row<Score>(static_cast<const T*>(args.key) + j * s.D, s.D, all_keys + j * padded);
    }
  }

  // Stepwise: from dcontext of query i, which stands in its place now, to dquery.
  void step(int thread, int64_t b, int64_t i) const {
    const int64_t at = row(b, i);
    const Range keys = row_bounds(args, at);
    const T* dcontext = static_cast<const T*>(g.dcontext) + at * s.Dv;
    if (s.Dv % L) {
      prepare_row<Dot>(dcontext, s.Dv, query_rows[thread]);
      product_block(b, {i, i + 1}, keys, query_rows[thread], all_values + (b * s.Tk + keys.begin) * value_padded);
    } else {
      product_block(b, {i, i + 1}, keys, dcontext,
                    static_cast<const T*>(args.value) + (b * s.Tk + keys.begin) * s.Dv);
    }
    if (in_order())
      unalign_in_order(thread, b, i);
    else
      unalign(b, i, nullptr, nullptr, scratch[thread]);
    if (has_history()) return;
    const T* query = static_cast<const T*>(args.query) + at * s.D;
    T* dquery = static_cast<T*>(g.dquery) + at * s.D;
    const T* gradient = ds + at * s.Tk + keys.begin;
    if constexpr (Score::product) {
      const T* key = static_cast<const T*>(args.key) + (b * s.Tk + keys.begin) * s.D;
      const T* k_size = static_cast<const T*>(args.key_size) + b * s.Tk + keys.begin;
      weighted_sum<T>(
          keys.size(), [&](int64_t j) { return Score::unit_rows ? gradient[j] * k_size[j] : gradient[j]; },
          [&](int64_t j) { return key + j * s.D; }, s.D, dquery);
      if (Score::unit_rows) unit_row(query, static_cast<const T*>(args.query_size)[at], dquery);
    } else {
      additive_query(at, b * s.Tk + keys.begin, keys.size(), query_rows[thread]);
    }
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
              sum[v] += (gradient[j] * T(Score::slope_factor)) * Score::slope(Score::phi(q[v], load(k + v * L)));
          } else {
            const T* k = static_cast<const T*>(args.key) + (first_key + j) * s.D;
            for (int v = 0; v < V; v++) {
              const int64_t d = first + v * L;
              const Vec<T> phi = Fallback::phi(load_tail(raw + d, s.D - d), load_tail(k + d, s.D - d));
              sum[v] += (gradient[j] * T(Fallback::slope_factor)) * Fallback::slope(phi);
            }
          }
        }
        PYRNN_UNROLL for (int v = 0; v < V; v++) {
          const int64_t d = first + v * L;
          const Vec<T> w = load_tail(static_cast<const T*>(args.weight_score) + d, s.D - d);
          store_tail(static_cast<T*>(g.dquery) + at * s.D + d, w * sum[v], s.D - d);
        }
      });
    }
  }

  // Rows of keys or values that no query attends to have no gradient.
  PYRNN_FN void clear_rows(T* out, int64_t columns, int64_t b, Range keys, Range blocks, int64_t width) const {
    const int64_t from = blocks.begin * width, to = smaller(blocks.end * width, columns);
    for (int64_t j = 0; j < s.Tk; j++) {
      if (j >= keys.begin && j < keys.end) continue;
      T* row = out + (b * s.Tk + j) * columns;
      for (int64_t c = from; c < to; c++) row[c] = 0;
    }
  }

  void values(int thread, int64_t piece) const {
    const int64_t b = piece / value_parts;
    const Range blocks = part(column_blocks<T>(s.Dv), piece % value_parts, value_parts);
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    T* dvalue = static_cast<T*>(g.dvalue);
    const T* w = weights_row(row(b, 0)) + keys.begin;
    clear_rows(dvalue, s.Dv, b, keys, blocks, panel_vectors * L);
    const T* dcontext = static_cast<const T*>(g.dcontext) + row(b, 0) * s.Dv;
    weighted_sums<T>(
        keys.size(), s.Tq, [&](int64_t j) { return w + j; }, s.Tk, [&](int64_t i) { return dcontext + i * s.Dv; },
        nullptr, s.Dv, blocks, panel[thread], dvalue + (b * s.Tk + keys.begin) * s.Dv, s.Dv);
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
        Score::unit_rows ? k_size : nullptr, s.D, blocks, panel[thread],
        static_cast<T*>(g.dquery) + row(b, 0) * s.D, s.D);
    clear_rows(static_cast<T*>(g.dkey), s.D, b, keys, blocks, panel_vectors * L);
    weighted_sums<T>(
        keys.size(), s.Tq, [&](int64_t j) { return gradient + j; }, s.Tk, [&](int64_t i) { return query + i * s.D; },
        Score::unit_rows ? q_size : nullptr, s.D, blocks, panel[thread],
        static_cast<T*>(g.dkey) + (b * s.Tk + keys.begin) * s.D, s.D);
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

  void additive_features(int thread, int64_t piece) const {
    const int64_t b = piece / parts;
    const Range slices = part(ceil_div(s.D, slice_vectors * L), piece % parts, parts);
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    clear_rows(static_cast<T*>(g.dkey), s.D, b, keys, slices, slice_vectors * L);
    const bool within = within_limit(b, keys);
    for (int64_t slice = slices.begin; slice < slices.end; slice++)
      if (within)
        additive_slice<false>(thread, b, keys, slice);
      else
        additive_slice<true>(thread, b, keys, slice);
  }

  // Some vectors of the features of one sequence's queries and keys, [row][L] each.
  struct Panels {
    const T *q, *k, *raw_q, *raw_k;  // prepared, and as they are
    T* dk;
    const T* gradient;  // of the scores, from the first query and key on
    int64_t first_row, first_key;
    Vec<T> dw, dw_raw;
  };

  // The gradients of a few vectors of features of one sequence, in panels [vector][row]: nothing but L1 is read. Careful:
  // pairs are looked at one by one; a gradient of zero takes no part, whatever query and key hold.
  template <bool careful>
  void additive_slice(int thread, int64_t b, Range keys, int64_t slice) const {
    using Fallback = typename Score::Fallback;
    const int64_t first = slice * slice_vectors * L, Tq = s.Tq, Tk = keys.size();
    const int vectors = int(smaller(slice_vectors, ceil_div(s.D - first, L)));
    T *q = panel[thread], *k = q + slice_vectors * L * Tq, *dk = k + slice_vectors * L * Tk;
    T *raw_q = dk + slice_vectors * L * Tk, *raw_k = raw_q + slice_vectors * L * Tq;
    const auto load_panel = [&](const void* array, int64_t row, int64_t rows, T* to, T* raw) {
      const T* from = static_cast<const T*>(array) + row * s.D + first;
      for (int64_t i = 0; i < rows; i++, from += s.D)
        for (int v = 0; v < vectors; v++) {
          const Vec<T> x = load_tail(from + v * L, s.D - first - v * L);
          store(to + (v * rows + i) * L, Score::prepare(x));
          if (careful) store(raw + (v * rows + i) * L, Fallback::prepare(x));
        }
    };
    const int64_t first_key = b * s.Tk + keys.begin;
    load_panel(args.query, row(b, 0), Tq, q, raw_q);
    load_panel(args.key, first_key, Tk, k, raw_k);
    const T* gradient = ds + row(b, 0) * s.Tk + keys.begin;
    T sum_of_ds = 0;
    for (int64_t i = 0; i < Tq; i++)
      for (int64_t j = 0; j < Tk; j++)
        if (!careful || pair_within_limit(row(b, i), first_key + j)) sum_of_ds += gradient[i * s.Tk + j];
    for (int v = 0; v < vectors; v++) {
      const int64_t columns = s.D - first - v * L;
      for (int64_t j = 0; j < Tk; j++) store(dk + j * L, Vec<T>{});
      const Vec<T> w = load_tail(static_cast<const T*>(args.weight_score) + first + v * L, columns);
      Panels panels{q + v * Tq * L, k + v * Tk * L, raw_q + v * Tq * L, raw_k + v * Tk * L, dk,
                    gradient,       row(b, 0),      first_key,          {},                 {}};
      for_each_tile(Tq, tile_queries, [&](int64_t i, int n) {
        const Range wanted = attended(args.bounds + row(b, i) * 2, {0, n}, keys);
        with_constant<tile_queries>(n, [&](auto rows) {
          constexpr int MQ = decltype(rows)::value;
          Vec<T> dq[MQ];
          additive_tile<careful, MQ>(panels, i, {wanted.begin - keys.begin, wanted.end - keys.begin}, dq);
          for (int m = 0; m < MQ; m++)
            store_tail(static_cast<T*>(g.dquery) + row(b, i + m) * s.D + first + v * L, dq[m] * w, columns);
        });
      });
      T* dkey = static_cast<T*>(g.dkey) + first_key * s.D + first + v * L;
      for (int64_t j = 0; j < Tk; j++) store_tail(dkey + j * s.D, load(dk + j * L) * w, columns);
      store(partial + b * padded + first + v * L,
            Score::offset * sum_of_ds + T(Score::factor) * panels.dw + panels.dw_raw);
    }
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
      Vec<T> of_key = load(p.dk + j * L);
      PYRNN_UNROLL for (int m = 0; m < MQ; m++) {
        const T of_score = p.gradient[(i + m) * s.Tk + j];
        if (careful && of_score == 0) continue;
        if (careful && !pair_within_limit(p.first_row + i + m, p.first_key + j)) {
          const Vec<T> phi = Fallback::phi(load(p.raw_q + (i + m) * L), load(p.raw_k + j * L));
          const Vec<T> slope = Fallback::slope(phi), d = broadcast(of_score * T(Fallback::slope_factor));
          dq[m] += d * slope;
          of_key += d * slope;
          p.dw_raw += broadcast(of_score) * phi;
        } else {
          const Vec<T> phi = Score::phi(query[m], key);
          const Vec<T> slope = Score::slope(phi), d = broadcast(of_score * T(Score::slope_factor));
          dq[m] += d * slope;
          of_key += d * slope;
          sum[m] += broadcast(of_score) * phi;
        }
      }
      store(p.dk + j * L, of_key);
    }
    PYRNN_UNROLL for (int m = 0; m < MQ; m++) p.dw += sum[m];
  }

  void features(int thread, int64_t piece) const {
    if constexpr (Score::product)
      product_features(thread, piece);
    else
      additive_features(thread, piece);
  }

  void work(int thread) {
    queue[0].run(pieces.count(), [&](int64_t piece) { products(thread, piece); });
    barrier->wait(threads);
    queue[1].run(rows.count(), [&](int64_t piece) { unalign_rows(thread, piece); });
    barrier->wait(threads);
    after_rows(thread);
  }

  // What is left once the gradients of all scores are there: those of values, keys and parameters.
  void after_rows(int thread) {
    queue[2].run(s.B * value_parts, [&](int64_t piece) { values(thread, piece); });
    if (!has_history()) queue[3].run(s.B * parts, [&](int64_t piece) { features(thread, piece); });
    barrier->wait(threads);
    if constexpr (Score::weighted) {
      const Range mine = part(s.D, thread, threads);
      T* out = static_cast<T*>(g.dweight_score);
      const int64_t stride = has_history() ? (1 + history.count) * padded : padded;
      const T* from = has_history() ? history.partial : partial;
      sum_sequences(from, stride, mine, [&](int64_t d) -> T& { return out[d]; });
      if (has_history()) {
        T* location = static_cast<T*>(g.dlocation);
        const int64_t filters = args.history.filters;
        for (int64_t f = 0; f < filters; f++)
          sum_sequences(from + (1 + f) * padded, stride, mine, [&](int64_t d) -> T& { return location[d * filters + f]; });
        if (args.history.coverage)
          sum_sequences(from + (1 + filters) * padded, stride, mine,
                        [&](int64_t d) -> T& { return static_cast<T*>(g.dcoverage)[d]; });
        const int64_t taps = filters * args.history.width;
        sum_sequences(history.filters, taps, part(taps, thread, threads),
                      [&](int64_t u) -> T& { return static_cast<T*>(g.dfilter)[u]; });
      }
    } else if constexpr (Score::unit_rows) {
      const Range mine = part(s.B, thread, threads);
      for (int64_t b = mine.begin; b < mine.end; b++) unit_rows(b);
    }
  }

  template <class Out>
  PYRNN_FN void sum_sequences(const T* from, int64_t stride, Range mine, const Out& out) const {
    for (int64_t d = mine.begin; d < mine.end; d++) {
      T sum = 0;
      for (int64_t b = 0; b < s.B; b++) sum += from[b * stride + d];
      out(d) = sum;
    }
  }

  void finish() const {
    T sum = 0;
    for (int64_t i = 0; i < s.B * s.Tq; i++) sum += row_sums[i];
    *static_cast<T*>(g.dbias) = sum;
  }
};

template <class Score, class T>
size_t attention_backward_workspace(const AttentionArgs& args, int threads) {
  return AttentionBackward<Score, T>(args, AttentionGradients{}, threads).carve(nullptr);
}

template <class Score, class T>
void attention_backward(const AttentionArgs& args, const AttentionGradients& gradients, int threads) {
  Team team(2 * pair_cycles<Score, T>(args.sizes) > 2 * start_cycles() ? threads : 1);
  AttentionBackward<Score, T> call(args, gradients, team.size());
  call.carve(args.workspace);
  call.prepare();
  team.run([](void* context, int thread, int) { static_cast<AttentionBackward<Score, T>*>(context)->work(thread); },
           &call);
  call.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
