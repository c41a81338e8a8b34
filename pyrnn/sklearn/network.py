# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, what is kept of their outputs, and a linear layer over it, with the gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

import pyrnn
from pyrnn.layout import Array
from pyrnn.masks import dropout_mask
from pyrnn.optim import FlatBuffer
from pyrnn.states import State

#: Mean loss of scores (B, O) and targets, and its gradient (B, O).
Loss: TypeAlias = Callable[[Array, Array], tuple[float, Array]]


class Network:
    """Scores W f + b of one vector f for each sequence.

    Parameters
    ----------
    layer : pyrnn.Recurrent
    outputs : int
        O.
    pooling : {"last", "mean"}
        f is h after a sequence's last step (of the reverse direction: after its first), or the mean of the
        outputs of all its steps.
    dropout : float
        Of f, in training.
    seed : int

    Attributes
    ----------
    layer : pyrnn.Recurrent
        Its parameters are views into `params` until `detach`.
    params, grads : FlatBuffer
        `layer.…` as the layer names them, `head.weight` (O, H·directions), `head.bias` (O,). `gradients`
        fills `grads`.
    """

    def __init__(self, layer: pyrnn.Recurrent, outputs: int, pooling: str, dropout: float, seed: int) -> None:
        self.layer, self.pooling, self.dropout = layer, pooling, dropout
        self._rng = np.random.Generator(np.random.Philox([seed, 1]))
        width = layer.hidden_size * (1 + layer.bidirectional)
        initial: dict[str, Array] = {f"layer.{name}": a for name, a in layer.params.items()}
        initial["head.weight"] = self._rng.uniform(-1, 1, (outputs, width)) * width**-0.5
        initial["head.bias"] = np.zeros(outputs)
        shapes = {name: a.shape for name, a in initial.items()}
        dtype = str(layer.dtype)
        self.params, self.grads = FlatBuffer(shapes, dtype), FlatBuffer(shapes, dtype)
        for name, a in initial.items():
            self.params.views[name][...] = a
        for name in layer.params:
            layer.params[name] = self.params.views[f"layer.{name}"]

    def gradients(self, x: Array, lengths: Array, targets: Array, loss: Loss) -> float:
        """Mean loss of sequences x (T, B, I); its gradient into `grads`."""
        views = self.grads.views
        y, state, saved = self.layer.forward(x, lengths=lengths)
        features = pooled(self.layer, self.pooling, y, state, lengths)
        kept = dropout_mask(self._rng, features.shape, self.dropout).astype(y.dtype)
        features *= kept
        weight, bias = self.params.views["head.weight"], self.params.views["head.bias"]
        value, dscores = loss(features @ weight.T + bias, targets)
        np.matmul(dscores.T, features, out=views["head.weight"])
        dscores.sum(0, out=views["head.bias"])
        dfeatures = (dscores @ weight) * kept
        if self.pooling == "mean":
            dfeatures /= lengths[:, None].astype(y.dtype)
            grads = self.layer.backward(saved, np.broadcast_to(dfeatures, y.shape))
        else:
            grads = self.layer.backward(saved, None, dlast(self.layer, state, dfeatures))
        for name, a in grads.params.items():
            views[f"layer.{name}"][...] = a
        return value

    def head(self) -> Mapping[str, Array]:
        """Copies of `weight` and `bias`, in float64."""
        return {name: self.params.views[f"head.{name}"].astype(np.float64) for name in ("weight", "bias")}

    def detach(self) -> None:
        """Give the layer parameters of its own."""
        for name, a in self.layer.params.items():
            self.layer.params[name] = a.copy()


def pooled(layer: pyrnn.Recurrent, pooling: str, y: Array, state: State, lengths: Array) -> Array:
    """f (B, H·directions) of outputs y (T, B, H·directions) and the state after them."""
    if pooling == "mean":
        mean: Array = y.sum(0) / lengths[:, None].astype(y.dtype)
        return mean
    h = state[0] if isinstance(state, tuple) else state
    return np.concatenate(h[-1 - layer.bidirectional :], axis=1)


def dlast(layer: pyrnn.Recurrent, state: State, dfeatures: Array) -> State:
    """The gradient of a state whose h of the last layer has the gradient (B, H·directions)."""
    directions = 1 + layer.bidirectional
    states = state if isinstance(state, tuple) else (state,)
    dstates = tuple(np.zeros_like(s) for s in states)
    for d, part in enumerate(dfeatures.reshape(len(dfeatures), directions, -1).swapaxes(0, 1)):
        dstates[0][d - directions] = part
    return dstates if isinstance(state, tuple) else dstates[0]


#: Fewer sequences than this are summed in another order; a result should not depend on its company.
COMPANY = 4


def scores(
    layer: pyrnn.Recurrent, pooling: str, head: Mapping[str, Array], sequences: Any, batch_size: int
) -> Array:
    """float64 (n, O), sequences of like lengths side by side."""
    order = np.argsort(sequences.lengths, kind="stable")
    found = np.empty((len(sequences), len(head["bias"])))
    for k in range(0, len(order), batch_size):
        rows = order[k : k + batch_size]
        x, lengths = sequences.batch(np.resize(rows, max(len(rows), COMPANY)))
        y, state = layer(x, lengths=lengths)
        features = pooled(layer, pooling, y, state, lengths)[: len(rows)].astype(np.float64)
        found[rows] = features @ head["weight"].T + head["bias"]
    return found
