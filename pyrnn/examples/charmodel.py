# SPDX-License-Identifier: Apache-2.0
"""A character-level language model and its gradients: embedding or one-hot, recurrent layers, softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import pyrnn
from pyrnn.examples.config import CELLS, Config
from pyrnn.layout import Array
from pyrnn.losses import cross_entropy
from pyrnn.optim import FlatBuffer

#: Rows of logits that are computed at a time, so that they stay in cache.
ROWS = 512


class CharModel:
    """Predicts the next character: x_t -> embedding -> recurrent layers -> softmax over V characters.

    Parameters
    ----------
    vocabulary : int
        V.
    config : Config
        Its cell, layers, hidden size H, embedding size E, dropout and seed.

    Attributes
    ----------
    layer : pyrnn.Recurrent
        Its parameters are views into `params`.
    params, grads : FlatBuffer
        `layer.weight_ih_l0` … as the layer names them, `head.weight` (V, H), `head.bias` (V,), and
        `embedding` (V, E). `gradients` fills `grads`.
    """

    def __init__(self, vocabulary: int, config: Config) -> None:
        self.vocabulary, self.embedding = vocabulary, config.embedding
        embedding, hidden, seed = config.embedding, config.hidden, config.seed
        self.layer = pyrnn.Recurrent(
            CELLS[config.cell],
            embedding or vocabulary,
            hidden,
            config.layers,
            dropout=config.dropout,
            seed=seed,
        )
        rng = np.random.Generator(np.random.Philox([seed, 1]))
        bound = hidden**-0.5
        initial: dict[str, Array] = {f"layer.{name}": a for name, a in self.layer.params.items()}
        initial["head.weight"] = rng.uniform(-bound, bound, (vocabulary, hidden))
        initial["head.bias"] = rng.uniform(-bound, bound, vocabulary)
        if embedding:
            initial["embedding"] = rng.normal(0, 1, (vocabulary, embedding))
        for name, a in initial.items():
            if name.startswith("layer.weight_ih"):
                # Unit variance in, unit variance out (LeCun et al. 1998): PyTorch's ±1/√H is so small for the
                # upper layers that the loss stays at that of single characters for the first hundred steps.
                a[...] = rng.uniform(-1, 1, a.shape) * (3 / a.shape[1]) ** 0.5
        shapes = {name: a.shape for name, a in initial.items()}
        self.params, self.grads = FlatBuffer(shapes), FlatBuffer(shapes)
        for name, a in initial.items():
            self.params.views[name][...] = a
        for name in self.layer.params:
            self.layer.params[name] = self.params.views[f"layer.{name}"]

    def inputs(self, ids: Array) -> Array:
        """What the layers read: (…, E or V) from characters (…)."""
        if self.embedding:
            return np.take(self.params.views["embedding"], ids, axis=0)
        x = np.zeros((*ids.shape, self.vocabulary), self.params.flat.dtype)
        np.put_along_axis(x, ids[..., None], 1, -1)
        return x

    def logits(self, y: Array) -> Array:
        """(…, V) from outputs (…, H) of the layers."""
        scores = y @ self.params.views["head.weight"].T
        scores += self.params.views["head.bias"]
        return scores

    def gradients(self, ids: Array, targets: Array, state: Any) -> tuple[float, Any]:
        """Mean cross entropy of one window, and its gradient, back to the window's beginning, into `grads`.

        Parameters
        ----------
        ids, targets : intp arrays (T, B)
        state : state of the layers before the window, or None

        Returns
        -------
        loss : float
            In nats per character.
        state
            After the window.
        """
        y, state, saved = self.layer.forward(self.inputs(ids), state)
        dy = np.empty_like(y)
        loss = self._head(y.reshape(-1, y.shape[-1]), targets.reshape(-1), dy.reshape(-1, y.shape[-1]))
        grads = self.layer.backward(saved, dy)
        views = self.grads.views
        for name, a in grads.params.items():
            views[f"layer.{name}"][...] = a
        if self.embedding:
            scatter_rows(views["embedding"], ids.reshape(-1), grads.x.reshape(-1, self.embedding))
        return loss / ids.size, state

    def _head(self, y: Array, targets: Array, dy: Array) -> float:
        """Summed cross entropy of the rows of y (N, H); writes dy and the head's gradients of the mean."""
        weight, dweight, dbias = (
            self.params.views["head.weight"],
            *(self.grads.views[name] for name in ("head.weight", "head.bias")),
        )
        dweight[...], dbias[...] = 0, 0
        total = 0.0
        for k in range(0, len(y), ROWS):
            part = y[k : k + ROWS]
            p, losses = cross_entropy(self.logits(part), targets[k : k + ROWS])
            total += float(losses.sum(dtype=np.float64))
            p[np.arange(len(p)), targets[k : k + ROWS]] -= 1
            p *= 1 / len(y)
            dweight += p.T @ part
            dbias += p.sum(0)
            np.matmul(p, weight, out=dy[k : k + ROWS])
        return total

    def bits_per_character(self, ids: Array, rows: int = 8, length: int = 256) -> float:
        """Mean cross entropy in bits of predicting a text (N,), cut into `rows` parts read side by side.

        The up to `rows` - 1 characters that are left over by the cut are not counted.
        """
        rows = min(rows, len(ids) // 2)
        if rows < 1:
            raise ValueError(f"expected a text of at least 2 characters, got {len(ids)}")
        columns = ids[: len(ids) // rows * rows].reshape(rows, -1).T
        state, total = None, 0.0
        for k in range(0, len(columns) - 1, length):
            window = columns[k : k + length + 1]
            y, state = self.layer(self.inputs(window[:-1]), state)
            targets = window[1:].reshape(-1)
            flat = y.reshape(-1, y.shape[-1])
            for r in range(0, len(flat), ROWS):
                losses = cross_entropy(self.logits(flat[r : r + ROWS]), targets[r : r + ROWS])[1]
                total += float(losses.sum(dtype=np.float64))
        return total / ((len(columns) - 1) * rows) / math.log(2)


def scatter_rows(out: Array, ids: Array, rows: Array) -> None:
    """out[v] = the sum of the rows (N, E) with ids (N,) equal to v; zero where there is none."""
    # Sorted, the rows of one character lie together: one reduction, where np.add.at goes element by element.
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    out[...] = 0
    out[ordered[begins]] = np.add.reduceat(rows[order], begins, axis=0)
