# SPDX-License-Identifier: Apache-2.0
"""Gated recurrent unit (Cho et al. 2014) with the reset gate after the product, as PyTorch and cuDNN.

r = σ(a_r), z = σ(a_z), n = tanh(a_nx + r a_nh);  h' = (1 - z) n + z h.
"""

from pyrnn.reference.cells.activations import Sigmoid, Slots, Tanh


class Gru:
    slots, states, saved, params = 4, 1, 4, 0
    from_x, from_h = (0, 1, 2), (0, 1, 3)
    gate_names = ("r", "z", "n")
    roles = "fg"

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        r, z = Sigmoid.f(a[0]), Sigmoid.f(a[1])
        n = Tanh.f(a[2] + r * a[3])
        return ((1 - z) * n + z * s[0],), (r, z, n, a[3])

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        r, z, n, nh = save
        dn = ds[0] * (1 - z) * Tanh.df(n)
        da = (dn * nh * Sigmoid.df(r), ds[0] * (s[0] - n) * Sigmoid.df(z), dn, dn * r)
        return da, (ds[0] * z,), ()
