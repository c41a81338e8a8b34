// SPDX-License-Identifier: Apache-2.0
// Fills the table of kernels; compiled once for each instruction set, in a namespace of its own.
#include "kernels.h"

#include "attention_kernels.h"
#include "cells/registry.h"
#include "engine/sequence_backward.h"
#include "engine/sequence_forward.h"
#include "engine/stream.h"
#include "peaks.h"

#if !defined(PYRNN_ISA_NAME)
#define PYRNN_ISA_NAME "host"
#endif

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
void activation(int which, const void* in, void* out, int64_t n) {
  const T* x = static_cast<const T*>(in);
  T* y = static_cast<T*>(out);
  for (int64_t i = 0; i < n; i += lanes<T>) {
    const Vec<T> v = load_tail(x + i, n - i);
    const Vec<T> f = which == activation_sigmoid ? Sigmoid::f(v)
                     : which == activation_tanh  ? Tanh::f(v)
                     : which == activation_relu  ? Relu::f(v)
                                                 : exp(v);
    store_tail(y + i, f, n - i);
  }
}

template <class Cell>
CellInfo cell_info(const char* name) {
  static_assert(
      Cell::slots <= max_slots && Cell::states <= max_states && Cell::saved <= max_saved && Cell::params <= max_params,
      "the kernels' tables are that large");
  return {name,         Cell::slots, Cell::states, Cell::saved, Cell::params, FromX<Cell>::count, FromH<Cell>::count,
          Cell::from_x, Cell::from_h};
}

template <class Cell, class T>
void point(int64_t H, const void* a, const void* s, void* s_new, void* save) {
  const int64_t padded = padded_units<T>(H);
  for (int64_t unit = 0; unit < padded; unit += lanes<T>) {
    const auto at = [&](const void* rows, int i) { return static_cast<const T*>(rows) + i * padded + unit; };
    Vec<T> slots[Cell::slots], state[Cell::states], next[Cell::states], saved[Cell::saved];
    PYRNN_UNROLL for (int i = 0; i < Cell::slots; i++) slots[i] = load(at(a, i));
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) state[i] = load(at(s, i));
    Cell::forward(slots, state, static_cast<const Vec<T>*>(nullptr), next, saved);
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) store(const_cast<T*>(at(s_new, i)), next[i]);
    if (save) PYRNN_UNROLL for (int i = 0; i < Cell::saved; i++) store(const_cast<T*>(at(save, i)), saved[i]);
  }
}

template <class Cell, class T>
void point_backward(int64_t H, const void* save, const void* s, void* ds, void* da) {
  const int64_t padded = padded_units<T>(H);
  for (int64_t unit = 0; unit < padded; unit += lanes<T>) {
    const auto at = [&](const void* rows, int i) { return static_cast<const T*>(rows) + i * padded + unit; };
    Vec<T> slots[Cell::slots], state[Cell::states], d[Cell::states], saved[Cell::saved];
    PYRNN_UNROLL for (int i = 0; i < Cell::saved; i++) saved[i] = load(at(save, i));
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) {
      state[i] = load(at(s, i));
      d[i] = load(at(ds, i));
    }
    Cell::backward(saved, state, static_cast<const Vec<T>*>(nullptr), d, slots, static_cast<Vec<T>*>(nullptr));
    PYRNN_UNROLL for (int i = 0; i < Cell::states; i++) store(const_cast<T*>(at(ds, i)), d[i]);
    PYRNN_UNROLL for (int i = 0; i < Cell::slots; i++) store(const_cast<T*>(at(da, i)), slots[i]);
  }
}

template <class Cell, class T, class P>
constexpr CellKernels cell_kernels() {
  return {forward_memory<Cell, T, P>,
          forward<Cell, T, P>,
          backward_workspace<Cell, T, typename P::Backward>,
          backward<Cell, T, typename P::Backward>,
          stream_pack_bytes<Cell, T, P>,
          stream_state_bytes<Cell, T, P>,
          stream_scratch_bytes<Cell, T, P>,
          stream_pack<Cell, T, P>,
          stream_step<Cell, T, P>,
          padded_units<T>,
          point<Cell, T>,
          point_backward<Cell, T>};
}

const Kernels& kernels() {
  static const Kernels table = [] {
    Kernels t{};
    t.isa = PYRNN_ISA_NAME;
#define PYRNN_ENTRY(name, ...)                                                        \
  t.info[t.cell_count] = cell_info<__VA_ARGS__>(name);                                \
  t.cell[t.cell_count][float32] = cell_kernels<__VA_ARGS__, float, Plain<float>>();   \
  t.cell[t.cell_count][float64] = cell_kernels<__VA_ARGS__, double, Plain<double>>(); \
  t.cell[t.cell_count][bfloat16] = cell_kernels<__VA_ARGS__, float, BFloat16>();      \
  t.cell_count++;
    PYRNN_CELLS(PYRNN_ENTRY)
#undef PYRNN_ENTRY
    fill_attention(t);
    t.activation[float32] = activation<float>;
    t.activation[float64] = activation<double>;
    fill_peaks(t);
    return t;
  }();
  return table;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
