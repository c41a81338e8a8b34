# SPDX-License-Identifier: Apache-2.0
"""The functions of `pyrnn.functional`, with the same arguments, on the NumPy engine."""

from typing import Any

import numpy as np

from pyrnn import stacking
from pyrnn.checks import FLOATS
from pyrnn.layout import Array
from pyrnn.reference.cells import cells
from pyrnn.reference.sequence import backward, forward
from pyrnn.stacking import Backend, Saved, State

REFERENCE = Backend(cells(), forward, backward, (*FLOATS, np.dtype(np.complex128)))

sequence_backward = stacking.backward


def sequence_forward(
    cell: str,
    x: Array,
    state: State | None = None,
    params: Any = None,
    *,
    training: bool = True,
    **options: Any,
) -> tuple[Array, State, Saved]:
    """`pyrnn.functional.sequence_forward` in NumPy, in float32, float64 or complex128."""
    return stacking.from_names(REFERENCE, cell, x, state, params, training, save=True, **options)


def sequence(
    cell: str,
    x: Array,
    state: State | None = None,
    params: Any = None,
    *,
    training: bool = False,
    **options: Any,
) -> tuple[Array, State]:
    """`pyrnn.functional.sequence` in NumPy, in float32, float64 or complex128."""
    return stacking.from_names(REFERENCE, cell, x, state, params, training, **options)[:2]
