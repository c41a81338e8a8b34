// SPDX-License-Identifier: Apache-2.0
// What _core lends to other extension modules of the same build: its kernels, its threads, its memory.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace pyrnn {

constexpr char shared_name[] = "pyrnn._core.shared";

struct Shared {
  std::size_t bytes, kernels_bytes;  // of this and of the table: another build's differ, and are refused
  const Kernels* kernels;
  int (*threads)();                                        // that a call may use
  void* (*new_buffer)(std::size_t bytes, void** data);     // 64-byte aligned; std::bad_alloc
  void (*delete_buffer)(void* buffer);
};

}  // namespace pyrnn
