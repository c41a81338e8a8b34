# SPDX-License-Identifier: Apache-2.0
"""LSTM without output gate (NOG in Greff et al. 2015).

i = σ(a_i), f = σ(a_f), g = tanh(a_g);  c' = f c + i g,  h' = tanh(c').
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class LstmNoOutputGate:
    slots, states, saved, params = 3, 2, 3, 0
    from_x = from_h = (0, 1, 2)
    gate_names = ("i", "f", "g")
    roles = "fgh"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        i, f, g = Sigmoid.f(a[0]), Sigmoid.f(a[1]), Tanh.f(a[2])
        c = f * s[1] + i * g
        return (Tanh.f(c), c), (i, f, g)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, f, g = save
        dc = ds[1] + ds[0] * Tanh.df(Tanh.f(f * s[1] + i * g))
        da = (dc * g * Sigmoid.df(i), dc * s[1] * Sigmoid.df(f), dc * i * Tanh.df(g))
        return da, (np.zeros_like(dc), dc * f), ()
