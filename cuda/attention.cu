// SPDX-License-Identifier: Apache-2.0
// Attention: scores of tiles, softmax of rows, weighted sums; and the way back. Every number of an output is one
// thread's sum or a sum of parts in their order: no atomics, the same bits every time.
#include "attention_kernels.h"
#include "attention_pairs.h"
#include "attention_rows.h"
#include "attention_scores.h"
#include "carver.h"
#include "product.h"

namespace pyrnn {
namespace cuda {
namespace {

constexpr int groups = 32;  // of parts, where parts are summed in two stages

template <class Score, class T>
struct AttentionOf {
  using A = Accumulator<T>;
  using Pair = PairGradients<Score, T>;

  const Attention& a;
  const int64_t B = a.sizes.B, Tq = a.sizes.Tq, Tk = a.sizes.Tk, D = a.sizes.D, Dv = a.sizes.Dv;
  const int64_t tiles = blocks_of(Tk, Pair::keys);
  explicit AttentionOf(const Attention& a) : a(a) {}

  struct Kept {
    A *query_sizes = nullptr, *key_sizes = nullptr;
  };
  size_t carve_kept(void* memory, Kept& kept) const {
    Carver carver{static_cast<char*>(memory)};
    if constexpr (Score::limit[0] > 0) {
      kept.query_sizes = carver.take<A>(B * Tq);
      kept.key_sizes = carver.take<A>(B * Tk);
    }
    return carver.used;
  }

  // Numbers as exact as sums are turned into weights where they are.
  size_t forward_workspace() const { return sizeof(A) == sizeof(T) ? 0 : size_t(B * Tq * Tk) * sizeof(A); }

  struct Scratch {
    A *ds = nullptr, *dquery_parts = nullptr, *dweight_parts = nullptr, *dweight_groups = nullptr;
  };
  int64_t parts() const { return B * tiles; }
  int64_t padded_parts() const { return parts() > 2 * groups ? (parts() + groups - 1) / groups * groups : parts(); }
  size_t carve_scratch(void* memory, Scratch& scratch) const {
    Carver carver{static_cast<char*>(memory)};
    scratch.ds = carver.take<A>(B * Tq * Tk);
    if constexpr (!Score::product) {
      if (tiles > 1) scratch.dquery_parts = carver.take<A>(tiles * B * Tq * D);
      scratch.dweight_parts = carver.take<A>(padded_parts() * D);
      if (padded_parts() > parts() || parts() > 2 * groups) scratch.dweight_groups = carver.take<A>(groups * D);
    }
    return carver.used;
  }

  int memory(AttentionMemory* memory) const {
    Kept kept;
    Scratch scratch;
    *memory = {carve_kept(nullptr, kept), forward_workspace(), carve_scratch(nullptr, scratch)};
    return 0;
  }

  template <class Body, class Args>
  static int run(int64_t x, int64_t y, int64_t z, size_t shared, void* stream, const Args& args) {
    Launch shape;
    shape.x = x;
    shape.y = y;
    shape.z = z;
    shape.shared = shared;
    shape.stream = stream;
    return launch<Body>(shape, args);
  }

  static int32_t whole(const void* a, const void* b, int64_t D) {
    return D % 4 == 0 && (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % sizeof(Quad<T>) == 0;
  }

  template <class Of>
  int scores(const ScoreArgs<A>& args, void* stream) const {
    // One query: every thread has one row, and eight threads share its features.
    using Single = ScoreTile<Of, T, 1, 1, 8>;
    using Several = ScoreTile<Of, T, 4, 4, 2>;
    if (Tq == 1) return run<Single>(B, 1, blocks_of(Tk, Single::keys), Single::shared, stream, args);
    return run<Several>(B, blocks_of(Tq, Several::queries), blocks_of(Tk, Several::keys), Several::shared, stream,
                        args);
  }

  template <class W>
  int mix(const W* weight, int64_t row, int64_t column, const void* x, void* out, int64_t M, int64_t K, int64_t C,
          void* stream) const {
    using Body = WeightedSum<T, W>;
    if (K == 0) return fill_bytes(out, 0, size_t(B * M * C) * sizeof(T), stream);
    return run<Body>(
        B, blocks_of(M, Body::rows), blocks_of(C, Body::columns), Body::shared, stream,
        typename Body::Args{weight, Tq * Tk, row, column, static_cast<const T*>(x), static_cast<T*>(out), M, K, C});
  }

  int forward(const AttentionForward& call) const {
    Kept kept;
    if (call.kept) {
      // Tiles without a pair leave no sizes; the backward reads them all the same.
      if (const int error = fill_bytes(call.kept, 0, carve_kept(call.kept, kept), call.stream)) return error;
    }
    A* scores_at = static_cast<A*>(sizeof(A) == sizeof(T) ? call.weights : call.workspace);
    const ScoreArgs<A> args{a,
                            call.query,
                            call.key,
                            call.weight_score,
                            D,
                            scores_at,
                            whole(call.query, call.key, D),
                            kept.query_sizes,
                            kept.key_sizes};
    if (const int error = scores<Score>(args, call.stream)) return error;
    using Row = SoftmaxRow<T>;
    T* weights = static_cast<T*>(call.weights);
    if (Tk > 0)
      if (const int error = run<Row>(blocks_of(B * Tq, Row::threads / warp_lanes), 1, 1, 0, call.stream,
                                     typename Row::Args{scores_at, weights, B * Tq, Tk}))
        return error;
    return mix<T>(weights, Tk, 1, call.value, call.context, Tq, Tk, Dv, call.stream);
  }

  int backward(const AttentionBackward& call) const {
    Kept kept;
    Scratch scratch;
    carve_kept(const_cast<void*>(call.kept), kept);
    carve_scratch(call.workspace, scratch);
    const T* weights = static_cast<const T*>(call.weights);
    if (call.dcontext) {
      Attention plain = a;
      plain.mask = plain.bias = {};
      plain.scale = 1;
      const ScoreArgs<A> args{
          plain,   call.dcontext, call.value, nullptr, Dv, scratch.ds, whole(call.dcontext, call.value, Dv),
          nullptr, nullptr};
      if (const int error = scores<Dot>(args, call.stream)) return error;
      if (const int error = mix<T>(weights, 1, Tk, call.dcontext, call.dvalue, Tk, Tq, Dv, call.stream)) return error;
    } else if (const int error = fill_bytes(call.dvalue, 0, size_t(B * Tk * Dv) * sizeof(T), call.stream)) {
      return error;
    }
    using Row = SoftmaxRowBackward<T>;
    if (Tk > 0)
      if (const int error = run<Row>(blocks_of(B * Tq, Row::threads / warp_lanes), 1, 1, 0, call.stream,
                                     typename Row::Args{weights, static_cast<const T*>(call.dweights), scratch.ds,
                                                        call.dcontext != nullptr, A(a.scale), B * Tq, Tk}))
        return error;
    if constexpr (Score::product) {
      if (const int error = mix<A>(scratch.ds, Tk, 1, call.key, call.dquery, Tq, Tk, D, call.stream)) return error;
      return mix<A>(scratch.ds, 1, Tk, call.query, call.dkey, Tk, Tq, D, call.stream);
    } else {
      return pairs(call, kept, scratch);
    }
  }

  int pairs(const AttentionBackward& call, const Kept& kept, const Scratch& scratch) const {
    T* dquery = static_cast<T*>(call.dquery);
    if (parts() == 0) {
      if (const int error = fill_bytes(dquery, 0, size_t(B * Tq * D) * sizeof(T), call.stream)) return error;
      return fill_bytes(call.dweight_score, 0, size_t(D) * sizeof(T), call.stream);
    }
    const size_t padding = size_t((padded_parts() - parts()) * D) * sizeof(A);
    if (padding)
      if (const int error = fill_bytes(scratch.dweight_parts + parts() * D, 0, padding, call.stream)) return error;
    const PairArgs<T> args{a.sizes,
                           static_cast<const T*>(call.query),
                           static_cast<const T*>(call.key),
                           static_cast<const T*>(call.weight_score),
                           scratch.ds,
                           kept.query_sizes,
                           kept.key_sizes,
                           dquery,
                           static_cast<T*>(call.dkey),
                           scratch.dquery_parts,
                           scratch.dweight_parts};
    if (const int error = run<Pair>(B, blocks_of(D, warp_lanes), tiles, Pair::shared, call.stream, args)) return error;
    if (tiles > 1)
      if (const int error = sum<T>(scratch.dquery_parts, dquery, tiles, B * Tq * D, call.stream)) return error;
    if (!scratch.dweight_groups) return sum<T>(scratch.dweight_parts, call.dweight_score, parts(), D, call.stream);
    if (const int error = sum<A>(scratch.dweight_parts, scratch.dweight_groups, padded_parts() / groups, groups * D,
                                 call.stream))
      return error;
    return sum<T>(scratch.dweight_groups, call.dweight_score, groups, D, call.stream);
  }

  template <class To>
  static int sum(const A* partial, void* out, int64_t count, int64_t size, void* stream) {
    return run<Sum<To>>(blocks_of(size, Sum<To>::threads), 1, 1, 0, stream, SumArgs{partial, out, count, size});
  }
};

template <class Score, class T>
constexpr AttentionFunctions functions() {
  using Of = AttentionOf<Score, T>;
  return {[](const Attention& a, AttentionMemory* memory) { return Of(a).memory(memory); },
          [](const AttentionForward& call) { return Of(call.attention).forward(call); },
          [](const AttentionBackward& call) { return Of(call.attention).backward(call); }};
}

template <class Score>
const AttentionFunctions* functions_of(int number) {
  if constexpr (Score::unit_rows) {
    return nullptr;
  } else {
    static const AttentionFunctions all[] = {functions<Score, float>(), functions<Score, double>(),
                                             functions<Score, Bfloat16>(), functions<Score, Float16>()};
    return number >= 0 && number < number_count ? &all[number] : nullptr;
  }
}

}  // namespace

#define PYRNN_ENTRY(name, ...) name,
const char* const score_names[] = {PYRNN_SCORES(PYRNN_ENTRY)};
#undef PYRNN_ENTRY
const int score_count = int(sizeof score_names / sizeof *score_names);

const AttentionFunctions* attention_functions(int score, int number) {
#define PYRNN_ENTRY(name, ...) functions_of<__VA_ARGS__>,
  static const AttentionFunctions* (*const of[])(int number) = {PYRNN_SCORES(PYRNN_ENTRY)};
#undef PYRNN_ENTRY
  return of[score](number);
}

}  // namespace cuda
}  // namespace pyrnn
