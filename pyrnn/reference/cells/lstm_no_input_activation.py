# SPDX-License-Identifier: Apache-2.0
"""LSTM whose candidate is not squashed (NIAF in Greff et al. 2015).

i = σ(a_i), f = σ(a_f), g = a_g, o = σ(a_o);  c' = f c + i g,  h' = o tanh(c').
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class LstmNoInputActivation:
    slots, states, saved, params = 4, 2, 4, 0
    from_x = from_h = (0, 1, 2, 3)
    gate_names = ("i", "f", "g", "o")

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        i, f, g, o = Sigmoid.f(a[0]), Sigmoid.f(a[1]), a[2], Sigmoid.f(a[3])
        c = f * s[1] + i * g
        return (o * Tanh.f(c), c), (i, f, g, o)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, f, g, o = save
        y = Tanh.f(f * s[1] + i * g)
        dc = ds[1] + ds[0] * o * Tanh.df(y)
        da = (dc * g * Sigmoid.df(i), dc * s[1] * Sigmoid.df(f), dc * i, ds[0] * y * Sigmoid.df(o))
        return da, (np.zeros_like(dc), dc * f), ()
