// SPDX-License-Identifier: Apache-2.0
// What forward and backward of attention share: the pieces of work that threads take, and the weighted sums of rows.
#pragma once

#include "../kernels.h"
#include "align.h"
#include "barrier.h"
#include "gemm.h"
#include "parallel.h"
#include "queue.h"
#include "score_tile.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Arrays of more bytes come from main memory, whatever call there was before.
constexpr int64_t far_bytes = int64_t(16) << 20;

// Whether an array of rows is written past the caches: it does not fit there, and its rows are whole vectors.
template <class T>
PYRNN_FN bool written_around(const void* array, int64_t rows, int64_t columns) {
  return rows * columns * int64_t(sizeof(T)) > far_bytes && columns % lanes<T> == 0 &&
         reinterpret_cast<uintptr_t>(array) % vector_bytes == 0;
}

// A range of queries and a range of keys of one sequence: (B · query_parts · key_parts) pieces.
struct Pieces {
  int64_t B, Tq, Tk, query_parts, key_parts;
  PYRNN_FN int64_t count() const { return B * query_parts * key_parts; }
  PYRNN_FN int64_t batch(int64_t piece) const { return piece / (query_parts * key_parts); }
  PYRNN_FN int64_t query_part(int64_t piece) const { return piece / key_parts % query_parts; }
  PYRNN_FN int64_t key_part(int64_t piece) const { return piece % key_parts; }
  PYRNN_FN Range queries(int64_t piece) const { return part(Tq, query_part(piece), query_parts); }
  PYRNN_FN Range keys(int64_t piece) const { return part(Tk, key_part(piece), key_parts); }
  PYRNN_FN int64_t most_queries() const { return ceil_div(Tq, query_parts); }
  PYRNN_FN int64_t most_keys() const { return ceil_div(Tk, key_parts); }
};

// Rows that fit into a core's L2 with room to spare; a few pieces for each thread, of eight rows at least.
inline Pieces cut_pieces(const AttentionSizes& s, int64_t row_bytes, int threads) {
  const int64_t rows = larger(16, (384 << 10) / larger(row_bytes, 1));
  Pieces p{s.B, s.Tq, s.Tk, 1, 1};
  p.query_parts = larger(1, ceil_div(s.Tq, smaller(64, larger(8, rows / 2))));
  p.key_parts = larger(1, ceil_div(s.Tk, rows - smaller(p.most_queries(), rows / 2)));
  while (threads > 1 && p.count() < 4 * threads) {
    const bool keys = p.most_keys() >= p.most_queries();
    if ((keys ? p.most_keys() : p.most_queries()) < 16) break;
    (keys ? p.key_parts : p.query_parts) *= 2;
  }
  return p;
}

// The pieces of work on whole rows; rows that depend on the row before stay together.
inline Pieces row_pieces(const AttentionSizes& s, int alignment, bool history, int threads) {
  Pieces p{s.B, s.Tq, s.Tk, 1, 1};
  if (history || alignment == align_monotonic || alignment == align_hard_monotonic) return p;
  while (threads > 1 && p.count() < 4 * threads && p.most_queries() >= 16) p.query_parts *= 2;
  return p;
}

// A team may be smaller than the number of threads asked for, and fewer threads take larger pieces: what carve(threads)
// needs for any number of them.
template <class Carve>
size_t most_workspace(int threads, const Carve& carve) {
  size_t most = 0;
  for (int n = 1; n <= threads; n++) most = size_t(larger(int64_t(most), int64_t(carve(n))));
  return most;
}

// Estimated cycles of the scores: the bound of an AVX-512 core, and what it reads of new memory.
template <class Score, class T>
double pair_cycles(const AttentionSizes& s) {
  const double vectors = double(s.B) * double(ceil_div(s.D, lanes<T>));
  return vectors * (double(s.Tq * s.Tk) * (Score::product ? 0.5 : 2.5) + double(s.Tq + s.Tk) * 6) +
         double(s.B * s.Tk) * double(ceil_div(s.Dv, lanes<T>)) * (double(s.Tq) / 2 + 4);
}

PYRNN_FN Range row_bounds(const AttentionArgs& args, int64_t row) {
  const int64_t end = larger(0, smaller(args.bounds[2 * row + 1], args.sizes.Tk));
  return {smaller(larger(args.bounds[2 * row], 0), end), end};
}

// The keys that some of the queries attend to lie within this range, cut to `keys`.
PYRNN_FN Range attended(const int64_t* bounds, Range queries, Range keys) {
  Range range{keys.end, keys.begin};
  for (int64_t i = queries.begin; i < queries.end; i++) {
    const int64_t from = larger(bounds[2 * i], keys.begin), to = smaller(bounds[2 * i + 1], keys.end);
    if (from >= to) continue;
    range = {smaller(range.begin, from), larger(range.end, to)};
  }
  return range.begin < range.end ? range : Range{keys.begin, keys.begin};
}

// Scores, or products of gradients with values, of a block of queries with a block of keys.
template <class Score, class T>
struct ScoreBlock {
  const T *queries, *keys;          // prepared rows
  int64_t query_stride, key_stride;
  const T* weight;  // whole vectors
  int64_t padded;
  T* phi = nullptr;  // rows of D numbers, one for each key: φ of the only query
  int64_t D = 0;
  const FeaturePairs<T>* pairs = nullptr;  // with it: queries folded, and the sizes of all rows
  const T *folded = nullptr, *query_size = nullptr, *key_size = nullptr;
  const T *ahead = nullptr, *ahead_end = nullptr;  // in memory, what is read after this block

  // put(first query, queries, first key, keys, sums) for tiles of queries [0, nq) and keys [0, nk), where wanted(the
  // same); sums[a·tile_keys + b] is that of query a and key b of the tile.
  template <class Wanted, class Put>
  PYRNN_FN void run(int64_t nq, int64_t nk, const Wanted& wanted, const Put& put) const {
    const T* asked = ahead;
    const T size = pairs ? largest_size(query_size, nq) + largest_size(key_size, nk) : T(0);
    for (int64_t j = 0; j < nk; j += tile_keys) {
      const int n = int(smaller(tile_keys, nk - j));
      const T* k[tile_keys];
      for (int i = 0; i < tile_keys; i++) k[i] = keys + smaller(j + i, nk - 1) * key_stride;
      // Inlined, put() costs half: a few cycles a pair.
      run_tiles(nq, tile_queries, [&](int64_t first, int m) __attribute__((always_inline)) {
        if (!wanted(first, m, j, n)) return;
        const T* q[tile_queries];
        for (int i = 0; i < m; i++) q[i] = queries + (first + i) * query_stride;
        T sums[tile_queries * tile_keys];
        if (Score::weighted && phi) {
          T* kept[tile_keys];
          for (int i = 0; i < tile_keys; i++) kept[i] = phi + smaller(j + i, nk - 1) * D;
          score_tile<Score, T, 1, Score::weighted>(q, k, weight, padded, sums, kept, D);
        } else if (Score::pairs && pairs && size <= pairs->limit) {
          asked = tile_of_pairs(first, m, k, asked, sums);
        } else {
          with_constant<tile_queries>(
              m, [&](auto rows) { score_tile<Score, T, decltype(rows)::value>(q, k, weight, padded, sums); });
          if (Score::pairs && pairs) replace_near(first, m, j, n, k, sums);
        }
        put(first, m, j, n, sums);
      });
    }
  }

  // Asks for what is at `asked` meanwhile; returns where the next tile goes on.
  PYRNN_FN const T* tile_of_pairs(int64_t first, int m, const T* const* k, const T* asked, T* sums) const {
    if constexpr (Score::pairs) {
      const T* q[tile_queries];
      for (int i = 0; i < m; i++) q[i] = folded + (first + i) * query_stride;
      with_constant<tile_queries>(
          m, [&](auto rows) { pair_tile<Score, T, decltype(rows)::value>(*pairs, q, k, asked, sums); });
    }
    return asked && ahead_end - asked >= 4 * padded ? asked + 2 * padded : nullptr;
  }

  // Whether a pair's features go two at a time is up to the two rows alone, never to the others of a tile.
  __attribute__((noinline)) void replace_near(int64_t first, int m, int64_t j, int n, const T* const* k,
                                              T* sums) const {
    bool near[tile_queries * tile_keys] = {}, any = false;
    for (int a = 0; a < m; a++)
      for (int c = 0; c < n; c++)
        any |= near[a * tile_keys + c] = query_size[first + a] + key_size[j + c] <= pairs->limit;
    if (!any) return;
    T others[tile_queries * tile_keys];
    tile_of_pairs(first, m, k, nullptr, others);
    for (int i = 0; i < m * tile_keys; i++) sums[i] = near[i] ? others[i] : sums[i];
  }
};

// Vectors of columns that a panel has, rows that a tile of sums has.
constexpr int panel_vectors = 4, sum_rows = vector_registers == 32 ? 6 : 3;

// A block of columns of rows row(0) .. row(K - 1), each times scale[k] where there is one, as a panel [row][vectors of
// the block], zeros past the end; tells whether every number is finite. `asks`: for the next block too, in memory.
template <class T, class Row>
PYRNN_FN bool pack_panel(const Row& row, const T* scale, int64_t first, int64_t K, int64_t columns, int vectors,
                         T* panel, bool asks = true) {
  constexpr int L = lanes<T>;
  Vec<T> zero{};  // x - x is zero unless x is infinite or not a number
  for (int64_t k = 0; k < K; k++) {
    const T* from = row(k) + first;
    for (int v = 0; v < vectors; v++, panel += L) {
      const Vec<T> x = load_tail(from + v * L, columns - v * L);
      if (asks) prefetch(from + (panel_vectors + v) * L);
      zero += x - x;
      store(panel, scale ? x * scale[k] : x);
    }
  }
  return sum_of_lanes<T>(zero) == 0;
}

// A few rows of sums over one panel: out[m] = Σ_k x[m][k·stride] · panel[k], or added to it.
template <class T>
struct SumTile {
  const T* x[sum_rows];
  T* out[sum_rows];
  int64_t stride, K, columns;
  const T* panel;
  bool add;
  const T* next = nullptr;  // where row 0 of the next panel is in memory; others are next_stride apart
  int64_t next_stride = 0;
  bool around = false;  // past the caches; not with `add`
  int asked = 0, asks = 0;  // lines of every row that tiles before have asked for, and with this one
};

// Careful: a weight of zero takes no part, whatever the panel holds there.
template <class T, int NV, int MR, bool careful>
__attribute__((noinline)) void sum_tile(const SumTile<T>& tile) {
  constexpr int L = lanes<T>;
  Vec<T> a[MR][NV] = {};
  const T* x[MR];
  const T* panel = tile.panel;
  PYRNN_UNROLL for (int m = 0; m < MR; m++) x[m] = tile.x[m];
  const int64_t stride = tile.stride;
  for (int64_t k = 0; k < tile.K; k++, panel += NV * L) {
    Vec<T> b[NV];
    PYRNN_UNROLL for (int v = 0; v < NV; v++) b[v] = load(panel + v * L);
    for (int v = tile.asked; v < tile.asks; v++) prefetch(tile.next + k * tile.next_stride + v * L);
    PYRNN_UNROLL for (int m = 0; m < MR; m++) {
      const T weight = x[m][k * stride];
      if (careful && weight == 0) continue;
      PYRNN_UNROLL for (int v = 0; v < NV; v++) a[m][v] += broadcast(weight) * b[v];
    }
  }
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int v = 0; v < NV; v++) {
    T* out = tile.out[m] + v * L;
    if (tile.around) {
      store_around(out, a[m][v]);
      continue;
    }
    const int64_t n = tile.columns - v * L;
    prefetch(out + NV * L);  // the next block
    store_tail(out, tile.add ? load_tail(out, n) + a[m][v] : a[m][v], n);
  }
}

template <class T>
__attribute__((noinline)) void run_sum_tile(const SumTile<T>& tile, int rows, int vectors, bool careful) {
  with_constant<panel_vectors>(vectors, [&](auto v) {
    with_constant<sum_rows>(rows, [&](auto r) {
      if (careful)
        sum_tile<T, decltype(v)::value, decltype(r)::value, true>(tile);
      else
        sum_tile<T, decltype(v)::value, decltype(r)::value, false>(tile);
    });
  });
}

// One block of columns of out(m) = Σ_k x(m)[k·stride] · panel[k] for m < M. Few tiles share out the lines of the next
// panel in memory, where there is one: asked for all at once they would be waited for.
template <class T, class X, class Out>
PYRNN_FN void sum_block(int64_t M, int64_t K, const X& x, int64_t stride, const T* panel, int64_t columns,
                        const Out& out, bool add, bool careful, const T* next = nullptr, int64_t next_stride = 0,
                        bool around = false) {
  SumTile<T> tile{{}, {}, stride, K, columns, panel, add, next, next_stride, around};
  const int share = next ? int(ceil_div(panel_vectors, ceil_div(larger(M, 1), sum_rows))) : 0;
  run_tiles(M, sum_rows, [&](int64_t m, int n) {
    tile.asked = tile.asks;
    tile.asks = int(smaller(panel_vectors, tile.asks + share));
    for (int i = 0; i < n; i++) {
      tile.x[i] = x(m + i);
      tile.out[i] = out(m + i);
    }
    run_sum_tile(tile, n, int(ceil_div(columns, lanes<T>)), careful);
  });
}

// out (M, C), rows `out_stride` apart, = Σ_k x(m)[k·stride] · scale[k] · row(k) for k < K, rows evenly apart; columns
// in blocks of panel_vectors vectors, those in `blocks`. `panel` has room for K rows of a panel. `add`: added to out.
template <class T, class X, class Row>
PYRNN_FN void weighted_sums(int64_t M, int64_t K, const X& x, int64_t stride, const Row& row, const T* scale, int64_t C,
                            Range blocks, T* panel, T* out, int64_t out_stride, bool add = false, bool around = false) {
  constexpr int width = panel_vectors * lanes<T>;
  for (int64_t block = blocks.begin; block < blocks.end; block++) {
    const int64_t first = block * width, columns = smaller(width, C - first);
    if (stopped()) return;
    const bool few = M <= panel_vectors * sum_rows && K > 1 && block + 1 < blocks.end;
    const T* const next = few ? row(0) + first + width : nullptr;
    const bool finite = pack_panel(row, scale, first, K, columns, int(ceil_div(columns, lanes<T>)), panel, !next);
    sum_block(
        M, K, x, stride, panel, columns, [&](int64_t m) { return out + m * out_stride + first; }, add, !finite, next,
        next ? row(1) - row(0) : 0, around);
  }
  if (around) stored_around();
}

// out = Σ_k w(k) · row(k) over C columns for a single row of weights: nothing is packed, a weight of zero takes no
// part.
template <class T, class Weight, class Row>
PYRNN_FN void weighted_sum(int64_t K, const Weight& w, const Row& row, int64_t C, T* out) {
  constexpr int L = lanes<T>, NV = 8;
  for (int64_t first = 0; first < C; first += NV * L) {
    Vec<T> a[NV] = {};
    if (C - first >= NV * L) {
      for (int64_t k = 0; k < K; k++) {
        const T weight = w(k);
        if (weight == 0) continue;
        const T* from = row(k) + first;
        PYRNN_UNROLL for (int v = 0; v < NV; v++) a[v] += broadcast(weight) * load_unaligned(from + v * L);
      }
    } else {
      for (int64_t k = 0; k < K; k++) {
        const T weight = w(k);
        if (weight == 0) continue;
        const T* from = row(k) + first;
        for (int v = 0; first + v * L < C; v++) a[v] += broadcast(weight) * load_tail(from + v * L, C - first - v * L);
      }
    }
    for (int v = 0; v < NV && first + v * L < C; v++) store_tail(out + first + v * L, a[v], C - first - v * L);
  }
}

template <class T>
PYRNN_FN int64_t column_blocks(int64_t C) {
  return ceil_div(C, panel_vectors * lanes<T>);
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
