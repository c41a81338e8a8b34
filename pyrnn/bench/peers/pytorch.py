# SPDX-License-Identifier: Apache-2.0
"""PyTorch: its layers, eager and compiled, and a loop over steps for the cells that it has no layer of.

Threads: `torch.set_num_threads`. bfloat16: layer and input in bfloat16, and autocast in training, so that
parameters and their gradients stay float32.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pyrnn.bench import formulas
from pyrnn.bench.formulas import Ops
from pyrnn.bench.grid import Case
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array

LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}


class Torch(Peer):
    """torch.nn's layers; a step by its cell or by its layer, whichever is faster."""

    name = "pytorch"
    modules = ("torch",)
    cells = tuple(LAYERS)
    computes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        super().__init__(problem, threads)
        torch.set_num_threads(threads)
        self.torch, case = torch, self.case
        params = {name: torch.tensor(p) for name, p in problem.params.items()}
        name, options = LAYERS[case.cell]
        self.layer = getattr(torch.nn, name)(
            case.I, case.H, case.layers, bidirectional=case.directions == 2, **options
        )
        self.layer.load_state_dict(params)
        self.reduced = case.compute == "bfloat16"
        self.x, self.dy = torch.tensor(problem.x), torch.tensor(problem.dy)
        self.lengths = None if problem.lengths is None else torch.tensor(problem.lengths)
        self.call: Any = self.layer
        if case.mode == "training":
            self.x.requires_grad_()
        elif self.reduced:
            self.layer, self.x = self.layer.bfloat16(), self.x.bfloat16()
        self.state: Any = None
        if case.mode == "stream":
            self.cell = getattr(torch.nn, name + "Cell")(case.I, case.H, **options)
            self.cell.load_state_dict(
                {key.removesuffix("_l0"): p for key, p in params.items() if "_l0" in key}
            )
            self.cell = self.cell.to(self.x.dtype)
            self.row = self.x[0]
        self.choose(inference=self.infer, training=self.train, stream=self.step)
        if (
            case.mode == "stream"
            and case.form == "plain"
            and self.seconds(self.cell_step) < self.seconds(self.step)
        ):
            self.run = self.cell_step  # type: ignore[method-assign]
        self.state = None

    def seconds(self, run: Any) -> float:
        """The fastest of some calls from the zero state."""
        self.state, taken = None, []
        for _ in range(20):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return min(taken)

    def sequence(self) -> Any:
        """y, packed by length on the way where there are lengths."""
        if self.lengths is None:
            return self.call(self.x)[0]
        rnn = self.torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.call(packed)[0], total_length=self.case.T)[0]

    def infer(self) -> Any:
        """y."""
        with self.torch.inference_mode():
            return self.sequence()

    def train(self) -> Any:
        """y; the gradients lie in the parameters."""
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16, enabled=self.reduced):
            y = self.sequence()
        y.backward(self.dy.to(y.dtype))
        return y

    def step(self) -> Any:
        """The next y, by the layer."""
        with self.torch.inference_mode():
            y, self.state = self.layer(self.x, self.state)
            return y[0]

    def cell_step(self) -> Any:
        """The next y, by the cell."""
        with self.torch.inference_mode():
            self.state = self.cell(self.row, self.state)
            return self.state[0] if isinstance(self.state, tuple) else self.state

    def result(self, ran: Any) -> dict[str, Array]:
        """NumPy's arrays, in float32."""
        values = {"y": ran.detach()}
        if self.case.mode == "training":
            values |= {"x": self.x.grad, **{name: p.grad for name, p in self.layer.named_parameters()}}
        return {name: value.float().numpy() for name, value in values.items()}


class Compiled(Torch):
    """torch.compile, weights frozen. GRU and RNN would be unrolled over the steps and compile for minutes."""

    name = "torch.compile"
    cells = ("lstm",)
    modes = ("inference",)
    forms = ("plain", "bidirectional", "stacked")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        import torch._dynamo
        import torch._inductor.config

        self.layer.eval().requires_grad_(False)
        torch._dynamo.reset()
        self.call = torch.compile(self.layer)
        # Compiled now and not at the first call, with settings that hold here alone.
        with torch._dynamo.config.patch(allow_rnn=True), torch._inductor.config.patch(freezing=True):
            self.infer()

    def infer(self) -> Any:
        """y; freezing wants no_grad."""
        with self.torch.no_grad():
            return self.sequence()


class TorchLoop(Peer):
    """The cell's formula step by step, with autograd: what one writes in PyTorch for a cell that it lacks."""

    name = "torch.loop"
    modules = ("torch",)
    cells = tuple(formulas.STEPS)
    modes = ("inference", "training")

    @classmethod
    def invited(cls, case: Case) -> bool:
        """For the cells that are no layers there."""
        return case.cell not in LAYERS

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        super().__init__(problem, threads)
        torch.set_num_threads(threads)
        self.torch = torch
        self.ops = Ops(
            torch.sigmoid, torch.tanh, torch.relu, torch.where, torch.zeros, torch.stack,
            lambda arrays: torch.cat(arrays, dim=-1),
        )  # fmt: skip
        training = self.case.mode == "training"
        self.params = {name: torch.tensor(p, requires_grad=training) for name, p in problem.params.items()}
        self.x, self.dy = torch.tensor(problem.x, requires_grad=training), torch.tensor(problem.dy)
        self.mask = None if problem.mask is None else torch.tensor(problem.mask)
        self.choose(inference=self.infer, training=self.train)

    def sequence(self) -> Any:
        """y."""
        case = self.case

        def run(p: formulas.Params, x: Any, reverse: bool) -> Any:
            return formulas.loop(self.ops, case.cell, p, x, self.mask, reverse)

        return formulas.stacked(self.ops, case.layers, case.directions, self.params, self.x, run)

    def infer(self) -> Any:
        """y."""
        with self.torch.inference_mode():
            return self.sequence()

    def train(self) -> Any:
        """y; the gradients lie in the parameters."""
        for p in (self.x, *self.params.values()):
            p.grad = None
        y = self.sequence()
        y.backward(self.dy)
        return y

    def result(self, ran: Any) -> dict[str, Array]:
        """NumPy's arrays."""
        values = {"y": ran.detach()}
        if self.case.mode == "training":
            values |= {"x": self.x.grad, **{name: p.grad for name, p in self.params.items()}}
        return {name: value.numpy() for name, value in values.items()}
