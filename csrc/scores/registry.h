// SPDX-License-Identifier: Apache-2.0
// Every score, one line each: name in Python, type. The position is the score's number in the kernel tables.
#pragma once

#include "additive.h"
#include "dot.h"

// clang-format off
#define PYRNN_SCORES(SCORE)      \
  SCORE("dot",      Dot)         \
  SCORE("cosine",   Cosine)      \
  SCORE("additive", Additive)
// clang-format on
