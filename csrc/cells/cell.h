// SPDX-License-Identifier: Apache-2.0
// What a cell is: constants, and two functions on values.
//
//   slots     pre-activations of a unit; each is the sum of a product with x, a product with h, and a bias
//   from_x    the slots that x·Wᵀ adds into, in the order of weight_ih's blocks of H rows; from_h likewise for h·Rᵀ
//   states    values carried from step to step, the output h first
//   saved     values that backward needs besides the previous states
//   params    per-unit parameters (peepholes), an array (params, H) that is called weight_`param_name`
//
//   forward (a[slots], s[states], p[params], s_new[states], save[saved])
//   backward(save, s, p, ds[states], da[slots], dp[params])
//       ds: on entry the gradient of s_new; on return the gradient of s, without what flows through the products
//
// A cell whose last `late` slots of from_h do not read h (GRU with the reset gate before the product) has also
//
//   reads                                             how many vectors they read, 1 if it is not there; the slots take
//                                                     them in order, late / reads slots each
//   read(a, s, out), read_saved(save, s, out)         what they read, from the other slots or from what is saved
//   read_backward(save, s, dread[reads], ds, da)      adds to the gradients of the states and of the slots
//
// A cell without any product of h has a null from_h. With `ordered` a weight of h counts only where the first of the
// per-unit parameters is as large for the unit that is read as for the one that reads, or larger.
//
// A cell whose activations a call may choose names them: `roles`, f for the sigmoid of the gates, g for the activation
// of a pre-activation, h for that of c in h = o·tanh(c).
//
// A cell never sees a matrix, a stride, a type of number or a thread: V is a float, a double, a vector, a dual number.
#pragma once

#include "../activations.h"
