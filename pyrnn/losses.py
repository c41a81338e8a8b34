# SPDX-License-Identifier: Apache-2.0
"""Softmax cross entropy and squared error of rows of scores, with their gradients."""

from __future__ import annotations

import numpy as np

from pyrnn.layout import Array


def cross_entropy(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Softmax of the rows of `scores` (N, V), in its memory, and -log p of the targets (N,) in nats.

    Examples
    --------
    >>> import numpy as np
    >>> p, losses = cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> p.tolist(), bool(np.isclose(losses[0], np.log(4)))
    ([[0.25, 0.25, 0.25, 0.25]], True)
    """
    scores -= scores.max(1, keepdims=True)
    losses = -scores[np.arange(len(scores)), targets]
    np.exp(scores, out=scores)
    sums = scores.sum(1, keepdims=True)
    losses += np.log(sums[:, 0])
    scores /= sums
    return scores, losses


def mean_cross_entropy(scores: Array, targets: Array) -> tuple[float, Array]:
    """Mean over the rows of `cross_entropy`, and its gradient (N, V), in the memory of `scores`."""
    p, losses = cross_entropy(scores, targets)
    p[np.arange(len(p)), targets] -= 1
    p /= len(p)
    return float(losses.mean(dtype=np.float64)), p


def mean_squared_error(scores: Array, targets: Array) -> tuple[float, Array]:
    """Mean over all numbers of the squared difference of two arrays (N, O), and its gradient (N, O).

    Examples
    --------
    >>> import numpy as np
    >>> loss, gradient = mean_squared_error(np.array([[3.0], [1.0]]), np.array([[1.0], [1.0]]))
    >>> loss, gradient.tolist()
    (2.0, [[2.0], [0.0]])
    """
    error = scores - targets
    return float(np.mean(error * error, dtype=np.float64)), 2 / error.size * error
