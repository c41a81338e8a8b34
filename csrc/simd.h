// SPDX-License-Identifier: Apache-2.0
// Vec<T>: the widest vector of the instruction set, on the compiler's vector extensions.
#pragma once

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "fn.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16, vector_registers = 32;
#else
constexpr int vector_bytes = 16, vector_registers = 16;
#endif

template <class T>
struct IndexOf;
template <>
struct IndexOf<float> {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};

template <class T>
struct VecTypes {
  typedef T aligned __attribute__((vector_size(vector_bytes), may_alias));
  typedef T unaligned __attribute__((vector_size(vector_bytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vec = typename VecTypes<T>::aligned;

template <class T>
constexpr int lanes = vector_bytes / int(sizeof(T));

template <class T>
PYRNN_FN Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
PYRNN_FN void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}
template <class T>
PYRNN_FN Vec<T> load_unaligned(const T* p) {
  return *reinterpret_cast<const typename VecTypes<T>::unaligned*>(p);
}
template <class T>
PYRNN_FN void store_unaligned(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecTypes<T>::unaligned*>(p) = v;
}

// A whole aligned vector past the caches: memory is not read first, and what is there is not pushed out. Other threads
// see it after stored_around().
template <class T>
PYRNN_FN void store_around(T* p, Vec<T> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#else
  store(p, v);
#endif
}
PYRNN_FN void stored_around() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// v, of which the compiler knows nothing any more. What it knows to be zeros it would follow into the formulas after
// it, and there fuse other products and sums than elsewhere: the same numbers would give other bits.
template <class V>
PYRNN_FN V opaque(V v) {
#if defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// The first n lanes (0 <= n), the others zero: an end of a row is never read or written past.
PYRNN_FN Vec<float> load_tail(const float* p, int64_t n) {
  if (n >= lanes<float>) return load_unaligned(p);
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#else
  Vec<float> v{};
  for (int64_t i = 0; i < n; i++) v[i] = p[i];
  return opaque(v);
#endif
}
PYRNN_FN Vec<double> load_tail(const double* p, int64_t n) {
  if (n >= lanes<double>) return load_unaligned(p);
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#else
  Vec<double> v{};
  for (int64_t i = 0; i < n; i++) v[i] = p[i];
  return opaque(v);
#endif
}
PYRNN_FN void store_tail(float* p, Vec<float> v, int64_t n) {
  if (n >= lanes<float>) return store_unaligned(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
#else
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}
PYRNN_FN void store_tail(double* p, Vec<double> v, int64_t n) {
  if (n >= lanes<double>) return store_unaligned(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
#else
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

// Asks for the line of memory at p, whatever is there. Rows that are read a few lines at a time defeat the processor's
// own guesses.
PYRNN_FN void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// x in every lane. Subtracting zero keeps every value, -0 and NaN included, and folds into one broadcast.
template <class T>
PYRNN_FN Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// NaN in x is kept by both: the comparison is false and x is the second operand. Intrinsics where there are any,
// because the compiler turns the comparison with a constant round and then needs two instructions in place of one.
#if defined(__AVX512F__)
PYRNN_FN Vec<float> min(Vec<float> bound, Vec<float> x) {
  return (Vec<float>)_mm512_maskz_min_ps(0xffff, (__m512)bound, (__m512)x);
}
PYRNN_FN Vec<float> max(Vec<float> bound, Vec<float> x) {
  return (Vec<float>)_mm512_maskz_max_ps(0xffff, (__m512)bound, (__m512)x);
}
PYRNN_FN Vec<double> min(Vec<double> bound, Vec<double> x) {
  return (Vec<double>)_mm512_maskz_min_pd(0xff, (__m512d)bound, (__m512d)x);
}
PYRNN_FN Vec<double> max(Vec<double> bound, Vec<double> x) {
  return (Vec<double>)_mm512_maskz_max_pd(0xff, (__m512d)bound, (__m512d)x);
}
#elif defined(__AVX__)
PYRNN_FN Vec<float> min(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm256_min_ps((__m256)bound, (__m256)x); }
PYRNN_FN Vec<float> max(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm256_max_ps((__m256)bound, (__m256)x); }
PYRNN_FN Vec<double> min(Vec<double> bound, Vec<double> x) {
  return (Vec<double>)_mm256_min_pd((__m256d)bound, (__m256d)x);
}
PYRNN_FN Vec<double> max(Vec<double> bound, Vec<double> x) {
  return (Vec<double>)_mm256_max_pd((__m256d)bound, (__m256d)x);
}
#else
template <class V>
PYRNN_FN V min(V bound, V x) {
  return bound < x ? bound : x;
}
template <class V>
PYRNN_FN V max(V bound, V x) {
  return bound > x ? bound : x;
}
#endif

// 1/x for 1 <= |x| < 2^126: the processor's estimate and one Newton step (2 ULP) where the division unit is
// the bottleneck of the epilogue, the division elsewhere.
PYRNN_FN Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> y = (Vec<float>)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return y + y * (1 - x * y);
#else
  return 1 / x;
#endif
}
PYRNN_FN Vec<double> reciprocal(Vec<double> x) { return 1 / x; }

// The lanes of a and b in turns, from lane `first` on.
template <class T>
PYRNN_FN Vec<T> interleave(Vec<T> a, Vec<T> b, int first) {
#if defined(__clang__)
  Vec<T> v;
  PYRNN_UNROLL for (int i = 0; i < lanes<T>; i++) v[i] = i % 2 ? b[first + i / 2] : a[first + i / 2];
  return v;
#else
  Vec<typename IndexOf<T>::type> index{};
  for (int i = 0; i < lanes<T>; i++) index[i] = first + i / 2 + (i % 2) * lanes<T>;
  return __builtin_shuffle(a, b, index);
#endif
}

// The lanes of v, each in the place of the one whose number differs in the bits of `distance`.
template <int distance, class T>
PYRNN_FN Vec<T> exchange(Vec<T> v) {
#if defined(__clang__)
  Vec<T> other;
  PYRNN_UNROLL for (int i = 0; i < lanes<T>; i++) other[i] = v[i ^ distance];
  return other;
#else
  Vec<typename IndexOf<T>::type> index{};
  PYRNN_UNROLL for (int i = 0; i < lanes<T>; i++) index[i] = i ^ distance;
  return __builtin_shuffle(v, index);
#endif
}

template <class T, int distance = lanes<T> / 2>
PYRNN_FN T sum_of_lanes(Vec<T> v) {
  v += exchange<distance, T>(v);
  if constexpr (distance > 1) return sum_of_lanes<T, distance / 2>(v);
  return v[0];
}
template <class T, int distance = lanes<T> / 2>
PYRNN_FN T largest_lane(Vec<T> v) {
  v = max(v, exchange<distance, T>(v));
  if constexpr (distance > 1) return largest_lane<T, distance / 2>(v);
  return v[0];
}

// L x L values, rows[i][j] -> rows[j][i]: log2(L) rounds that interleave the first half of the rows with the second.
template <class T>
PYRNN_FN void transpose(Vec<T> (&rows)[lanes<T>]) {
  constexpr int L = lanes<T>;
  for (int round = 1; round < L; round *= 2) {
    Vec<T> next[L];
    PYRNN_UNROLL for (int i = 0; i < L / 2; i++) {
      next[2 * i] = interleave<T>(rows[i], rows[i + L / 2], 0);
      next[2 * i + 1] = interleave<T>(rows[i], rows[i + L / 2], L / 2);
    }
    PYRNN_UNROLL for (int i = 0; i < L; i++) rows[i] = next[i];
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
