// SPDX-License-Identifier: Apache-2.0
// Products of integers of eight bits: weights with a scale for each row of theirs, and a row of x or h with one scale,
// which is found anew for every row. The sums are exact, so every instruction set and every order makes the same.
#pragma once

#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Four neighbouring integers of a row are an element. `add` multiplies them with those of a vector of units.
//   AVX512-VNNI     one instruction, which wants one side without a sign: 128 is added to a row's, and the sums start
//                   from what that is too much
//   SSE2 to AVX-512 the even and the odd ones as integers of 16 bits
//   elsewhere       one after the other
struct Int8 {
  using Number = int32_t;
  static constexpr bool prepared = true;
  static constexpr int largest = 127;
  // Elements of K numbers and, behind them, the row's scale.
  static PYRNN_FN int64_t length(int64_t K) { return ceil_div(K, 4) + 1; }
#if defined(__AVX512VNNI__)
  using Factor = uint32_t;
  static constexpr int offset = 128;
  static PYRNN_FN Factor element(const int32_t* q) {
    Factor word = 0;
    for (int i = 0; i < 4; i++) word |= uint32_t(q[i] + offset) << 8 * i;
    return word;
  }
  static PYRNN_FN void add(Vec<int32_t>& sum, Factor x, Vec<int32_t> w) {
    sum = (Vec<int32_t>)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(int32_t(x)), (__m512i)w);
  }
#elif defined(__SSE2__)
  struct Factor {
    uint32_t even, odd;
  };
  static constexpr int offset = 0;
  static PYRNN_FN Factor element(const int32_t* q) {
    return {uint32_t(q[0] & 0xffff) | uint32_t(q[2]) << 16, uint32_t(q[1] & 0xffff) | uint32_t(q[3]) << 16};
  }
  static PYRNN_FN Vec<int32_t> pairs(Vec<int16_t> a, uint32_t x) {
#if defined(__AVX512BW__)
    return (Vec<int32_t>)_mm512_madd_epi16((__m512i)a, _mm512_set1_epi32(int32_t(x)));
#elif defined(__AVX2__)
    return (Vec<int32_t>)_mm256_madd_epi16((__m256i)a, _mm256_set1_epi32(int32_t(x)));
#else
    return (Vec<int32_t>)_mm_madd_epi16((__m128i)a, _mm_set1_epi32(int32_t(x)));
#endif
  }
  static PYRNN_FN void add(Vec<int32_t>& sum, Factor x, Vec<int32_t> w) {
    const Vec<int16_t> both = (Vec<int16_t>)w;
    sum += pairs((both << 8) >> 8, x.even) + pairs(both >> 8, x.odd);
  }
#else
  struct Factor {
    int32_t q[4];
  };
  static constexpr int offset = 0;
  static PYRNN_FN Factor element(const int32_t* q) { return {{q[0], q[1], q[2], q[3]}}; }
  static PYRNN_FN void add(Vec<int32_t>& sum, Factor x, Vec<int32_t> w) {
    for (int i = 0; i < 4; i++) sum += (w << (24 - 8 * i) >> 24) * (x.q[i] - Vec<int32_t>{});
  }
#endif

  static PYRNN_FN float scale(const Factor* row, int64_t K) {
    float scale;
    __builtin_memcpy(&scale, row + length(K) - 1, sizeof(scale));
    return scale;
  }

  // A row of float32 as elements: largest·x/max|x|, to the nearest, ties to even, and the scale max|x|/largest. Rows
  // of nothing but zeros, or so small that the division overflows, are zeros; with an infinity or NaN the scale is NaN.
  static PYRNN_FN const Factor* prepare(const float* row, int64_t K, Factor* out) {
    constexpr int L = lanes<float>;
    Vec<float> most{}, wrong{};
    for (int64_t k = 0; k < K; k += L) {
      const Vec<float> x = load_tail(row + k, K - k);
      most = max(most, x < 0 ? -x : x);
      wrong += x - x;
    }
    const float most_of_all = largest_lane<float>(most), nan = sum_of_lanes<float>(wrong);
    const bool tiny = !(most_of_all >= 1e-30f);
    const float inverse = tiny || nan != 0 ? 0 : float(largest) / most_of_all;
    const float scale = (tiny ? 0 : most_of_all / float(largest)) + nan;
    const int64_t words = length(K) - 1;
    for (int64_t k = 0; k < K; k += L) {
      const Vec<float> x = load_tail(row + k, K - k) * broadcast(inverse);
      store_elements(round_to_integer(x), out + k / 4, smaller(L / 4, words - k / 4));
    }
    __builtin_memcpy(out + words, &scale, sizeof(scale));
    return out;
  }

 private:
  // Adding 1.5·2²³ leaves the integer in the lowest bits, rounded as additions are: to the nearest, ties to even.
  static PYRNN_FN Vec<int32_t> round_to_integer(Vec<float> x) {
    constexpr float shift = 12582912.f;
    const Vec<float> moved = x + broadcast(shift);
    return (Vec<int32_t>)moved - (Vec<int32_t>)broadcast(shift);
  }

  static PYRNN_FN void store_elements(Vec<int32_t> q, Factor* out, int64_t count) {
#if defined(__AVX512VNNI__)
    const __m128i bytes = _mm_xor_si128(_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)q), _mm_set1_epi8(char(0x80)));
    _mm_mask_storeu_epi32(out, __mmask8((1u << count) - 1), bytes);
#else
    for (int64_t i = 0; i < count; i++) {
      const int32_t four[4] = {q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]};
      out[i] = element(four);
    }
#endif
  }
};

// A matrix (columns, K) of a block of units, as panels of at most four vectors of columns:
//   [panel][vector] float scales, [panel][vector] what a sum starts from, [panel][k][vector] elements
constexpr int int8_panel = 4;

PYRNN_FN int64_t int8_vectors(int64_t columns_vectors, int64_t K) { return columns_vectors * (Int8::length(K) + 1); }

// sums[m][j] = Σ_k x[m][k]·panel[k][j] for MR rows and NV vectors of columns. One row is summed in two parts, to keep
// more sums under way.
template <int NV, int MR>
__attribute__((noinline)) void int8_tile(const int32_t* start, const Int8::Factor* const* x, int64_t words,
                                         Vec<int32_t>* sums) {
  constexpr int L = lanes<int32_t>;
  const int32_t* panel = start + NV * L;
  Vec<int32_t> a[MR][NV];
  const Int8::Factor* row[MR];
  PYRNN_UNROLL for (int m = 0; m < MR; m++) {
    row[m] = x[m];
    PYRNN_UNROLL for (int j = 0; j < NV; j++) a[m][j] = load(start + j * L);
  }
  int64_t k = 0;
  if constexpr (MR == 1) {
    Vec<int32_t> apart[NV] = {};
    for (; k + 2 <= words; k += 2, panel += 2 * NV * L) {
      PYRNN_UNROLL for (int j = 0; j < NV; j++) Int8::add(a[0][j], row[0][k], load(panel + j * L));
      PYRNN_UNROLL for (int j = 0; j < NV; j++) Int8::add(apart[j], row[0][k + 1], load(panel + (NV + j) * L));
    }
    PYRNN_UNROLL for (int j = 0; j < NV; j++) a[0][j] += apart[j];
  }
  for (; k < words; k++, panel += NV * L) {
    PYRNN_UNROLL for (int j = 0; j < NV; j++) {
      const Vec<int32_t> w = load(panel + j * L);
      PYRNN_UNROLL for (int m = 0; m < MR; m++) Int8::add(a[m][j], row[m][k], w);
    }
  }
  PYRNN_UNROLL for (int m = 0; m < MR; m++) PYRNN_UNROLL for (int j = 0; j < NV; j++) sums[m * NV + j] = a[m][j];
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
