# SPDX-License-Identifier: Apache-2.0
"""Beam search for the most probable sequences of tokens; greedy search is a beam of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pyrnn import checks
from pyrnn.layout import Array

#: tokens (N,) and what is carried -> log-probabilities (N, V), what is carried on, alignment weights (N, Tk)
Advance: TypeAlias = Callable[[Array, Any], tuple[Array, Any, Array]]


class Hypotheses(NamedTuple):
    """What a search found; K axes are sorted, best first, and absent after a greedy search.

    Attributes
    ----------
    tokens : int64 array (B, K, L)
        Without the start; `end` included, and repeated behind it.
    scores : float64 array (B, K)
        Sum of the tokens' log-probabilities over the length penalty; -inf where there are fewer than K
        sequences.
    lengths : int64 array (B, K)
        Tokens of each sequence, `end` included.
    weights : array (B, K, L, Tk)
        Alignment of each token to the memory; zero behind the end.
    """

    tokens: Array
    scores: Array
    lengths: Array
    weights: Array


def beam_search(
    advance: Advance,
    select: Callable[[Any, Array], Any],
    carry: Any,
    start: Array,
    beam_size: int,
    *,
    max_steps: int,
    end: int | None,
    length_penalty: float,
) -> Hypotheses:
    """Keep the `beam_size` best sequences of every row, finished ones among them, until all are finished.

    Parameters
    ----------
    advance : callable
        One step for all B·K sequences, those of a row side by side.
    select : callable
        `select(carry, rows)`: what is carried, its rows taken in this order.
    carry
        Of B·K rows.
    start : int64 array (B,)
    beam_size, max_steps, end, length_penalty
        As in `AttentionDecoder.beam_search`.
    """
    B, K = len(start), beam_size
    tokens = np.repeat(start[:, None], K, axis=1)
    total, lengths, ended = np.full((B, K), -np.inf), np.zeros((B, K), np.int64), np.zeros((B, K), bool)
    total[:, 0] = 0  # the others are no sequences of their own yet
    rows, pad = np.arange(B)[:, None], 0 if end is None else end
    steps = []
    for _ in range(max_steps):
        logs, carry, weights = advance(tokens.reshape(B * K), carry)
        V = logs.shape[1]
        candidates = total[:, :, None] + logs.reshape(B, K, V)
        candidates[ended] = -np.inf
        candidates[ended, 0] = total[ended]  # a finished sequence goes on as itself
        grown = lengths + ~ended
        ranked = (candidates / penalty(grown, length_penalty)[:, :, None]).reshape(B, K * V)
        best = np.argsort(-ranked, axis=1, kind="stable")[:, :K]
        parents = best // V
        ended = ended[rows, parents]
        tokens = np.where(ended, pad, best % V)
        weights = weights.reshape(B, K, weights.shape[1])[rows, parents]
        total, lengths = candidates.reshape(B, K * V)[rows, best], grown[rows, parents]
        steps.append((parents, tokens, weights))
        if end is not None:
            ended = ended | (tokens == end)
        if (ended | np.isneginf(total)).all():
            break
        carry = select(carry, (rows * K + parents).reshape(B * K))
    lengths = np.where(np.isneginf(total), 0, lengths)
    tokens, weights = traced(steps, B, K)
    behind = np.arange(len(steps)) >= lengths[:, :, None]
    tokens[behind], weights[behind] = pad, 0
    return Hypotheses(tokens, total / penalty(lengths, length_penalty), lengths, weights)


def traced(steps: list[tuple[Array, Array, Array]], B: int, K: int) -> tuple[Array, Array]:
    """Tokens (B, K, L) and weights (B, K, L, Tk) of the sequences of the last step, from the last back."""
    rows, last = np.arange(B)[:, None], np.broadcast_to(np.arange(K), (B, K))
    tokens, weights = [], []
    for parents, token, weight in reversed(steps):
        tokens.append(token[rows, last])
        weights.append(weight[rows, last])
        last = parents[rows, last]
    return np.stack(tokens[::-1], axis=2), np.stack(weights[::-1], axis=2)


def penalty(lengths: Array, length_penalty: float) -> Array:
    """((5 + length) / 6)^α (Wu et al. 2016)."""
    return np.power((5 + lengths) / 6, length_penalty)


def log_softmax(logits: Any) -> Array:
    """Log-probabilities (N, V) in float64; of log-probabilities, the same."""
    a = np.asarray(logits)
    if a.dtype.kind != "f":
        raise TypeError(f"project: expected floating-point numbers, got {a.dtype}")
    a = a.astype(np.float64)
    top = a.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("project: expected finite numbers, or -inf for some tokens, got NaN or infinities")
    logs: Array = a - top - np.log(np.exp(a - top).sum(axis=1, keepdims=True))
    return logs


def embedding(embed: Any, input_size: int, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Tokens (N,) to inputs (N, I), by a matrix (vocabulary, I) or a callable; what comes out is checked."""
    if not callable(embed):
        table = checks.plain_array("embed", embed, dtype)
        if table.ndim != 2 or table.shape[1] != input_size:
            raise checks.wrong_shape("embed", "(vocabulary, I)", ("vocabulary", input_size), table.shape)
        return lambda tokens: table[tokens]

    def embedded(tokens: Array) -> Array:
        x = checks.plain_array("embed", embed(tokens), dtype)
        if x.shape != (len(tokens), input_size):
            raise checks.wrong_shape("embed", "(N, I)", (len(tokens), input_size), x.shape)
        return x

    return embedded


def projection(project: Any, output_size: int, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Outputs (N, O) to log-probabilities (N, vocabulary), by a matrix (vocabulary, O) or a callable."""
    if not callable(project):
        matrix = checks.plain_array("project", project, dtype)
        if matrix.ndim != 2 or matrix.shape[1] != output_size or not matrix.shape[0]:
            raise checks.wrong_shape("project", "(vocabulary, O)", ("vocabulary", output_size), matrix.shape)
        return lambda outputs: log_softmax(outputs @ matrix.T)

    def projected(outputs: Array) -> Array:
        logits = checks.array_of("project", project(outputs))
        if logits.ndim != 2 or logits.shape[0] != len(outputs) or not logits.shape[1]:
            raise checks.wrong_shape("project", "(N, vocabulary)", (len(outputs), "vocabulary"), logits.shape)
        return log_softmax(logits)

    return projected


def vocabulary_of(embed: Any, project: Any) -> int | None:
    """How many tokens there are, where one of the matrices tells; refused where the two do not fit."""
    rows, scored = (None if callable(a) else len(a) for a in (embed, project))
    if rows is not None and scored is not None and rows < scored:
        raise ValueError(f"embed: expected a row for every token that project scores, {scored}, got {rows}")
    return rows if scored is None else scored


def tokens_of(name: str, tokens: Any, B: int, vocabulary: int | None) -> Array:
    """One token for every row, int64 (B,), from as many or one; below `vocabulary` where it is known."""
    a = checks.array_of(name, tokens)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    if a.shape not in ((), (B,)):
        raise checks.wrong_shape(name, "() or (B,)", (B,), a.shape)
    if a.size and not (a.min() >= 0 and (vocabulary is None or a.max() < vocabulary)):
        most = "" if vocabulary is None else f" to {vocabulary - 1}"
        raise ValueError(f"{name}: expected tokens from 0{most}, got {tokens}")
    return np.broadcast_to(a, (B,)).astype(np.int64)
