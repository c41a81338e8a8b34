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
  // For a decoder, query by query in any order: before the first; query i of all sequences, its context `distance`
  // from one sequence to the next; back through query i alone; and what all of them give to keys, values and weights.
  int (*start)(const AttentionForward&);
  int (*step)(const AttentionForward&, int64_t i, void* context, int64_t distance);
  int (*step_backward)(const AttentionBackward&, int64_t i);
  int (*rest_backward)(const AttentionBackward&);
};

extern const int score_count;
extern const char* const score_names[];

// Of `score` below score_count; null for a score that is the CPU's alone, or another number.
const AttentionFunctions* attention_functions(int score, int number);

}  // namespace cuda
}  // namespace pyrnn
