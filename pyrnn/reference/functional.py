# SPDX-License-Identifier: Apache-2.0
"""The functions of `pyrnn.functional`, with the same arguments, on the NumPy engine."""

from typing import Any

import numpy as np

from pyrnn import attending, decoding, stacking
from pyrnn.attending import Memory
from pyrnn.backends.layer import Backend
from pyrnn.checks import FLOATS
from pyrnn.layout import Array
from pyrnn.reference.attention import backward as attend_backward
from pyrnn.reference.attention import forward as attend
from pyrnn.reference.cells import cells
from pyrnn.reference.decoder import Loop
from pyrnn.reference.sequence import backward, forward
from pyrnn.states import State

REFERENCE = Backend(cells(), forward, backward, (*FLOATS, np.dtype(np.complex128)))

ATTENTION = attending.Backend(attend, attend_backward, REFERENCE.dtypes)

DECODER = Loop(REFERENCE, ATTENTION)

sequence_backward = stacking.backward
attention_backward = attending.backward
decoder_backward = decoding.backward


def sequence_forward(
    cell: str,
    x: Array,
    state: State | None = None,
    params: Any = None,
    *,
    training: bool = True,
    **options: Any,
) -> Any:
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
) -> Any:
    """`pyrnn.functional.sequence` in NumPy, in float32, float64 or complex128."""
    return stacking.from_names(REFERENCE, cell, x, state, params, training, **options)[:-1]


def attention_forward(
    query: Array, key: Array | Memory, value: Array | None = None, **options: Any
) -> tuple[Array, Array, attending.Saved]:
    """`pyrnn.functional.attention_forward` in NumPy, in float32, float64 or complex128."""
    return attending.forward(ATTENTION, query, key, value, save=True, **options)


def attention(
    query: Array,
    key: Array | Memory,
    value: Array | None = None,
    *,
    return_weights: bool = False,
    **options: Any,
) -> Array | tuple[Array, Array]:
    """`pyrnn.functional.attention` in NumPy, in float32, float64 or complex128."""
    return attending.context(ATTENTION, query, key, value, return_weights, **options)


def precompute(key: Array, value: Array | None = None, **options: Any) -> Memory:
    """`pyrnn.functional.precompute` in NumPy, in float32, float64 or complex128."""
    return attending.precompute(ATTENTION, key, value, **options)


def decoder_forward(
    cell: str, x: Array, memory: Array, params: Any, state: State | None = None, **options: Any
) -> tuple[Array, State, Array, decoding.Saved]:
    """`pyrnn.functional.decoder_forward` in NumPy, in float32, float64 or complex128."""
    return decoding.forward(DECODER, cell, x, memory, params, state, save=True, **options)
