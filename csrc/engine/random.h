// SPDX-License-Identifier: Apache-2.0
// Random words by number: Philox4x32-10 (Salmon et al. 2011), the same on every machine and for every number of
// threads.
#pragma once

#include "layout.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Units whose words are made at once.
constexpr int random_units = lanes<uint32_t>;

// a·m: the lower words, and the upper ones in `high`. Compilers miss the instruction that does half of them.
PYRNN_FN Vec<uint32_t> multiply_words(Vec<uint32_t> a, uint32_t m, Vec<uint32_t>& high) {
#if defined(__AVX2__)
  const Vec<uint64_t> upper = 0xFFFFFFFF00000000u - Vec<uint64_t>{}, x = (Vec<uint64_t>)a, k = m - Vec<uint64_t>{};
  const auto multiply = [&](Vec<uint64_t> y) {  // the lower halves
#if defined(__AVX512F__)
    return (Vec<uint64_t>)_mm512_maskz_mul_epu32(0xFF, (__m512i)y, (__m512i)k);
#else
    return (Vec<uint64_t>)_mm256_mul_epu32((__m256i)y, (__m256i)k);
#endif
  };
  const Vec<uint64_t> even = multiply(x), odd = multiply(x >> 32);
  high = (Vec<uint32_t>)(even >> 32 | (odd & upper));
  return (Vec<uint32_t>)((even & ~upper) | odd << 32);
#else
  Vec<uint32_t> low;
  for (int j = 0; j < random_units; j++) {
    const uint64_t product = uint64_t(a[j]) * m;
    low[j] = uint32_t(product);
    high[j] = uint32_t(product >> 32);
  }
  return low;
#endif
}

struct RandomWords {
  Vec<uint32_t> word[4];
};

// The four words of each counter (unit + j, t, b, stream) under the key `seed`.
PYRNN_FN RandomWords random_words(uint64_t seed, uint32_t unit, uint32_t t, uint32_t b, uint32_t stream) {
  Vec<uint32_t> c0, high0, high1;
  for (int j = 0; j < random_units; j++) c0[j] = unit + uint32_t(j);
  Vec<uint32_t> c1 = t - Vec<uint32_t>{}, c2 = b - Vec<uint32_t>{}, c3 = stream - Vec<uint32_t>{};
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const Vec<uint32_t> low0 = multiply_words(c0, 0xD2511F53u, high0), low1 = multiply_words(c2, 0xCD9E8D57u, high1);
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Of each word, whether it is below p·2³², which happens with probability p; as numbers, `yes` or `no`.
template <class T>
void choose(const Vec<uint32_t>& word, double p, T yes, T no, int64_t count, T* out) {
  const uint64_t threshold = uint64_t(p * 4294967296.0);
  const uint32_t last = uint32_t(threshold - 1);
  for (int64_t j = 0; j < count; j++) out[j] = threshold && word[j] <= last ? yes : no;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
