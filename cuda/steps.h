// SPDX-License-Identifier: Apache-2.0
// One unit of one sequence at one step: what surrounds the cell, forward and backward, the same for every tier.
//
// Lengths, masks and resets are looked up where a step needs them, on the device: the host never reads them, so a call
// neither waits for the device nor depends on values when it is captured in a graph.
#pragma once

#include "../csrc/cells/registry.h"
#include "abi.h"
#include "number.h"

namespace pyrnn {
namespace cuda {

// A list of slots as one number, four bits each: device code has no address of a static array.
template <size_t N>
constexpr uint32_t packed_slots(const int (&slots)[N]) {
  static_assert(N <= 8, "four bits each");
  uint32_t packed = 0;
  for (size_t i = 0; i < N; i++) packed |= uint32_t(slots[i]) << 4 * i;
  return packed;
}
template <class Cell>
struct FromX {
  static constexpr int count = int(sizeof(Cell::from_x) / sizeof(int));
  static constexpr uint32_t packed = packed_slots(Cell::from_x);
  static PYRNN_FN constexpr int at(int i) { return packed >> 4 * i & 15; }
};
template <class Cell>
struct FromH {
  static constexpr int count = int(sizeof(Cell::from_h) / sizeof(int));
  static constexpr uint32_t packed = packed_slots(Cell::from_h);
  static PYRNN_FN constexpr int at(int i) { return packed >> 4 * i & 15; }
};

// How many of from_h do not read h, and how many vectors they read; see csrc/cells/cell.h.
template <class Cell, class = void>
constexpr int late_of = 0;
template <class Cell>
constexpr int late_of<Cell, decltype(void(Cell::late))> = Cell::late;
template <class Cell, class = void>
constexpr int reads_of = late_of<Cell> > 0;
template <class Cell>
constexpr int reads_of<Cell, decltype(void(Cell::reads))> = Cell::reads;

// Which sequences advance at which step. Step i of the processing is time `time(i)`.
struct Steps {
  int64_t T, B;
  int32_t reverse, reset_to_initial;
  const int64_t* lengths;
  const uint8_t *mask, *resets;
  PYRNN_FN int64_t time(int64_t i) const { return reverse ? T - 1 - i : i; }
  PYRNN_FN bool active(int64_t t, int64_t b) const {
    return (!lengths || t < lengths[b]) && (!mask || mask[t * B + b]);
  }
  PYRNN_FN bool restarts(int64_t t, int64_t b) const { return resets && resets[t * B + b] && active(t, b); }
};

// What training does to the states beside the cell. In training a byte for each unit of each step and sequence says
// what was drawn: bit s that it keeps its old state s, the last one that products read no h of it.
constexpr uint32_t dropped_bit = 128;
static_assert(max_states < 8, "a bit for each state, and one for h");
template <class A>
struct Regular {
  const uint8_t* masks;  // (T, B, padded), or null
  int32_t zoned, drops;
  A zoneout[max_states];  // without masks: how much of its old state a unit keeps
  A kept;                 // factor of what is not dropped

  PYRNN_FN A share(int64_t at, int s) const { return masks ? A(masks[at] >> s & 1) : zoneout[s]; }
  PYRNN_FN A factor(int64_t at) const { return !drops ? A(1) : masks[at] & dropped_bit ? A(0) : kept; }
};

// The states that every step starts from. h is kept as the products read it, the others as they are summed. All h of a
// call that keeps them are one matrix of T·B rows in the order of time, beginning at slot `first`.
template <class T>
struct Arena {
  T* h;                  // (slots, B, padded)
  T* whole;              // (slots, B, padded): what no dropout has touched, where `h` is what products read; or null
  Accumulator<T>* rest;  // (states - 1, rest_slots, B, padded)
  int64_t slots, rest_slots, B, padded;
  int32_t reverse, ring, rest_ring;  // ring: two slots take turns, nothing is kept

  // The slot of step i's start; i = T is the end.
  PYRNN_FN int64_t slot(int64_t i) const { return ring ? i % 2 : reverse ? slots - 1 - i : i; }
  PYRNN_FN int64_t first() const { return reverse; }
  PYRNN_FN T* h_row(int64_t slot, int64_t b) const { return h + (slot * B + b) * padded; }
  PYRNN_FN T* state_row(int64_t slot, int64_t b) const { return (whole ? whole : h) + (slot * B + b) * padded; }
  PYRNN_FN Accumulator<T>* row(int64_t slot, int s, int64_t b) const {
    return rest + (((s - 1) * rest_slots + (rest_ring ? slot % 2 : slot)) * B + b) * padded;
  }
};

template <class T>
PYRNN_FN T* element(const View& view, int64_t t, int64_t b) {
  return static_cast<T*>(view.data) + t * view.step + b * view.row;
}

template <class Cell, class T>
struct ForwardPoint {
  using A = Accumulator<T>;
  Steps steps;
  Arena<T> arena;
  int64_t H, P;     // units, and numbers of h
  const A* inputs;  // x·Wᵀ and its bias from step `inputs_from` on: (steps, B, from_x, padded)
  int64_t inputs_from;
  const T *bias_hh, *params;
  View y, state[Cell::states];
  T* gates;  // (T, B, saved, padded), or null
  T* every;  // (T, B, states, padded), or null
  Regular<A> regular;

  PYRNN_FN A initial(int s, int64_t b, int64_t u) const {
    return state[s].data ? widen(element<T>(state[s], 0, b)[u]) : A(0);
  }
  PYRNN_FN bool restores(int64_t i, int64_t b) const { return i < steps.T && steps.restarts(steps.time(i), b); }

  // What step i starts from, when nothing came before it: writes all states but h, and returns h.
  PYRNN_FN T start(int64_t b, int64_t u) const {
    const bool zero = restores(0, b) && !steps.reset_to_initial;
    for (int s = 1; s < Cell::states; s++) arena.row(arena.slot(0), s, b)[u] = zero ? A(0) : initial(s, b, u);
    return u < P ? read_by(0, b, u, Narrow<T>::from(zero ? A(0) : initial(0, b, u))) : T{};
  }

  // What the product of step i reads of the h that it starts from, which is kept.
  PYRNN_FN T read_by(int64_t i, int64_t b, int64_t u, T h) const {
    if (!arena.whole) return h;
    arena.state_row(arena.slot(i), b)[u] = h;
    if (i >= steps.T) return h;
    return Narrow<T>::from(widen(h) * regular.factor(at(steps.time(i), b, u)));
  }

  // The states that step i starts from.
  PYRNN_FN void load(int64_t i, int64_t b, int64_t u, A (&s)[Cell::states]) const {
    const int64_t slot = arena.slot(i);
    s[0] = widen(arena.state_row(slot, b)[u]);
    PYRNN_UNROLL for (int k = 1; k < Cell::states; k++) s[k] = arena.row(slot, k, b)[u];
  }
  PYRNN_FN void load_inputs(int64_t i, int64_t b, int64_t u, A (&x)[FromX<Cell>::count]) const {
    const A* row = inputs + ((i - inputs_from) * steps.B + b) * FromX<Cell>::count * arena.padded + u;
    PYRNN_UNROLL for (int j = 0; j < FromX<Cell>::count; j++) x[j] = row[j * arena.padded];
  }

  PYRNN_FN int64_t at(int64_t t, int64_t b, int64_t u) const { return (t * steps.B + b) * arena.padded + u; }

  // The pre-activations: `x` the input product's share, `h` the products of R.
  PYRNN_FN void slots(int64_t u, const A (&x)[FromX<Cell>::count], const A (&h)[FromH<Cell>::count],
                      A (&a)[Cell::slots]) const {
    PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) a[k] = 0;
    PYRNN_UNROLL for (int j = 0; j < FromX<Cell>::count; j++) a[FromX<Cell>::at(j)] += x[j];
    PYRNN_UNROLL for (int j = 0; j < FromH<Cell>::count; j++)
        a[FromH<Cell>::at(j)] += h[j] + (bias_hh ? widen(bias_hh[j * H + u]) : A(0));
  }

  // Step i: `x` its share of the input product, `h` its products with R, `s` what it starts from, and on return what
  // the next one starts from. Writes all but what the next product reads, which it returns.
  PYRNN_FN T advance(int64_t i, int64_t b, int64_t u, const A (&x)[FromX<Cell>::count],
                     const A (&h)[FromH<Cell>::count], A (&s)[Cell::states]) const {
    const int64_t t = steps.time(i);
    A s_new[Cell::states] = {}, save[Cell::saved] = {}, a[Cell::slots], p[Cell::params + 1];
    if (steps.active(t, b)) {
      slots(u, x, h, a);
      PYRNN_UNROLL for (int k = 0; k < Cell::params; k++) p[k] = widen(params[k * H + u]);
      Cell::forward(a, s, p, s_new, save);
    }
    save_gates(t, b, u, save);
    return settle<false>(i, b, u, s_new, s);
  }

  // Zeros at skipped steps.
  PYRNN_FN void save_gates(int64_t t, int64_t b, int64_t u, const A (&save)[Cell::saved]) const {
    if (gates)
      PYRNN_UNROLL for (int k = 0; k < Cell::saved; k++)
          gates[((t * steps.B + b) * Cell::saved + k) * arena.padded + u] = Narrow<T>::from(save[k]);
  }

  // Its second part, from what the cell made of step i. `Projected`: h may have fewer numbers than there are units.
  template <bool Projected>
  PYRNN_FN T settle(int64_t i, int64_t b, int64_t u, A (&s_new)[Cell::states], A (&s)[Cell::states]) const {
    const int64_t t = steps.time(i), next = arena.slot(i + 1);
    const bool active = steps.active(t, b), has_h = !Projected || u < P;
    if (active && regular.zoned) PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
        const A share = regular.share(at(t, b, u), k);
        s_new[k] = (1 - share) * s_new[k] + share * s[k];
      }
    if (has_h) element<T>(y, t, b)[u] = Narrow<T>::from(active ? s_new[0] : A(0));
    if (every)
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++)
          every[((t * steps.B + b) * Cell::states + k) * arena.padded + u] = Narrow<T>::from(active ? s_new[k] : A(0));
    if (!active) PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) s_new[k] = s[k];
    if (restores(i + 1, b))
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++)
          s_new[k] = steps.reset_to_initial && (k > 0 || has_h) ? initial(k, b, u) : A(0);
    PYRNN_UNROLL for (int k = 1; k < Cell::states; k++) arena.row(next, k, b)[u] = s[k] = s_new[k];
    const T kept = Narrow<T>::from(s_new[0]);
    s[0] = widen(kept);
    return has_h ? read_by(i + 1, b, u, kept) : T{};
  }
};

template <class Cell, class T>
struct BackwardPoint {
  using A = Accumulator<T>;
  Steps steps;
  Arena<T> arena;
  int64_t H, P;  // units, and numbers of h
  const T *gates, *params;
  View dy, dstate_out[Cell::states];
  View dstates[Cell::states];  // of the states after every step
  T* dslots;        // (T, B, slots, padded): gradient of the pre-activations
  A *ds, *dinitial;  // (states, B, padded): gradient of the current states; of the initial ones, from resets
  A* dparams;       // (params, B, padded)
  Regular<A> regular;

  PYRNN_FN int64_t at(int64_t t, int64_t b, int64_t u) const { return (t * steps.B + b) * arena.padded + u; }
  PYRNN_FN A* of_state(A* data, int s, int64_t b) const { return data + (s * steps.B + b) * arena.padded; }

  // What step i reads: nothing that the steps after it compute.
  struct Kept {
    A save[Cell::saved], s[Cell::states], dy;
  };
  PYRNN_FN void load(int64_t i, int64_t b, int64_t u, Kept& kept) const {
    const int64_t t = steps.time(i);
    if (!steps.active(t, b)) return;
    kept.dy = dy.data ? widen(element<T>(dy, t, b)[u]) : A(0);
    load_saved(i, b, u, kept.save, kept.s);
  }
  PYRNN_FN void load_saved(int64_t i, int64_t b, int64_t u, A (&save)[Cell::saved], A (&s)[Cell::states]) const {
    const int64_t t = steps.time(i), slot = arena.slot(i);
    s[0] = u < P ? widen(arena.state_row(slot, b)[u]) : A(0);
    PYRNN_UNROLL for (int k = 1; k < Cell::states; k++) s[k] = arena.row(slot, k, b)[u];
    PYRNN_UNROLL for (int k = 0; k < Cell::saved; k++)
        save[k] = widen(gates[((t * steps.B + b) * Cell::saved + k) * arena.padded + u]);
  }
  PYRNN_FN void load_gradient(int64_t b, int64_t u, A (&d)[Cell::states]) const {
    PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] = of_state(ds, k, b)[u];
  }
  PYRNN_FN void store_gradient(int64_t b, int64_t u, const A (&d)[Cell::states]) const {
    PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) of_state(ds, k, b)[u] = d[k];
  }

  // What came through the product of step i + 1 belongs to the state that step started from.
  PYRNN_FN void receive(int64_t i, int64_t b, int64_t u, A product, A (&d)[Cell::states]) const {
    if (i + 1 >= steps.T) return;
    const int64_t t = steps.time(i + 1);
    if (!steps.active(t, b)) return;
    product *= regular.factor(at(t, b, u));
    if (steps.restarts(t, b))
      of_state(dinitial, 0, b)[u] += product;
    else
      d[0] += product;
  }

  // Step i, descending: `product` is dG·R of step i + 1, `d` the gradient of the states, before and after. `out` is the
  // gradient of the slots, which the weights' gradients and step i - 1 need.
  PYRNN_FN void retreat(int64_t i, int64_t b, int64_t u, A product, const Kept& kept, A (&d)[Cell::states],
                        T (&out)[Cell::slots]) const {
    A da[Cell::slots];
    through_cell(i, b, u, product, kept, d, da);
    cut(steps.time(i), b, u, d);
    PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) out[k] = Narrow<T>::from(da[k]);
  }

  // Its first part, to the gradients of the states before and of the slots.
  PYRNN_FN void through_cell(int64_t i, int64_t b, int64_t u, A product, const Kept& kept, A (&d)[Cell::states],
                             A (&da)[Cell::slots]) const {
    A p[Cell::params + 1], dp[Cell::params + 1], past[Cell::states];
    receive(i, b, u, product, d);
    const int64_t t = steps.time(i);
    PYRNN_UNROLL for (int k = 0; k < Cell::slots; k++) da[k] = 0;
    if (steps.active(t, b)) {
      d[0] += kept.dy;
      pass_by(t, b, u, d, past);
      PYRNN_UNROLL for (int k = 0; k < Cell::params; k++) p[k] = widen(params[k * H + u]);
      Cell::backward(kept.save, kept.s, p, d, da, dp);
      PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) d[k] += past[k];
      add_params(b, u, dp);
    }
  }
  PYRNN_FN void add_params(int64_t b, int64_t u, const A (&dp)[Cell::params + 1]) const {
    PYRNN_UNROLL for (int k = 0; k < Cell::params; k++) dparams[(k * steps.B + b) * arena.padded + u] += dp[k];
  }
  // Adds the gradients of the states after step t, and parts those that pass the cell by, which zoneout lets through.
  PYRNN_FN void pass_by(int64_t t, int64_t b, int64_t u, A (&d)[Cell::states], A (&past)[Cell::states]) const {
    PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
      if (dstates[k].data && (k > 0 || u < P)) d[k] += widen(element<T>(dstates[k], t, b)[u]);
      past[k] = regular.zoned ? regular.share(at(t, b, u), k) * d[k] : A(0);
      d[k] -= past[k];
    }
  }

  // Where step t began anew, the gradient is the initial states'.
  PYRNN_FN void cut(int64_t t, int64_t b, int64_t u, A (&d)[Cell::states]) const {
    if (steps.restarts(t, b)) PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
        of_state(dinitial, k, b)[u] += d[k];
        d[k] = 0;
      }
  }

  // After step 0.
  PYRNN_FN void finish(int64_t b, int64_t u, A product, A (&d)[Cell::states]) const {
    receive(-1, b, u, product, d);
    PYRNN_UNROLL for (int k = 0; k < Cell::states; k++) {
      if (k == 0 && u >= P) continue;
      if (steps.reset_to_initial) d[k] += of_state(dinitial, k, b)[u];
      if (dstate_out[k].data) element<T>(dstate_out[k], 0, b)[u] = Narrow<T>::from(d[k]);
    }
  }

  PYRNN_FN T* dslot(int64_t t, int64_t b, int slot) const {
    return dslots + ((t * steps.B + b) * Cell::slots + slot) * arena.padded;
  }
};

}  // namespace cuda
}  // namespace pyrnn
