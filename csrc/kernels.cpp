// SPDX-License-Identifier: Apache-2.0
// Fills the table of kernels; compiled once for each instruction set, in a namespace of its own.
#include "kernels.h"

#include "attention_kernels.h"
#include "cells/registry.h"
#include "engine/quantized.h"
#include "engine/sequence_backward.h"
#include "engine/sequence_forward.h"
#include "engine/staged_backward.h"
#include "engine/stream.h"
#include "engine/unpacked.h"
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
constexpr const char* name_of_params() {
  if constexpr (Cell::params > 0)
    return Cell::param_name;
  else
    return "";
}

template <class Cell>
CellInfo cell_info(const char* name) {
  static_assert(
      Cell::slots <= max_slots && Cell::states <= max_states && Cell::saved <= max_saved && Cell::params <= max_params,
      "the kernels' tables are that large");
  static_assert(FromX<Cell>::count <= max_blocks && FromH<Cell>::count <= max_blocks, "so are the engine's");
  return {name,
          Cell::slots,
          Cell::states,
          Cell::saved,
          Cell::params,
          FromX<Cell>::count,
          FromH<Cell>::count,
          late_slots<Cell>,
          late_reads<Cell>,
          Cell::from_x,
          Cell::from_h,
          name_of_params<Cell>(),
          roles_of<Cell>,
          is_ordered<Cell>,
          is_staged_cell<Cell>};
}

template <class Cell, class T>
void point(int64_t H, const void* params, const void* a, const void* s, void* s_new, void* save) {
  const int64_t padded = padded_units<T>(H);
  const StepRow<T> row{nullptr,
                       nullptr,
                       nullptr,
                       static_cast<const T*>(s),
                       static_cast<T*>(s_new),
                       static_cast<T*>(s_new),
                       static_cast<T*>(save)};
  cell_forward<Cell, T>({H, padded, static_cast<const T*>(params)}, {static_cast<const T*>(a), 1, 0, padded / lanes<T>},
                        &row);
}

template <class Cell, class T>
void point_backward(int64_t H, const void* params, const void* save, const void* s, void* ds, void* da) {
  const int64_t padded = padded_units<T>(H);
  cell_backward<Cell, T>({H, padded, static_cast<const T*>(params)},
                         {static_cast<const T*>(save), static_cast<const T*>(s), nullptr, static_cast<T*>(ds),
                          static_cast<T*>(da), padded, padded, column_block<T>},
                         {0, padded / lanes<T>});
}

// The engine's functions, bound to a cell. A layer is staged where its cell or an option asks for that, and so is the
// backward of states.
template <class Cell, class P>
constexpr bool is_fused = late_slots<Cell> == 0 && (!is_staged_cell<Cell> || !P::prepared);
template <class Cell, class P, class Args>
bool is_staged(const Args& args) {
  return !is_fused<Cell, P> || args.weights.norm_ih || args.weights.weight_hr || args.weights.heads > 1 ||
         args.variation.varied || drops_afresh(args.regularization);
}
template <class Cell, class P>
bool is_staged_backward(const BackwardArgs& args) {
  for (const View& view : args.dstates)
    if (view.data) return true;
  return is_staged<Cell, P>(args);
}

template <class Cell, class T, class P>
CellKernels cell_kernels() {
  using S = ShapeOf<Cell>;
  using B = typename P::Backward;
  constexpr bool fused = is_fused<Cell, P>, unpacked = !P::prepared && !is_ordered<Cell>;
  CellKernels k{};
  k.forward_memory = [](const ForwardArgs& args, int threads, bool save) {
    if constexpr (fused && unpacked)
      if (!is_staged<Cell, P>(args) && is_unpacked(cell_functions<Cell, T>, args))
        return unpacked_memory(cell_functions<Cell, T>, args, threads, save);
    if constexpr (fused)
      if (!is_staged<Cell, P>(args)) return forward_memory<S, T, P>(cell_functions<Cell, T>, args, threads, save);
    return staged_forward_memory<T>(functions_of<Cell, T>(args.variation), read_functions_of<Cell, T>(args.variation),
                                    args, threads, save);
  };
  k.forward_cycles = [](const ForwardArgs& args, int threads) {
    if constexpr (fused && unpacked)
      if (!is_staged<Cell, P>(args) && is_unpacked(cell_functions<Cell, T>, args)) return 0.0;
    if constexpr (fused)
      if (!is_staged<Cell, P>(args)) return forward_cycles<T, P>(cell_functions<Cell, T>, args, threads);
    return staged_forward_cycles<T>(functions_of<Cell, T>(args.variation), args, threads);
  };
  k.follows = [](const ForwardArgs& args) {
    return !is_staged<Cell, P>(args) && !(unpacked && is_unpacked(cell_functions<Cell, T>, args));
  };
  k.forward = [](const ForwardArgs& args, int threads) {
    if constexpr (fused && unpacked)
      if (!is_staged<Cell, P>(args) && is_unpacked(cell_functions<Cell, T>, args))
        return unpacked_forward(cell_functions<Cell, T>, args, threads);
    if constexpr (fused)
      if (!is_staged<Cell, P>(args)) return forward<S, T, P>(cell_functions<Cell, T>, args, threads);
    staged_forward<T>(functions_of<Cell, T>(args.variation), read_functions_of<Cell, T>(args.variation), args, threads);
  };
  k.backward_chunk = [](const ForwardArgs& args) {
    if (is_staged<Cell, P>(args)) return staged_chunk_entries(args.schedule);
    return chunk_entries<T, B>(cell_functions<Cell, T>, args.sizes, args.schedule);
  };
  k.backward_workspace = [](const BackwardArgs& args, int threads) {
    if (!is_staged_backward<Cell, P>(args)) return backward_workspace<T, B>(cell_functions<Cell, T>, args, threads);
    return staged_backward_workspace<T>(functions_of<Cell, T>(args.variation),
                                        read_functions_of<Cell, T>(args.variation), args, threads);
  };
  k.backward_cycles = [](const BackwardArgs& args, int threads) {
    return is_staged_backward<Cell, P>(args)
               ? staged_backward_cycles<T>(functions_of<Cell, T>(args.variation), args, threads)
               : backward_cycles<T, B>(cell_functions<Cell, T>, args, threads);
  };
  k.backward = [](const BackwardArgs& args, int threads) {
    if (!is_staged_backward<Cell, P>(args)) return backward<T, B>(cell_functions<Cell, T>, args, threads);
    staged_backward<T>(functions_of<Cell, T>(args.variation), read_functions_of<Cell, T>(args.variation), args,
                       threads);
  };
  if constexpr (!is_staged_cell<Cell>) {
    k.stream_pack_bytes = [](int64_t I, int64_t H) { return stream_pack_bytes<T, P>(cell_functions<Cell, T>, I, H); };
    k.stream_state_bytes = [](int64_t B, int64_t H) { return stream_state_bytes<T>(cell_functions<Cell, T>, B, H); };
    k.stream_scratch_bytes = stream_scratch_bytes<T, P>;
    k.stream_pack = [](const Sizes& sizes, const Weights& weights, void* pack) {
      stream_pack<T, P>(cell_functions<Cell, T>, sizes, weights, pack);
    };
    k.stream_step = [](StreamLayer* layer, int64_t B, View x, View y, int threads) {
      stream_step<S, T, P>(cell_functions<Cell, T>, layer, B, x, y, threads);
    };
  }
  k.padded = padded_units<T>;
  k.point = point<Cell, T>;
  k.point_backward = point_backward<Cell, T>;
  return k;
}

// Those of layers with int8 weights: inference of what is not staged.
template <class Cell>
CellKernels quantized_kernels() {
  CellKernels k{};
  if constexpr (!is_staged_cell<Cell>) {
    k.forward_memory = [](const ForwardArgs& args, int threads, bool) {
      return forward_memory<AnyShape, float, Int8>(cell_functions<Cell, float>, args, threads, false);
    };
    k.forward = [](const ForwardArgs& args, int threads) {
      forward<AnyShape, float, Int8>(cell_functions<Cell, float>, args, threads);
    };
    k.stream_pack_bytes = [](int64_t I, int64_t H) {
      return stream_pack_bytes<float, Int8>(cell_functions<Cell, float>, I, H);
    };
    k.stream_state_bytes = [](int64_t B, int64_t H) {
      return stream_state_bytes<float>(cell_functions<Cell, float>, B, H);
    };
    k.stream_scratch_bytes = stream_scratch_bytes<float, Int8>;
    k.stream_pack = [](const Sizes& sizes, const Weights& weights, void* pack) {
      quantized_pack(cell_functions<Cell, float>, sizes, weights, pack);
    };
    k.stream_step = [](StreamLayer* layer, int64_t B, View x, View y, int threads) {
      stream_step<AnyShape, float, Int8>(cell_functions<Cell, float>, layer, B, x, y, threads);
    };
  }
  k.padded = padded_units<float>;
  return k;
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
  t.cell[t.cell_count][int8] = quantized_kernels<__VA_ARGS__>();                      \
  t.cell_count++;
    PYRNN_CELLS(PYRNN_ENTRY)
    PYRNN_STAGED_CELLS(PYRNN_ENTRY)
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
