// SPDX-License-Identifier: Apache-2.0
// Exponential and hyperbolic tangent on vectors, and the activations: policies with the derivative taken from the
// output.
#pragma once

#include "scalar.h"
#include "simd.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// What one floating-point format needs to split x into n·ln2 + r, |r| <= ln2/2.
// `round` is 1.5·2^(mantissa bits): adding it leaves the nearest integer in the low bits. ln2_high has enough
// trailing zeros that n·ln2_high is exact. `coefficients` are a minimax fit of (e^r - 1 - r)/r², lowest first.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Bits = uint32_t;  // beyond the bounds they overflow, which only unsigned numbers may
  static constexpr float log2e = 1.44269504f, round = 12582912.f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float lowest = -87.f, highest = 88.f;  // e^x stays a normal number
  static constexpr int mantissa = 23, count = 5;          // relative error of the fit 3.1e-9
  static constexpr float coefficients[count] = {0.50000000953f, 0.16666518676f, 0.041666205370f, 0.0083689110755f,
                                                0.0013950525283f};
};
template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr double log2e = 1.4426950408889634074, round = 6755399441055744.0;
  static constexpr double ln2_high = 0.693145751953125, ln2_low = 1.4286068203094172321e-6;
  static constexpr double lowest = -708., highest = 709.;
  static constexpr int mantissa = 52, count = 10;  // relative error of the fit 3.5e-18
  static constexpr double coefficients[count] = {
      0.5000000000000012696,   0.1666666666666669905,    0.04166666666651558337,  0.008333333333307199691,
      0.001388888894701060307, 0.0001984126991741665411, 2.480148991842830899e-5, 2.755721625734190987e-6,
      2.763129715202249511e-7, 2.511787819990127196e-8};
};

// e^x = scale·(1 + m) for lowest <= x <= highest: scale a power of two, m = e^r - 1 exact to the last bits also where
// it is tiny.
template <class T>
PYRNN_FN void split_exp(Vec<T> x, Vec<T>& scale, Vec<T>& m) {
  using C = ExpConstants<T>;
  using Bits = Vec<typename C::Bits>;
  const Vec<T> shifted = x * C::log2e + C::round;
  const Vec<T> n = shifted - C::round;
  const Vec<T> r = x - n * C::ln2_high - n * C::ln2_low;
  Vec<T> p = broadcast(C::coefficients[C::count - 1]);
  PYRNN_UNROLL for (int i = C::count - 2; i >= 0; i--) p = p * r + C::coefficients[i];
  m = (r * r) * p + r;
  scale = (Vec<T>)((Bits)broadcast(T(1)) + ((Bits)shifted << C::mantissa));
}

// Max error 2 ULP on [-87, 88] (float) and [-708, 709] (double); constant beyond; NaN stays NaN.
template <class T>
PYRNN_FN Vec<T> exp_vector(Vec<T> x) {
  using C = ExpConstants<T>;
  Vec<T> scale, m;
  split_exp<T>(min(broadcast(C::highest), max(broadcast(C::lowest), x)), scale, m);
  return scale * m + scale;
}

// The same without the bounds: only for lowest <= x <= highest, nothing in particular beyond.
template <class T>
PYRNN_FN Vec<T> exp_within(Vec<T> x) {
  Vec<T> scale, m;
  split_exp<T>(x, scale, m);
  return scale * m + scale;
}

#if defined(__AVX512F__)
// e^2x = 2^k·2^(j/16)·(1 + m) in float for |2x| <= 87, nothing in particular beyond: 16 values of j in one register,
// and a fit of degree three in f = 32·log2(e)·x - (16k + j). Max error 1.1 ULP of e^2x(1 + ε), |ε| = 1.4e-8: the
// rounded 32·log2(e) is the same factor of q and k in e^2q·e^2k, less than half a ULP of q + k. The bits of 2^(j/16),
// less j where the bits of 16k + j add it to the exponent.
alignas(64) constexpr int32_t sixteenths[16] = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532,
                                                0x3f75fed7, 0x3f75583f, 0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                                                0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
PYRNN_FN Vec<float> exp_twice_by_sixteenths(Vec<float> x) {
  using C = ExpConstants<float>;
  constexpr float scale = 32 * C::log2e, sixteenth = 0.69314718f / 16;
  const Vec<float> shifted = x * scale + C::round;
  const Vec<float> f = x * scale - (shifted - C::round);
  const Vec<float> p = f * (f * (sixteenth * sixteenth * sixteenth / 6) + sixteenth * sixteenth / 2) + sixteenth;
  const Vec<uint32_t> bits = (Vec<uint32_t>)shifted;
  const Vec<uint32_t> part = (Vec<uint32_t>)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)bits,
                                                                           (__m512i)load(sixteenths));
  const Vec<float> power = (Vec<float>)(part + (bits << (C::mantissa - 4)));
  return power * f * p + power;
}
#endif

// tanh x = e/(e + 2) with e = e^{2x} - 1, which keeps the relative accuracy near zero.
// Max error 4 ULP everywhere (float and double); NaN stays NaN. |x| is cut where tanh is 1 to the last bit.
template <class T>
PYRNN_FN Vec<T> tanh_vector(Vec<T> x) {
  const Vec<T> bound = broadcast(T(22));
  Vec<T> scale, m;
  x = min(bound, max(-bound, x));
  split_exp<T>(x + x, scale, m);
  const Vec<T> e = scale * m + (scale - 1);
  return e * reciprocal(e + 2);
}

PYRNN_FN Vec<float> exp(Vec<float> x) { return exp_vector<float>(x); }
PYRNN_FN Vec<double> exp(Vec<double> x) { return exp_vector<double>(x); }
// e^2x, a normal number; nothing in particular where it is none.
#if defined(__AVX512F__)
PYRNN_FN Vec<float> exp_twice(Vec<float> x) { return exp_twice_by_sixteenths(x); }
#else
PYRNN_FN Vec<float> exp_twice(Vec<float> x) { return exp_within<float>(x + x); }
#endif
PYRNN_FN Vec<double> exp_twice(Vec<double> x) { return exp_within<double>(x + x); }
PYRNN_FN Vec<float> tanh(Vec<float> x) { return tanh_vector<float>(x); }
PYRNN_FN Vec<double> tanh(Vec<double> x) { return tanh_vector<double>(x); }
template <class T>
PYRNN_FN Vec<T> log_1p_lanes(Vec<T> x) {
  for (int j = 0; j < lanes<T>; j++) x[j] = log_1p(x[j]);
  return x;
}
PYRNN_FN Vec<float> log_1p(Vec<float> x) { return log_1p_lanes<float>(x); }
PYRNN_FN Vec<double> log_1p(Vec<double> x) { return log_1p_lanes<double>(x); }
PYRNN_FN Vec<float> positive(Vec<float> x) { return max(Vec<float>{}, x); }
PYRNN_FN Vec<double> positive(Vec<double> x) { return max(Vec<double>{}, x); }
PYRNN_FN Vec<float> where_positive(Vec<float> y, Vec<float> then) { return y > 0 ? then : Vec<float>{}; }
PYRNN_FN Vec<double> where_positive(Vec<double> y, Vec<double> then) { return y > 0 ? then : Vec<double>{}; }
PYRNN_FN Vec<float> where_positive(Vec<float> y, Vec<float> then, Vec<float> otherwise) {
  return y > 0 ? then : otherwise;
}
PYRNN_FN Vec<double> where_positive(Vec<double> y, Vec<double> then, Vec<double> otherwise) {
  return y > 0 ? then : otherwise;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
