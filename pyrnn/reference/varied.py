# SPDX-License-Identifier: Apache-2.0
"""A cell with other activations, clips, or dropout of its candidate: its own text on arrays that bring them.

Activations are those of the ONNX operators, on real and complex arrays, with the derivative taken from the
output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np

from pyrnn.layout import Array
from pyrnn.reference.cells.activations import Relu, Sigmoid, Slots, Tanh, Value
from pyrnn.reference.products import EPSILON


def where(condition: Array, x: Any, y: Any) -> Array:
    chosen: Array = np.where(condition, x, y)
    return chosen


def absolute(x: Array) -> Array:
    """|x|, differentiable along the real part."""
    return where(x.real < 0, -x, x)


#: f(x, alpha, beta), and f'(x) from y = f(x), alpha and beta.
CURVES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (lambda x, a, b: Sigmoid.f(x), lambda y, a, b: Sigmoid.df(y)),
    "tanh": (lambda x, a, b: Tanh.f(x), lambda y, a, b: Tanh.df(y)),
    "relu": (lambda x, a, b: Relu.f(x), lambda y, a, b: Relu.df(y)),
    "hardsigmoid": (
        lambda x, a, b: clipped(a * x + b - 0.5, 0.5) + 0.5,
        lambda y, a, b: where((y.real > 0) & (y.real < 1), a, 0.0),
    ),
    "softsign": (lambda x, a, b: x / (1 + absolute(x)), lambda y, a, b: (1 - absolute(y)) ** 2),
    "affine": (lambda x, a, b: a * x + b, lambda y, a, b: np.full_like(y, a)),
    "leakyrelu": (lambda x, a, b: where(x.real > 0, x, a * x), lambda y, a, b: where(y.real > 0, 1.0, a)),
    "thresholdedrelu": (
        lambda x, a, b: where(x.real > a, x, 0),
        lambda y, a, b: where(y.real != 0, 1.0, 0.0),
    ),
    "scaledtanh": (
        lambda x, a, b: a * np.tanh(b * x),
        lambda y, a, b: b * (a - y * y / a) if a else np.zeros_like(y),
    ),
    "elu": (
        lambda x, a, b: where(x.real > 0, x, a * np.expm1(where(x.real > 0, 0, x))),
        lambda y, a, b: where(y.real > 0, 1.0, y + a),
    ),
    "softplus": (
        lambda x, a, b: where(x.real > 0, x, 0) + np.log1p(np.exp(-absolute(x))),
        lambda y, a, b: 1 - np.exp(-y),
    ),
}


def clipped(x: Array, bound: float) -> Array:
    """x, or the bound where it is beyond it on either side."""
    return where(x.real > bound, bound, where(x.real < -bound, -bound, x)) if bound else x


class Curve(NamedTuple):
    """An activation behind a clip of what it reads; no gradient where its value is that of a bound."""

    name: str
    alpha: float
    beta: float
    bound: float = 0.0  # 0: none

    def value(self, x: Array) -> Array:
        y: Array = CURVES[self.name][0](clipped(x, self.bound), self.alpha, self.beta)
        return y

    def slope(self, y: Array) -> Array:
        slope = np.asarray(CURVES[self.name][1](y, self.alpha, self.beta))
        if not self.bound:
            return slope
        low, high = sorted(self.value(np.asarray([-self.bound, self.bound], y.real.dtype)))
        return where((y.real > low) & (y.real < high), slope, 0)


class Inside(NamedTuple):
    """What changes inside a cell at a step."""

    gate: Curve
    candidate: Curve
    output: Curve
    mask: Array | None  # (B, H): what the candidates are multiplied by
    kept: float  # the probability behind it


class Acting(Value):
    """Activations by where an array comes from: a pre-activation meets the candidate's, c the output's."""

    inside: Inside
    origin: int  # 1: from a slot, 2: from the output's activation

    def bare(self) -> Any:
        """The array without them."""
        raise NotImplementedError

    def like(self, a: Any, origin: int = 0) -> Array:
        """Another array with them."""
        raise NotImplementedError

    def gate(self) -> Array:
        return self.like(self.inside.gate.value(self.bare()))

    def gate_slope(self) -> Array:
        return self.like(self.inside.gate.slope(self.bare()))

    def squash(self) -> Array:
        x, inside = self.bare(), self.inside
        if not self.origin & 1:
            return self.like(inside.output.value(x), 2)
        y = inside.candidate.value(x)
        return self.like(y if inside.mask is None else y * inside.mask)

    def squash_slope(self) -> Array:
        y, inside = self.bare(), self.inside
        if self.origin & 2:
            return self.like(inside.output.slope(y))
        if inside.mask is None:
            return self.like(inside.candidate.slope(y))
        return self.like(inside.candidate.slope(y * inside.kept) * inside.mask)


class Varied(Acting, np.ndarray[Any, np.dtype[Any]]):
    """NumPy's array with activations of its own."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        plain = [x.bare() if isinstance(x, Varied) else x for x in inputs]
        return self.like(getattr(ufunc, method)(*plain, **keywords), origin_of(inputs))

    def bare(self) -> Array:
        return self.view(np.ndarray)

    def like(self, a: Any, origin: int = 0) -> Array:
        return varied(a, self.inside, origin)


def origin_of(inputs: Sequence[Any]) -> int:
    """Where the result of an operation comes from."""
    return reduce(or_, (x.origin for x in inputs if isinstance(x, Acting)), 0)


def varied(a: Any, inside: Inside, origin: int = 0) -> Varied:
    """An array that brings its activations."""
    view = np.asarray(a).view(Varied)
    view.inside, view.origin = inside, origin
    return view


class VariedCell:
    """A registered cell with other activations, clips and normalisation of c, with the interface of a cell.

    Parameters
    ----------
    cell : class of a registered cell
    variation : tuple
        As `pyrnn._core.forward` takes it.
    gain, bias : array (H,), or None
        Of the normalisation of c.
    masks : array (T, B, H), or None
        Of the candidates.
    kept : float
        The probability behind the masks.
    """

    #: An array that brings its activations, and one without them.
    acting: Callable[[Any, Inside, int], Any] = staticmethod(varied)
    bare: Callable[[Any], Any] = staticmethod(np.asarray)

    def __init__(
        self,
        cell: Any,
        variation: Any,
        gain: Array | None,
        bias: Array | None,
        masks: Array | None,
        kept: float,
    ) -> None:
        curves, gate_clip, self.clip, _ = variation
        self.cell, self.gain, self.bias, self.masks, self.kept = cell, gain, bias, masks, kept
        self.apart = bool(self.clip) or gain is not None
        gate, candidate, output = curves
        self.output = Curve(*output)
        self.curves = (Curve(*gate)._replace(bound=gate_clip), Curve(*candidate)._replace(bound=gate_clip))
        self.saved = cell.saved + 3 * self.apart

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)

    def of(self, t: int, arrays: Slots, origin: int = 0) -> list[Any]:
        """Arrays that bring what is inside the cell at step t."""
        output = Curve("affine", 0.0, 1.0) if self.apart else self.output  # o in the place of h
        mask = None if self.masks is None else self.masks[t]
        inside = Inside(*self.curves, output, mask, self.kept)
        return [self.acting(a, inside, origin) for a in arrays]

    def read(self, a: Slots, s: Slots) -> list[Array]:
        return [self.bare(x) for x in self.cell.read(self.of(0, a, 1), self.of(0, s))]

    def read_saved(self, save: Array, s: Array) -> Array:
        return np.asarray(self.cell.read_saved(save, s))

    def read_backward(self, save: Array, s: Array, dread: Array) -> tuple[Array, Array]:
        dh, da = self.cell.read_backward(self.of(0, save), self.of(0, s), dread)
        return np.asarray(dh), np.stack([np.asarray(d) for d in da])

    def normalised(self, c: Array) -> tuple[Array, Array]:
        """c normalised over its units, and what it was multiplied by."""
        centred = c - c.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
        return centred * inverse, inverse

    def read_out(self, x: Array) -> Array:
        """What h is the output's activation of."""
        if self.gain is None:
            return x
        return x * self.gain + (0 if self.bias is None else self.bias)

    def forward(self, t: int, a: Slots, s: Slots, p: Slots) -> tuple[list[Array], list[Array]]:
        """The states, and what is kept: the cell's, then o, the clipped c, and what h is made of."""
        new, save = self.cell.forward(self.of(t, a, 1), self.of(t, s), self.of(t, p))
        states, kept = [self.bare(x) for x in new], [self.bare(x) for x in save]
        if self.apart:
            o, c = states[0], clipped(states[1], self.clip)
            x, inverse = (c, np.ones_like(c)) if self.gain is None else self.normalised(c)
            states[:2] = o * self.output.value(self.read_out(x)), c
            kept += [o, x, np.where(abs(c.real) < (self.clip or np.inf), inverse, -inverse)]
        return states, kept

    def backward(
        self, t: int, save: Array, s: Array, p: Array, ds: Array
    ) -> tuple[Array, Array, Any, tuple[Array, Array] | None]:
        """The gradients of slots, states and parameters, and of gain and bias (B, H)."""
        found = None
        if self.apart:
            o, x, signed = save[self.cell.saved :]
            y, ds = self.output.value(self.read_out(x)), ds.copy()
            d = ds[0] * o * self.output.slope(y)
            if self.gain is not None:
                found, d = (d * x, d), d * self.gain
                d = (d - d.mean(-1, keepdims=True) - x * (d * x).mean(-1, keepdims=True)) * abs(signed)
            ds[0], ds[1] = ds[0] * y, np.where(signed.real > 0, ds[1] + d, 0)
        da, ds_old, dp = self.cell.backward(
            self.of(t, save[: self.cell.saved]), self.of(t, s), self.of(t, p), self.of(t, ds)
        )
        da, ds_old, dp = ([np.asarray(x) for x in xs] for xs in (da, ds_old, dp))
        return np.stack(da), np.stack(ds_old), dp, found
