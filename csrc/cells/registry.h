// SPDX-License-Identifier: Apache-2.0
// Every cell, one line each: name in Python, type. The position is the cell's number in the kernel tables.
#pragma once

#include "gru.h"
#include "gru_reset_before.h"
#include "janet.h"
#include "lstm.h"
#include "lstm_coupled.h"
#include "lstm_no_forget_gate.h"
#include "lstm_no_input_activation.h"
#include "lstm_no_input_gate.h"
#include "lstm_no_output_activation.h"
#include "lstm_no_output_gate.h"
#include "lstm_peephole.h"
#include "mgu.h"
#include "rnn.h"

// clang-format off
#define PYRNN_CELLS(CELL)                                         \
  CELL("lstm",                      Lstm)                         \
  CELL("gru",                       Gru)                          \
  CELL("rnn_tanh",                  Rnn<Tanh>)                    \
  CELL("rnn_relu",                  Rnn<Relu>)                    \
  CELL("lstm_peephole",             LstmPeephole)                 \
  CELL("lstm_coupled",              LstmCoupled)                  \
  CELL("lstm_no_input_gate",        LstmNoInputGate)              \
  CELL("lstm_no_forget_gate",       LstmNoForgetGate)             \
  CELL("lstm_no_output_gate",       LstmNoOutputGate)             \
  CELL("lstm_no_input_activation",  LstmNoInputActivation)        \
  CELL("lstm_no_output_activation", LstmNoOutputActivation)       \
  CELL("janet",                     Janet)

// Those that read what they make of their first slots. They come last: what knows nothing of them, such as the CUDA
// library, walks the list above.
#define PYRNN_STAGED_CELLS(CELL)                                  \
  CELL("gru_reset_before",          GruResetBefore)               \
  CELL("mgu",                       Mgu)
// clang-format on
