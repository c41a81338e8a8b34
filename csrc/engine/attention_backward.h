// SPDX-License-Identifier: Apache-2.0
// Attention, backward: the gradient of the weights, row by row that of the scores, then what they give to queries, keys
// and values. A thread owns outputs, never a part of a sum.
#pragma once

#include "../scores/dot.h"
#include "attention_forward.h"
#include "attention_gradients.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Score, class T>
struct AttentionBackward : PairGradients<Score, T> {
  using Pairs = PairGradients<Score, T>;
  using Pairs::all_keys, Pairs::panel, Pairs::L, Pairs::row;
  using Pairs::args, Pairs::g, Pairs::threads, Pairs::s, Pairs::padded, Pairs::parts, Pairs::ds, Pairs::partial;
  bool stepwise;
  int64_t value_padded = round_up(this->s.Dv, L), value_parts = this->feature_parts(column_blocks<T>(this->s.Dv));
  Pieces pieces = cut_pieces(this->s, value_padded* int64_t(sizeof(T)), this->threads);
  Pieces rows = row_pieces(this->s, this->args.alignment, has_history(), this->threads);

  T* row_sums;  // (B, Tq): of ds
  T* carry;  // (B, 2, Tk): of the weights of the query at hand and of the one before it, in turns
  T* all_values;  // (B, Tk, value_padded); stepwise only
  PerThread<T> query_rows, value_rows, scratch;
  HistoryBackward<T> history;
  Queue queue[4];  // one for each stage
  Barrier* barrier;

  // Stepwise: the queries come one after the other, from the last; only their gradients are wanted meanwhile.
  AttentionBackward(const AttentionArgs& args, const AttentionGradients& g, int threads, bool stepwise = false)
      : Pairs(args, g, threads), stepwise(stepwise) {}

  PYRNN_FN bool has_history() const { return args.history.filters > 0 || args.history.coverage; }
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
    panel = carver.take_per_thread<T>(threads, larger(larger(s.Tk, s.Tq) * panel_vectors * L, this->panel_size()));
    scratch = carver.take_per_thread<T>(threads, 2 * s.Tk);
    if (has_history()) history.carve_all(carver, args, threads);
    for (Queue& q : queue) q.carve(carver, threads);
    barrier = carver.take<Barrier>(1);
  }

  void prepare() {
    for (const Queue& q : queue) q.reset();
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
      for (int64_t j = 0; j < keys.size(); j++) prepare_row<Dot>(value + j * s.Dv, s.Dv, v_rows + j * value_padded);
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
    for (int64_t i = queries.end - 1; i >= queries.begin && !stopped(); i--)
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
      product_block(b, {i, i + 1}, keys, dcontext, static_cast<const T*>(args.value) + (b * s.Tk + keys.begin) * s.Dv);
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
          keys.size(),
          [&](int64_t j) { return Score::unit_rows && gradient[j] != 0 ? gradient[j] * k_size[j] : gradient[j]; },
          [&](int64_t j) { return key + j * s.D; }, s.D, dquery);
      if (Score::unit_rows) this->unit_row(query, static_cast<const T*>(args.query_size)[at], dquery);
    } else {
      this->additive_query(at, b * s.Tk + keys.begin, keys.size(), query_rows[thread]);
    }
  }

  void values(int thread, int64_t piece) const {
    const int64_t b = piece / value_parts;
    const Range blocks = part(column_blocks<T>(s.Dv), piece % value_parts, value_parts);
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    T* dvalue = static_cast<T*>(g.dvalue);
    const T* w = weights_row(row(b, 0)) + keys.begin;
    this->clear_rows(dvalue, s.Dv, b, keys, blocks, panel_vectors * L);
    const T* dcontext = static_cast<const T*>(g.dcontext) + row(b, 0) * s.Dv;
    weighted_sums<T>(
        keys.size(), s.Tq, [&](int64_t j) { return w + j; }, s.Tk, [&](int64_t i) { return dcontext + i * s.Dv; },
        nullptr, s.Dv, blocks, panel[thread], dvalue + (b * s.Tk + keys.begin) * s.Dv, s.Dv, false,
        written_around<T>(dvalue, s.B * s.Tk, s.Dv));
  }

  void work(int thread) {
    queue[0].run(thread, pieces.count(), [&](int64_t piece) { products(thread, piece); });
    barrier->wait(threads);
    queue[1].run(thread, rows.count(), [&](int64_t piece) { unalign_rows(thread, piece); });
    barrier->wait(threads);
    after_rows(thread);
  }

  // What is left once the gradients of all scores are there: those of values, keys and parameters.
  void after_rows(int thread) {
    queue[2].run(thread, s.B * value_parts, [&](int64_t piece) { values(thread, piece); });
    if (!has_history()) queue[3].run(thread, s.B * parts, [&](int64_t piece) { this->features(thread, piece); });
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
          sum_sequences(from + (1 + f) * padded, stride, mine,
                        [&](int64_t d) -> T& { return location[d * filters + f]; });
        if (args.history.coverage)
          sum_sequences(from + (1 + filters) * padded, stride, mine,
                        [&](int64_t d) -> T& { return static_cast<T*>(g.dcoverage)[d]; });
        const int64_t taps = filters * args.history.width;
        sum_sequences(history.filters, taps, part(taps, thread, threads),
                      [&](int64_t u) -> T& { return static_cast<T*>(g.dfilter)[u]; });
      }
    } else if constexpr (Score::unit_rows) {
      const Range mine = part(s.B, thread, threads);
      for (int64_t b = mine.begin; b < mine.end; b++) this->unit_rows(b);
    }
  }

  template <class Out>
  PYRNN_FN void sum_sequences(const T* from, int64_t stride, Range mine, const Out& out) const {
    for (int64_t d = mine.begin; d < mine.end; d += L) {
      const int64_t n = smaller(L, mine.end - d);
      Vec<T> sum{};
      for (int64_t b = 0; b < s.B; b++) sum += load_tail(from + b * stride + d, n);
      T sums[L];
      store_unaligned(sums, sum);
      for (int64_t i = 0; i < n; i++) out(d + i) = sums[i];
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
  const AttentionGradients none{};
  return most_workspace(threads, [&](int n) { return AttentionBackward<Score, T>(args, none, n).carve(nullptr); });
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
