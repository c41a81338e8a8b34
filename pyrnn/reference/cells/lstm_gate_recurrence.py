# SPDX-License-Identifier: Apache-2.0
"""LSTM with full gate recurrence, FGR in Greff et al. 2015: gates see what they were a step before.

i = σ(a_i), f = σ(a_f), g = tanh(a_g), o = σ(a_o);  c' = f c + i g,  h' = o tanh(c').
The blocks of weight_hh: of h into i f g o; then of the old i, of the old f, of the old o, each into i f o.
"""

import numpy as np

from pyrnn.reference.cells.activations import Sigmoid, Slots
from pyrnn.reference.cells.lstm import Lstm


class LstmGateRecurrence:
    slots, states, saved, params, late, reads = 4, 5, 4, 0, 9, 3
    from_x = (0, 1, 2, 3)
    from_h = (0, 1, 2, 3, 0, 1, 3, 0, 1, 3, 0, 1, 3)
    gate_names = ("i", "f", "g", "o")

    @staticmethod
    def read(a: Slots, s: Slots) -> Slots:
        return (s[2], s[3], s[4])

    @staticmethod
    def forward(a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        (h, c), save = Lstm.forward(a, s, p)
        return (h, c, save[0], save[1], save[3]), save

    @staticmethod
    def backward(save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        i, f, _, o = save
        (da_i, da_f, da_g, da_o), (dh, dc), _ = Lstm.backward(save, s, p, ds[:2])
        da_i, da_f, da_o = (
            d + dgate * Sigmoid.df(gate)
            for d, dgate, gate in zip((da_i, da_f, da_o), ds[2:], (i, f, o), strict=True)
        )
        return (da_i, da_f, da_g, da_o), (dh, dc, dh, dh, dh), ()

    @staticmethod
    def read_saved(save: Slots, s: Slots) -> Slots:
        return (s[2], s[3], s[4])

    @staticmethod
    def read_backward(save: Slots, s: Slots, dread: Slots) -> tuple[Slots, Slots]:
        zero = np.zeros_like(dread[0])
        return (zero, zero, *dread), (zero, zero, zero, zero)
