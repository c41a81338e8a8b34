// SPDX-License-Identifier: Apache-2.0
// Every cell, one line each: name in Python, type. The position is the cell's number in the kernel tables.
#pragma once

#include "gru.h"
#include "lstm.h"
#include "rnn.h"

// clang-format off
#define PYRNN_CELLS(CELL)           \
  CELL("lstm",     Lstm)            \
  CELL("gru",      Gru)             \
  CELL("rnn_tanh", Rnn<Tanh>)       \
  CELL("rnn_relu", Rnn<Relu>)
// clang-format on
