# SPDX-License-Identifier: Apache-2.0
"""This library."""

from __future__ import annotations

from typing import Any

import numpy as np

import pyrnn
from pyrnn.bench.grid import COMPUTE, Case
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array


class Pyrnn(Peer):
    """`pyrnn.Recurrent` and its stream."""

    name = "pyrnn"
    computes = tuple(COMPUTE)

    @classmethod
    def takes(cls, case: Case) -> bool:
        """Everything but gradients of integers."""
        return (case.compute, case.mode) != ("int8", "training")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        pyrnn.set_num_threads(threads)
        case = self.case
        self.layer: Any = pyrnn.Recurrent(
            case.cell, case.I, case.H, case.layers, bidirectional=case.directions == 2,
            compute_dtype=COMPUTE[case.compute].option, seed=0,
        )  # fmt: skip
        self.layer.load_state_dict(problem.params)
        if case.compute == "int8":
            self.layer = self.layer.quantize("int8")
        if case.mode == "stream":
            self.stream = self.layer.stream(batch_size=case.B)
            self.row = np.ascontiguousarray(problem.x[0])
        self.choose(inference=self.infer, training=self.train, stream=self.step)

    def infer(self) -> Any:
        """y."""
        return {"y": self.layer(self.problem.x, lengths=self.problem.lengths)[0]}

    def train(self) -> Any:
        """y and gradients."""
        y, _, saved = self.layer.forward(self.problem.x, lengths=self.problem.lengths)
        grads = self.layer.backward(saved, self.problem.dy)
        return {"y": y, "x": grads.x, **grads.params}

    def step(self) -> Any:
        """The next y."""
        return self.stream.step(self.row)

    def result(self, ran: Any) -> dict[str, Array]:
        """As it is."""
        return ran if isinstance(ran, dict) else {"y": ran}

    def saved_bytes(self) -> int:
        """What the forward keeps beside x and the weights, outputs between layers included."""
        _, _, saved = self.layer.forward(self.problem.x, lengths=self.problem.lengths)
        between = 4 * self.case.T * self.case.B * self.case.H * (self.case.layers - 1)
        return between + sum(int(kept.nbytes) for kept in saved.passes)
