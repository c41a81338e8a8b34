// SPDX-License-Identifier: Apache-2.0
// Attention, forward: scores of every pair into the array of weights, then row by row the alignment, then the weighted
// sums of values. The tensor of pairs by features never exists.
#pragma once

#include "attention.h"
#include "attention_history.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Score, class T>
struct AttentionForward {
  static constexpr int L = lanes<T>;
  const AttentionArgs& args;
  int threads;
  bool stepwise;
  AttentionSizes s = args.sizes;
  int64_t padded = round_up(s.D, L);
  Pieces pieces = cut_pieces(s, padded* int64_t(sizeof(T)), threads);
  Pieces rows = row_pieces(s, args.alignment, has_history(), threads);
  T sum_of_weights = 0;

  T* weight;  // weight_score in whole vectors
  FeaturePairs<T> pairs;  // with more than one query: what φ is kept of has it feature by feature
  T* all_keys;  // (B, Tk, padded), prepared; stepwise only
  PerThread<T> query_rows, folded_rows, key_rows, query_size, key_size, panel, scratch;
  HistoryForward<T> history;
  Queue score_queue, row_queue;
  Barrier* barrier;

  // Stepwise: the queries come one after the other (a decoder's), and all the keys are prepared before.
  AttentionForward(const AttentionArgs& args, int threads, bool stepwise = false)
      : args(args), threads(threads), stepwise(stepwise) {}

  PYRNN_FN bool has_history() const { return args.history.filters > 0 || args.history.coverage; }
  PYRNN_FN bool has_pairs() const { return Score::pairs && !has_history() && s.Tq > 1; }
  PYRNN_FN int64_t row(int64_t b, int64_t i) const { return b * s.Tq + i; }
  PYRNN_FN T* weights_row(int64_t b, int64_t i) const { return static_cast<T*>(args.weights) + row(b, i) * s.Tk; }

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    carve(carver);
    return carver.used;
  }
  void carve(Carver& carver) {
    weight = carver.take<T>(padded);
    pairs.inverse = carver.take<T>(has_pairs() ? padded : 0);
    all_keys = carver.take<T>(stepwise && !has_history() ? s.B * s.Tk * padded : 0);
    query_rows = carver.take_per_thread<T>(threads, stepwise ? padded : pieces.most_queries() * padded);
    folded_rows = carver.take_per_thread<T>(threads, !has_pairs() ? 0
                                                     : stepwise   ? padded
                                                                  : pieces.most_queries() * padded);
    key_rows = carver.take_per_thread<T>(threads, stepwise ? 0 : pieces.most_keys() * padded);
    query_size = carver.take_per_thread<T>(threads, pieces.most_queries());
    key_size = carver.take_per_thread<T>(threads, pieces.most_keys());
    panel = carver.take_per_thread<T>(threads, stepwise ? 0 : s.Tk * panel_vectors * L);
    scratch = carver.take_per_thread<T>(threads, s.Tk);
    if (has_history()) history.carve(carver, args, threads);
    score_queue.carve(carver, threads);
    row_queue.carve(carver, threads);
    barrier = carver.take<Barrier>(1);
  }

  void prepare() {
    score_queue.reset();
    row_queue.reset();
    *barrier = Barrier{};
    if (has_history()) history.prepare();
    if constexpr (Score::weighted) {
      const T* w = static_cast<const T*>(args.weight_score);
      Vec<T> sum{};
      for (int64_t d = 0; d < s.D; d += L) {
        const Vec<T> x = load_tail(w + d, s.D - d);
        store(weight + d, x);
        sum += x;
      }
      sum_of_weights = sum_of_lanes<T>(sum);
      if (has_pairs()) pairs.template prepare<Score>(weight, s.D, padded);
    }
  }

  PYRNN_FN bool pair_wanted(const uint8_t* mask, const int64_t* bounds, int64_t i, int64_t j) const {
    return j >= bounds[2 * i] && j < bounds[2 * i + 1] && (!mask || mask[i * s.Tk + j]);
  }

  // The scores of a piece, where a mask does not leave them out. What stands at other places of a row is not read.
  void scores(int thread, int64_t piece) const {
    const int64_t b = pieces.batch(piece);
    const Range queries = pieces.queries(piece);
    const int64_t* bounds = args.bounds + row(b, 0) * 2;
    // The first part of the queries leaves the sizes of all the keys that backward needs.
    const bool leaves_sizes = pieces.query_part(piece) == 0;
    const Range keys = attended(bounds, leaves_sizes ? Range{0, s.Tq} : queries, pieces.keys(piece));
    T *q_rows = query_rows[thread], *k_rows = key_rows[thread], *q_size = query_size[thread],
      *k_size = key_size[thread];
    const T* q = static_cast<const T*>(args.query) + row(b, queries.begin) * s.D;
    const T* k = static_cast<const T*>(args.key) + (b * s.Tk + keys.begin) * s.D;
    T* q_sizes = static_cast<T*>(args.query_size) + row(b, queries.begin);
    T* k_sizes = static_cast<T*>(args.key_size) + b * s.Tk + keys.begin;
    for (int64_t i = 0; i < queries.size(); i++) {
      q_size[i] = prepare_row<Score>(q + i * s.D, s.D, q_rows + i * padded);
      if (has_pairs()) pairs.fold(q_rows + i * padded, folded_rows[thread] + i * padded);
    }
    for (int64_t j = 0; j < keys.size(); j++) k_size[j] = prepare_row<Score>(k + j * s.D, s.D, k_rows + j * padded);
    if (pieces.key_part(piece) == 0)
      for (int64_t i = 0; i < queries.size(); i++) q_sizes[i] = q_size[i];
    if (leaves_sizes) {
      T* all = static_cast<T*>(args.key_size) + b * s.Tk;
      for (int64_t j = pieces.keys(piece).begin; j < pieces.keys(piece).end; j++) all[j] = 0;
      for (int64_t j = 0; j < keys.size(); j++) k_sizes[j] = k_size[j];
    }
    T* const phi = Score::weighted && s.Tq == 1 && args.phi ? static_cast<T*>(args.phi) + (b * s.Tk + keys.begin) * s.D
                                                            : nullptr;
    score_block(thread, b, queries, keys, q_rows, k_rows, q_size, k_size, next_keys(piece), phi);
  }

  // The keys that a thread reads next, where they come from main memory; elsewhere asking costs more than it saves.
  PYRNN_FN const T* next_keys(int64_t piece) const {
    const bool far = s.B * s.Tk * s.D * int64_t(sizeof(T)) > far_bytes && pieces.query_parts == 1;
    if (!far || piece + 1 >= pieces.count()) return nullptr;
    return static_cast<const T*>(args.key) + (pieces.batch(piece + 1) * s.Tk + pieces.keys(piece + 1).begin) * s.D;
  }

  // The score of a pair from its sum, or in the form that holds everywhere where the sizes are beyond the limit.
  PYRNN_FN void put(int64_t b, int64_t i, int64_t j, T sum, T q_size, T k_size) const {
    const T limit = T(Score::limit[sizeof(T) == sizeof(double)]);
    weights_row(b, i)[j] = limit == 0 || q_size + k_size <= limit
                               ? Score::offset * sum_of_weights + Score::factor * sum
                               : single(static_cast<const T*>(args.query) + row(b, i) * s.D,
                                        static_cast<const T*>(args.key) + (b * s.Tk + j) * s.D);
  }

  // The scores of prepared queries and keys of a sequence, in the other form where they are beyond the limit of theirs.
  // With `phi`, backward takes all keys, those that a mask leaves out with a gradient of zero.
  void score_block(int thread, int64_t b, Range queries, Range keys, const T* q_rows, const T* k_rows, const T* q_size,
                   const T* k_size, const T* ahead = nullptr, T* phi = nullptr) const {
    const int64_t* bounds = args.bounds + row(b, 0) * 2;
    const uint8_t* mask = args.mask ? args.mask + row(b, 0) * s.Tk : nullptr;
    ScoreBlock<Score, T> block{q_rows, k_rows, padded, padded, weight, padded, phi, s.D};
    if (has_pairs()) {
      block.pairs = &pairs;
      block.folded = folded_rows[thread];
      block.query_size = q_size;
      block.key_size = k_size;
      block.ahead = ahead;
      block.ahead_end = ahead ? ahead + pieces.most_keys() * s.D : nullptr;
    }
    block.run(
        queries.size(), keys.size(),
        [&](int64_t first, int m, int64_t j, int n) {
          if (phi) return true;
          for (int a = 0; a < m; a++)
            for (int c = 0; c < n; c++)
              if (pair_wanted(mask, bounds, queries.begin + first + a, keys.begin + j + c)) return true;
          return false;
        },
        [&](int64_t first, int m, int64_t j, int n, const T* sums) {
          for (int a = 0; a < m; a++)
            for (int c = 0; c < n; c++)
              put(b, queries.begin + first + a, keys.begin + j + c, sums[a * tile_keys + c], q_size[first + a],
                  k_size[j + c]);
        });
  }

  // One pair in the form that holds everywhere.
  T single(const T* q, const T* k) const {
    using Fallback = typename Score::Fallback;
    Vec<T> sum{};
    for (int64_t d = 0; d < s.D; d += L)
      sum += load(weight + d) * Fallback::phi(load_tail(q + d, s.D - d), load_tail(k + d, s.D - d));
    return sum_of_lanes<T>(sum);
  }

  // A row of scores becomes a row of weights; -inf where there is no pair, zero outside of the bounds.
  void align(int64_t b, int64_t i, T* scratch) const {
    const int64_t at = row(b, i);
    const Range keys = row_bounds(args, at);
    T* w = weights_row(b, i);
    const uint8_t* mask = args.mask ? args.mask + at * s.Tk : nullptr;
    const T* bias = args.bias ? static_cast<const T*>(args.bias) + at * s.Tk : nullptr;
    const T scale = T(args.scale);
    for (int64_t j = 0; j < keys.begin; j++) w[j] = 0;
    for (int64_t j = keys.end; j < s.Tk; j++) w[j] = 0;
    if (bias) {
      for (int64_t j = keys.begin; j < keys.end; j++)
        w[j] = bias[j] == masked_score<T>() || (mask && !mask[j]) ? masked_score<T>() : w[j] * scale + bias[j];
    } else if (mask) {
      for (int64_t j = keys.begin; j < keys.end; j++) w[j] = mask[j] ? w[j] * scale : masked_score<T>();
    } else {
      for (int64_t j = keys.begin; j < keys.end; j++) w[j] *= scale;
    }
    T* const first = w + keys.begin;
    if (args.alignment == align_softmax) {
      softmax_row(first, keys.size());
    } else if (args.alignment == align_sparsemax) {
      sparsemax_row(first, keys.size());
    } else {
      T* p = args.kept ? static_cast<T*>(args.kept) + at * s.Tk : scratch;
      for (int64_t j = 0; j < s.Tk; j++) p[j] = 0;
      choice_row(first, p + keys.begin, keys.size(), args.alignment == align_hard_monotonic);
      const T* previous = i > 0 ? w - s.Tk : static_cast<const T*>(args.previous);
      if (i == 0 && previous) previous += b * s.Tk;
      monotonic_row(p, previous, w, s.Tk);
    }
    if (args.center) {
      if (args.kept)
        for (int64_t j = 0; j < s.Tk; j++) static_cast<T*>(args.kept)[at * s.Tk + j] = w[j];
      gaussian_row(first, keys, static_cast<const T*>(args.center)[at], T(args.sigma));
    }
  }

  // The rows of a piece from scores to weights, and their contexts.
  void finish_rows(int thread, int64_t piece) {
    const int64_t b = rows.batch(piece);
    const Range queries = rows.queries(piece);
    for (int64_t i = queries.begin; i < queries.end; i++) {
      if (stopped()) return;
      if (has_history()) history.scores(thread, b, i, weights_row(b, i));
      align(b, i, scratch[thread]);
    }
    const Range keys = attended(args.bounds + row(b, 0) * 2, queries, {0, s.Tk});
    const T* w = weights_row(b, queries.begin) + keys.begin;
    const T* value = static_cast<const T*>(args.value) + (b * s.Tk + keys.begin) * s.Dv;
    T* context = static_cast<T*>(args.context) + row(b, queries.begin) * s.Dv;
    const auto value_row = [&](int64_t k) { return value + k * s.Dv; };
    if (queries.size() == 1)
      weighted_sum<T>(keys.size(), [&](int64_t k) { return w[k]; }, value_row, s.Dv, context);
    else
      weighted_sums<T>(
          queries.size(), keys.size(), [&](int64_t m) { return w + m * s.Tk; }, 1, value_row, nullptr, s.Dv,
          {0, column_blocks<T>(s.Dv)}, panel[thread], context, s.Dv);
  }

  // Stepwise: before the queries of sequence b.
  void prepare_keys(int64_t b) const {
    const Range keys = attended(args.bounds + row(b, 0) * 2, {0, s.Tq}, {0, s.Tk});
    const T* k = static_cast<const T*>(args.key) + b * s.Tk * s.D;
    T* sizes = static_cast<T*>(args.key_size) + b * s.Tk;
    for (int64_t j = 0; j < s.Tk; j++)
      sizes[j] = j >= keys.begin && j < keys.end
                     ? prepare_row<Score>(k + j * s.D, s.D, all_keys + (b * s.Tk + j) * padded)
                     : T(0);
  }

  // Stepwise: query i of sequence b, which stands in its place of args.query now.
  void step(int thread, int64_t b, int64_t i) const {
    const Range keys = row_bounds(args, row(b, i));
    T* w = weights_row(b, i);
    if (has_history()) {
      history.scores(thread, b, i, w);
    } else {
      T* q_row = query_rows[thread];
      T* q_size = static_cast<T*>(args.query_size) + row(b, i);
      *q_size = prepare_row<Score>(static_cast<const T*>(args.query) + row(b, i) * s.D, s.D, q_row);
      if (has_pairs()) pairs.fold(q_row, folded_rows[thread]);
      score_block(thread, b, {i, i + 1}, keys, q_row, all_keys + (b * s.Tk + keys.begin) * padded, q_size,
                  static_cast<const T*>(args.key_size) + b * s.Tk + keys.begin);
    }
    align(b, i, scratch[thread]);
    const T* value = static_cast<const T*>(args.value) + b * s.Tk * s.Dv;
    weighted_sum<T>(
        keys.size(), [&](int64_t k) { return w[keys.begin + k]; },
        [&](int64_t k) { return value + (keys.begin + k) * s.Dv; }, s.Dv,
        static_cast<T*>(args.context) + row(b, i) * s.Dv);
  }

  void work(int thread) {
    if (!has_history()) score_queue.run(thread, pieces.count(), [&](int64_t piece) { scores(thread, piece); });
    barrier->wait(threads);
    row_queue.run(thread, rows.count(), [&](int64_t piece) { finish_rows(thread, piece); });
  }
};

template <class Score, class T>
size_t attention_forward_workspace(const AttentionArgs& args, int threads) {
  return most_workspace(threads, [&](int n) { return AttentionForward<Score, T>(args, n).carve(nullptr); });
}

template <class Score, class T>
void attention_forward(const AttentionArgs& args, int threads) {
  const int wanted = pair_cycles<Score, T>(args.sizes) > 2 * start_cycles() ? threads : 1;
  Team team(wanted);
  AttentionForward<Score, T> call(args, team.size());
  call.carve(args.workspace);
  call.prepare();
  team.run([](void* context, int thread, int) { static_cast<AttentionForward<Score, T>*>(context)->work(thread); },
           &call);
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
