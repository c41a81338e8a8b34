# SPDX-License-Identifier: Apache-2.0
"""LSTM with the forget gate only, JANET (van der Westhuizen & Lasenby 2018), with the paper's β = 1.

f = σ(a_f), i = 1 - σ(a_f - 1), g = tanh(a_g);  h' = f h + i g.
"""

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class Janet:
    slots, states, saved, params = 2, 1, 3, 0
    from_x = from_h = (0, 1)
    gate_names = ("f", "g")
    roles = "fg"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        f, i, g = Sigmoid.f(a[0]), Sigmoid.f(1 - a[0]), Tanh.f(a[1])
        return (f * s[0] + i * g,), (f, g, i)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        f, g, i = save
        da = (ds[0] * (s[0] * Sigmoid.df(f) - g * Sigmoid.df(i)), ds[0] * i * Tanh.df(g))
        return da, (ds[0] * f,), ()
