# SPDX-License-Identifier: Apache-2.0
"""The libraries that are compared: one adapter each, built from the same weights."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np

import pyrnn

TORCH_CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,)}  # ONNX wants i o f g and z r n


class Case(NamedTuple):
    """One layer and the sizes of its input."""

    cell: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int

    @property
    def flops(self) -> float:
        """Floating-point operations of one forward pass: two for each weight, sequence and step."""
        gates = {"lstm": 4, "gru": 3}.get(self.cell, 1)
        return 2.0 * gates * self.H * (self.I + self.H) * self.T * self.B


class Problem:
    """Weights, input and output gradient of a case, the same for every peer."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(0)
        self.layer = pyrnn.Recurrent(case.cell, case.I, case.H, seed=0)
        self.params = self.layer.params
        self.x = rng.standard_normal((case.T, case.B, case.I), dtype=np.float32)
        self.dy = rng.standard_normal((case.T, case.B, case.H), dtype=np.float32)


class Pyrnn:
    """This library."""

    name = "pyrnn"
    trains = True

    def __init__(self, problem: Problem, threads: int) -> None:
        pyrnn.set_num_threads(threads)
        self.problem = problem
        self.layer = problem.layer
        if problem.case.T == 1:
            self.stream = self.layer.stream(batch_size=problem.case.B)
            self.row = np.ascontiguousarray(problem.x[0])

    def forward(self) -> np.ndarray:
        return self.layer(self.problem.x)[0]

    def train(self) -> dict[str, np.ndarray]:
        _, _, saved = self.layer.forward(self.problem.x)
        grads = self.layer.backward(saved, self.problem.dy)
        return {"x": grads.x, **grads.params}

    def step(self) -> np.ndarray:
        return self.stream.step(self.row)


class Torch:
    """torch.nn's layer, eager."""

    name = "pytorch"
    trains = True

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        case = problem.case
        self.layer = getattr(torch.nn, TORCH_CLASSES[case.cell])(case.I, case.H)
        self.layer.load_state_dict({name: torch.tensor(value) for name, value in problem.params.items()})
        self.x = torch.tensor(problem.x)
        self.x_grad = torch.tensor(problem.x, requires_grad=True)
        self.dy = torch.tensor(problem.dy)
        self.state = None

    def forward(self) -> np.ndarray:
        with self.torch.inference_mode():
            return self.layer(self.x)[0].numpy()

    def train(self) -> dict[str, np.ndarray]:
        self.layer.zero_grad(set_to_none=True)
        self.x_grad.grad = None
        self.layer(self.x_grad)[0].backward(self.dy)
        grads = {name: p.grad.numpy() for name, p in self.layer.named_parameters()}
        return {"x": self.x_grad.grad.numpy(), **grads}

    def step(self) -> np.ndarray:
        with self.torch.inference_mode():
            y, self.state = self.layer(self.x, self.state)
            return y[0].numpy()


class OnnxRuntime:
    """ONNX Runtime's operator of the same name; inference only."""

    name = "onnxruntime"
    trains = False

    def __init__(self, problem: Problem, threads: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        case, params = problem.case, problem.params
        op = TORCH_CLASSES[case.cell]
        order = ONNX_GATES[case.cell]

        def gates(name: str) -> np.ndarray:
            blocks = np.split(params[name], len(order))
            return np.concatenate([blocks[i] for i in order])[None]

        bias = np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")], axis=1)
        weights = {"W": gates("weight_ih_l0"), "R": gates("weight_hh_l0"), "bias": bias}
        self.states = ["h", "c"][: 2 if case.cell == "lstm" else 1]
        attributes = {"linear_before_reset": 1} if case.cell == "gru" else {}
        node = helper.make_node(
            op, ["x", "W", "R", "bias", "", *self.states], ["y", *(s + "_out" for s in self.states)],
            hidden_size=case.H, **attributes,
        )  # fmt: skip

        def value(name: str, shape: tuple[int, ...]) -> object:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        state_shape = (1, case.B, case.H)
        graph = helper.make_graph(
            [node], "layer",
            [value("x", problem.x.shape), *(value(s, state_shape) for s in self.states)],
            [value("y", (case.T, 1, case.B, case.H)), *(value(s + "_out", state_shape) for s in self.states)],
            [numpy_helper.from_array(np.ascontiguousarray(w), n) for n, w in weights.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.feed = {"x": problem.x, **{s: np.zeros(state_shape, np.float32) for s in self.states}}

    def forward(self) -> np.ndarray:
        return self.session.run(["y"], self.feed)[0][:, 0]

    def step(self) -> np.ndarray:
        y, *state = self.session.run(None, self.feed)
        self.feed.update(zip(self.states, state, strict=True))
        return y[0, 0]


def installed() -> list[type]:
    """The adapters whose library can be imported."""
    needs = {Pyrnn: "pyrnn", Torch: "torch", OnnxRuntime: "onnxruntime"}
    return [peer for peer, module in needs.items() if importlib.util.find_spec(module)]
