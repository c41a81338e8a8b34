# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the same ONNX model. Threads: INFERENCE_NUM_THREADS, one stream; the precision is its hint."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn.bench.peers.onnx_model import model_of, outputs_of, state_names
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(Peer):
    """Inference alone."""

    name = "openvino"
    modules = ("openvino", "onnx")
    modes = ("inference", "stream")
    computes = tuple(PRECISIONS)

    def __init__(self, problem: Problem, threads: int) -> None:
        import openvino

        super().__init__(problem, threads)
        case, core = self.case, openvino.Core()
        compiled = core.compile_model(
            core.read_model(model_of(problem)),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": PRECISIONS[case.compute],
            },
        )
        names = state_names(problem)
        self.arrays = [[np.zeros((1, case.B, case.H), np.float32) for _ in names] for _ in range(2)]
        states = [[openvino.Tensor(a, shared_memory=True) for a in arrays] for arrays in self.arrays]
        # The states that a step writes are those that the next one reads: two requests take turns.
        self.requests = []
        for turn in range(2 if names else 1):
            request = compiled.create_infer_request()
            request.set_tensor("x", openvino.Tensor(problem.x, shared_memory=True))
            for k, name in enumerate(names):
                request.set_tensor(name, states[turn][k])
                request.set_tensor(name + "_out", states[1 - turn][k])
            self.requests.append(request)

    def run(self) -> Any:
        """The request, its tensors filled."""
        self.requests.reverse()
        self.requests[-1].infer()
        return self.requests[-1]

    def result(self, ran: Any) -> dict[str, Array]:
        """Its only sequence, where a step was run."""
        y = outputs_of(ran.get_tensor("y").data)["y"].copy()
        return {"y": y[0]} if self.case.mode == "stream" else {"y": y}
