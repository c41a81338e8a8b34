// SPDX-License-Identifier: Apache-2.0
// A decoder, forward: at every step the cell, the attention and the attention layer, for a thread's sequences. Threads
// share the packed weights and nothing else: they meet once, when those are complete.
#pragma once

#include "attention_forward.h"
#include "matrix.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Sizes, and where the rows of the arrays are: time-major for what the cell keeps, sequence after sequence elsewhere.
template <class T>
struct DecoderRows {
  const DecoderArgs& args;
  int64_t B = args.attention.sizes.B, steps = args.attention.sizes.Tq, D = args.attention.sizes.D,
          M = args.attention.sizes.Dv;
  int64_t I = args.I, H = args.H, O = args.O, padded = round_up(args.H, lanes<T>);
  int slots = args.cell->slots, states = args.cell->states, saved = args.cell->saved, params = args.cell->params;

  explicit DecoderRows(const DecoderArgs& args) : args(args) {}
  PYRNN_FN bool has_layer() const { return args.weight_attention != nullptr; }
  PYRNN_FN bool previous() const { return args.query_previous != 0; }
  PYRNN_FN int64_t row(int64_t b, int64_t t) const { return b * steps + t; }
  PYRNN_FN T* state_row(int64_t b, int64_t t) const {  // before step t
    return static_cast<T*>(args.states) + (t * B + b) * states * padded;
  }
  PYRNN_FN T* gates_row(int64_t b, int64_t t) const {
    return args.gates ? static_cast<T*>(args.gates) + (t * B + b) * saved * padded : nullptr;
  }
  PYRNN_FN T* output_row(int64_t b, int64_t t) const { return static_cast<T*>(args.outputs) + row(b, t) * O; }
  PYRNN_FN T* context_row(int64_t b, int64_t t) const {
    return static_cast<T*>(args.attention.context) + row(b, t) * M;
  }
  PYRNN_FN T* query_row(int64_t b, int64_t t) const {
    return static_cast<T*>(const_cast<void*>(args.attention.query)) + row(b, t) * D;
  }
  PYRNN_FN const T* x_row(int64_t b, int64_t t) const { return static_cast<const T*>(args.x) + row(b, t) * I; }
  // What the cell reads beside x at step t; null: zeros.
  PYRNN_FN const T* fed_row(int64_t b, int64_t t) const {
    if (previous()) return context_row(b, t);
    if (t > 0) return has_layer() ? output_row(b, t - 1) : context_row(b, t - 1);
    return args.feed ? static_cast<const T*>(args.feed) + b * args.fed : nullptr;
  }
  // The cell's per-unit parameters (params, H) as rows of padded units.
  void place_params(T* to) const {
    for (int i = 0; i < params; i++)
      for (int64_t u = 0; u < padded; u++)
        to[i * padded + u] = u < H ? static_cast<const T*>(args.weights.params)[i * H + u] : T(0);
  }
  // The state whose h is the query of step t.
  PYRNN_FN const T* asking_row(int64_t b, int64_t t) const { return state_row(b, previous() ? t : t + 1); }
};

template <class Score, class T>
struct DecoderForward : DecoderRows<T> {
  static constexpr int L = lanes<T>;
  using Rows = DecoderRows<T>;
  using Rows::args, Rows::B, Rows::steps, Rows::D, Rows::M, Rows::I, Rows::H, Rows::O, Rows::padded, Rows::slots;
  int threads;
  AttentionForward<Score, T> attention;

  PackedMatrix<T> from_x[max_slots], from_fed[max_slots], from_h[max_slots];  // by slot in the order of the weights
  PackedMatrix<T> query, layer_context, layer_h;
  T* bias;         // (slots, padded)
  T* slots_of_x;   // (B, T, slots, padded): the bias and what x adds, for all steps
  T* zeros;        // (fed)
  T* params;       // (params, padded)
  Barrier* barrier;

  DecoderForward(const DecoderArgs& args, int threads)
      : Rows(args), threads(threads), attention(args.attention, threads, true) {}

  size_t carve(void* memory) {
    Carver carver{static_cast<char*>(memory)};
    attention.carve(carver);
    for (int i = 0; i < args.cell->from_x_count; i++) {
      from_x[i].carve(carver, I, H);
      from_fed[i].carve(carver, args.fed, H);
    }
    for (int i = 0; i < args.cell->from_h_count; i++) from_h[i].carve(carver, H, H);
    query.carve(carver, H, args.weight_query ? D : 0);
    layer_context.carve(carver, M, this->has_layer() ? O : 0);
    layer_h.carve(carver, H, this->has_layer() ? O : 0);
    bias = carver.take<T>(slots * padded);
    slots_of_x = carver.take<T>(B * steps * slots * padded);
    zeros = carver.take<T>(args.fed);
    params = carver.take<T>(Rows::params * padded);
    barrier = carver.take<Barrier>(1);
    return carver.used;
  }

  void prepare() {
    attention.prepare();
    *barrier = Barrier{};
    for (int64_t i = 0; i < args.fed; i++) zeros[i] = 0;
    this->place_params(params);
    for (int64_t i = 0; i < slots * padded; i++) bias[i] = 0;
    const auto add = [&](const void* from, const int* at, int count) {
      for (int i = 0; from && i < count; i++)
        for (int64_t u = 0; u < H; u++) bias[at[i] * padded + u] += static_cast<const T*>(from)[i * H + u];
    };
    add(args.weights.bias_ih, args.cell->from_x, args.cell->from_x_count);
    add(args.weights.bias_hh, args.cell->from_h, args.cell->from_h_count);
  }

  void pack(int thread) const {
    const T *ih = static_cast<const T*>(args.weights.weight_ih), *hh = static_cast<const T*>(args.weights.weight_hh);
    const int64_t width = I + args.fed;
    const auto transposed = [&](const PackedMatrix<T>& matrix, const T* from, int64_t distance) {
      matrix.pack_transposed(from, distance, part(matrix.blocks(), thread, threads));
    };
    for (int i = 0; i < args.cell->from_x_count; i++) {
      transposed(from_x[i], ih + i * H * width, width);
      transposed(from_fed[i], ih + i * H * width + I, width);
    }
    for (int i = 0; i < args.cell->from_h_count; i++) transposed(from_h[i], hh + i * H * H, H);
    if (args.weight_query) transposed(query, static_cast<const T*>(args.weight_query), H);
    if (this->has_layer()) {
      transposed(layer_context, static_cast<const T*>(args.weight_attention), M + H);
      transposed(layer_h, static_cast<const T*>(args.weight_attention) + M, M + H);
    }
  }

  PYRNN_FN T* slots_row(int64_t b, int64_t t) const { return slots_of_x + this->row(b, t) * slots * padded; }

  // Slots, their padding included, are bias + W x for all the steps of these sequences.
  void multiply_x(Range mine) const {
    for (int64_t r = this->row(mine.begin, 0); r < this->row(mine.end, 0); r++)
      for (int64_t i = 0; i < slots * padded; i += L) store(slots_of_x + r * slots * padded + i, load(bias + i));
    const T* x = static_cast<const T*>(args.x) + this->row(mine.begin, 0) * I;
    for (int i = 0; i < args.cell->from_x_count; i++) {
      T* out = slots_row(mine.begin, 0) + args.cell->from_x[i] * padded;
      from_x[i].multiply(
          mine.size() * steps, [&](int64_t r) { return x + r * I; },
          [&](int64_t r) { return out + r * slots * padded; }, true);
    }
  }

  void ask(int thread, Range mine, int64_t t) const {
    const auto h = [&](int64_t m) { return this->asking_row(mine.begin + m, t); };
    const auto out = [&](int64_t m) { return this->query_row(mine.begin + m, t); };
    if (args.weight_query) {
      query.multiply(mine.size(), h, out, false);
      for (int64_t m = 0; args.bias_query && m < mine.size(); m++)
        for (int64_t d = 0; d < D; d++) out(m)[d] += static_cast<const T*>(args.bias_query)[d];
    } else {
      for (int64_t m = 0; m < mine.size(); m++)
        for (int64_t d = 0; d < D; d++)
          out(m)[d] = h(m)[d] + (args.bias_query ? static_cast<const T*>(args.bias_query)[d] : T(0));
    }
    for (int64_t b = mine.begin; b < mine.end; b++) attention.step(thread, b, t);
  }

  void run_cell(Range mine, int64_t t) const {
    const auto out = [&](int slot) { return [=](int64_t m) { return slots_row(mine.begin + m, t) + slot * padded; }; };
    const auto fed = [&](int64_t m) {
      const T* row = this->fed_row(mine.begin + m, t);
      return row ? row : zeros;
    };
    const auto h = [&](int64_t m) { return this->state_row(mine.begin + m, t); };
    if (args.fed)
      for (int i = 0; i < args.cell->from_x_count; i++)
        from_fed[i].multiply(mine.size(), fed, out(args.cell->from_x[i]), true);
    for (int i = 0; i < args.cell->from_h_count; i++)
      from_h[i].multiply(mine.size(), h, out(args.cell->from_h[i]), true);
    for (int64_t b = mine.begin; b < mine.end; b++)
      args.kernels->point(H, params, slots_row(b, t), this->state_row(b, t), this->state_row(b, t + 1),
                          this->gates_row(b, t));
  }

  void run_layer(Range mine, int64_t t) const {
    const auto out = [&](int64_t m) { return this->output_row(mine.begin + m, t); };
    const auto context = [&](int64_t m) { return this->context_row(mine.begin + m, t); };
    const auto h = [&](int64_t m) { return this->state_row(mine.begin + m, t + 1); };
    if (!this->has_layer()) {
      for (int64_t m = 0; m < mine.size(); m++) {
        for (int64_t i = 0; i < M; i++) out(m)[i] = context(m)[i];
        for (int64_t i = 0; i < H; i++) out(m)[M + i] = h(m)[i];
      }
      return;
    }
    layer_context.multiply(mine.size(), context, out, false);
    layer_h.multiply(mine.size(), h, out, true);
    const T* b = static_cast<const T*>(args.bias_attention);
    for (int64_t m = 0; m < mine.size(); m++)
      for (int64_t i = 0; i < O; i += L) {
        const Vec<T> z = load_tail(out(m) + i, O - i);
        store_tail(out(m) + i, tanh(b ? z + load_tail(b + i, O - i) : z), O - i);
      }
  }

  void work(int thread) const {
    const Range mine = part(B, thread, threads);
    pack(thread);
    for (int64_t b = mine.begin; b < mine.end; b++) {
      for (int i = 0; i < args.cell->states; i++) {
        T* to = this->state_row(b, 0) + i * padded;
        for (int64_t u = 0; u < padded; u++) to[u] = u < H ? static_cast<const T*>(args.state[i])[b * H + u] : T(0);
      }
      if (!attention.has_history()) attention.prepare_keys(b);
    }
    barrier->wait(threads);
    if (mine.size() == 0) return;
    multiply_x(mine);
    for (int64_t t = 0; t < steps; t++) {
      if (stopped()) return;
      if (this->previous()) ask(thread, mine, t);
      run_cell(mine, t);
      if (!this->previous()) ask(thread, mine, t);
      run_layer(mine, t);
    }
    for (int64_t b = mine.begin; b < mine.end; b++)
      for (int i = 0; i < args.cell->states; i++)
        for (int64_t u = 0; u < H; u++)
          static_cast<T*>(args.state_out[i])[b * H + u] = this->state_row(b, steps)[i * padded + u];
  }
};

// Estimated cycles of a decoder: its products, and the scores.
template <class Score, class T>
double decoder_cycles(const DecoderArgs& args) {
  const double weights = double(args.cell->slots) * args.H * (args.I + args.fed + args.H) +
                         double(args.H) * args.attention.sizes.D + double(args.O) * args.H;
  return double(args.attention.sizes.B * args.attention.sizes.Tq) * weights / lanes<T> / 2 +
         pair_cycles<Score, T>(args.attention.sizes);
}

template <class Score, class T>
size_t decoder_forward_workspace(const DecoderArgs& args, int threads) {
  return most_workspace(threads, [&](int n) { return DecoderForward<Score, T>(args, n).carve(nullptr); });
}

template <class Score, class T>
void decoder_forward(const DecoderArgs& args, int threads) {
  Team team(decoder_cycles<Score, T>(args) > 2 * start_cycles() ? threads : 1);
  DecoderForward<Score, T> call(args, team.size());
  call.carve(args.workspace);
  call.prepare();
  team.run([](void* context, int thread, int) { static_cast<DecoderForward<Score, T>*>(context)->work(thread); },
           &call);
  note_call();
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
