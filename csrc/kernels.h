// SPDX-License-Identifier: Apache-2.0
// What crosses the border between the bindings and the kernels of one instruction set: PODs, pointers, one table.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pyrnn {

// The numbers of a call; bfloat16: those of the arrays are float32, and products round both sides.
// int8: of weights alone, packed beforehand, for inference.
enum Type { float32 = 0, float64 = 1, bfloat16 = 2, int8 = 3, type_count = 4 };
enum Activation { activation_sigmoid, activation_tanh, activation_relu, activation_exp, activation_count };

// Activations that a call may ask for in place of a cell's own: those of the ONNX operators.
enum Curve {
  curve_sigmoid,
  curve_tanh,
  curve_relu,
  curve_hardsigmoid,
  curve_softsign,
  curve_affine,
  curve_leakyrelu,
  curve_thresholdedrelu,
  curve_scaledtanh,
  curve_elu,
  curve_softplus,
  curve_count
};
struct CurveChoice {
  int32_t curve;
  double alpha, beta;
};

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
  int64_t whole;          // entries before a segment was cut out, else the same: the order of sums follows from them
  int32_t resets;         // some source is a reset: the gradient of the state stops there
  int64_t half;           // the first sequence of the second half of the entries, before a segment was cut out
};

// The largest cell that the tables below have room for.
constexpr int max_cells = 64, max_slots = 8, max_states = 5, max_saved = 8, max_params = 4;
constexpr int max_blocks = 16;  // of H rows of a weight: from_x, from_h

// The entries that make the input's product worth making before the steps, where a step has few rows; so far a layer
// that reads another one stays behind it.
constexpr int64_t least_hoisted = 12;

// Bytes that the caller provides for a call, 64-byte aligned.
struct Memory {
  size_t workspace, states, gates;
  int64_t gate_rows;  // rows of padded units that are kept for an entry; the cell's saved ones come first
};

// Of one layer in one direction. Biases may be null; per-unit parameters are null where the cell has none.
struct Weights {
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh;  // (from_x·H, I), (from_h·H, H), (from_x·H), (from_h·H)
  const void* params;                                     // (params, H)
  const void *norm_ih, *norm_hh;  // gains of layer normalisation, (from_x·H), (from_h·H); null without
  const void* weight_hr;          // (P, H) of a projected layer, whose h has P numbers: weight_hh is (from_h·H, P)
  int64_t P;                      // 0 without
  const void *norm_c, *bias_c;  // (H), (H): gain and bias of the normalisation of c; null without, bias_c also with
  const float *scale_ih, *scale_hh;  // of int8 weights, (from_x·H), (from_h·H), when they are packed
  void* packed;                   // of int8 weights, when they are used
  int64_t heads;  // weight_hh is (from_h·H, H/heads): units read those of their own head alone; 0 or 1: all of them
};

// What changes inside a cell; all zero: nothing. Such a layer is staged.
struct Variation {
  int32_t varied;  // the three curves, the clips or the dropout of the candidate
  CurveChoice gate, candidate, output;  // of the gates, of what they let in, of c on its way out
  double gate_clip, cell_clip;  // what pre-activations and c are clipped to, either side of zero; 0: nothing
};

// Where recurrent dropout acts: on the h that the product reads, with one mask for all steps of a sequence or another
// at every step, or on the candidate, another at every step.
enum DropoutKind { dropout_sequence, dropout_step, dropout_candidate, dropout_kind_count };

// What training does to the states beside the cell; all zero: nothing. The masks follow from seed and stream.
struct Regularization {
  double zoneout[max_states];  // probability that a unit keeps its old state; without training, how much of it
  double dropout;  // of the h that the product reads, in training
  int32_t training;
  uint32_t stream;  // another for each layer and direction
  uint64_t seed;
  int32_t dropout_kind;
};

struct ForwardArgs {
  Sizes sizes;
  Schedule schedule;
  View x, y;  // (T, B, I), (T, B, H)
  View state[max_states], state_out[max_states];  // (B, H); `step` is unused
  Weights weights;
  Regularization regularization;
  Variation variation;
  void *states, *gates, *workspace;  // `gates` null: inference
  // Where another thread writes x meanwhile: how many entries of it are there; and how many of y, for whoever reads it.
  // Null: all, nobody.
  const int64_t* x_ready;
  int64_t* y_ready;
};

struct BackwardArgs {
  Sizes sizes;
  Schedule schedule;
  View x;
  Weights weights;  // without biases
  Regularization regularization;
  Variation variation;
  const void *states, *gates;  // as forward left them
  View dy;  // data null: zero
  View dstate[max_states];  // data null: zero
  View dstates[max_states];  // (T, B, H): of the states after every step; data null: zero
  View dx;  // data null: not wanted
  int32_t dx_accumulate;
  View dstate_out[max_states];
  void *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh, *dparams, *dnorm_ih, *dnorm_hh;  // biases may be null
  void* dweight_hr;
  void *dnorm_c, *dbias_c;
  void* workspace;
  // Of a segment: the workspace and the weights' gradients are as the segment after it left them; another follows.
  int32_t resumed, unfinished;
};

// One layer of a stream. `pack` and `states` are the stream's own and persist from step to step.
struct StreamLayer {
  int64_t I, H;
  void *pack, *states, *scratch;
  int32_t parity;  // which half of the states is current
  double zoneout[max_states];
  // How so many threads share a step, and what that is to save in cycles; where this is doubtful, the steps since the
  // last trial, what some took alone and shared, and which was faster. threads 0: not planned yet.
  int32_t threads, row_groups, unit_groups, shared;
  double gain;
  int64_t trial;  // -1: no doubt
  uint64_t taken[2];
};

struct CellInfo {
  const char* name;
  int slots, states, saved, params, from_x_count, from_h_count;
  int late;  // the last so many of from_h do not read h, but what the cell makes of the other slots and the states
  int reads;  // how many vectors that is
  const int *from_x, *from_h;
  const char* param_name;  // what the array of per-unit parameters is called; empty without any
  const char* roles;  // of its activations that a call may choose: f, g, h; empty where it may not
  bool ordered;  // a weight of h counts only towards units whose first parameter is not larger
  bool staged;  // its step is no plain product of h: no streams, decoders or CUDA kernels of it
};

struct CellKernels {
  Memory (*forward_memory)(const ForwardArgs&, int threads, bool save);
  double (*forward_cycles)(const ForwardArgs&,
                           int threads);  // estimated; 0: so few steps that nobody is woken for them
  bool (*follows)(const ForwardArgs&);  // whether its forward knows x_ready and y_ready
  void (*forward)(const ForwardArgs&, int threads);
  int64_t (*backward_chunk)(const ForwardArgs&);  // entries that the backward's sums take together
  size_t (*backward_workspace)(const BackwardArgs&, int threads);
  double (*backward_cycles)(const BackwardArgs&, int threads);  // estimated
  void (*backward)(const BackwardArgs&, int threads);
  size_t (*stream_pack_bytes)(int64_t I, int64_t H);
  size_t (*stream_state_bytes)(int64_t B, int64_t H);
  size_t (*stream_scratch_bytes)(int64_t B, int64_t I, int64_t H);
  void (*stream_pack)(const Sizes&, const Weights&, void* pack);
  void (*stream_step)(StreamLayer* layer, int64_t B, View x, View y, int threads);
  int64_t (*padded)(int64_t H);  // distance between the units' rows in `states` and `gates`
  // The cell itself for one sequence: rows of padded(H) units, `slots`, `states` and `saved` of them.
  // `params` is such rows too, and so are their gradients, which follow those of the slots in `da`.
  void (*point)(int64_t H, const void* params, const void* a, const void* s, void* s_new, void* save);
  void (*point_backward)(int64_t H, const void* params, const void* save, const void* s, void* ds, void* da);
};

// Attention: scores of every query with every key, weights from the scores of a query, and the weighted sum of values.
struct AttentionSizes {
  int64_t B, Tq, Tk, D, Dv;  // sequences, queries, keys; features of queries and keys, and of values
};

enum Alignment { align_softmax, align_sparsemax, align_monotonic, align_hard_monotonic, alignment_count };

// What the weights before a query add to the scores of an additive score: w_d tanh(q_d + k_d + Σ_f U_df·x_f), where x
// is the weights of the query before, filtered (location), and the sum of all before (coverage).
struct History {
  int64_t filters, width;  // of the location features; 0 without
  const void* filter;  // (filters, width)
  const void* location;  // (D, filters)
  const void* coverage;  // (D); null without
  const void* coverage_from;  // (B, Tk), the sum before the first query; null: zero
};

// Every array is C-contiguous. What is marked * may be null.
struct AttentionArgs {
  AttentionSizes sizes;
  int32_t alignment;
  const void *query, *key, *value;  // (B, Tq, D), (B, Tk, D), (B, Tk, Dv)
  const void* weight_score;  // (D); * for scores without weights
  const int64_t* bounds;  // (B, Tq, 2): the first key of a query and the one after its last
  const uint8_t* mask;  // (B, Tq, Tk), zero: not attended *
  const void* bias;  // (B, Tq, Tk), added to the scores *
  const void* center;  // (B, Tq): weights are multiplied by e^(-(j - center)²/2σ²) *
  double scale, sigma;
  const void* previous;  // (B, Tk): the weights before the first query; * zero, for monotonic one at the first key
  History history;
  void *context, *weights;  // (B, Tq, Dv), (B, Tq, Tk)
  void* kept;  // (B, Tq, Tk), for backward: p of a monotonic alignment, weights before the Gaussian *
  void *query_size, *key_size;  // (B, Tq), (B, Tk), for backward: max |q_d| of each row, or 1/|q| for unit rows
  void* phi;  // (B, Tk, D), for backward, of one query and an additive score: φ of it and each key; dkey may be there *
  void* workspace;
};

struct AttentionGradients {
  const void *dcontext, *dweights;  // dweights *
  void *dquery, *dkey, *dvalue;
  void* dweight_score;  // (D); * for scores without weights
  void* dbias;  // (1): the sum over all pairs
  void* dcenter;  // (B, Tq) *
  void *dprevious, *dcoverage_from;  // (B, Tk) *
  void *dfilter, *dlocation, *dcoverage;  // of the history *
};

// A decoder: a cell that attends to a memory at every step, the whole sequence in one call.
//   query_previous 0: s_t = cell([x_t; feed_{t-1}], s_{t-1}), c_t = attention(h_t)
//                  1: c_t = attention(h_{t-1}), s_t = cell([x_t; c_t], s_{t-1})
//   out_t = tanh(W [c_t; h_t] + b), or [c_t; h_t] without W; feed_t = out_t with W, else c_t
// Arrays are C-contiguous; what is marked * may be null.
struct DecoderArgs {
  AttentionArgs attention;  // of B·T queries; query, context and weights are written by the loop
  const CellInfo* cell;
  const CellKernels* kernels;
  int64_t I, H, O, fed;  // inputs, units, outputs, what the cell reads beside x
  int32_t query_previous;
  const void* x;  // (B, T, I)
  const void* state[max_states];  // (B, H)
  Weights weights;  // as of a layer with I + fed inputs; biases *
  const void *weight_query, *bias_query;  // (D, H), (D) * identity
  const void *weight_attention, *bias_attention;  // (O, M + H), (O) *
  const void* feed;  // (B, fed) * zero
  void* outputs;  // (B, T, O)
  void* state_out[max_states];  // (B, H)
  void *states, *gates;  // (T + 1, B, states, padded), (T, B, saved, padded); gates * in inference
  void* workspace;
};

struct DecoderGradients {
  AttentionGradients attention;  // dcontext and dquery are written by the loop
  const void* doutputs;  // (B, T, O) *
  const void* dstate[max_states];  // (B, H) *
  void *dx, *dfeed;  // (B, T, I), (B, fed); dfeed *
  void* dstate_out[max_states];
  void *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh, *dparams;
  void *dweight_query, *dbias_query, *dweight_attention, *dbias_attention;
};

struct AttentionKernels {
  size_t (*forward_workspace)(const AttentionArgs&, int threads);
  void (*forward)(const AttentionArgs&, int threads);
  size_t (*backward_workspace)(const AttentionArgs&, int threads);
  void (*backward)(const AttentionArgs&, const AttentionGradients&, int threads);
  size_t (*decoder_forward_workspace)(const DecoderArgs&, int threads);
  void (*decoder_forward)(const DecoderArgs&, int threads);
  size_t (*decoder_backward_workspace)(const DecoderArgs&, const DecoderGradients&, int threads);
  void (*decoder_backward)(const DecoderArgs&, const DecoderGradients&, int threads);
};

constexpr int max_scores = 16;
constexpr int read_unit = 512;  // bytes that read_burst takes at a time

// out (M, N) = a (M, K) · b (K, N), C-contiguous; a transposed one is stored as (K, M), (N, K).
struct ProductArgs {
  int64_t M, N, K;
  const void *a, *b;
  void* out;
  int32_t a_transposed, b_transposed;
  void* workspace;
};

struct Kernels {
  const char* isa;
  int cell_count;
  CellInfo info[max_cells];
  CellKernels cell[max_cells][type_count];
  int score_count;
  const char* score[max_scores];
  bool weighted[max_scores];
  AttentionKernels attention[max_scores][type_count];
  size_t (*product_workspace[type_count])(const ProductArgs&, int threads);
  void (*product[type_count])(const ProductArgs&, int threads);
  void (*activation[type_count])(int which, const void* x, void* y, int64_t n);
  // For the measured peaks: multiply-adds alone, whose operations are returned; and reading alone.
  double (*multiply_burst[type_count])(int64_t rounds);
  void (*read_burst)(const void* data, int64_t bytes);
};

}  // namespace pyrnn
