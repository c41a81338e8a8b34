# SPDX-License-Identifier: Apache-2.0
"""Adam and clipping of the gradient's norm, over all parameters in one buffer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pyrnn.layout import Array

#: Elements per pass: five arrays of this many float32 stay in a core's second-level cache.
CHUNK = 32768
#: Every parameter begins on a cache line.
ALIGNMENT = 16


class FlatBuffer:
    """Arrays of given shapes laid out in one buffer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
    dtype : {"float32", "float64"}

    Attributes
    ----------
    flat : array (N,)
        Everything, with zeros between arrays where they are aligned.
    views : dict of arrays
        Each array by name; they share memory with `flat`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> None:
        self._places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        total = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            self._places[name] = (total, total + size, shape)
            total += -(-size // ALIGNMENT) * ALIGNMENT
        memory = np.zeros(total + ALIGNMENT, dtype)
        skip = -(memory.ctypes.data // memory.itemsize) % ALIGNMENT
        self.flat: Array = memory[skip : skip + total]
        self.views = self.views_of(self.flat)

    def views_of(self, flat: Array) -> dict[str, Array]:
        """The arrays in another buffer (N,) of the same layout."""
        return {name: flat[begin:end].reshape(shape) for name, (begin, end, shape) in self._places.items()}


def global_norm(gradient: Array) -> float:
    """Euclidean norm of a flat float32 array, summed in float64 by parts."""
    parts = (gradient[k : k + CHUNK] for k in range(0, gradient.size, CHUNK))
    return float(np.sqrt(sum(float(np.dot(part, part)) for part in parts)))


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) in place on one flat buffer.

    Parameters
    ----------
    size : int
        Number of elements N.
    beta1, beta2, eps : float

    Attributes
    ----------
    mean, square : float32 arrays (N,)
        Running averages of the gradient and of its square.
    steps : int
        Updates so far.

    Notes
    -----
    Equivalent to `torch.optim.Adam` after `torch.nn.utils.clip_grad_norm_`.
    """

    def __init__(self, size: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.mean, self.square = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self.steps = 0
        self._work = np.empty(min(size, CHUNK), np.float32)

    def step(self, params: Array, gradient: Array, rate: float, clip: float = 0.0) -> float:
        """Update `params` (N,) in place by one step; `gradient` (N,) is used as scratch.

        Parameters
        ----------
        params, gradient : float32 arrays (N,)
        rate : float
            Learning rate.
        clip : float
            The gradient is scaled down to this norm when it is longer; 0 leaves it.

        Returns
        -------
        float
            The gradient's norm before clipping.

        Raises
        ------
        ArithmeticError
            The norm is not finite; nothing has been updated.
        """
        norm = global_norm(gradient)
        if not np.isfinite(norm):
            raise ArithmeticError(f"the gradient's norm is {norm}")
        shrink = np.float32(clip / norm) if 0 < clip < norm else None
        self.steps += 1
        # The bias corrections of both averages, moved into the rate and eps: two passes over memory less.
        correction = np.sqrt(1 - self.beta2**self.steps)
        rate32 = np.float32(rate * correction / (1 - self.beta1**self.steps))
        eps32 = np.float32(self.eps * correction)
        keep1, keep2 = np.float32(1 - self.beta1), np.float32(1 - self.beta2)
        for k in range(0, params.size, CHUNK):
            p, g = params[k : k + CHUNK], gradient[k : k + CHUNK]
            m, v = self.mean[k : k + CHUNK], self.square[k : k + CHUNK]
            work = self._work[: p.size]
            if shrink is not None:
                np.multiply(g, shrink, out=g)
            np.subtract(g, m, out=work)
            np.multiply(work, keep1, out=work)
            np.add(m, work, out=m)
            np.multiply(g, g, out=g)
            np.subtract(g, v, out=g)
            np.multiply(g, keep2, out=g)
            np.add(v, g, out=v)
            np.sqrt(v, out=work)
            np.add(work, eps32, out=work)
            np.divide(m, work, out=work)
            np.multiply(work, rate32, out=work)
            np.subtract(p, work, out=p)
        return norm
