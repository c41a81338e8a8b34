# SPDX-License-Identifier: Apache-2.0
"""Clockwork RNN (Koutník et al. 2014): a unit runs once in its period, and reads units as slow or slower.

Where k > 0: h' = h, k' = k - 1; else h' = tanh(a), k' = period - 1.
"""

import numpy as np

from pyrnn.reference.cells.activations import Slots, Tanh


class Clockwork:
    slots, states, saved, params = 1, 2, 1, 1
    from_x = from_h = (0,)
    gate_names = ("h",)
    param_name = "period"
    ordered = True

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        rests, h = s[1].real > 0, Tanh.f(a[0])
        return (np.where(rests, s[0], h), np.where(rests, s[1], p[0]) - 1), (h,)

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        rests = s[1].real > 0
        da, dp = np.where(rests, 0, ds[0] * Tanh.df(save[0])), np.where(rests, 0, ds[1])
        return (da,), (np.where(rests, ds[0], 0), np.where(rests, ds[1], 0)), (dp,)
