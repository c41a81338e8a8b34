// SPDX-License-Identifier: Apache-2.0
// Every cell, one line each: name in Python, type. The position is the cell's number in the kernel tables.
#pragma once

#include "clockwork.h"
#include "gru.h"
#include "gru_reset_before.h"
#include "indrnn.h"
#include "janet.h"
#include "lstm.h"
#include "lstm_coupled.h"
#include "lstm_gate_recurrence.h"
#include "lstm_no_forget_gate.h"
#include "lstm_no_input_activation.h"
#include "lstm_no_input_gate.h"
#include "lstm_no_output_activation.h"
#include "lstm_no_output_gate.h"
#include "lstm_peephole.h"
#include "mgu.h"
#include "mut1.h"
#include "mut2.h"
#include "mut3.h"
#include "rnn.h"
#include "slstm.h"

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
  CELL("janet",                     Janet)                        \
  CELL("slstm",                     Slstm)

// Those whose step is no plain product of h: they read what they make of their first slots, or have none. They come
// last: what knows nothing of them, such as the CUDA library, walks the list above.
#define PYRNN_STAGED_CELLS(CELL)                                  \
  CELL("gru_reset_before",          GruResetBefore)               \
  CELL("mgu",                       Mgu)                          \
  CELL("mut1",                      Mut1)                         \
  CELL("mut2",                      Mut2)                         \
  CELL("mut3",                      Mut3)                         \
  CELL("indrnn_tanh",               IndRnn<Tanh>)                 \
  CELL("indrnn_relu",               IndRnn<Relu>)                 \
  CELL("clockwork",                 Clockwork)                    \
  CELL("lstm_gate_recurrence",      LstmGateRecurrence)
// clang-format on
