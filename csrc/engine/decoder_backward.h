// SPDX-License-Identifier: Apache-2.0
// A decoder, backward: the loop computes what the recursion needs and keeps the gradients of slots, scores, queries and
// layer; keys, values and every weight come after it, as large products.
#pragma once

#include "attention_backward.h"
#include "decoder_forward.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Score, class T>
struct DecoderBackward : DecoderRows<T> {
  static constexpr int L = lanes<T>;
  using Rows = DecoderRows<T>;
  using Rows::args, Rows::B, Rows::steps, Rows::D, Rows::M, Rows::I, Rows::H, Rows::O, Rows::padded, Rows::slots;
  const DecoderGradients& g;
  int threads;
  AttentionBackward<Score, T> attention;

  PackedMatrix<T> to_x[max_slots], to_fed[max_slots], to_h[max_slots];
  PackedMatrix<T> query, layer_context, layer_h;
  int planes = slots + Rows::params;
  T* da;  // (T, B, planes, padded): of the slots, and of the cell's parameters
  T* dz;  // (B, T, O), of the layer before its tanh
  T* ds;  // (B, states, padded)
  T* fed;  // (B, fed), of what the cell reads beside x
  T* out;  // (B, O)
  T* params;  // (params, padded)
  T* zeros;  // (fed): what is fed at the first step where nothing is given
  PerThread<T> panel;
  Queue queue;
  Barrier* barrier;

  DecoderBackward(const DecoderArgs& args, const DecoderGradients& g, int threads)
      : Rows(args), g(g), threads(threads), attention(args.attention, g.attention, threads, true) {}

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    attention.carve(carver);
    for (int i = 0; i < args.cell->from_x_count; i++) {
      to_x[i].carve(carver, H, I);
      to_fed[i].carve(carver, H, args.fed);
    }
    for (int i = 0; i < args.cell->from_h_count; i++) to_h[i].carve(carver, H, H);
    query.carve(carver, args.weight_query ? D : 0, H);
    layer_context.carve(carver, this->has_layer() ? O : 0, M);
    layer_h.carve(carver, this->has_layer() ? O : 0, H);
    da = carver.take<T>(steps * B * planes * padded);
    dz = carver.take<T>(this->has_layer() ? B * steps * O : 0);
    ds = carver.take<T>(B * args.cell->states * padded);
    fed = carver.take<T>(B * args.fed);
    out = carver.take<T>(B * O);
    zeros = carver.take<T>(args.fed);
    params = carver.take<T>(Rows::params * padded);
    panel = carver.take_per_thread<T>(threads, B * steps * panel_vectors * L);
    queue.carve(carver, threads);
    barrier = carver.take<Barrier>(1);
    return carver.used;
  }

  void prepare() {
    attention.prepare();
    queue.reset();
    *barrier = Barrier{};
    this->place_params(params);
    for (int64_t i = 0; i < args.fed; i++) zeros[i] = 0;
  }

  void pack(int thread) const {
    const int64_t width = I + args.fed;
    const auto rows = [&](const PackedMatrix<T>& matrix, const void* from, int64_t offset, int64_t distance) {
      matrix.pack_rows([&](int64_t k) { return static_cast<const T*>(from) + offset + k * distance; },
                       part(matrix.blocks(), thread, threads));
    };
    for (int i = 0; i < args.cell->from_x_count; i++) {
      rows(to_x[i], args.weights.weight_ih, i * H * width, width);
      rows(to_fed[i], args.weights.weight_ih, i * H * width + I, width);
    }
    for (int i = 0; i < args.cell->from_h_count; i++) rows(to_h[i], args.weights.weight_hh, i * H * H, H);
    if (args.weight_query) rows(query, args.weight_query, 0, H);
    if (this->has_layer()) {
      rows(layer_context, args.weight_attention, 0, M + H);
      rows(layer_h, args.weight_attention, M, M + H);
    }
  }

  PYRNN_FN T* ds_row(int64_t b) const { return ds + b * args.cell->states * padded; }
  PYRNN_FN T* da_row(int64_t b, int64_t t) const { return da + (t * B + b) * planes * padded; }
  PYRNN_FN T* fed_gradient(int64_t b) const { return fed + b * args.fed; }
  PYRNN_FN T* dcontext_row(int64_t b, int64_t t) const {
    return static_cast<T*>(const_cast<void*>(g.attention.dcontext)) + this->row(b, t) * M;
  }
  PYRNN_FN T* dquery_row(int64_t b, int64_t t) const {
    return static_cast<T*>(g.attention.dquery) + this->row(b, t) * D;
  }

  // From the gradient of the outputs of step t to those of its context and, added, of h.
  void layer_back(Range mine, int64_t t) const {
    const bool feeds = args.fed && !this->previous();
    const auto context = [&](int64_t m) { return dcontext_row(mine.begin + m, t); };
    const auto h = [&](int64_t m) { return ds_row(mine.begin + m); };
    for (int64_t b = mine.begin; b < mine.end; b++) {
      const T* given = g.doutputs ? static_cast<const T*>(g.doutputs) + this->row(b, t) * O : nullptr;
      const T* y = this->output_row(b, t);
      T* d = this->has_layer() ? dz + this->row(b, t) * O : out + b * O;
      for (int64_t i = 0; i < O; i++) d[i] = given ? given[i] : T(0);
      if (this->has_layer()) {
        for (int64_t i = 0; feeds && i < O; i++) d[i] += fed_gradient(b)[i];
        for (int64_t i = 0; i < O; i++) d[i] *= 1 - y[i] * y[i];
        continue;
      }
      for (int64_t i = 0; i < M; i++) dcontext_row(b, t)[i] = d[i] + (feeds ? fed_gradient(b)[i] : T(0));
      for (int64_t i = 0; i < H; i++) ds_row(b)[i] += d[M + i];
    }
    if (!this->has_layer()) return;
    const auto d = [&](int64_t m) { return dz + this->row(mine.begin + m, t) * O; };
    layer_context.multiply(mine.size(), d, context, false);
    layer_h.multiply(mine.size(), d, h, true);
  }

  // From the gradient of the state after step t to that of the state before it, of the slots and of what was fed.
  void cell_back(Range mine, int64_t t) const {
    for (int64_t b = mine.begin; b < mine.end; b++)
      args.kernels->point_backward(H, params, this->gates_row(b, t), this->state_row(b, t), ds_row(b), da_row(b, t));
    const auto slot = [&](int s) { return [=](int64_t m) { return da_row(mine.begin + m, t) + s * padded; }; };
    for (int i = 0; i < args.cell->from_h_count; i++)
      to_h[i].multiply(
          mine.size(), slot(args.cell->from_h[i]), [&](int64_t m) { return ds_row(mine.begin + m); }, true);
    if (!args.fed) return;
    for (int i = 0; i < args.cell->from_x_count; i++)
      to_fed[i].multiply(
          mine.size(), slot(args.cell->from_x[i]), [&](int64_t m) { return fed_gradient(mine.begin + m); }, i > 0);
  }

  void ask_back(int thread, Range mine, int64_t t) const {
    for (int64_t b = mine.begin; b < mine.end; b++) attention.step(thread, b, t);
    const auto h = [&](int64_t m) { return ds_row(mine.begin + m); };
    const auto dquery = [&](int64_t m) { return dquery_row(mine.begin + m, t); };
    if (args.weight_query) {
      query.multiply(mine.size(), dquery, h, true);
    } else {
      for (int64_t m = 0; m < mine.size(); m++)
        for (int64_t d = 0; d < D; d++) h(m)[d] += dquery(m)[d];
    }
  }

  void loop(int thread, Range mine) const {
    for (int64_t b = mine.begin; b < mine.end; b++) {
      for (int i = 0; i < args.cell->states; i++)
        for (int64_t u = 0; u < padded; u++)
          ds_row(b)[i * padded + u] = u < H && g.dstate[i] ? static_cast<const T*>(g.dstate[i])[b * H + u] : T(0);
      for (int64_t i = 0; i < args.fed; i++) fed_gradient(b)[i] = 0;
      attention.prepare_sequence(b);
    }
    for (int64_t t = steps - 1; t >= 0; t--) {
      if (stopped()) return;
      layer_back(mine, t);
      if (this->previous()) {
        cell_back(mine, t);
        for (int64_t b = mine.begin; b < mine.end; b++)
          for (int64_t i = 0; i < args.fed; i++) dcontext_row(b, t)[i] += fed_gradient(b)[i];
      }
      ask_back(thread, mine, t);
      if (!this->previous()) cell_back(mine, t);
    }
    for (int64_t b = mine.begin; b < mine.end; b++) {
      attention.end_sequence(b);
      for (int i = 0; i < args.cell->states; i++)
        for (int64_t u = 0; u < H; u++) static_cast<T*>(g.dstate_out[i])[b * H + u] = ds_row(b)[i * padded + u];
      for (int64_t i = 0; g.dfeed && i < args.fed; i++) static_cast<T*>(g.dfeed)[b * args.fed + i] = fed_gradient(b)[i];
    }
    for (int i = 0; i < args.cell->from_x_count; i++) {
      // Rows of slots are time-major, those of x are not.
      for (int64_t b = mine.begin; b < mine.end; b++)
        to_x[i].multiply(
            steps, [&](int64_t t) { return da_row(b, t) + args.cell->from_x[i] * padded; },
            [&](int64_t t) { return static_cast<T*>(g.dx) + this->row(b, t) * I; }, i > 0);
    }
  }

  // One product of all steps: out (M, C), `distance` apart, = Σ over rows k of x[k·stride + m] · row(k).
  struct Sums {
    int64_t M, C, distance;
    T* out;
    const T* x;
    int64_t stride;
  };
  template <class Row>
  PYRNN_FN void weight_sums(int64_t& piece, int thread, const Sums& sums, const Row& row) const {
    const int64_t blocks = column_blocks<T>(sums.C);
    if (piece >= 0 && piece < blocks)
      weighted_sums<T>(
          sums.M, B * steps, [&](int64_t m) { return sums.x + m; }, sums.stride, row, nullptr, sums.C,
          {piece, piece + 1}, panel[thread], sums.out, sums.distance);
    piece -= blocks;
  }

  // Every product of weights is a few pieces, a block of columns each; does the one of that number, and leaves the
  // number less that of all pieces. Rows are in the order of the left side: time-major for slots, else sequence by
  // sequence.
  void weights(int64_t& piece, int thread) const {
    const int64_t width = I + args.fed;
    T *ih = static_cast<T*>(g.dweight_ih), *hh = static_cast<T*>(g.dweight_hh);
    for (int i = 0; i < args.cell->from_x_count; i++) {
      const T* slot = da + args.cell->from_x[i] * padded;
      weight_sums(piece, thread, {H, I, width, ih + i * H * width, slot, planes * padded},
                  [&](int64_t k) { return this->x_row(k % B, k / B); });
      weight_sums(piece, thread, {H, args.fed, width, ih + i * H * width + I, slot, planes * padded}, [&](int64_t k) {
        const T* row = this->fed_row(k % B, k / B);
        return row ? row : zeros;
      });
    }
    for (int i = 0; i < args.cell->from_h_count; i++)
      weight_sums(piece, thread, {H, H, H, hh + i * H * H, da + args.cell->from_h[i] * padded, planes * padded},
                  [&](int64_t k) { return this->state_row(k % B, k / B); });
    if (args.weight_query)
      weight_sums(piece, thread, {D, H, H, static_cast<T*>(g.dweight_query), dquery_row(0, 0), D},
                  [&](int64_t k) { return this->asking_row(k / steps, k % steps); });
    if (this->has_layer()) {
      T* to = static_cast<T*>(g.dweight_attention);
      weight_sums(piece, thread, {O, M, M + H, to, dz, O}, [&](int64_t k) { return this->context_row(0, 0) + k * M; });
      weight_sums(piece, thread, {O, H, M + H, to + M, dz, O},
                  [&](int64_t k) { return this->state_row(k / steps, k % steps + 1); });
    }
  }

  // Sums over all rows of n numbers each, this thread's columns.
  template <class Row>
  PYRNN_FN void column_sums(int thread, int64_t n, const Row& row, T* out) const {
    const Range mine = part(n, thread, threads);
    for (int64_t i = mine.begin; out && i < mine.end; i++) out[i] = 0;
    for (int64_t k = 0; out && k < B * steps; k++) {
      const T* from = row(k % B, k / B);
      for (int64_t i = mine.begin; i < mine.end; i++) out[i] += from[i];
    }
  }

  void biases(int thread) const {
    const auto of_slots = [&](void* out, const int* at, int count) {
      for (int i = 0; out && i < count; i++)
        column_sums(
            thread, H, [&](int64_t b, int64_t t) { return da_row(b, t) + at[i] * padded; },
            static_cast<T*>(out) + i * H);
    };
    of_slots(g.dbias_ih, args.cell->from_x, args.cell->from_x_count);
    of_slots(g.dbias_hh, args.cell->from_h, args.cell->from_h_count);
    for (int i = 0; i < Rows::params; i++)
      column_sums(
          thread, H, [&](int64_t b, int64_t t) { return da_row(b, t) + (slots + i) * padded; },
          static_cast<T*>(g.dparams) + i * H);
    column_sums(thread, D, [&](int64_t b, int64_t t) { return dquery_row(b, t); }, static_cast<T*>(g.dbias_query));
    column_sums(
        thread, O, [&](int64_t b, int64_t t) { return dz + this->row(b, t) * O; }, static_cast<T*>(g.dbias_attention));
  }

  void work(int thread) {
    const Range mine = part(B, thread, threads);
    pack(thread);
    barrier->wait(threads);
    if (mine.size()) loop(thread, mine);
    barrier->wait(threads);
    attention.after_rows(thread);
    barrier->wait(threads);
    biases(thread);
    int64_t none = -1;
    weights(none, thread);
    queue.run(thread, -1 - none, [&](int64_t piece) { weights(piece, thread); });
  }
};

template <class Score, class T>
size_t decoder_backward_workspace(const DecoderArgs& args, const DecoderGradients& g, int threads) {
  return most_workspace(threads, [&](int n) { return DecoderBackward<Score, T>(args, g, n).carve(nullptr); });
}

template <class Score, class T>
void decoder_backward(const DecoderArgs& args, const DecoderGradients& gradients, int threads) {
  Team team(2 * decoder_cycles<Score, T>(args) > 2 * start_cycles() ? threads : 1);
  DecoderBackward<Score, T> call(args, gradients, team.size());
  call.carve(args.workspace);
  call.prepare();
  team.run([](void* context, int thread, int) { static_cast<DecoderBackward<Score, T>*>(context)->work(thread); },
           &call);
  call.attention.finish();
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
