# SPDX-License-Identifier: Apache-2.0
"""LSTM without input gate (NIG in Greff et al. 2015).

f = σ(a_f), g = tanh(a_g), o = σ(a_o);  c' = f c + g,  h' = o tanh(c').
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class LstmNoInputGate:
    slots, states, saved, params = 3, 2, 3, 0
    from_x = from_h = (0, 1, 2)
    gate_names = ("f", "g", "o")
    roles = "fgh"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        f, g, o = Sigmoid.f(a[0]), Tanh.f(a[1]), Sigmoid.f(a[2])
        c = f * s[1] + g
        return (o * Tanh.f(c), c), (f, g, o)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        f, g, o = save
        y = Tanh.f(f * s[1] + g)
        dc = ds[1] + ds[0] * o * Tanh.df(y)
        da = (dc * s[1] * Sigmoid.df(f), dc * Tanh.df(g), ds[0] * y * Sigmoid.df(o))
        return da, (np.zeros_like(dc), dc * f), ()
