# SPDX-License-Identifier: Apache-2.0
"""MUT3 (Jozefowicz, Zaremba & Sutskever 2015): as MUT2, with a_z of R_z tanh(h)."""

from pyrnn.reference.cells.activations import Slots, Tanh
from pyrnn.reference.cells.mut2 import Mut2


class Mut3(Mut2):
    late, reads = 2, 2

    @staticmethod
    def read(a: Slots, s: Slots) -> Slots:
        return (Tanh.f(s[0]), *Mut2.read(a, s))

    @staticmethod
    def read_saved(save: Slots, s: Slots) -> Slots:
        return (Tanh.f(s[0]), *Mut2.read_saved(save, s))

    @staticmethod
    def read_backward(save: Slots, s: Slots, dread: Slots) -> tuple[Slots, Slots]:
        (dh,), da = Mut2.read_backward(save, s, dread[1:])
        return (dh + dread[0] * Tanh.df(Tanh.f(s[0])),), da
