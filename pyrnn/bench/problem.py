# SPDX-License-Identifier: Apache-2.0
"""The numbers of a case, the same for every library, and what must come out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from pyrnn import reference
from pyrnn.bench.grid import COMPUTE, Case
from pyrnn.layout import Array
from pyrnn.recurrent import Recurrent

#: A stream's output is compared after so many steps with the same input: one that forgets its state shows.
STREAM_STEPS = 3


class Wrong(Exception):
    """A result that is not what the reference computes."""


class Problem:
    """Weights, inputs and what flows back.

    Attributes
    ----------
    params : dict of float32 arrays
        By PyTorch's names.
    x : float32 array (T, B, I)
    dy : float32 array (T, B, H·directions)
        Zero past the lengths.
    lengths : int array (B,) or None
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(0)
        layer = Recurrent(case.cell, case.I, case.H, case.layers, bidirectional=case.directions == 2, seed=0)
        self.params = layer.params
        self.x = rng.standard_normal((case.T, case.B, case.I), dtype=np.float32)
        self.dy = rng.standard_normal((case.T, case.B, case.H * case.directions), dtype=np.float32)
        self.lengths = case.lengths
        if self.lengths is not None:
            self.dy[np.arange(case.T)[:, None] >= self.lengths] = 0

    @property
    def mask(self) -> Array | None:
        """(T, B, 1), True at the steps within the lengths; None where there are none."""
        if self.lengths is None:
            return None
        return np.asarray(np.arange(self.case.T)[:, None, None] < self.lengths[:, None])

    @property
    def expected(self) -> dict[str, Array]:
        """What `expected` returns: the numbers that products multiply are not the reference's."""
        return expected(replace(self.case, compute="float32"))

    def verify(self, result: dict[str, Array]) -> None:
        """Compare with the reference.

        Parameters
        ----------
        result : dict of arrays
            As `expected`; y may be missing where there are gradients.

        Raises
        ------
        Wrong
            A name or shape differs, or an error, relative to the norm of what is expected, is too large.
        """
        compute = COMPUTE[self.case.compute]
        missing = set(self.expected) - set(result) - ({"y"} if len(self.expected) > 1 else set())
        if missing or set(result) - set(self.expected):
            raise Wrong(f"expected {sorted(self.expected)}, got {sorted(result)}")
        for name, value in result.items():
            wanted, value = self.expected[name], np.asarray(value)
            if value.shape != wanted.shape:
                raise Wrong(f"{name}: expected shape {wanted.shape}, got {value.shape}")
            error = float(np.linalg.norm((value - wanted).ravel()) / np.linalg.norm(wanted.ravel()))
            bound = compute.values if name == "y" else compute.gradients
            if not error <= bound:
                raise Wrong(f"{name} is off by {error:.1e}, more than {bound:g}")


@lru_cache(maxsize=1)  # the next case is often the same one in other numbers
def expected(case: Case) -> dict[str, Array]:
    """By the reference in float64: y, and in training the gradients of x and of every parameter."""
    problem = Problem(case)
    x = problem.x.astype(np.float64)
    params = {name: p.astype(np.float64) for name, p in problem.params.items()}
    if case.mode == "stream":
        y, _ = reference.sequence(case.cell, np.repeat(x, STREAM_STEPS, axis=0), None, params)
        return {"y": y[-1]}
    if case.mode == "inference":
        return {"y": reference.sequence(case.cell, x, None, params, lengths=problem.lengths)[0]}
    y, _, saved = reference.sequence_forward(case.cell, x, None, params, lengths=problem.lengths)
    grads = reference.sequence_backward(saved, problem.dy.astype(np.float64))
    return {"y": y, "x": grads.x, **grads.params}
