// SPDX-License-Identifier: Apache-2.0
// Parts of memory and of grids, for launches.
#pragma once

#include "steps.h"

namespace pyrnn {
namespace cuda {

// Hands out 256-byte aligned pieces of one block of memory; with a null base it only counts.
struct Carver {
  char* base;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (size_t(count) * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
};

inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(Words) == 0; }

inline Steps steps_of(const Layer& layer) {
  return {layer.sizes.T, layer.sizes.B, layer.reverse, layer.reset_to_initial, layer.lengths, layer.mask, layer.resets};
}

}  // namespace cuda
}  // namespace pyrnn
