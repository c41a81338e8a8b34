// SPDX-License-Identifier: Apache-2.0
// The numbers that arrays hold, as bits, with the same conversions on host and device.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../csrc/fn.h"

namespace pyrnn {
namespace cuda {

PYRNN_FN uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}
PYRNN_FN float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

PYRNN_FN float widen(float x) { return x; }
PYRNN_FN double widen(double x) { return x; }
PYRNN_FN float widen(Bfloat16 x) { return float_of(uint32_t(x.bits) << 16); }
PYRNN_FN float widen(Float16 x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest < 0x400) return float_of(sign | bits_of(float(rest) * 0x1p-24f));
  return float_of(sign | ((rest << 13) + (112u << 23)));
#endif
}

// To the nearest, ties to even. NaN becomes the one quiet NaN whose bits are not all ones: see `unwritten` below.
template <class T>
struct Narrow;
template <>
struct Narrow<float> {
  static PYRNN_FN float from(float x) { return x != x ? float_of(0x7fc00000) : x; }
};
template <>
struct Narrow<double> {
  static PYRNN_FN double from(double x) { return x; }
};
template <>
struct Narrow<Bfloat16> {
  static PYRNN_FN Bfloat16 from(float x) {
    const uint32_t bits = bits_of(x);
    return {uint16_t(x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  }
};
template <>
struct Narrow<Float16> {
  static PYRNN_FN Float16 from(float x) {
#if defined(__CUDA_ARCH__)
    Float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return {uint16_t(x != x ? 0x7e00 : y.bits)};
#else
    const uint32_t sign = bits_of(x) >> 16 & 0x8000, rest = bits_of(x) & 0x7fffffff;
    if (rest > 0x7f800000) return {0x7e00};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds beyond the largest number
    if (rest < 0x38800000)                                     // subnormal: the addition rounds
      return {uint16_t(sign | (bits_of(float_of(rest) + 0.5f) - bits_of(0.5f)))};
    return {uint16_t(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13))};
#endif
  }
};

// What sums and the cell are computed in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// Sixteen bytes: what a lane loads at once.
struct alignas(16) Words {
  uint32_t word[4];
};

// A buffer through which blocks exchange numbers starts as all ones, a NaN that `Narrow` never makes: a word that is
// still so, or half a word of 16-bit numbers, has not been written yet.
constexpr int unwritten_byte = 0xff;
template <class T>
PYRNN_FN bool unwritten(uint32_t word) {
  if constexpr (sizeof(T) == 2) return (word & 0xffff) == 0xffff || word >> 16 == 0xffff;
  return word == 0xffffffff;
}

// x rounded to the 10 bits of mantissa that TF32 has, ties away from zero as `cvt.rna` does.
PYRNN_FN uint32_t to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
#else
  const uint32_t bits = bits_of(x);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000;
#endif
}

}  // namespace cuda
}  // namespace pyrnn
