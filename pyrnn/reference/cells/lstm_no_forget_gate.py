# SPDX-License-Identifier: Apache-2.0
"""LSTM without forget gate (Hochreiter & Schmidhuber 1997; NFG in Greff et al. 2015).

i = σ(a_i), g = tanh(a_g), o = σ(a_o);  c' = c + i g,  h' = o tanh(c').
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class LstmNoForgetGate:
    slots, states, saved, params = 3, 2, 3, 0
    from_x = from_h = (0, 1, 2)
    gate_names = ("i", "g", "o")
    roles = "fgh"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        i, g, o = Sigmoid.f(a[0]), Tanh.f(a[1]), Sigmoid.f(a[2])
        c = s[1] + i * g
        return (o * Tanh.f(c), c), (i, g, o)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, g, o = save
        y = Tanh.f(s[1] + i * g)
        dc = ds[1] + ds[0] * o * Tanh.df(y)
        da = (dc * g * Sigmoid.df(i), dc * i * Tanh.df(g), ds[0] * y * Sigmoid.df(o))
        return da, (np.zeros_like(dc), dc), ()
