# SPDX-License-Identifier: Apache-2.0
"""A model that reads a text and writes another, and its gradients: encoder, attention, decoder.

Characters x_1 … x_n are read in both directions (Bahdanau et al. 2015): h_1 … h_n, each the outputs of both
at its place. The decoder begins from their last states, s_0 = tanh(W s + b), and writes y_t from y_{t-1}, its
own state and a mean of h_1 … h_n, weighted anew by the attention at every step. Without attention, the
encoder's last state takes the place of h_1 … h_n (Cho et al. 2014): one vector, however long the text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import pyrnn
from pyrnn.aligning import Aligner
from pyrnn.examples.charmodel import scatter_rows
from pyrnn.examples.config import CELLS, TranslateConfig
from pyrnn.layout import Array
from pyrnn.losses import cross_entropy
from pyrnn.optim import FlatBuffer

#: Rows that are decoded together.
ROWS = 256


class Batch(NamedTuple):
    """Sources and targets as numbers.

    Attributes
    ----------
    source : intp array (B, Tk)
    source_lengths : intp array (B,)
    target : intp array (B, Tq)
        Without the start, with the end.
    target_lengths : intp array (B,)
    """

    source: Array
    source_lengths: Array
    target: Array
    target_lengths: Array


class Translation(NamedTuple):
    """What the model wrote for one source.

    Attributes
    ----------
    tokens : intp array (L,)
        With the end, unless the sequence was cut.
    score : float
        Sum of the tokens' log-probabilities over the length penalty.
    weights : array (L, Tk)
        The alignment.
    """

    tokens: Array
    score: float
    weights: Array


class TranslationModel:
    """Encoder, attention and decoder over characters.

    Parameters
    ----------
    source_symbols, target_symbols : int
        How many different ones there are.
    config : TranslateConfig
        Its cell, layers, hidden size H, embedding size E, score and seed.
    dtype : {"float32", "float64"}
        float64 is for checking gradients.

    Attributes
    ----------
    encoder : pyrnn.Recurrent
        In both directions, H/2 units each: the memory's size is H.
    decoder : pyrnn.AttentionDecoder
    params, grads : FlatBuffer
        `encoder.…`, `decoder.…` and `attention.…` as the layers name them, which have views of `params`;
        `bridge.k.weight` (H, H), `bridge.k.bias` (H,) for each array k of the cell's state; `source` (V, E)
        and `target` (V', E), the embeddings; `head.weight` (V', H), `head.bias` (V',). `gradients` fills
        `grads`.
    """

    def __init__(
        self, source_symbols: int, target_symbols: int, config: TranslateConfig, dtype: str = "float32"
    ) -> None:
        H, E, seed = config.hidden, config.embedding, config.seed
        cell = CELLS[config.cell]
        self.attends = config.score != "none"
        self.encoder = pyrnn.Recurrent(
            cell, E, H // 2, config.layers, bidirectional=True, batch_first=True, dtype=dtype, seed=seed
        )
        self.decoder = pyrnn.AttentionDecoder(
            cell, E, H, attention_of(config.score, H, dtype, seed), attention_layer=H, dtype=dtype, seed=seed
        )
        rng = np.random.Generator(np.random.Philox([seed, 1]))
        bound = H**-0.5
        initial: dict[str, Array] = {}
        for prefix, params in self._layers():
            initial |= {prefix + name: a for name, a in params.items()}
        for k in range(self.decoder.states):
            initial[f"bridge.{k}.weight"] = rng.uniform(-bound, bound, (H, H))
            initial[f"bridge.{k}.bias"] = np.zeros(H)
        initial["source"] = rng.normal(0, 1, (source_symbols, E))
        initial["target"] = rng.normal(0, 1, (target_symbols, E))
        initial["head.weight"] = rng.uniform(-bound, bound, (target_symbols, H))
        initial["head.bias"] = np.zeros(target_symbols)
        shapes = {name: a.shape for name, a in initial.items()}
        self.params, self.grads = FlatBuffer(shapes, dtype), FlatBuffer(shapes, dtype)
        for name, a in initial.items():
            self.params.views[name][...] = a
        for prefix, params in self._layers():
            for name in params:
                params[name] = self.params.views[prefix + name]

    def _layers(self) -> tuple[tuple[str, dict[str, Array]], ...]:
        return (
            ("encoder.", self.encoder.params),
            ("decoder.", self.decoder.params),
            ("attention.", self.decoder.attention.params),
        )

    def encode(self, source: Array, lengths: Array) -> tuple[Array, Array, Any]:
        """What the decoder attends to and begins from.

        Parameters
        ----------
        source : intp array (B, Tk)
        lengths : intp array (B,)

        Returns
        -------
        memory : array (B, Tk, H), without attention (B, 1, H)
        lengths : intp array (B,)
            Of the memory.
        state : array (B, H), or a tuple of them
        """
        y, last, _ = self.encoder.forward(self.params.views["source"][source], lengths=lengths)
        ends = self._ends(last)
        memory, lengths = self._memory(y, lengths, ends)
        state = self._bridge(ends)
        return memory, lengths, state if len(state) > 1 else state[0]

    def _ends(self, last: Any) -> list[Array]:
        """Each array of the state, (B, H): the last layer's, both directions side by side."""
        arrays = last if isinstance(last, tuple) else (last,)
        return [np.concatenate((a[-2], a[-1]), axis=1) for a in arrays]

    def _memory(self, y: Array, lengths: Array, ends: list[Array]) -> tuple[Array, Array]:
        return (y, lengths) if self.attends else (ends[0][:, None], np.ones_like(lengths))

    def _bridge(self, ends: list[Array]) -> tuple[Array, ...]:
        """The decoder's first state, tanh(W s + b) of each array."""
        views = self.params.views
        return tuple(
            np.tanh(s @ views[f"bridge.{k}.weight"].T + views[f"bridge.{k}.bias"]) for k, s in enumerate(ends)
        )

    def logits(self, outputs: Array) -> Array:
        """(…, V') from outputs (…, H) of the decoder."""
        scores: Array = outputs @ self.params.views["head.weight"].T
        scores += self.params.views["head.bias"]
        return scores

    def gradients(self, batch: Batch, start: int) -> float:
        """Mean cross entropy in nats per character of the targets, and its gradient into `grads`.

        The decoder reads the right characters, whatever it would have written (teacher forcing).
        """
        params, views = self.params.views, self.grads.views
        source = params["source"][batch.source]
        y, last, encoded = self.encoder.forward(source, lengths=batch.source_lengths)
        ends = self._ends(last)
        memory, lengths = self._memory(y, batch.source_lengths, ends)
        state = self._bridge(ends)
        read = shifted(batch.target, start)
        outputs, _, _, decoded = self.decoder.forward(
            params["target"][read], memory, lengths, state if len(state) > 1 else state[0]
        )
        counts = places(batch.target_lengths, batch.target.shape[1])
        rows, targets = outputs[counts], batch.target[counts]
        p, losses = cross_entropy(self.logits(rows), targets)

        p[np.arange(len(p)), targets] -= 1
        p *= 1 / len(p)
        np.matmul(p.T, rows, out=views["head.weight"])
        p.sum(0, out=views["head.bias"])
        doutputs = np.zeros_like(outputs)
        doutputs[counts] = p @ params["head.weight"]
        back = self.decoder.backward(decoded, doutputs)
        scatter_rows(views["target"], read.reshape(-1), back.x.reshape(-1, back.x.shape[2]))
        dstate = back.state if isinstance(back.state, tuple) else (back.state,)
        dends = []
        for k, (s, d) in enumerate(zip(state, dstate, strict=True)):
            d = d * (1 - s * s)
            np.matmul(d.T, ends[k], out=views[f"bridge.{k}.weight"])
            d.sum(0, out=views[f"bridge.{k}.bias"])
            dends.append(d @ params[f"bridge.{k}.weight"])
        if not self.attends:
            dends[0] += back.memory[:, 0]
        grads = self.encoder.backward(encoded, back.memory if self.attends else None, self._dlast(dends))
        scatter_rows(views["source"], batch.source.reshape(-1), grads.x.reshape(-1, grads.x.shape[2]))
        for prefix, found in (
            ("encoder.", grads.params),
            ("decoder.", back.params),
            ("attention.", back.attention),
        ):
            for name, a in found.items():
                views[prefix + name][...] = a
        return float(losses.mean(dtype=np.float64))

    def _dlast(self, dends: list[Array]) -> Any:
        """The gradients of the encoder's last states from those of `_ends`."""
        H = self.encoder.hidden_size
        full = []
        for d in dends:
            a = np.zeros((2 * self.encoder.num_layers, len(d), H), d.dtype)
            a[-2], a[-1] = d[:, :H], d[:, H:]
            full.append(a)
        return tuple(full) if len(full) > 1 else full[0]

    def loss(self, batch: Batch, start: int) -> tuple[float, int]:
        """Summed cross entropy in nats of the targets, and how many characters they have."""
        memory, lengths, state = self.encode(batch.source, batch.source_lengths)
        x = self.params.views["target"][shifted(batch.target, start)]
        outputs, _, _ = self.decoder(x, memory, lengths, state)
        counts = places(batch.target_lengths, batch.target.shape[1])
        losses = cross_entropy(self.logits(outputs[counts]), batch.target[counts])[1]
        return float(losses.sum(dtype=np.float64)), len(losses)

    def translate(
        self,
        source: Array,
        lengths: Array,
        *,
        start: int,
        end: int,
        max_steps: int,
        beam: int = 1,
        length_penalty: float = 0.0,
    ) -> list[Translation]:
        """What a beam of this size finds the most probable; a beam of 1 is greedy.

        Parameters
        ----------
        source : intp array (B, Tk)
        lengths : intp array (B,)
        start, end : int
        max_steps : int
            Most characters.
        beam : int
        length_penalty : float
            See `pyrnn.AttentionDecoder.beam_search`.
        """
        found = []
        for k in range(0, len(source), ROWS):
            longest = int(lengths[k : k + ROWS].max())
            memory, memory_lengths, state = self.encode(source[k : k + ROWS, :longest], lengths[k : k + ROWS])
            best = self.decoder.beam_search(
                start,
                memory,
                embed=self.params.views["target"],
                project=self.logits,
                max_steps=max_steps,
                beam_size=beam,
                end=end,
                length_penalty=length_penalty,
                memory_lengths=memory_lengths,
                state=state,
            )
            for row, used in enumerate(memory_lengths):
                length = best.lengths[row, 0]
                found.append(
                    Translation(
                        best.tokens[row, 0, :length],
                        float(best.scores[row, 0]),
                        best.weights[row, 0, :length, :used],
                    )
                )
        return found


def attention_of(score: str, size: int, dtype: str, seed: int) -> Aligner:
    """The attention with a score, from queries and keys of one size; additive for "none", which uses none."""
    if score in ("none", "additive"):
        return pyrnn.BahdanauAttention(size, size, size, dtype=dtype, seed=seed)
    if score == "location":
        return pyrnn.LocationAttention(size, size, size, dtype=dtype, seed=seed)
    units = size if score == "concat" else None
    return pyrnn.LuongAttention(size, size, score=score, units=units, dtype=dtype, seed=seed)


def shifted(target: Array, start: int) -> Array:
    """What the decoder reads when it is to write `target` (B, Tq): the start, then all but the last."""
    return np.concatenate((np.full((len(target), 1), start), target[:, :-1]), axis=1)


def places(lengths: Array, most: int) -> Array:
    """Bool (B, most): which places are within the lengths (B,)."""
    inside: Array = np.arange(most) < lengths[:, None]
    return inside
