// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention share: the number that scores see, which pairs there are, sums over a warp.
#pragma once

#include <math.h>

#include "abi.h"
#include "launch.h"

namespace pyrnn {
namespace cuda {

// A float whose reciprocal is the special function unit's: 1 ULP in one instruction, where the exact one takes eight.
struct Quick {
  float v;
};
PYRNN_FN Quick operator+(Quick a, Quick b) { return {a.v + b.v}; }
PYRNN_FN Quick operator-(Quick a, Quick b) { return {a.v - b.v}; }
PYRNN_FN Quick operator*(Quick a, Quick b) { return {a.v * b.v}; }
PYRNN_FN Quick operator+(float a, Quick b) { return {a + b.v}; }
PYRNN_FN Quick operator-(float a, Quick b) { return {a - b.v}; }
PYRNN_FN Quick exp_twice(Quick a) { return {::expf(a.v + a.v)}; }
PYRNN_FN Quick tanh(Quick a) { return {::tanhf(a.v)}; }
PYRNN_FN Quick reciprocal(Quick a) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(a.v));
  return {y};
#else
  return {1 / a.v};
#endif
}

// What a score is computed in, for sums of type A.
template <class A>
struct ValueOf {
  using type = A;
};
template <>
struct ValueOf<float> {
  using type = Quick;
};
template <class A>
using Value = typename ValueOf<A>::type;

PYRNN_FN Quick value_of(float x) { return {x}; }
PYRNN_FN double value_of(double x) { return x; }
PYRNN_FN float number_of(Quick x) { return x.v; }
PYRNN_FN double number_of(double x) { return x; }

// Four sums that a thread reads at once; four numbers of an array.
template <class A>
struct alignas(16) Four {
  A at[4];
};
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Quad {
  T at[4];
};

// Loops whose bodies are long already.
#if defined(__CUDACC__)
#define PYRNN_SHORT _Pragma("unroll 4")
#else
#define PYRNN_SHORT _Pragma("GCC unroll 1")
#endif

template <class A>
PYRNN_FN A minus_infinity() {
  return -A(__builtin_huge_val());
}
template <class A>
PYRNN_FN A absolute(A x) {
  return x < 0 ? -x : x;
}
// NaN has no size: it is one in either form of a score.
template <class A>
PYRNN_FN A larger_size(A size, A x) {
  return absolute(x) > size ? absolute(x) : size;
}
PYRNN_FN int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
PYRNN_FN int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The keys that a query may attend to, but for masks.
struct Keys {
  int64_t begin, end;
};
PYRNN_FN Keys keys_of(const Attention& a, int64_t b, int64_t i) {
  int64_t first = 0, last = a.sizes.Tk;
  if (a.lengths) last = least(most(a.lengths[b / a.heads], 0), last);
  const int64_t n = a.offset + i;
  if (a.causal) last = least(last, n + 1);
  if (a.left >= 0) {
    first = most(first, n - a.left);
    last = least(last, n + a.right + 1);
  }
  return {least(first, last), last};
}

PYRNN_FN int64_t offset_of(const Spread& array, const Attention& a, int64_t b, int64_t i, int64_t j) {
  return b / a.heads * array.stride[0] + b % a.heads * array.stride[1] + i * array.stride[2] + j * array.stride[3];
}

template <class Context>
PYRNN_FN float from_lane(Context& context, float x, int mask) {
  return float_of(context.shuffle_xor(bits_of(x), mask));
}
template <class Context>
PYRNN_FN double from_lane(Context& context, double x, int mask) {
  uint32_t word[2];
  memcpy(word, &x, sizeof x);
  PYRNN_UNROLL for (int i = 0; i < 2; i++) word[i] = context.shuffle_xor(word[i], mask);
  memcpy(&x, word, sizeof x);
  return x;
}

// join(x of all lanes), the same bits in each.
template <class Context, class A, class Join>
PYRNN_FN A over_lanes(Context& context, A x, const Join& join) {
  PYRNN_UNROLL for (int mask = 1; mask < warp_lanes; mask *= 2) x = join(x, from_lane(context, x, mask));
  return x;
}

}  // namespace cuda
}  // namespace pyrnn
