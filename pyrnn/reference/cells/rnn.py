# SPDX-License-Identifier: Apache-2.0
"""Simple recurrent network (Elman 1990): h' = tanh(a), or h' = max(a, 0)."""

import numpy as np

from pyrnn.reference.cells.activations import Relu, Slots, Tanh


class RnnTanh:
    slots, states, saved, params = 1, 1, 1, 0
    from_x = from_h = (0,)
    gate_names = ("h",)
    roles = "g"
    activation: type[Tanh] | type[Relu] = Tanh

    @classmethod
    def forward(cls, a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        h = cls.activation.f(a[0])
        return (h,), (h,)

    @classmethod
    def backward(cls, save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        return (ds[0] * cls.activation.df(save[0]),), (np.zeros_like(ds[0]),), ()


class RnnRelu(RnnTanh):
    activation = Relu
