// SPDX-License-Identifier: Apache-2.0
// What the gradients of scores give to queries, keys and weights of features, for scores that are no product.
#pragma once

#include "../csrc/scores/registry.h"
#include "attention.h"

namespace pyrnn {
namespace cuda {

template <class T>
struct PairArgs {
  using A = Accumulator<T>;
  AttentionSizes sizes;
  int64_t rows;  // of queries from one sequence to the next
  const T *query, *key, *weight;
  const A *ds, *query_sizes, *key_sizes;  // (B, rows, Tk), and as ScoreTile leaves them
  T *dquery, *dkey;  // null: not wanted
  A* dquery_parts;   // (tiles of keys, B, Tq, D) where there are several, instead of dquery
  A* dweight_parts;  // (B · tiles of keys, D), or null
};

// A block has 32 features of a tile of keys of one sequence and meets the queries four at a time. A lane has a feature,
// a warp every fourth key: every sum is one thread's, or of the four warps in their order.
template <class Score, class T>
struct PairGradients {
  using A = Accumulator<T>;
  using V = Value<A>;
  using Args = PairArgs<T>;
  static constexpr int keys = 64, queries = 4, threads = 128, warps = threads / warp_lanes;
  static constexpr bool independent = false;

  struct Shared {
    alignas(16) A ds[keys * queries];  // (keys, queries)
    A key[keys * warp_lanes];          // (keys, features), prepared
    A dkey[keys * warp_lanes];
    A dquery[warps * queries * warp_lanes], dweight[warps * warp_lanes];
    A key_size[keys];
  };
  static constexpr size_t shared = sizeof(Shared);

  // A group of queries as a lane sees it.
  struct Group {
    A raw[queries], prepared[queries], size[queries], dquery[queries];
  };

  // Adds what the pair gives; returns what the key gets.
  template <class Form>
  static PYRNN_FN A pair(A ds, A q, A k, A& dquery, A& dweight) {
    const V phi = Form::phi(value_of(q), value_of(k));
    const A slope = ds == 0 ? A(0)
                            : ds * number_of(Form::slope(phi)) * (A(Form::slope_factor) / A(Score::slope_factor));
    const A value = A(Form::offset) + A(Form::factor) * number_of(phi);
    dquery += slope;
    dweight += ds == 0 ? A(0) : ds * value;
    return slope;
  }

  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    Shared& s = *reinterpret_cast<Shared*>(context.shared);
    const AttentionSizes& n = args.sizes;
    const int64_t b = context.block_x, tile = context.block_z, first_key = tile * keys;
    const int64_t d = int64_t(context.block_y) * warp_lanes + context.lane();
    const bool there = d < n.D;
    const int thread = context.thread, lane = context.lane(), warp = thread / warp_lanes;
    const T* key = args.key + b * n.Tk * n.D;
    constexpr A limit = A(Score::limit[sizeof(A) == 8]);
    const int count = int(least(n.Tk - first_key, keys));

    for (int j = warp; j < keys; j += warps) {
      const A k = there && j < count ? A(widen(key[(first_key + j) * n.D + d])) : A(0);
      s.key[j * warp_lanes + lane] = number_of(Score::prepare(value_of(k)));
      s.dkey[j * warp_lanes + lane] = 0;
    }
    if (thread < keys) s.key_size[thread] = thread < count ? args.key_sizes[b * n.Tk + first_key + thread] : A(0);

    A dweight = 0;
    for (int64_t i = 0; i < n.Tq; i += queries) {
      context.barrier();
      for (int at = thread; at < keys * queries; at += threads) {
        const int j = at % keys, r = at / keys;
        const bool some = j < count && i + r < n.Tq;
        s.ds[j * queries + r] = some ? args.ds[(b * args.rows + i + r) * n.Tk + first_key + j] : A(0);
      }
      context.barrier();
      Group g;
      A largest = 0;
      PYRNN_UNROLL for (int r = 0; r < queries; r++) {
        const bool some = i + r < n.Tq;
        g.raw[r] = there && some ? A(widen(args.query[(b * args.rows + i + r) * n.D + d])) : A(0);
        g.prepared[r] = number_of(Score::prepare(value_of(g.raw[r])));
        g.size[r] = some ? args.query_sizes[b * args.rows + i + r] : A(0);
        largest = larger_size(largest, g.size[r]);
        g.dquery[r] = 0;
      }
      for (int j = warp; j < count; j += warps) {
        const Four<A> ds = *reinterpret_cast<const Four<A>*>(s.ds + j * queries);
        if (ds.at[0] == 0 && ds.at[1] == 0 && ds.at[2] == 0 && ds.at[3] == 0) continue;
        const A k = s.key[j * warp_lanes + lane], size = s.key_size[j];
        A dkey = 0;
        if (size + largest <= limit) {
          PYRNN_UNROLL for (int r = 0; r < queries; r++)
              dkey += pair<Score>(ds.at[r], g.prepared[r], k, g.dquery[r], dweight);
        } else {
          const A raw = there ? A(widen(key[(first_key + j) * n.D + d])) : A(0);
          PYRNN_UNROLL for (int r = 0; r < queries; r++)
              dkey += size + g.size[r] <= limit
                          ? pair<Score>(ds.at[r], g.prepared[r], k, g.dquery[r], dweight)
                          : pair<typename Score::Fallback>(ds.at[r], g.raw[r], raw, g.dquery[r], dweight);
        }
        s.dkey[j * warp_lanes + lane] += dkey;
      }
      PYRNN_UNROLL for (int r = 0; r < queries; r++) s.dquery[(warp * queries + r) * warp_lanes + lane] = g.dquery[r];
      context.barrier();
      if (i + warp < n.Tq && there) {
        static_assert(warps == queries, "warp r writes query r");
        A sum = 0;
        PYRNN_UNROLL for (int w = 0; w < warps; w++) sum += s.dquery[(w * queries + warp) * warp_lanes + lane];
        sum *= factor(args, d);
        if (args.dquery_parts)
          args.dquery_parts[((tile * n.B + b) * n.Tq + i + warp) * n.D + d] = sum;
        else if (args.dquery)
          args.dquery[(b * args.rows + i + warp) * n.D + d] = Narrow<T>::from(sum);
      }
    }
    s.dweight[warp * warp_lanes + lane] = dweight;
    context.barrier();
    if (!there) return;
    for (int j = warp; args.dkey && j < count; j += warps)
      args.dkey[(b * n.Tk + first_key + j) * n.D + d] = Narrow<T>::from(s.dkey[j * warp_lanes + lane] *
                                                                        factor(args, d));
    if (warp == 0 && args.dweight_parts) {
      A sum = 0;
      PYRNN_UNROLL for (int w = 0; w < warps; w++) sum += s.dweight[w * warp_lanes + lane];
      args.dweight_parts[(tile * n.B + b) * n.D + d] = sum;
    }
  }

  static PYRNN_FN A factor(const Args& args, int64_t d) { return widen(args.weight[d]) * A(Score::slope_factor); }
};

}  // namespace cuda
}  // namespace pyrnn
