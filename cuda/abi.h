// SPDX-License-Identifier: Apache-2.0
// What crosses the border between _core and libpyrnn_cuda.so: PODs that name their size and version, one table.
//
// Every pointer to numbers is the device's. Nothing here allocates on the device, and nothing waits for it: memory is
// the caller's, work goes to the caller's stream.
#pragma once

#include "../csrc/fn.h"
#include "../csrc/kernels.h"

namespace pyrnn {
namespace cuda {

constexpr uint32_t abi_version = 6;

// Distance between rows of units in everything that stays on the device: whole chunks of every type of number.
constexpr int64_t padding = 32;
PYRNN_FN int64_t padded_units(int64_t H) { return (H + padding - 1) / padding * padding; }

// Numbers that arrays hold. Sums are float, or double for double.
enum Number : int32_t { number_float32, number_float64, number_bfloat16, number_float16, number_count };

// How float32 products are computed: exactly (three TF32 products, or FMA), or with operands rounded to TF32.
enum Precision : int32_t { precision_exact, precision_tf32 };

// Which kernels run the steps; `tier_automatic` leaves it to the plan.
enum Tier : int32_t { tier_automatic, tier_stepwise, tier_grid, tier_cluster, tier_count };

// One layer in one direction: what a forward and its backward agree on.
struct Layer {
  uint32_t size, version;
  int32_t cell, number, precision, tier;
  int32_t device;
  int32_t reverse, reset_to_initial, save;
  Sizes sizes;
  const int64_t* lengths;        // (B), any value: steps from there on are skipped; null: T
  const uint8_t *mask, *resets;  // (T, B), or null
  Regularization regularization;
  Variation variation;  // of its kinds of dropout none but those of h
  int64_t P;            // numbers of h where it is projected; 0: none
  int32_t layer_norm, cell_norm;
  int64_t heads;  // weight_hh is (from_h·H, H/heads): units read those of their own head alone; 0 or 1: all of them
};

// Bytes of device memory that a call needs, aligned to 256. `states` and `gates` stay for the backward.
struct LayerMemory {
  size_t states, gates, workspace;
};

struct LayerForward {
  Layer layer;
  View x, y;                                      // (T, B, I), (T, B, H)
  View state[max_states], state_out[max_states];  // (B, H); data of `state` null: zeros
  const void *weight_ih, *weight_hh;              // (from_x·H, I), (from_h·H, H)
  const void *bias_ih, *bias_hh;                  // null: none
  const void* params;                             // (params, H), for cells that have them
  void *states, *gates, *workspace;               // `gates` null: inference
  void* stream;
  const void *norm_ih, *norm_hh;  // gains of layer normalisation, (from_x·H), (from_h·H); null without
  const void *weight_hr, *norm_c, *bias_c;  // (P, H), (H), (H); null without, bias_c also with
  void* every;  // (T, B, states, padded): the states after every step, zero where it was skipped; null: not wanted
};

struct LayerBackward {
  Layer layer;
  View x, dy;                                       // dy data null: zeros
  View state[max_states], dstate[max_states];       // initial state and dstate; data null: zeros
  const void *weight_ih, *weight_hh, *params;
  const void *states, *gates;                       // as forward left them
  View dx;                                          // data null: not wanted
  int32_t dx_accumulate;
  View dstate_out[max_states];
  void *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh, *dparams;  // null: not wanted
  void* workspace;
  void* stream;
  const void *norm_ih, *norm_hh, *weight_hr, *norm_c, *bias_c;
  void *dnorm_ih, *dnorm_hh, *dweight_hr, *dnorm_c, *dbias_c;  // null where the layer has none
  View dstates[max_states];  // (T, B, H), of h (T, B, P): of the states after every step; data null: zeros
};

// An array over pairs, broadcast by strides of zero: sequence, head, query, key. Data null: none.
struct Spread {
  const void* data;
  int64_t stride[4];
};

// Softmax attention of projected queries and keys: what a forward and its backward agree on. Every array of numbers is
// C-contiguous; query i attends to key j of its sequence when j < length, j <= offset + i if causal,
// offset + i - left <= j <= offset + i + right if left is not negative, and neither mask nor bias (-inf) forbids it.
struct Attention {
  uint32_t size, version;
  int32_t score, number, device;
  int32_t causal;
  AttentionSizes sizes;    // B counts sequences times heads
  int64_t heads;
  const int64_t* lengths;  // (B / heads), any value, or null
  int64_t left, right, offset;
  Spread mask, bias;       // bytes, zero: not attended; numbers added to the scores
  double scale;
};

struct AttentionForward {
  Attention attention;
  const void *query, *key, *value, *weight_score;  // (B, Tq, D), (B, Tk, D), (B, Tk, Dv), (D) or null
  void *context, *weights;                         // (B, Tq, Dv), (B, Tq, Tk)
  void *kept, *workspace;                          // `kept`, for the backward; null: inference
  void* stream;
};

struct AttentionBackward {
  Attention attention;
  const void *query, *key, *value, *weight_score, *weights, *kept;
  const void *dcontext, *dweights;                // null: zeros
  void *dquery, *dkey, *dvalue, *dweight_score;  // the last null for scores without weights
  void *workspace, *stream;
};

// Bytes as LayerMemory has them.
struct AttentionMemory {
  size_t kept, forward_workspace, backward_workspace;
};

// A decoder: a cell that attends to a memory at every step. The cell's sizes are {Tq, B, I + fed, H}, the attention's
// {B, Tq, Tk, D, M} without heads; its tier is the steps' one, its number the attention's, it has no lengths.
struct Decoder {
  uint32_t size, version;
  Layer cell;
  Attention attention;
  int64_t I, fed, O;       // O = M + H without an attention layer
  int32_t query_previous;  // whose h attends: the one before the step, else the one after it
  int32_t has_layer;
};

// Arrays of numbers beside those of cell and attention are C-contiguous; cell and attention have the decoder's stream.
struct DecoderForward {
  Decoder decoder;
  LayerForward cell;  // x: what the cell reads, (B, Tq, I + fed); y: h in `joined`; both by the views' strides
  AttentionForward attention;  // query (B, Tq, D) is written; no context
  void* read;  // that of x, C-contiguous: holds x and the first fed, is filled step by step
  void* joined;  // (B, Tq, M + H): [context; h]; the outputs without an attention layer
  void* outputs;  // (B, Tq, O) with one
  const void *weight_query, *bias_query;  // (D, H), (D); null without
  const void *weight_attention, *bias_attention;  // (O, M + H), (O); null without
  void* workspace;
};

struct DecoderBackward {
  Decoder decoder;
  LayerBackward cell;  // no dy, no dx
  AttentionBackward attention;  // dcontext (B, Tq, M), dquery (B, Tq, D): written
  const void *joined, *outputs, *doutputs;  // doutputs null: zeros
  const void *weight_query, *weight_attention;
  void *dx, *dfeed;  // (B, Tq, I), (B, fed)
  void *dweight_query, *dbias_query, *dweight_attention, *dbias_attention;  // null where there is no such weight
  void* workspace;
};

// Bytes beside those of cell and attention.
struct DecoderMemory {
  size_t forward_workspace, backward_workspace;
};

struct Table {
  uint32_t size, version;
  const char* build;  // compiler and architectures, for `pyrnn info`
  int32_t host_memory;  // 1: an emulation for tests, device memory is the host's
  int32_t cell_count;
  const char* const* cells;
  // All return 0, or another number after which error() says what was wrong, in this thread.
  const char* (*error)();
  int (*device_count)(int* count);
  int (*device_name)(int device, char* name, size_t size);
  int (*forward_memory)(const Layer* layer, LayerMemory* memory);
  int (*forward)(const LayerForward* call);
  int (*backward_memory)(const Layer* layer, size_t* workspace);
  int (*backward)(const LayerBackward* call);
  int (*chosen_tier)(const Layer* layer, int backward, int32_t* tier);
  int32_t score_count;
  const char* const* scores;
  int (*attention_memory)(const Attention* attention, AttentionMemory* memory);
  int (*attention_forward)(const AttentionForward* call);
  int (*attention_backward)(const AttentionBackward* call);
  int (*decoder_memory)(const Decoder* decoder, DecoderMemory* memory);
  int (*decoder_forward)(const DecoderForward* call);
  int (*decoder_backward)(const DecoderBackward* call);
};

// The one symbol of the library. Null when it has no table of that version.
constexpr const char* table_symbol = "pyrnn_cuda_table";
using TableFunction = const Table* (*)(uint32_t version);

}  // namespace cuda
}  // namespace pyrnn
