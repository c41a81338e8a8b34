// SPDX-License-Identifier: Apache-2.0
// Scores of a tile of queries with a tile of keys: the features go by in chunks through shared memory, every thread
// sums those of its own pairs in registers.
#pragma once

#include "../csrc/scores/registry.h"
#include "attention.h"

namespace pyrnn {
namespace cuda {

template <class A>
struct ScoreArgs {
  Attention attention;
  const void *query, *key, *weight;  // (B, Tq, D), (B, Tk, D), (D) or null
  int64_t D;
  int64_t first;  // tile of queries: others come before it
  A* scores;                     // (B, Tq, Tk); -inf where a pair is none
  int32_t whole;               // every row is a whole number of aligned fours
  A *query_sizes, *key_sizes;    // (B, Tq), (B, Tk): max |q_d| of each row; null: not wanted
};

// A thread has `rows` queries and 4 keys of every `slices`-th part of the features of a chunk; 16 x `groups` threads
// share such a part.
template <class Score, class T, int rows, int groups, int slices>
struct ScoreTile {
  using A = Accumulator<T>;
  using V = Value<A>;
  using Args = ScoreArgs<A>;
  static constexpr int key_groups = 16, columns = 4, chunk = 32;
  static constexpr int queries = rows * groups, keys = columns * key_groups, pairs = groups * key_groups;
  static constexpr int threads = pairs * slices;
  static constexpr bool independent = false;
  static constexpr bool limited = Score::limit[0] > 0;
  // Rows of a chunk are as long as a whole number of Fours.
  static constexpr int query_row = (queries + 3) / 4 * 4 + 4, key_row = keys + 4;
  // Eight threads load a row of a chunk, four features each.
  static constexpr int row_threads = chunk / 4, rows_at_once = threads / row_threads;
  static constexpr int query_turns = (queries + rows_at_once - 1) / rows_at_once, key_turns = keys / rows_at_once;

  struct Shared {
    alignas(16) A query[chunk * query_row];  // (chunk, query_row)
    alignas(16) A key[chunk * key_row];
    A weight[chunk];
    A parts[slices > 1 ? (slices - 1) * pairs * (rows * columns + 1) : 1];
    A query_size[queries], key_size[keys];
    int32_t beyond;
  };
  static constexpr size_t shared = sizeof(Shared);

  // What a thread sums: its pairs, and the weights of the features.
  struct Sums {
    A pair[rows][columns], weight;
  };

  // One side's rows of a chunk, feature by feature; `sizes` of what this thread reads of each row.
  template <class Form, bool measure, int turns>
  static PYRNN_FN void load(int thread, const T* data, int64_t first, int64_t count, int64_t D, int64_t d, int tile,
                            bool whole, A* to, int row_length, A (&sizes)[turns]) {
    const int feature = thread % row_threads * 4;
    PYRNN_UNROLL for (int turn = 0; turn < turns; turn++) {
      const int row = thread / row_threads + turn * rows_at_once;
      if (row >= tile) continue;
      const T* from = data + (first + row) * D + d + feature;
      Quad<T> quad{};
      if (first + row < count) {
        if (whole && d + feature < D)
          quad = *reinterpret_cast<const Quad<T>*>(from);
        else
          PYRNN_UNROLL for (int i = 0; i < 4; i++) if (d + feature + i < D) quad.at[i] = from[i];
      }
      PYRNN_UNROLL for (int i = 0; i < 4; i++) {
        const A x = widen(quad.at[i]);
        if (measure) sizes[turn] = larger_size(sizes[turn], x);
        to[(feature + i) * row_length + row] = number_of(Form::prepare(value_of(x)));
      }
    }
  }

  template <class Form, bool measure, class Context>
  static PYRNN_FN void sum(Context& context, const Args& args, int64_t b, int64_t first_query, int64_t first_key,
                           Sums& sums, A (&query_sizes)[query_turns], A (&key_sizes)[key_turns]) {
    Shared& s = *reinterpret_cast<Shared*>(context.shared);
    const AttentionSizes& n = args.attention.sizes;
    const int thread = context.thread;
    const int slice = thread / pairs, group = thread % pairs / key_groups, column = thread % key_groups * columns;
    const T* query = static_cast<const T*>(args.query) + b * n.Tq * args.D;
    const T* key = static_cast<const T*>(args.key) + b * n.Tk * args.D;
    sums = Sums{};
    for (int64_t d = 0; d < args.D; d += chunk) {
      context.barrier();
      load<Form, measure>(thread, query, first_query, n.Tq, args.D, d, queries, args.whole, s.query, query_row,
                          query_sizes);
      load<Form, measure>(thread, key, first_key, n.Tk, args.D, d, keys, args.whole, s.key, key_row, key_sizes);
      if constexpr (Form::weighted)
        if (thread < chunk)
          s.weight[thread] = d + thread < args.D ? A(widen(static_cast<const T*>(args.weight)[d + thread])) : A(0);
      context.barrier();
      PYRNN_SHORT for (int k = 0; k < chunk / slices; k++) {
        const int f = slice * (chunk / slices) + k;
        A q[rows];
        PYRNN_UNROLL for (int r = 0; r < rows; r++) q[r] = s.query[f * query_row + group * rows + r];
        const Four<A> keys_at = *reinterpret_cast<const Four<A>*>(s.key + f * key_row + column);
        A w = 1;
        if constexpr (Form::weighted) {
          w = s.weight[f];
          sums.weight += w;
        }
        PYRNN_UNROLL for (int r = 0; r < rows; r++) PYRNN_UNROLL for (int c = 0; c < columns; c++) {
          const A phi = number_of(Form::phi(value_of(q[r]), value_of(keys_at.at[c])));
          sums.pair[r][c] += Form::weighted ? w * phi : phi;
        }
      }
    }
    if constexpr (slices > 1) gather(context, s, sums);
    PYRNN_UNROLL for (int r = 0; r < rows; r++) PYRNN_UNROLL for (int c = 0; c < columns; c++) {
      const A sum = A(Form::factor) * sums.pair[r][c];
      sums.pair[r][c] = Form::offset == 0 ? sum : A(Form::offset) * sums.weight + sum;
    }
  }

  // The slices' sums, in their order, to the threads of the first slice.
  template <class Context>
  static PYRNN_FN void gather(Context& context, Shared& s, Sums& sums) {
    constexpr int count = rows * columns + 1;
    const int slice = context.thread / pairs, pair = context.thread % pairs;
    context.barrier();
    if (slice > 0) {
      A* to = s.parts + (slice - 1) * pairs * count + pair;
      PYRNN_UNROLL for (int i = 0; i < count - 1; i++) to[i * pairs] = sums.pair[i / columns][i % columns];
      to[(count - 1) * pairs] = sums.weight;
    }
    context.barrier();
    if (slice == 0)
      for (int part = 0; part < slices - 1; part++) {
        const A* from = s.parts + part * pairs * count + pair;
        PYRNN_UNROLL for (int i = 0; i < count - 1; i++) sums.pair[i / columns][i % columns] += from[i * pairs];
        sums.weight += from[(count - 1) * pairs];
      }
  }

  // The largest |x| of every row, to shared memory and to `out`, where every block writes the same.
  template <int turns, class Context>
  static PYRNN_FN void keep_sizes(Context& context, const A (&sizes)[turns], int tile, A* shared, A* out,
                                  int64_t count) {
    PYRNN_UNROLL for (int turn = 0; turn < turns; turn++) {
      const int row = context.thread / row_threads + turn * rows_at_once;
      A size = sizes[turn];
      PYRNN_UNROLL for (int mask = 1; mask < row_threads; mask *= 2) {
        const A other = from_lane(context, size, mask);
        size = other > size ? other : size;
      }
      if (row >= tile || context.thread % row_threads != 0) continue;
      shared[row] = size;
      if (out && row < count) out[row] = size;
    }
  }

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    Shared& s = *reinterpret_cast<Shared*>(context.shared);
    const Attention& a = args.attention;
    const int64_t Tq = a.sizes.Tq, Tk = a.sizes.Tk, b = context.block_x;
    const int64_t first_query = (args.first + context.block_y) * queries, first_key = int64_t(context.block_z) * keys;
    const int group = context.thread % pairs / key_groups, column = context.thread % key_groups * columns;
    Sums sums{};
    A query_sizes[query_turns] = {}, key_sizes[key_turns] = {};
    if (any_pair(a, b, first_query, first_key)) {
      if (context.thread == 0) s.beyond = 0;
      sum<Score, limited>(context, args, b, first_query, first_key, sums, query_sizes, key_sizes);
      if constexpr (limited) {
        keep_sizes(context, query_sizes, queries, s.query_size,
                   args.query_sizes ? args.query_sizes + b * Tq + first_query : nullptr, Tq - first_query);
        keep_sizes(context, key_sizes, keys, s.key_size, args.key_sizes ? args.key_sizes + b * Tk + first_key : nullptr,
                   Tk - first_key);
        context.barrier();
        constexpr A limit = A(Score::limit[sizeof(A) == 8]);
        PYRNN_UNROLL for (int r = 0; r < rows; r++)
            PYRNN_UNROLL for (int c = 0; c < columns;
                              c++) if (s.query_size[group * rows + r] + s.key_size[column + c] > limit) s.beyond = 1;
        context.barrier();
        if (s.beyond) {
          Sums direct;
          sum<typename Score::Fallback, false>(context, args, b, first_query, first_key, direct, query_sizes,
                                               key_sizes);
          PYRNN_UNROLL for (int r = 0; r < rows; r++)
              PYRNN_UNROLL for (int c = 0; c < columns;
                                c++) if (s.query_size[group * rows + r] + s.key_size[column + c] > limit)
                  sums.pair[r][c] = direct.pair[r][c];
        }
      }
    }
    if (context.thread >= pairs) return;
    PYRNN_UNROLL for (int r = 0; r < rows; r++) {
      const int64_t i = first_query + group * rows + r;
      if (i >= Tq) continue;
      const Keys attended = keys_of(a, b, i);
      PYRNN_UNROLL for (int c = 0; c < columns; c++) {
        const int64_t j = first_key + column + c;
        if (j >= Tk) continue;
        bool pair = j >= attended.begin && j < attended.end;
        if (pair && a.mask.data) pair = static_cast<const uint8_t*>(a.mask.data)[offset_of(a.mask, a, b, i, j)] != 0;
        A score = sums.pair[r][c] * A(a.scale);
        if (pair && a.bias.data) {
          const A bias = widen(static_cast<const T*>(a.bias.data)[offset_of(a.bias, a, b, i, j)]);
          pair = bias != minus_infinity<A>();
          score += bias;
        }
        args.scores[(b * Tq + i) * Tk + j] = pair ? score : minus_infinity<A>();
      }
    }
  }

  // Whether lengths, causality and window leave a pair of this tile.
  static PYRNN_FN bool any_pair(const Attention& a, int64_t b, int64_t first_query, int64_t first_key) {
    for (int r = 0; r < queries && first_query + r < a.sizes.Tq; r++) {
      const Keys attended = keys_of(a, b, first_query + r);
      if (most(attended.begin, first_key) < least(attended.end, first_key + keys)) return true;
    }
    return false;
  }
};

}  // namespace cuda
}  // namespace pyrnn
