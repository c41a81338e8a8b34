# SPDX-License-Identifier: Apache-2.0
"""Scalar LSTM with exponential gates (Beck et al. 2024), one head, in the paper's stabilised form.

m' = max(a_f + m, a_i), i = exp(a_i - m'), f = exp(a_f + m - m'), z = tanh(a_z), o = σ(a_o);
c' = f c + i z, n' = f n + i, h' = o c'/n'.
"""

import numpy as np

from pyrnn.reference.cells.activations import Relu, Sigmoid, Slots, Tanh


class Slstm:
    slots, states, saved, params = 4, 4, 4, 0
    from_x = from_h = (0, 1, 2, 3)
    gate_names = ("i", "f", "z", "o")
    positive = (2,)  # states that are positive, or zero where all are

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        d = a[1] + s[3] - a[0]
        up = Relu.f(d)
        i, f, z, o = np.exp(-up), np.exp(d - up), Tanh.f(a[2]), Sigmoid.f(a[3])
        c, n = f * s[1] + i * z, f * s[2] + i
        return (o * c / n, c, n, a[0] + up), (i, f, z, o)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, f, z, o = save
        n = f * s[2] + i
        n = np.where(n == 0, 1, n)  # of steps that are not computed
        y = (f * s[1] + i * z) / n
        dy = ds[0] * o / n
        dc, dn = ds[1] + dy, ds[2] - dy * y
        # The larger of a_f + m and a_i is m', and its gate is 1.
        dd = np.where((f - i).real > 0, ds[3] - (dc * z + dn) * i, (dc * s[1] + dn * s[2]) * f)
        da = (ds[3] - dd, dd, dc * i * Tanh.df(z), ds[0] * y * Sigmoid.df(o))
        return da, (np.zeros_like(dc), dc * f, dn * f, dd), ()
