# SPDX-License-Identifier: Apache-2.0
"""One recurrent layer of any cell and a linear layer over its outputs, with their gradients."""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np

import pyrnn
from pyrnn.examples.tasks import Batch, Task
from pyrnn.functional import KERNELS
from pyrnn.layout import Array, Layout
from pyrnn.optim import FlatBuffer


class SequenceModel:
    """Scores W h_t + b of the outputs h_t of a layer that reads a sequence.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    task : Task
        Its sizes, loss and measure.
    hidden : int
        H.
    forget : float
        Added to the forget gate's bias, where the cell has one (Gers et al. 2000; Jozefowicz et al. 2015).
    seed : int
    dtype : {"float32", "float64"}

    Attributes
    ----------
    layer : pyrnn.Recurrent
        Its parameters are views into `params`.
    params, grads : FlatBuffer
        `layer.…` as the layer names them, `head.weight` (O, H), `head.bias` (O,). `gradients` fills `grads`.
    """

    def __init__(
        self, cell: str, task: Task, hidden: int, forget: float = 1.0, seed: int = 0, dtype: str = "float32"
    ) -> None:
        self.task = task
        self.layer = pyrnn.Recurrent(cell, task.inputs, hidden, dtype=dtype, seed=seed)
        k = forget_slot(cell)
        if k is not None:
            self.layer.params["bias_ih_l0"][k * hidden : (k + 1) * hidden] += forget
        rng, bound = np.random.Generator(np.random.Philox([seed, 1])), hidden**-0.5
        initial: dict[str, Array] = {f"layer.{name}": a for name, a in self.layer.params.items()}
        initial["head.weight"] = rng.uniform(-bound, bound, (task.outputs, hidden))
        initial["head.bias"] = np.zeros(task.outputs)
        shapes = {name: a.shape for name, a in initial.items()}
        self.params, self.grads = FlatBuffer(shapes, dtype), FlatBuffer(shapes, dtype)
        for name, a in initial.items():
            self.params.views[name][...] = a
        for name in self.layer.params:
            self.layer.params[name] = self.params.views[f"layer.{name}"]

    def scores(self, y: Array) -> Array:
        """(N, O) from outputs of the layer (S, B, H), as rows."""
        scores: Array = y.reshape(-1, y.shape[-1]) @ self.params.views["head.weight"].T
        scores += self.params.views["head.bias"]
        return scores

    def outer(self, y: Array, targets: Array) -> tuple[float, Array, Array]:
        """Loss of the last steps' outputs y (S, B, H), and its gradients: of the scores (N, O), and of y."""
        loss, dscores = self.task.loss(self.scores(y), targets.reshape(-1))
        dy: Array = (dscores @ self.params.views["head.weight"]).reshape(y.shape)
        return loss, dscores, dy

    def gradients(self, batch: Batch, state: Any = None) -> tuple[float, Any]:
        """Mean loss of a batch, and the state after it; its gradient into `grads`."""
        y, state, saved = self.layer.forward(batch.x, state)
        due = len(batch.targets)
        dy = np.zeros_like(y)
        loss, dscores, dy[-due:] = self.outer(y[-due:], batch.targets)
        for name, a in self.layer.backward(saved, dy).params.items():
            self.grads.views[f"layer.{name}"][...] = a
        self.grads.views["head.weight"][...] = dscores.T @ y[-due:].reshape(len(dscores), -1)
        self.grads.views["head.bias"][...] = dscores.sum(0)
        return loss, state

    def error(self, batch: Batch) -> float:
        """The task's measure of a batch."""
        y = self.layer(batch.x)[0]
        loss, _ = self.task.loss(self.scores(y[-len(batch.targets) :]), batch.targets.reshape(-1))
        return loss * self.task.unit


def forget_slot(cell: str) -> int | None:
    """Which block of rows of `bias_ih` is the forget gate's; None for a cell without one."""
    from pyrnn.reference.cells import registry

    names: tuple[str, ...] = registry[cell].gate_names
    return names.index("f") if "f" in names else None


def weights_of(cell: str, task: Task, hidden: int) -> int:
    """How many parameters a model with that many units has."""
    layout = Layout(KERNELS.spec(cell), task.inputs, hidden)
    return sum(map(math.prod, layout.shapes.values())) + task.outputs * (hidden + 1)


def hidden_for(cell: str, task: Task, weights: int) -> int:
    """How many units come nearest to that many parameters.

    Raises
    ------
    ValueError
        One unit has more already.
    """

    def count(hidden: int) -> int:
        return weights_of(cell, task, hidden)

    if weights < count(1):
        raise ValueError(f"--weights: expected at least {count(1)} for {cell}, got {weights}")
    most = bisect.bisect_right(range(1, weights + 1), weights, key=count)
    return most if weights - count(most) <= count(most + 1) - weights else most + 1
