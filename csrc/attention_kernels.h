// SPDX-License-Identifier: Apache-2.0
// What attention_kernels.cpp adds to the table of one instruction set; PYRNN_ATTENTION_OF names another whose attention
// would be the same instructions.
#pragma once

#include "fn.h"
#include "kernels.h"

namespace pyrnn {
#if defined(PYRNN_ATTENTION_OF)
namespace PYRNN_ATTENTION_OF { void fill_attention(Kernels& table); }
#endif
inline namespace PYRNN_ISA_NAMESPACE {

#if defined(PYRNN_ATTENTION_OF)
using PYRNN_ATTENTION_OF::fill_attention;
#else
void fill_attention(Kernels& table);
#endif

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
