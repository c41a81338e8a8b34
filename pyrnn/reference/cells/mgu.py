# SPDX-License-Identifier: Apache-2.0
"""Minimal gated unit (Zhou et al. 2016): one gate forgets and resets.

f = σ(a_f), n = tanh(a_n), whose product is R_n (f h);  h' = (1 - f) h + f n.
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class Mgu:
    slots, states, saved, params, late = 2, 1, 2, 0, 1
    from_x = from_h = (0, 1)
    gate_names = ("f", "n")
    roles = "fg"

    @staticmethod
    def read(a: Slots, s: Slots) -> Slots:
        return (Sigmoid.f(a[0]) * s[0],)

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        f, n = Sigmoid.f(a[0]), Tanh.f(a[1])
        return ((1 - f) * s[0] + f * n,), (f, n)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        f, n = save
        return (ds[0] * (n - s[0]) * Sigmoid.df(f), ds[0] * f * Tanh.df(n)), (ds[0] * (1 - f),), ()

    @staticmethod
    def read_saved(save: Slots, s: Slots) -> Slots:
        return (save[0] * s[0],)

    @staticmethod
    def read_backward(save: Slots, s: Slots, dread: Slots) -> tuple[Slots, Slots]:
        zero = np.zeros_like(dread[0])
        return (dread[0] * save[0],), (dread[0] * s[0] * Sigmoid.df(save[0]), zero)
