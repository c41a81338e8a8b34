# SPDX-License-Identifier: Apache-2.0
"""A product with weights and, if it is normalised (Ba et al. 2016), what it keeps for the way back.

Normalised, a product's rows (B, slots·H) have mean 0 and variance 1 over all slots, and a gain each number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pyrnn.layout import Array

EPSILON = 1e-5


class Product(NamedTuple):
    """v · weightᵀ, rounded on both sides; `normalised` and `inverse` are as the last forward left them."""

    weight: Array
    gain: Array | None
    rounded: Callable[[Array], Array]

    def forward(self, v: Array) -> tuple[Array, Any]:
        """The product's rows, and what `backward` needs."""
        rows = self.rounded(v) @ self.weight.T
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
        """The gradient of v from that of the rows."""
        return np.asarray(self.rounded(drows) @ self.weight)
