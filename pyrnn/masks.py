# SPDX-License-Identifier: Apache-2.0
"""Masks that training draws: those of dropout between layers, and what a back end needs for its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyrnn.layout import Array


def regularized(
    zoneout: tuple[float, ...], dropout: float, training: bool, seed: int, stream: int
) -> dict[str, Any]:
    """The argument of a back end for zoneout and recurrent dropout, where there is any."""
    if not (dropout or any(zoneout)):
        return {}
    return {"regularization": (zoneout, dropout, training, seed, stream)}


def redrawn(
    arrays: Any, rng: np.random.Generator, shape: tuple[int, ...], dropout: float, dtype: Any
) -> Callable[[], Array]:
    """What draws the next dropout mask of a generator once more, when it has long gone on."""
    kind, state = type(rng.bit_generator), rng.bit_generator.state

    def mask() -> Array:
        bits = kind()
        bits.state = state
        made: Array = arrays.made(dropout_mask(np.random.Generator(bits), shape, dropout), dtype)
        return made

    return mask


def dropout_mask(rng: np.random.Generator, shape: tuple[int, ...], dropout: float) -> Array:
    """Inverted dropout: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    return (rng.random(shape, np.float32) >= dropout) * (1 / (1 - dropout) if dropout < 1 else 0.0)
