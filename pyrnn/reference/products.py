# SPDX-License-Identifier: Apache-2.0
"""A product with weights and, if it is normalised (Ba et al. 2016), what it keeps for the way back.

Normalised, a product's rows (B, slots·H) have mean 0 and variance 1 over all slots, and a gain each number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyrnn.layout import Array

EPSILON = 1e-5


class Product(NamedTuple):
    """v · weightᵀ, rounded on both sides, of `reads` vectors v with a share of the weight's rows each.

    `normalised` and `inverse` are as the last forward left them.
    """

    weight: Array
    gain: Array | None
    rounded: Callable[[Array], Array]
    reads: int = 1

    def parts(self) -> list[Array]:
        """The weight's rows by what they are multiplied with."""
        return np.split(self.weight, self.reads)

    def forward(self, v: Sequence[Array]) -> tuple[Array, Any]:
        """The product's rows, and what `backward` needs."""
        rows = np.concatenate(
            [self.rounded(read) @ w.T for read, w in zip(v, self.parts(), strict=True)], axis=-1
        )
        if self.gain is None or not self.gain.size:
            return rows, None
        centred = rows - rows.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
        normalised = centred * inverse
        return normalised * self.gain, (normalised, inverse)

    def backward(self, drows: Array, kept: Any) -> Array:
        """The gradient of the rows before they were normalised."""
        if kept is None:
            return drows
        normalised, inverse = kept
        d = drows * self.gain
        along = (d * normalised).mean(-1, keepdims=True)
        return np.asarray((d - d.mean(-1, keepdims=True) - normalised * along) * inverse)

    def pull(self, drows: Array) -> Array:
        """The gradients of v, (reads, …), from that of the rows."""
        pieces = np.split(drows, self.reads, axis=-1)
        return np.stack([self.rounded(d) @ w for d, w in zip(pieces, self.parts(), strict=True)])

    def dweight(self, drows: Array, v: Sequence[Array]) -> Array:
        """The gradient of the weight from those of the rows and from v at every step, (T, B, …)."""
        pieces = np.split(self.rounded(drows), self.reads, axis=-1)
        return np.concatenate(
            [np.tensordot(d, self.rounded(read), ((0, 1), (0, 1))) for d, read in zip(pieces, v, strict=True)]
        )
