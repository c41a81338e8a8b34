// SPDX-License-Identifier: Apache-2.0
// The attention part of the table of kernels; compiled once for each instruction set, beside kernels.cpp.
#include "attention_kernels.h"

#include "engine/decoder_backward.h"
#include "engine/product.h"
#include "scores/registry.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class Score, class T>
constexpr AttentionKernels attention_kernels() {
  return {attention_forward_workspace<Score, T>,  attention_forward<Score, T>,
          attention_backward_workspace<Score, T>, attention_backward<Score, T>,
          decoder_forward_workspace<Score, T>,    decoder_forward<Score, T>,
          decoder_backward_workspace<Score, T>,   decoder_backward<Score, T>};
}

void fill_attention(Kernels& t) {
#define PYRNN_ENTRY(name, ...)                                                    \
  t.score[t.score_count] = name;                                                  \
  t.weighted[t.score_count] = __VA_ARGS__::weighted;                              \
  t.attention[t.score_count][float32] = attention_kernels<__VA_ARGS__, float>();  \
  t.attention[t.score_count][float64] = attention_kernels<__VA_ARGS__, double>(); \
  t.score_count++;
  PYRNN_SCORES(PYRNN_ENTRY)
#undef PYRNN_ENTRY
  t.product_workspace[float32] = product_workspace<float>;
  t.product_workspace[float64] = product_workspace<double>;
  t.product[float32] = product<float>;
  t.product[float64] = product<double>;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
