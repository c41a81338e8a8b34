// SPDX-License-Identifier: Apache-2.0
// What a product multiplies: the arrays' own numbers, or bfloat16, two at a time. The sums are the arrays' in both.
#pragma once

#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Such a policy has
//   Number, Factor   an element of the weights as packed; of a row as the product reads it
//   length(K)        elements of K numbers
//   prepared         whether rows are rewritten before: prepare(row, K, out)
//   panel_first      whether a vector of weights costs work before it can be multiplied: it is used for all rows then
//   Backward         the policy of the backward's products, in which Number and Factor are one
// Whether the weights come packed, once for all calls.
template <class P>
inline constexpr bool prepacked = false;

template <class T>
struct Plain {
  using Number = T;
  using Factor = T;
  using Backward = Plain;
  static constexpr bool pairs = false, prepared = false, panel_first = vector_registers < 32;
  static PYRNN_FN int64_t length(int64_t K) { return K; }
  static PYRNN_FN void add(Vec<T>& sum, Factor x, Vec<T> w) { sum += broadcast(x) * w; }
  static PYRNN_FN Vec<T> elements(const T* row, int64_t k) { return load_unaligned(row + k); }
  static PYRNN_FN Number element(const T* row, int64_t k, int64_t) { return row[k]; }
  static PYRNN_FN Vec<T> join(Vec<T> first, Vec<T>) { return first; }
};

// bfloat16 is the upper half of a float. To the nearest, ties to even; NaN stays NaN.
PYRNN_FN uint32_t upper_half(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (x != x ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}

PYRNN_FN Vec<uint32_t> upper_halves(Vec<float> x) {
  const Vec<uint32_t> bits = (Vec<uint32_t>)x, nan = (Vec<uint32_t>)(x != x);
  return (((bits + 0x7fffu + ((bits >> 16) & 1)) & ~nan) | ((bits | 0x400000u) & nan)) >> 16;
}

// Weights as pairs of bfloat16, those of inputs 2k and 2k + 1, the first in the lower half. With AVX512-BF16 the rows
// are rounded to such pairs too; elsewhere only the weights are.
struct BFloat16 {
  using Number = uint32_t;
  static constexpr bool pairs = true;
  static PYRNN_FN int64_t length(int64_t K) { return (K + 1) / 2; }
  // The pairs of two rows, number by number.
  static PYRNN_FN Vec<uint32_t> join(Vec<float> first, Vec<float> second) {
    return upper_halves(first) | upper_halves(second) << 16;
  }
  static PYRNN_FN Number element(const float* row, int64_t k, int64_t K) {
    return upper_half(row[2 * k]) | (2 * k + 1 < K ? upper_half(row[2 * k + 1]) << 16 : 0);
  }
#if defined(__AVX512BF16__)
  using Factor = uint32_t;
  using Backward = BFloat16;
  static constexpr bool prepared = true, panel_first = false;
  static PYRNN_FN void add(Vec<float>& sum, Factor x, Vec<uint32_t> w) {
    sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)broadcast(x), (__m512bh)w);
  }
  // L elements of a row that has as many.
  static PYRNN_FN Vec<uint32_t> elements(const float* row, int64_t k) {
    return (Vec<uint32_t>)_mm512_cvtne2ps_pbh((__m512)load_unaligned(row + 2 * k + lanes<float>),
                                              (__m512)load_unaligned(row + 2 * k));
  }
  // Half a vector of elements.
  static PYRNN_FN void store_half(Factor* out, Vec<float> x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh((__m512)x));
  }
  static PYRNN_FN const Factor* prepare(const float* row, int64_t K, Factor* out) {
    int64_t k = 0;
    for (; k + lanes<float> <= K / 2; k += lanes<float>) store_unaligned(out + k, elements(row, k));
    for (; k < length(K); k++) out[k] = element(row, k, K);
    return out;
  }
#else
  struct Factor {
    float first, second;
  };
  using Backward = Plain<float>;
  static constexpr bool prepared = true, panel_first = true;
  static PYRNN_FN void add(Vec<float>& sum, Factor x, Vec<uint32_t> w) {
    sum += broadcast(x.first) * (Vec<float>)(w << 16);
    sum += broadcast(x.second) * (Vec<float>)(w & broadcast(0xffff0000u));
  }
  static PYRNN_FN Vec<uint32_t> elements(const float* row, int64_t k) {
    Vec<uint32_t> v;
    for (int i = 0; i < lanes<float>; i++) v[i] = element(row, k + i, 2 * (k + i) + 2);
    return v;
  }
  // A row of an odd number of numbers has no last pair.
  static PYRNN_FN const Factor* prepare(const float* row, int64_t K, Factor* out) {
    if (K % 2 == 0) return reinterpret_cast<const Factor*>(row);
    for (int64_t k = 0; k < length(K); k++) out[k] = {row[2 * k], 2 * k + 1 < K ? row[2 * k + 1] : 0.f};
    return out;
  }
#endif
};

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
