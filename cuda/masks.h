// SPDX-License-Identifier: Apache-2.0
// Masks of training, those of csrc/engine/regularize.h: zoneout, and dropout of the h that products read.
//
// They are drawn before the steps, a byte for each unit of each sequence at each step, so that kernels whose registers
// hold weights need none for a generator; the backward draws the same again.
#pragma once

#include "steps.h"

namespace pyrnn {
namespace cuda {

struct PhiloxWords {
  uint32_t word[4];
};

// csrc/engine/random.h for one unit: its vectors are no device code.
PYRNN_FN PhiloxWords philox(uint64_t seed, uint32_t unit, uint32_t t, uint32_t b, uint32_t stream) {
  PhiloxWords c{{unit, t, b, stream}};
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  PYRNN_UNROLL for (int round = 0; round < 10; round++) {
    const uint64_t first = uint64_t(c.word[0]) * 0xD2511F53u, second = uint64_t(c.word[2]) * 0xCD9E8D57u;
    c = {{uint32_t(second >> 32) ^ c.word[1] ^ key0, uint32_t(second), uint32_t(first >> 32) ^ c.word[3] ^ key1,
          uint32_t(first)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

struct DrawMasksArgs {
  uint8_t* masks;  // (T, B, padded)
  int64_t T, B, padded;
  int32_t states, afresh;  // afresh: another mask of h at every step
  uint64_t seed;
  uint32_t stream;
  uint64_t zoneout[max_states], dropout;  // probabilities times 2³²
};

struct DrawMasks {
  using Args = DrawMasksArgs;
  static constexpr int threads = 256;
  static constexpr bool independent = true;
  template <class Context>
  static PYRNN_FN void run(Context& context, const Args& args) {
    const int64_t i = int64_t(context.block_x) * threads + context.thread;
    if (i >= args.T * args.B * args.padded) return;
    const uint32_t unit = uint32_t(i % args.padded), t = uint32_t(i / args.padded / args.B);
    const uint32_t b = uint32_t(i / args.padded % args.B);
    uint32_t bits = 0;
    PhiloxWords words{};
    PYRNN_UNROLL for (int s = 0; s < max_states; s++) {
      if (s >= args.states) break;
      // Four words of a counter: the next four states have another, whose t no sequence reaches.
      if (s % 4 == 0) words = philox(args.seed, unit, t + uint32_t(s / 4) * 0x80000000u, b, 2 * args.stream);
      if (words.word[s % 4] < args.zoneout[s]) bits |= 1u << s;
    }
    if (args.dropout) {
      const uint32_t at = args.afresh ? t : 0;
      if (philox(args.seed, unit, at, b, 2 * args.stream + 1).word[0] < args.dropout) bits |= dropped_bit;
    }
    args.masks[i] = uint8_t(bits);
  }
};

inline uint64_t threshold_of(double probability) { return uint64_t(probability * 4294967296.0); }

inline DrawMasksArgs masks_of(const Layer& layer, int states, void* masks) {
  const Regularization& r = layer.regularization;
  DrawMasksArgs args{};
  args.masks = static_cast<uint8_t*>(masks);
  args.T = layer.sizes.T;
  args.B = layer.sizes.B;
  args.padded = padded_units(layer.sizes.H);
  args.states = states;
  args.afresh = r.dropout_kind == dropout_step;
  args.seed = r.seed;
  args.stream = r.stream;
  for (int s = 0; s < states; s++) args.zoneout[s] = threshold_of(r.zoneout[s]);
  args.dropout = threshold_of(r.dropout);
  return args;
}

}  // namespace cuda
}  // namespace pyrnn
