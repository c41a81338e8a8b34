# SPDX-License-Identifier: Apache-2.0
"""A loop over steps in NumPy, the input's product before it; threads are those of its BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn.bench import formulas
from pyrnn.bench.formulas import Ops
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array

NUMPY = Ops(
    sigmoid=lambda a: 1 / (1 + np.exp(-a)),
    tanh=np.tanh,
    relu=lambda a: np.maximum(a, 0),
    where=np.where,
    zeros=lambda shape: np.zeros(shape, np.float32),
    stack=np.stack,
    join=lambda arrays: np.concatenate(arrays, axis=-1),
)


class NumpyLoop(Peer):
    """Inference by the formulas."""

    name = "numpy"
    cells = tuple(formulas.STEPS)
    modes = ("inference", "stream")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        case = self.case
        self.mask = problem.mask
        zeros = (NUMPY.zeros((case.B, case.H)),) * formulas.states_of(case.cell)
        self.states: list[formulas.State] = [zeros] * case.layers
        self.row = problem.x[0]
        self.layers = [formulas.of_layer(problem.params, f"_l{layer}") for layer in range(case.layers)]
        self.choose(inference=self.infer, stream=self.step)

    def infer(self) -> Any:
        """y."""
        case, params = self.case, self.problem.params

        def run(p: formulas.Params, x: Any, reverse: bool) -> Any:
            return formulas.loop(NUMPY, case.cell, p, x, self.mask, reverse)

        return formulas.stacked(NUMPY, case.layers, case.directions, params, self.problem.x, run)

    def step(self) -> Any:
        """The next y."""
        y, self.states = formulas.one_step(NUMPY, self.case.cell, self.layers, self.row, self.states)
        return y

    def result(self, ran: Any) -> dict[str, Array]:
        """As it is."""
        return {"y": ran}
