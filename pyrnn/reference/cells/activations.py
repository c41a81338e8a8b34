# SPDX-License-Identifier: Apache-2.0
"""Activations on real and complex arrays, with the derivative taken from the output, for the cells."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from pyrnn.layout import Array

Slots: TypeAlias = Array | Sequence[Array]  # indexed by slot, state or parameter first, then (B, H)


class Value:
    """What an array is, too, that brings activations of its own, in the place of the sigmoid and others."""

    def gate(self) -> Array:
        """In the place of the sigmoid."""
        raise NotImplementedError

    gate_slope = squash = squash_slope = gate


class Sigmoid:
    """σ(x) = 1 / (1 + exp(-x)), written so that the exponential never overflows; σ' = y (1 - y)."""

    @staticmethod
    def f(x: Array) -> Array:
        if isinstance(x, Value):
            return x.gate()
        negative = x.real < 0
        e = np.exp(np.where(negative, x, -x))
        y: Array = np.where(negative, e, 1) / (1 + e)
        return y

    @staticmethod
    def df(y: Array) -> Array:
        return y.gate_slope() if isinstance(y, Value) else y * (1 - y)


class Tanh:
    """tanh(x); tanh' = 1 - y²."""

    @staticmethod
    def f(x: Array) -> Array:
        return x.squash() if isinstance(x, Value) else np.tanh(x)

    @staticmethod
    def df(y: Array) -> Array:
        return y.squash_slope() if isinstance(y, Value) else 1 - y * y


class Relu:
    """max(x, 0); the real part alone decides the side, so a complex step never crosses the kink."""

    @staticmethod
    def f(x: Array) -> Array:
        return x.squash() if isinstance(x, Value) else np.where(x.real > 0, x, 0)

    @staticmethod
    def df(y: Array) -> Array:
        return y.squash_slope() if isinstance(y, Value) else (y.real > 0).astype(y.dtype)
