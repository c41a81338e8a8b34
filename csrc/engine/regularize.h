// SPDX-License-Identifier: Apache-2.0
// What training does to the states beside the cell: zoneout (Krueger et al. 2017) and dropout of the h that the product
// reads, one mask for all steps of a sequence (Gal & Ghahramani 2016). The masks are made where they are needed, from
// (unit, t, b, stream), so the backward has the forward's.
#pragma once

#include "../kernels.h"
#include "cell_rows.h"
#include "random.h"

namespace pyrnn {
inline namespace PYRNN_ISA_NAMESPACE {

// Numbers of the streams: a layer's direction has the even one for zoneout and the odd one for dropout.
PYRNN_FN uint32_t zoneout_stream(const Regularization& r) { return 2 * r.stream; }
PYRNN_FN uint32_t dropout_stream(const Regularization& r) { return 2 * r.stream + 1; }

PYRNN_FN bool has_zoneout(const Regularization& r) {
  for (double rate : r.zoneout)
    if (rate > 0) return true;
  return false;
}
PYRNN_FN bool has_dropout(const Regularization& r) { return r.dropout > 0 && r.dropout_kind != dropout_candidate; }
// Another mask at every step, of h or of the candidate.
PYRNN_FN bool drops_afresh(const Regularization& r) { return r.dropout > 0 && r.dropout_kind != dropout_sequence; }

// share (states, padded): how much of the old state the units keep at this step; 0 or 1 in training.
template <class T>
void zoneout_shares(const Regularization& r, int states, int64_t t, int64_t b, Range units, int64_t padded, T* share) {
  if (!r.training) {
    for (int s = 0; s < states; s++)
      for (int64_t u = units.begin; u < units.end; u++) share[s * padded + u] = T(r.zoneout[s]);
    return;
  }
  for (int64_t first = units.begin; first < units.end; first += random_units) {
    const int64_t count = smaller(random_units, units.end - first);
    RandomWords words;
    for (int s = 0; s < states; s++) {
      if (s % 4 == 0) {  // four words of a counter: the next four states have another, whose t no sequence reaches
        const uint32_t time = uint32_t(t) + uint32_t(s / 4) * 0x80000000u;
        words = random_words(r.seed, uint32_t(first), time, uint32_t(b), zoneout_stream(r));
      }
      choose<T>(words.word[s % 4], r.zoneout[s], 1, 0, count, share + s * padded + first);
    }
  }
}

// new = (1 - share)·cell's + share·old: a unit that keeps its state keeps every bit of it.
template <class T>
void zoneout_forward(int states, const T* share, const StepRow<T>& row, Range units, int64_t H, int64_t padded) {
  for (int s = 0; s < states; s++)
    for (int64_t u = s * padded + units.begin; u < s * padded + units.end; u++)
      row.state_new[u] = (1 - share[u]) * row.state_new[u] + share[u] * row.state[u];
  for (int64_t u = units.begin; u < smaller(units.end, H); u++) row.y[u] = row.state_new[u];
}

// Takes from ds (states, ds_state apart) what zoneout leads past the cell, to `past`; what the cell's backward has to
// add to ds is null then.
template <class T>
PYRNN_FN const T* zoneout_backward(int states, const T* share, const T* dy, T* ds, int64_t ds_state, Range units,
                                   int64_t H, int64_t padded, T* past) {
  for (int64_t u = units.begin; dy && u < smaller(units.end, H); u++) ds[u] += dy[u];
  for (int s = 0; s < states; s++)
    for (int64_t u = units.begin; u < units.end; u++) {
      past[s * padded + u] = share[s * padded + u] * ds[s * ds_state + u];
      ds[s * ds_state + u] -= past[s * padded + u];
    }
  return nullptr;
}

// factor (padded): 0, or what makes up for the zeros. t is 0 where one mask serves all steps.
template <class T>
void dropout_factors(const Regularization& r, int64_t t, int64_t b, int64_t padded, T* factor) {
  const T kept = r.dropout < 1 ? T(1 / (1 - r.dropout)) : T(0);
  for (int64_t first = 0; first < padded; first += random_units)
    choose<T>(random_words(r.seed, uint32_t(first), uint32_t(t), uint32_t(b), dropout_stream(r)).word[0], r.dropout, 0,
              kept, smaller(random_units, padded - first), factor + first);
}

template <class T>
PYRNN_FN T* multiplied(const T* row, const T* factor, int64_t padded, T* out) {
  for (int64_t u = 0; u < padded; u++) out[u] = row[u] * factor[u];
  return out;
}

}  // namespace PYRNN_ISA_NAMESPACE
}  // namespace pyrnn
