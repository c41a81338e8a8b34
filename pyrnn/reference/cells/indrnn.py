# SPDX-License-Identifier: Apache-2.0
"""Independently recurrent network (Li et al. 2018): h' = tanh(a + u h), or max(a + u h, 0), u of a unit."""

from pyrnn.reference.cells.activations import Relu, Slots, Tanh


class IndRnnTanh:
    slots, states, saved, params = 1, 1, 1, 1
    from_x: tuple[int, ...] = (0,)
    from_h: tuple[int, ...] = ()
    gate_names = ("h",)
    param_name = "hh"
    activation: type[Tanh] | type[Relu] = Tanh

    @classmethod
    def forward(cls, a: Slots, s: Slots, p: Slots) -> tuple[Slots, Slots]:
        h = cls.activation.f(a[0] + p[0] * s[0])
        return (h,), (h,)

    @classmethod
    def backward(cls, save: Slots, s: Slots, p: Slots, ds: Slots) -> tuple[Slots, Slots, Slots]:
        da = ds[0] * cls.activation.df(save[0])
        return (da,), (da * p[0],), (da * s[0],)


class IndRnnRelu(IndRnnTanh):
    activation = Relu
