// SPDX-License-Identifier: Apache-2.0
// What no kernel can exceed: multiply-adds on registers alone, and reads of memory alone. For the measured peaks.
#pragma once

#include "engine/int8.h"
#include "kernels.h"
#include "simd.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// As many independent sums as the units take at once. They start from different numbers: of equal chains the compiler
// makes one.
constexpr int peak_chains = vector_registers == 32 ? 24 : 12;

template <class V>
double finish_burst(V (&a)[peak_chains], double operations) {
  V sum{};
  PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) sum += a[i];
  asm volatile("" : "+m"(sum));
  return operations;
}

template <class T>
double fma_burst(int64_t rounds) {
  Vec<T> a[peak_chains], x = broadcast(T(0.999)), y = broadcast(T(0.001));
  asm volatile("" : "+m"(x), "+m"(y));
  PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) a[i] = broadcast(T(i));
  for (int64_t r = 0; r < rounds; r++) PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) a[i] = a[i] * x + y;
  return finish_burst(a, 2.0 * peak_chains * lanes<T> * double(rounds));
}

// Products of pairs of bfloat16. Without AVX512-BF16 they are multiply-adds of float32, one for each number.
inline double bfloat16_burst(int64_t rounds) {
#if defined(__AVX512BF16__)
  Vec<float> a[peak_chains];
  Vec<uint32_t> x = broadcast(0xbf803f80u), y = broadcast(0x3f803f80u);  // (1, -1), (1, 1)
  asm volatile("" : "+m"(x), "+m"(y));
  PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) a[i] = broadcast(float(i));
  for (int64_t r = 0; r < rounds; r++)
    PYRNN_UNROLL for (int i = 0; i < peak_chains; i++)
        a[i] = (Vec<float>)_mm512_dpbf16_ps((__m512)a[i], (__m512bh)x, (__m512bh)y);
  return finish_burst(a, 4.0 * peak_chains * lanes<float> * double(rounds));
#else
  return fma_burst<float>(rounds);
#endif
}

// Products of fours of eight bits, whatever instructions they take.
inline double int8_burst(int64_t rounds) {
  Vec<int32_t> a[peak_chains];
  const int32_t fours[4] = {1, -1, 2, -2};
  const Int8::Factor x = Int8::element(fours);
  Vec<int32_t> y = 0x01020304 - Vec<int32_t>{};
  PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) a[i] = i - Vec<int32_t>{};
  for (int64_t r = 0; r < rounds; r++) {
    asm volatile("" : "+m"(y));  // else the products are made once and added alone
    PYRNN_UNROLL for (int i = 0; i < peak_chains; i++) Int8::add(a[i], x, y);
  }
  return finish_burst(a, 8.0 * peak_chains * lanes<int32_t> * double(rounds));
}

// Reads `bytes`, a multiple of read_unit, from an aligned address on.
constexpr int read_chains = 8;
inline void read_burst(const void* data, int64_t bytes) {
  using V = Vec<int32_t>;
  static_assert(read_chains * vector_bytes <= read_unit, "a burst ends with whole rounds");
  const V* from = static_cast<const V*>(data);
  V a[read_chains] = {};
  for (int64_t i = 0; i < bytes / vector_bytes; i += read_chains)
    PYRNN_UNROLL for (int j = 0; j < read_chains; j++) a[j] |= from[i + j];
  V sum{};
  PYRNN_UNROLL for (int j = 0; j < read_chains; j++) sum |= a[j];
  asm volatile("" : "+m"(sum));
}

inline void fill_peaks(Kernels& t) {
  t.multiply_burst[float32] = fma_burst<float>;
  t.multiply_burst[float64] = fma_burst<double>;
  t.multiply_burst[bfloat16] = bfloat16_burst;
  t.multiply_burst[int8] = int8_burst;
  t.read_burst = read_burst;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
