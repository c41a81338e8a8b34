# SPDX-License-Identifier: Apache-2.0
"""A model that captions pictures (Xu et al. 2015): patches, a decoder that attends to them, softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

import pyrnn
from pyrnn.examples.canvases import END, LONGEST, WORDS, Canvases
from pyrnn.examples.charmodel import scatter_rows
from pyrnn.examples.config import CELLS, CaptionsConfig
from pyrnn.layout import Array
from pyrnn.losses import cross_entropy
from pyrnn.optim import FlatBuffer
from pyrnn.searching import Hypotheses

#: Rows and columns of a patch, and from one to the next: wherever a digit stands, some patch holds all of it.
PATCH, STRIDE = 10, 2
MARGIN = 1
#: Waves of each coordinate in a patch's position code.
WAVES = 4


class CaptionModel:
    """Names what is on a canvas, looking at a part of it for every word.

    With p_i a patch and q_i the sines and cosines of its place,

        memory_i = [tanh(W p_i + b); q_i]
        c_t = attention(h_{t-1}, memory);  h_t = cell([embedding of the word before; c_t])
        word_t ~ softmax(V tanh(U [c_t; h_t] + a) + d)

    Parameters
    ----------
    config : CaptionsConfig
    dtype : {"float32", "float64"}
        float64 is for checking gradients.

    Attributes
    ----------
    decoder : pyrnn.AttentionDecoder
        With `pyrnn.BahdanauAttention`; the parameters of both are views into `params`.
    grid, size : (int, int)
        Rows and columns of patches, and of pixels.
    params, grads : FlatBuffer
        `features.weight` (F, 100), `features.bias` (F,), `embedding` (words, E), `decoder.…` and
        `attention.…` as the decoder names them, `head.weight` (words, H), `head.bias` (words,). `gradients`
        fills `grads`.
    """

    def __init__(self, config: CaptionsConfig, dtype: str = "float32") -> None:
        F, H, V, E = config.features, config.hidden, len(WORDS), config.embedding
        rows, columns = (1 + (n + 2 * MARGIN - PATCH) // STRIDE for n in (config.height, config.width))
        self.grid, self.size = (rows, columns), (config.height, config.width)
        self.position = position_code(*self.grid)
        M = F + self.position.shape[1]
        attention = pyrnn.BahdanauAttention(H, M, config.units, bias=True, dtype=dtype, seed=config.seed + 1)
        self.decoder = pyrnn.AttentionDecoder(
            CELLS[config.cell],
            E,
            H,
            attention,
            query="previous",
            attention_layer=H,
            dtype=dtype,
            seed=config.seed,
        )
        rng = np.random.Generator(np.random.Philox([config.seed, 2]))
        initial: dict[str, Array] = {f"decoder.{name}": a for name, a in self.decoder.params.items()}
        initial |= {f"attention.{name}": a for name, a in self.decoder.attention.params.items()}
        initial["embedding"] = rng.normal(0, 1, (V, E))
        initial["features.weight"] = rng.uniform(-1, 1, (F, PATCH * PATCH)) * (3 / PATCH**2) ** 0.5
        initial["features.bias"] = np.zeros(F)
        initial["head.weight"] = rng.uniform(-1, 1, (V, H)) * H**-0.5
        initial["head.bias"] = np.zeros(V)
        shapes = {name: a.shape for name, a in initial.items()}
        self.params, self.grads = FlatBuffer(shapes, dtype), FlatBuffer(shapes, dtype)
        for name, a in initial.items():
            self.params.views[name][...] = a
        for prefix, own in (("decoder", self.decoder.params), ("attention", self.decoder.attention.params)):
            for name in own:
                own[name] = self.params.views[f"{prefix}.{name}"]

    def features(self, images: Array) -> tuple[Array, Array]:
        """The patches (B, P, 100) of canvases (B, height, width), and the memory (B, P, M)."""
        views = self.params.views
        p = patches(images.astype(self.params.flat.dtype, copy=False))
        seen = np.tanh(p @ views["features.weight"].T + views["features.bias"])
        place = np.broadcast_to(self.position, (len(p), *self.position.shape))
        return p, np.concatenate([seen, place.astype(seen.dtype)], axis=2)

    def gradients(self, canvases: Canvases) -> float:
        """Mean cross entropy per word in nats, and its gradient into `grads`."""
        tokens, lengths = canvases.tokens, canvases.lengths
        views, dviews = self.params.views, self.grads.views
        p, memory = self.features(canvases.images)
        read = before(tokens)
        outputs, _, _, saved = self.decoder.forward(views["embedding"][read], memory)
        y = outputs.reshape(-1, outputs.shape[2])
        counted = (np.arange(tokens.shape[1]) < lengths[:, None]).reshape(-1)
        targets, total = tokens.reshape(-1), int(counted.sum())
        dscores, losses = cross_entropy(self.scores(y), targets)
        dscores[np.arange(len(y)), targets] -= 1
        dscores *= (counted / total).astype(dscores.dtype)[:, None]
        dviews["head.weight"][...], dviews["head.bias"][...] = dscores.T @ y, dscores.sum(0)
        doutputs = (dscores @ views["head.weight"]).reshape(outputs.shape)
        grads = self.decoder.backward(saved, doutputs)
        for prefix, named in (("decoder", grads.params), ("attention", grads.attention)):
            for name, a in named.items():
                dviews[f"{prefix}.{name}"][...] = a
        scatter_rows(dviews["embedding"], read.reshape(-1), grads.x.reshape(-1, grads.x.shape[2]))
        F = len(views["features.bias"])
        seen = memory[:, :, :F]
        dsum = (grads.memory[:, :, :F] * (1 - seen * seen)).reshape(-1, F)
        dviews["features.weight"][...] = dsum.T @ p.reshape(len(dsum), -1)
        dviews["features.bias"][...] = dsum.sum(0)
        return float(losses.sum(where=counted, dtype=np.float64)) / total

    def loss(self, canvases: Canvases) -> float:
        """Mean cross entropy per word in nats."""
        _, memory = self.features(canvases.images)
        outputs, _, _ = self.decoder(self.params.views["embedding"][before(canvases.tokens)], memory)
        counted = np.arange(canvases.tokens.shape[1]) < canvases.lengths[:, None]
        losses = cross_entropy(self.scores(outputs[counted]), canvases.tokens[counted])[1]
        return float(losses.mean(dtype=np.float64))

    def scores(self, y: Array) -> Array:
        """Logits (…, words) from the decoder's outputs (…, H)."""
        scores: Array = y @ self.params.views["head.weight"].T + self.params.views["head.bias"]
        return scores

    def captions(self, images: Array) -> Hypotheses:
        """The likeliest word at every step until the end: tokens (B, L), weights (B, L, P)."""
        return self.decoder.greedy(
            END,
            self.features(images)[1],
            embed=self.params.views["embedding"],
            project=self.scores,
            max_steps=LONGEST,
            end=END,
        )

    def centres(self) -> tuple[Array, Array]:
        """Row and column of each patch's centre (P,), in pixels; 0 is the upper left corner of the canvas."""
        rows, columns = (np.arange(n) * STRIDE - MARGIN + PATCH / 2 for n in self.grid)
        y, x = np.meshgrid(rows, columns, indexing="ij")
        return y.ravel(), x.ravel()

    def regions(self, weights: Array) -> Array:
        """Share (…, height, width) of the weights (…, P) on patches that hold each pixel: 1 if all do."""
        (rows, columns), (height, width) = self.grid, self.size
        weights = weights.reshape(*weights.shape[:-1], rows, columns)
        shares = np.zeros((*weights.shape[:-2], height + 2 * MARGIN, width + 2 * MARGIN))
        for y in range(PATCH):
            for x in range(PATCH):
                shares[..., y : y + STRIDE * rows : STRIDE, x : x + STRIDE * columns : STRIDE] += weights
        return shares[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def before(tokens: Array) -> Array:
    """What is read before each word (B, T): END, then the words but the last."""
    return np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=END)


def patches(images: Array) -> Array:
    """Overlapping squares (B, P, 100) of canvases (B, height, width), row by row, with a margin of paper."""
    padded = np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    axes: Any = (1, 2)  # which NumPy takes, though not every version of its types says so
    windows: Array = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), axes)
    return windows[:, ::STRIDE, ::STRIDE].reshape(len(images), -1, PATCH * PATCH)


def position_code(rows: int, columns: int) -> Array:
    """Sines and cosines (rows·columns, 16) of each place on a grid, from half a wave across it to two."""
    y, x = np.meshgrid(np.arange(rows) / rows, np.arange(columns) / columns, indexing="ij")
    angles = np.pi * np.stack([y.ravel(), x.ravel()], 1)[:, :, None] * np.arange(1, WAVES + 1)
    flat = angles.reshape(rows * columns, 2 * WAVES)
    return np.concatenate([np.sin(flat), np.cos(flat)], 1)
