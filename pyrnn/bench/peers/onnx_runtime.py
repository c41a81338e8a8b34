# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime. Threads: `intra_op_num_threads`. Inputs and outputs are bound once, as it advises."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn.bench.peers.onnx_model import model_of, outputs_of, state_names
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array


class OnnxRuntime(Peer):
    """Its operators on the processor; inference alone, and no bfloat16 there."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx")
    modes = ("inference", "stream")

    def __init__(self, problem: Problem, threads: int) -> None:
        import onnxruntime

        super().__init__(problem, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(
            model_of(problem), options, providers=["CPUExecutionProvider"]
        )
        case, ort = self.case, onnxruntime.OrtValue.ortvalue_from_numpy
        self.y = ort(np.zeros((case.T, case.directions, case.B, case.H), np.float32))
        x = ort(problem.x)
        names = state_names(problem)
        states = [[ort(np.zeros((1, case.B, case.H), np.float32)) for _ in names] for _ in range(2)]
        # The states that a step writes are those that the next one reads: two bindings take turns.
        self.bindings = []
        for turn in range(2 if names else 1):
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("x", x)
            binding.bind_ortvalue_output("y", self.y)
            for k, name in enumerate(names):
                binding.bind_ortvalue_input(name, states[turn][k])
                binding.bind_ortvalue_output(name + "_out", states[1 - turn][k])
            self.bindings.append(binding)

    def run(self) -> Any:
        """y, always in the same memory."""
        self.bindings.reverse()
        self.session.run_with_iobinding(self.bindings[-1])
        return self.y

    def result(self, ran: Any) -> dict[str, Array]:
        """Its only sequence, where a step was run."""
        return (
            {"y": outputs_of(ran.numpy())["y"][0]} if self.case.mode == "stream" else outputs_of(ran.numpy())
        )
