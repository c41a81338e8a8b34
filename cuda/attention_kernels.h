// SPDX-License-Identifier: Apache-2.0
// Attention for every type of number; attention.cu has them.
#pragma once

#include "abi.h"

namespace pyrnn {
namespace cuda {

struct AttentionFunctions {
  int (*memory)(const Attention&, AttentionMemory*);
  int (*forward)(const AttentionForward&);
  int (*backward)(const AttentionBackward&);
};

extern const int score_count;
extern const char* const score_names[];

// Of `score` below score_count; null for a score that is the CPU's alone, or another number.
const AttentionFunctions* attention_functions(int score, int number);

}  // namespace cuda
}  // namespace pyrnn
