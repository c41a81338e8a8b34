// SPDX-License-Identifier: Apache-2.0
// How units are cut into blocks of vectors, work into ranges and memory into pieces.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../simd.h"

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

// Hands out 64-byte aligned pieces of one block of memory; with a null base it only counts.
struct Carver {
  char* base;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  template <class T>
  PerThread<T> take_per_thread(int threads, int64_t count) {
    const size_t stride = (size_t(count) * sizeof(T) + 127) / 128 * 128 + 128;
    return {take<char>(threads * int64_t(stride)), stride};
  }
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
