# SPDX-License-Identifier: Apache-2.0
"""LSTM whose gates see the cell state (Gers & Schmidhuber 2000; Gers, Schraudolph & Schmidhuber 2002).

i = σ(a_i + p_i c), f = σ(a_f + p_f c), g = tanh(a_g);  c' = f c + i g;  o = σ(a_o + p_o c'), h' = o tanh(c').
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class LstmPeephole:
    slots, states, saved, params = 4, 2, 4, 3
    from_x = from_h = (0, 1, 2, 3)
    gate_names = ("i", "f", "g", "o")
    roles = "fgh"
    param_name = "peephole"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        i, f = Sigmoid.f(a[0] + p[0] * s[1]), Sigmoid.f(a[1] + p[1] * s[1])
        g = Tanh.f(a[2])
        c = f * s[1] + i * g
        o = Sigmoid.f(a[3] + p[2] * c)
        return (o * Tanh.f(c), c), (i, f, g, o)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, f, g, o = save
        c = f * s[1] + i * g
        y = Tanh.f(c)
        da_o = ds[0] * y * Sigmoid.df(o)
        dc = ds[1] + ds[0] * o * Tanh.df(y) + da_o * p[2]
        da_i, da_f = dc * g * Sigmoid.df(i), dc * s[1] * Sigmoid.df(f)
        dc_old = dc * f + da_i * p[0] + da_f * p[1]
        da = (da_i, da_f, dc * i * Tanh.df(g), da_o)
        return da, (np.zeros_like(dc), dc_old), (da_i * s[1], da_f * s[1], da_o * c)
