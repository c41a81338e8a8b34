# SPDX-License-Identifier: Apache-2.0
"""Gated recurrent unit with the reset gate before the product (Cho et al. 2014).

r = σ(a_r), z = σ(a_z), n = tanh(a_n), whose product is R_n (r h);  h' = (1 - z) n + z h.
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class GruResetBefore:
    slots, states, saved, params, late = 3, 1, 3, 0, 1
    from_x = from_h = (0, 1, 2)
    gate_names = ("r", "z", "n")
    roles = "fg"

    @staticmethod
    def read(a: Slots, s: Slots) -> Slots:
        return (Sigmoid.f(a[0]) * s[0],)

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        r, z, n = Sigmoid.f(a[0]), Sigmoid.f(a[1]), Tanh.f(a[2])
        return ((1 - z) * n + z * s[0],), (r, z, n)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        _, z, n = save
        da = (np.zeros_like(z), ds[0] * (s[0] - n) * Sigmoid.df(z), ds[0] * (1 - z) * Tanh.df(n))
        return da, (ds[0] * z,), ()

    @staticmethod
    def read_saved(save: Slots, s: Slots) -> Slots:
        return (save[0] * s[0],)

    @staticmethod
    def read_backward(save: Slots, s: Slots, dread: Slots) -> tuple[Slots, Slots]:
        zero = np.zeros_like(dread[0])
        return (dread[0] * save[0],), (dread[0] * s[0] * Sigmoid.df(save[0]), zero, zero)
