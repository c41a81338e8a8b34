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

  // The query `only` of every sequence alone, where it is not negative; Tq is how many then, out of `rows`.
  const Attention& a;
  const int64_t only, rows = a.sizes.Tq;
  const int64_t B = a.sizes.B, Tq = only < 0 ? rows : 1, Tk = a.sizes.Tk, D = a.sizes.D, Dv = a.sizes.Dv;
  const int64_t tiles = blocks_of(Tk, Pair::keys);
  explicit AttentionOf(const Attention& a, int64_t only = -1) : a(a), only(only) {}

  // What belongs to the first query, in an array of `size` numbers a query.
  template <class N>
  N* first(N* data, int64_t size) const {
    return data && only > 0 ? data + only * size : data;
  }
  const T* numbers(const void* data, int64_t size) const { return first(static_cast<const T*>(data), size); }
  T* numbers(void* data, int64_t size) const { return first(static_cast<T*>(data), size); }

  struct Kept {
    A *query_sizes = nullptr, *key_sizes = nullptr;
  };
  size_t carve_kept(void* memory, Kept& kept) const {
    Carver carver{static_cast<char*>(memory)};
    if constexpr (Score::limit[0] > 0) {
      kept.query_sizes = carver.take<A>(B * rows);
      kept.key_sizes = carver.take<A>(B * Tk);
    }
    return carver.used;
  }

  // Numbers as exact as sums are turned into weights where they are.
  size_t forward_workspace() const { return sizeof(A) == sizeof(T) ? 0 : size_t(B * rows * Tk) * sizeof(A); }

  struct Scratch {
    A *ds = nullptr, *dquery_parts = nullptr, *dweight_parts = nullptr, *dweight_groups = nullptr;
  };
  int64_t parts() const { return B * tiles; }
  int64_t padded_parts() const { return parts() > 2 * groups ? (parts() + groups - 1) / groups * groups : parts(); }
  size_t carve_scratch(void* memory, Scratch& scratch) const {
    Carver carver{static_cast<char*>(memory)};
    scratch.ds = carver.take<A>(B * rows * Tk);
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

  // out (B, M, C), `distance` from one sequence to the next.
  template <class W>
  int mix(const W* weight, int64_t row, int64_t column, const void* x, void* out, int64_t M, int64_t K, int64_t C,
          int64_t distance, void* stream) const {
    using Body = WeightedSum<T, W>;
    return run<Body>(B, blocks_of(M, Body::rows), blocks_of(C, Body::columns), Body::shared, stream,
                     typename Body::Args{weight, rows * Tk, row, column, static_cast<const T*>(x), static_cast<T*>(out),
                                         M, K, C, distance});
  }

  // Tiles without a pair leave no sizes; the backward reads them all the same.
  int start(const AttentionForward& call) const {
    Kept kept;
    return call.kept ? fill_bytes(call.kept, 0, carve_kept(call.kept, kept), call.stream) : 0;
  }

  int forward(const AttentionForward& call) const {
    if (const int error = start(call)) return error;
    return attend(call, call.context, Tq * Dv);
  }

  // The contexts of a sequence lie `distance` after those of the one before.
  int attend(const AttentionForward& call, void* context, int64_t distance) const {
    Kept kept;
    if (call.kept) carve_kept(call.kept, kept);
    A* scores_at = static_cast<A*>(sizeof(A) == sizeof(T) ? call.weights : call.workspace);
    const ScoreArgs<A> args{a,
                            call.query,
                            call.key,
                            call.weight_score,
                            D,
                            only < 0 ? 0 : only,
                            scores_at,
                            whole(call.query, call.key, D),
                            kept.query_sizes,
                            kept.key_sizes};
    if (const int error = scores<Score>(args, call.stream)) return error;
    using Row = SoftmaxRow<T>;
    T* weights = numbers(call.weights, Tk);
    if (Tk > 0)
      if (const int error = run<Row>(blocks_of(B * Tq, Row::threads / warp_lanes), 1, 1, 0, call.stream,
                                     typename Row::Args{first(scores_at, Tk), weights, B * Tq, Tk, row_distance()}))
        return error;
    return mix<T>(weights, Tk, 1, call.value, context, Tq, Tk, Dv, distance, call.stream);
  }

  // Between the rows of weights, of all queries or of one of each sequence.
  int64_t row_distance() const { return Tq == rows ? Tk : rows * Tk; }

  int backward(const AttentionBackward& call) const {
    if (const int error = scores_backward(call)) return error;
    if (const int error = values_backward(call)) return error;
    if constexpr (Score::product) {
      if (const int error = query_backward(call)) return error;
      return key_backward(call);
    } else {
      return pairs(call, call.dquery, call.dkey, call.dweight_score);
    }
  }

  // What a step needs of its query before it knows those of the steps before.
  int step_backward(const AttentionBackward& call) const {
    if (const int error = scores_backward(call)) return error;
    if constexpr (Score::product) {
      return query_backward(call);
    } else {
      return pairs(call, call.dquery, nullptr, nullptr);
    }
  }
  // And what is left when all steps are done.
  int rest_backward(const AttentionBackward& call) const {
    if (const int error = values_backward(call)) return error;
    if constexpr (Score::product) {
      return key_backward(call);
    } else {
      return pairs(call, nullptr, call.dkey, call.dweight_score);
    }
  }

  // The gradients of the scores.
  int scores_backward(const AttentionBackward& call) const {
    Scratch scratch;
    carve_scratch(call.workspace, scratch);
    if (call.dcontext) {
      Attention plain = a;
      plain.mask = plain.bias = {};
      plain.scale = 1;
      const ScoreArgs<A> args{plain,      call.dcontext,
                              call.value, nullptr,
                              Dv,         only < 0 ? 0 : only,
                              scratch.ds, whole(call.dcontext, call.value, Dv),
                              nullptr,    nullptr};
      if (const int error = scores<Dot>(args, call.stream)) return error;
    }
    using Row = SoftmaxRowBackward<T>;
    if (Tk == 0) return 0;
    return run<Row>(blocks_of(B * Tq, Row::threads / warp_lanes), 1, 1, 0, call.stream,
                    typename Row::Args{numbers(call.weights, Tk), numbers(call.dweights, Tk), first(scratch.ds, Tk),
                                       call.dcontext != nullptr, A(a.scale), B * Tq, Tk, row_distance()});
  }

  int values_backward(const AttentionBackward& call) const {
    if (!call.dcontext) return fill_bytes(call.dvalue, 0, size_t(B * Tk * Dv) * sizeof(T), call.stream);
    return mix<T>(static_cast<const T*>(call.weights), 1, Tk, call.dcontext, call.dvalue, Tk, Tq, Dv, Tk * Dv,
                  call.stream);
  }
  int query_backward(const AttentionBackward& call) const {
    Scratch scratch;
    carve_scratch(call.workspace, scratch);
    return mix<A>(first(scratch.ds, Tk), Tk, 1, call.key, numbers(call.dquery, D), Tq, Tk, D, rows * D, call.stream);
  }
  int key_backward(const AttentionBackward& call) const {
    Scratch scratch;
    carve_scratch(call.workspace, scratch);
    return mix<A>(scratch.ds, 1, Tk, call.query, call.dkey, Tk, Tq, D, Tk * D, call.stream);
  }

  // Of queries, or of keys and weights, or of all three.
  int pairs(const AttentionBackward& call, void* dquery_out, void* dkey, void* dweight) const {
    Kept kept;
    Scratch scratch;
    carve_kept(const_cast<void*>(call.kept), kept);
    carve_scratch(call.workspace, scratch);
    T* dquery = numbers(dquery_out, D);
    if (parts() == 0) {
      // No sequence, or no key: all queries get the same, whichever of them the call is for.
      if (dquery_out)
        if (const int error = fill_bytes(dquery_out, 0, size_t(B * rows * D) * sizeof(T), call.stream)) return error;
      return dweight ? fill_bytes(dweight, 0, size_t(D) * sizeof(T), call.stream) : 0;
    }
    const size_t padding = size_t((padded_parts() - parts()) * D) * sizeof(A);
    if (padding && dweight)
      if (const int error = fill_bytes(scratch.dweight_parts + parts() * D, 0, padding, call.stream)) return error;
    AttentionSizes sizes = a.sizes;
    sizes.Tq = Tq;
    const PairArgs<T> args{sizes,
                           rows,
                           numbers(call.query, D),
                           static_cast<const T*>(call.key),
                           static_cast<const T*>(call.weight_score),
                           first(scratch.ds, Tk),
                           first(kept.query_sizes, 1),
                           kept.key_sizes,
                           dquery,
                           static_cast<T*>(dkey),
                           dquery ? scratch.dquery_parts : nullptr,
                           dweight ? scratch.dweight_parts : nullptr};
    if (const int error = run<Pair>(B, blocks_of(D, warp_lanes), tiles, Pair::shared, call.stream, args)) return error;
    if (tiles > 1 && dquery)
      if (const int error = sum<T>(scratch.dquery_parts, dquery, tiles, B * Tq * D, call.stream, Tq * D, rows * D))
        return error;
    if (!dweight) return 0;
    if (!scratch.dweight_groups) return sum<T>(scratch.dweight_parts, dweight, parts(), D, call.stream);
    if (const int error = sum<A>(scratch.dweight_parts, scratch.dweight_groups, padded_parts() / groups, groups * D,
                                 call.stream))
      return error;
    return sum<T>(scratch.dweight_groups, dweight, groups, D, call.stream);
  }

  template <class To>
  static int sum(const A* partial, void* out, int64_t count, int64_t size, void* stream, int64_t columns = 0,
                 int64_t distance = 0) {
    return run<Sum<To>>(blocks_of(size, Sum<To>::threads), 1, 1, 0, stream,
                        SumArgs{partial, out, count, size, columns, distance});
  }
};

template <class Score, class T>
constexpr AttentionFunctions functions() {
  using Of = AttentionOf<Score, T>;
  return {[](const Attention& a, AttentionMemory* memory) { return Of(a).memory(memory); },
          [](const AttentionForward& call) { return Of(call.attention).forward(call); },
          [](const AttentionBackward& call) { return Of(call.attention).backward(call); },
          [](const AttentionForward& call) { return Of(call.attention).start(call); },
          [](const AttentionForward& call, int64_t i, void* context, int64_t distance) {
            return Of(call.attention, i).attend(call, context, distance);
          },
          [](const AttentionBackward& call, int64_t i) { return Of(call.attention, i).step_backward(call); },
          [](const AttentionBackward& call) { return Of(call.attention).rest_backward(call); }};
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
