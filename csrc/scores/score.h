// SPDX-License-Identifier: Apache-2.0
// What a score is: the number that says how well a query matches a key, a weighted sum over features,
//
//   s = Σ_d w_d · (offset + factor · φ(q'_d, k'_d)),   q' = prepare(q), k' = prepare(k), once per row
//
//   weighted     w is a parameter; otherwise it is one
//   phi(q, k)    what a pair costs, feature by feature
//   slope(φ)     slope_factor·slope(φ) is the derivative of offset + factor·φ by q and by k alike, from φ; a score
//                that is a product has none: the engine takes matrix products for its gradients
//   limit        |q_d| + |k_d| up to which the form holds in each type of number; zero: everywhere
//   Fallback     the form for pairs beyond it
//   pairs        w·φ is 1/x with x = 1/w + (q/w)·k; add_pair(sum, x, y) adds 1/x + 1/y, which one reciprocal gives
//   unit_rows    queries and keys are divided by their lengths first
//
// As in a cell, V is a float, a double, a vector or a dual number, and nothing here knows of a row or a thread.
#pragma once

#include "../activations.h"
