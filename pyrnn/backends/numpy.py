# SPDX-License-Identifier: Apache-2.0
"""NumPy's arrays, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyrnn import _core, checks
from pyrnn.layout import Array


class NumpyArrays:
    """Checks, views and new memory, as `pyrnn.stacking` needs them."""

    plain = staticmethod(checks.plain_array)
    ready = staticmethod(checks.kernel_ready)
    weights = staticmethod(checks.weights)
    extras = staticmethod(checks.extras)
    states = staticmethod(checks.states)
    lengths = staticmethod(checks.lengths_of)
    flags = staticmethod(checks.flags_of)
    output = staticmethod(checks.output)
    weight = staticmethod(checks.weight)
    share_memory = staticmethod(np.may_share_memory)

    @staticmethod
    def empty(shape: Sequence[int], dtype: Any) -> Array:
        """Memory that nothing is in yet, kept for the next array of its size once it is free."""
        return _core.empty(shape, dtype)

    @staticmethod
    def zeros(shape: Sequence[int], dtype: Any) -> Array:
        """Zeros."""
        return np.zeros(shape, dtype)

    @staticmethod
    def made(a: Array, dtype: Any) -> Array:
        """An array of this library from NumPy's."""
        return a.astype(dtype, copy=False)

    @staticmethod
    def joined(arrays: Sequence[Array]) -> Array:
        """Arrays side by side, along the last axis."""
        return np.concatenate(arrays, axis=-1)

    @staticmethod
    def stacked(arrays: Sequence[Array]) -> Array:
        """Arrays one after the other, along a new first axis."""
        return np.stack(arrays)

    @staticmethod
    def repeated(a: Array, count: int) -> Array:
        """Rows (count, n) that are all a."""
        return np.repeat(a[None], count, axis=0)

    @staticmethod
    def numpy(a: Array) -> Array:
        """A copy as NumPy's."""
        return np.array(a)


NUMPY = NumpyArrays()
