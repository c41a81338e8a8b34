// SPDX-License-Identifier: Apache-2.0
// How units are cut into blocks of vectors, work into ranges and memory into pieces.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../simd.h"

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(void const volatile*, size_t);
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#endif

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

PYRNN_FN int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
PYRNN_FN int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
PYRNN_FN int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PYRNN_FN int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Range {
  int64_t begin, end;
  PYRNN_FN int64_t size() const { return end - begin; }
};

// Part i of n nearly equal ones.
PYRNN_FN Range part(int64_t size, int64_t i, int64_t n) { return {size * i / n, size * (i + 1) / n}; }

// `units` numbers cut into blocks of at most `widest` vectors, as even as can be: 13 vectors by 4 are 3 3 3 4.
struct Blocks {
  int64_t units, vectors, count;
  PYRNN_FN Blocks(int64_t units, int lanes, int widest)
      : units(units), vectors(ceil_div(units, lanes)), count(ceil_div(vectors, widest)) {}
  PYRNN_FN Range operator[](int64_t block) const { return part(vectors, block, count); }
};

// One array for each thread, far enough apart that no two share a line or the line fetched along with it: threads that
// write to one line in turns wait for each other at every write.
template <class T>
struct PerThread {
  char* data;
  size_t stride;
  PYRNN_FN T* operator[](int thread) const { return reinterpret_cast<T*>(data + thread * stride); }
};

// Under the address sanitizer nobody may touch what lies between two pieces, which are further apart there.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t piece_gap = 64;
inline void fence(char* piece, size_t used, size_t all) {
  __asan_unpoison_memory_region(piece, used);
  __asan_poison_memory_region(piece + used, all - used);
}
#else
constexpr size_t piece_gap = 0;
PYRNN_FN void fence(char*, size_t, size_t) {}
#endif

// Hands out 64-byte aligned pieces of one block of memory; with a null base it only counts.
struct Carver {
  char* base;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    char* const piece = base ? base + used : nullptr;
    const size_t bytes = size_t(count) * sizeof(T), all = (bytes + 63) / 64 * 64 + piece_gap;
    if (piece) fence(piece, bytes, all);
    used += all;
    return reinterpret_cast<T*>(piece);
  }
  template <class T>
  PerThread<T> take_per_thread(int threads, int64_t count) {
    const size_t bytes = size_t(count) * sizeof(T), stride = (bytes + 127) / 128 * 128 + 128;
    char* const pieces = take<char>(threads * int64_t(stride));
    for (int i = 0; pieces && i < threads; i++) fence(pieces + size_t(i) * stride, bytes, stride);
    return {pieces, stride};
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
