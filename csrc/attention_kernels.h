// SPDX-License-Identifier: Apache-2.0
// What attention_kernels.cpp adds to the table of one instruction set.
#pragma once

#include "fn.h"
#include "kernels.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

void fill_attention(Kernels& table);

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
