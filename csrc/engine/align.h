// SPDX-License-Identifier: Apache-2.0
// From the scores of a row to its weights, and back: softmax, sparsemax, and the monotonic alignments, whose rows
// depend on the row before.
#pragma once

#include "../activations.h"
#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

template <class T>
constexpr T masked_score() {
  return -T(__builtin_inf());
}

template <class T>
PYRNN_FN T largest_of(const T* s, int64_t n) {
  constexpr int L = lanes<T>;
  Vec<T> most = broadcast(masked_score<T>());
  int64_t j = 0;
  for (; j + L <= n; j += L) most = max(most, load_unaligned(s + j));
  T result = largest_lane<T>(most);
  for (; j < n; j++) result = s[j] <= result ? result : s[j];
  return result;
}

// s = e^{s - largest} / sum; a masked score (-inf) becomes exactly zero, and so does a row of nothing else.
template <class T>
PYRNN_FN void softmax_row(T* s, int64_t n) {
  constexpr int L = lanes<T>;
  const T largest = largest_of(s, n);
  const bool nothing = largest == masked_score<T>();
  Vec<T> sum{};
  for (int64_t j = 0; j < n; j += L) {
    const Vec<T> x = load_tail(s + j, n - j);
    Vec<T> e = exp(x - largest);
    e = x == masked_score<T>() ? Vec<T>{} : e;
    store_tail(s + j, e, n - j);
    if (n - j < L) e = load_tail(s + j, n - j);
    sum += e;
  }
  const T total = sum_of_lanes<T>(sum);
  const T factor = nothing ? T(0) : 1 / total;
  for (int64_t j = 0; j < n; j++) s[j] = nothing ? T(0) : s[j] * factor;
}

// ds = p·(dp - Σ p·dp); masked entries are not touched by a dp that is not a number.
template <class T>
PYRNN_FN void softmax_row_backward(const T* p, T* dp, int64_t n) {
  constexpr int L = lanes<T>;
  Vec<T> sum{};
  for (int64_t j = 0; j < n; j += L) {
    const Vec<T> w = load_tail(p + j, n - j), d = load_tail(dp + j, n - j);
    sum += w == 0 ? Vec<T>{} : w * d;
  }
  const T total = sum_of_lanes<T>(sum);
  for (int64_t j = 0; j < n; j += L) {
    const Vec<T> w = load_tail(p + j, n - j), d = load_tail(dp + j, n - j);
    store_tail(dp + j, w == 0 ? Vec<T>{} : w * (d - total), n - j);
  }
}

// The projection on the simplex (Martins & Astudillo 2016): max(s - τ, 0) with τ such that the row sums to one. τ by
// Michelot's rounds: the mean excess of those still in, until none falls out; no sort, and exact.
template <class T>
PYRNN_FN void sparsemax_row(T* s, int64_t n) {
  const T largest = largest_of(s, n);
  if (largest == masked_score<T>()) {
    for (int64_t j = 0; j < n; j++) s[j] = 0;
    return;
  }
  T tau = -1;  // relative to the largest score: below it minus one nothing can be in
  for (int64_t in = n + 1, before = n + 2; in < before;) {
    T sum = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++)
      if (s[j] - largest > tau) {
        sum += s[j] - largest;
        count++;
      }
    before = in;
    in = count;
    if (count) tau = (sum - 1) / T(count);
  }
  for (int64_t j = 0; j < n; j++) {
    const T p = s[j] - largest - tau;
    s[j] = p > 0 || p != p ? p : T(0);
  }
}

template <class T>
PYRNN_FN void sparsemax_row_backward(const T* p, T* dp, int64_t n) {
  T sum = 0;
  int64_t count = 0;
  for (int64_t j = 0; j < n; j++)
    if (p[j] != 0) {
      sum += dp[j];
      count++;
    }
  const T mean = count ? sum / T(count) : T(0);
  for (int64_t j = 0; j < n; j++) dp[j] = p[j] != 0 ? dp[j] - mean : T(0);
}

// p = σ(s), or 1 where s > 0 and 0 elsewhere: the probability that a monotonic alignment stops at a key.
template <class T>
PYRNN_FN void choice_row(const T* s, T* p, int64_t n, bool hard) {
  for (int64_t j = 0; j < n; j += lanes<T>) {
    const Vec<T> x = load_tail(s + j, n - j);
    const Vec<T> soft = x == masked_score<T>() ? Vec<T>{} : Sigmoid::f(x);
    store_tail(p + j, hard ? (x > 0 ? Vec<T>{} + 1 : Vec<T>{}) : soft, n - j);
  }
}

// w_j *= e^(-(j - center)²/2σ²) for the keys of a row: Luong et al. 2015, equation 10.
template <class T>
PYRNN_FN void gaussian_row(T* w, Range keys, T center, T sigma) {
  constexpr int L = lanes<T>;
  Vec<T> index;
  for (int i = 0; i < L; i++) index[i] = T(keys.begin + i);
  for (int64_t j = 0; j < keys.size(); j += L, index += T(L)) {
    const Vec<T> away = (index - center) / sigma;
    store_tail(w + j, load_tail(w + j, keys.size() - j) * exp(away * away * T(-0.5)), keys.size() - j);
  }
}

// Raffel et al. 2017, equations 8 to 10, as the exact recursion over keys:
//   q_j = (1 - p_{j-1}) q_{j-1} + α'_j     α_j = p_j q_j     with α' the row before
// The row covers all Tk keys: what α' holds before the row's first key is carried on to it, for p is zero there.
// `previous` null: the first key.
template <class T>
PYRNN_FN void monotonic_row(const T* p, const T* previous, T* weights, int64_t n) {
  T q = 0;
  for (int64_t j = 0; j < n; j++) {
    q += previous ? previous[j] : T(j == 0);
    weights[j] = p[j] * q;
    q -= weights[j];
  }
}

// On entry dweights is the gradient of the row and dprevious anything; on return dp and dprevious are the gradients.
// `q` is scratch of n numbers.
template <class T>
PYRNN_FN void monotonic_row_backward(const T* p, const T* previous, const T* dweights, T* q, T* dp, T* dprevious,
                                     int64_t n) {
  T carried = 0;
  for (int64_t j = 0; j < n; j++) {
    carried += previous ? previous[j] : T(j == 0);
    q[j] = carried;
    carried -= p[j] * carried;
  }
  T dq = 0;  // of q_{j+1}
  for (int64_t j = n - 1; j >= 0; j--) {
    dp[j] = (dweights[j] - dq) * q[j];
    dq = dweights[j] * p[j] + dq * (1 - p[j]);
    dprevious[j] = dq;
  }
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
