// SPDX-License-Identifier: Apache-2.0
// What crosses the border between the bindings and the kernels of one instruction set: PODs, pointers, one table.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pyrnn {

enum Type { float32 = 0, float64 = 1, type_count = 2 };
enum Activation { activation_sigmoid, activation_tanh, activation_relu, activation_exp, activation_count };

// An array of rows of contiguous numbers, addressed by step and by sequence: element k of sequence b at step t is
// data[t·step + b·row + k]. Strides count elements.
struct View {
  void* data;
  int64_t step, row;
};

// The sizes of one layer in one direction: steps, sequences, input and hidden units.
struct Sizes {
  int64_t T, B, I, H;
};

// Which sequences advance at which step, and where each finds its state: lengths, masks, resets and the direction
// are all in here, so that the engine runs a list and knows none of them.
//
// An entry is one (step, sequence) pair that is computed. Entries of a step are offset[i] .. offset[i+1]. States live
// in an arena of rows: 0..B-1 the initial states, B zeros (a reset), then whatever `target` names.
struct Schedule {
  int64_t steps, entries, state_rows;
  const int64_t* offset;  // (steps + 1)
  const int32_t* time;    // (entries)   t of the entry
  const int32_t* batch;   // (entries)   b of the entry
  const int32_t* source;  // (entries)   state row that the step reads
  const int32_t* target;  // (entries)   state row that the step writes
  const int32_t* last;    // (B)         state row after the sequence's last step
  const int64_t* before;  // (B)         entries of the sequences before it: threads share out sequences by that
  const int64_t* idle;    // (idles)     t·B + b of the pairs that are not computed: y and dx are zero there
  int64_t idles, max_rows;
  int32_t resets;         // some source is a reset: the gradient of the state stops there
};

// The largest cell that the tables below have room for.
constexpr int max_cells = 64, max_slots = 8, max_states = 4, max_saved = 8, max_params = 4;

// Bytes that the caller provides for a call, 64-byte aligned.
struct Memory {
  size_t workspace, states, gates;
};

struct ForwardArgs {
  Sizes sizes;
  Schedule schedule;
  View x, y;                                      // (T, B, I), (T, B, H)
  View state[max_states], state_out[max_states];  // (B, H); `step` is unused
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh;
  void *states, *gates, *workspace;  // `gates` null: inference
};

struct BackwardArgs {
  Sizes sizes;
  Schedule schedule;
  View x;
  const void *weight_ih, *weight_hh;
  const void *states, *gates;  // as forward left them
  View dy;                     // data null: zero
  View dstate[max_states];     // data null: zero
  View dx;                     // data null: not wanted
  int32_t dx_accumulate;
  View dstate_out[max_states];
  void *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh;  // biases may be null
  void* workspace;
};

// One layer of a stream. `pack` and `states` are the stream's own and persist from step to step.
struct StreamLayer {
  int64_t I, H;
  void *pack, *states, *scratch;
  int32_t parity;  // which half of the states is current
};

struct CellInfo {
  const char* name;
  int slots, states, saved, params, from_x_count, from_h_count;
  const int *from_x, *from_h;
};

struct CellKernels {
  Memory (*forward_memory)(const Sizes&, const Schedule&, int threads, bool save);
  void (*forward)(const ForwardArgs&, int threads);
  size_t (*backward_workspace)(const Sizes&, const Schedule&, int threads);
  void (*backward)(const BackwardArgs&, int threads);
  size_t (*stream_pack_bytes)(int64_t I, int64_t H);
  size_t (*stream_state_bytes)(int64_t B, int64_t H);
  size_t (*stream_scratch_bytes)(int64_t B, int64_t H);
  void (*stream_pack)(const Sizes&, const void* weight_ih, const void* weight_hh, const void* bias_ih,
                      const void* bias_hh, void* pack);
  void (*stream_step)(StreamLayer* layer, int64_t B, View x, View y, int threads);
  int64_t (*padded)(int64_t H);  // distance between the units' rows in `states` and `gates`
};

struct Kernels {
  const char* isa;
  int cell_count;
  CellInfo info[max_cells];
  CellKernels cell[max_cells][type_count];
  void (*activation[type_count])(int which, const void* x, void* y, int64_t n);
  double (*fma_burst[type_count])(int64_t rounds);  // floating-point operations done; for the measured peak
};

}  // namespace pyrnn
