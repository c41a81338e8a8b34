# SPDX-License-Identifier: Apache-2.0
"""Decoding step by step: what is carried from one step to the next, greedy search and beam search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyrnn import checks, decoding, searching
from pyrnn.attending import Memory
from pyrnn.layout import Array
from pyrnn.searching import Hypotheses
from pyrnn.states import State
from pyrnn.storing import Stored


class Carry(NamedTuple):
    """What a decoder hands from one step to the next; `Carry(state)` begins from a state.

    Attributes
    ----------
    state : array (B, H), or a tuple of them
    feed : array (B, O) or (B, M), what input feeding reads
    weights : array (B, Tk), of the step before, where the score or the alignment reads them
    coverage : array (B, Tk), the sum of the weights so far, where the score reads it
    position : int, number of steps so far

    Everything is None, for zeros, at the start.
    """

    state: State | None = None
    feed: Array | None = None
    weights: Array | None = None
    coverage: Array | None = None
    position: int = 0

    def select(self, rows: Any) -> Carry:
        """What is carried, of these rows of the batch, in this order."""
        state = self.state
        if state is not None:
            state = tuple(s[rows] for s in state) if isinstance(state, tuple | list) else state[rows]
        feed, weights, coverage = (
            None if a is None else a[rows] for a in (self.feed, self.weights, self.coverage)
        )
        return Carry(state, feed, weights, coverage, self.position)


class Stepping(Stored):
    """The part of `AttentionDecoder` that goes step by step."""

    input_size: int
    hidden_size: int
    input_feed: bool
    query: str

    @property
    def output_size(self) -> int:
        """O."""
        raise NotImplementedError

    @property
    def states(self) -> int:
        """How many arrays make up the cell's state."""
        raise NotImplementedError

    @property
    def fed(self) -> int:
        """What the cell reads beside x."""
        raise NotImplementedError

    def precompute(self, memory: Array, lengths: Any = None) -> Memory:
        """Project the memory (B, Tk, M) once, for many steps; see `Aligner.precompute`."""
        raise NotImplementedError

    def _plain(self, name: str, a: Any) -> Any:
        """An array of the decoder's device, its dtype checked."""
        raise NotImplementedError

    def _arguments(self, training: bool) -> dict[str, Any]:
        """The attention in the words of `attention_forward`."""
        raise NotImplementedError

    def _run(self, *arguments: Any, **options: Any) -> tuple[Array, State, Array, Any]:
        """`decoding.forward` with the decoder's options."""
        raise NotImplementedError

    def step(
        self, x: Array, memory: Memory, carry: Carry | None = None, *, mask: Array | None = None
    ) -> tuple[Array, Carry, Array]:
        """One step of inference.

        Parameters
        ----------
        x : array (B, I)
        memory : Memory
            From `precompute`.
        carry : Carry, optional
            From the step before; `Carry(state)` or None at the start.
        mask : array, optional
            Broadcastable to (B, 1, Tk).

        Returns
        -------
        outputs : array (B, O)
        carry : Carry
        weights : array (B, Tk)
        """
        x = self._plain("x", x)
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x: expected shape (B, I) with I = {self.input_size}, got {tuple(x.shape)}")
        if not isinstance(memory, Memory):
            raise TypeError(f"memory: expected what precompute returned, got {type(memory).__name__}")
        if carry is None:
            carry = Carry()
        elif not isinstance(carry, Carry):
            raise TypeError(f"carry: expected a Carry, got {type(carry).__name__}")
        out, state, weights, _ = self._run(
            x[:, None],
            memory,
            None,
            carry.state,
            mask=mask,
            feed=carry.feed,
            previous=carry.weights,
            coverage=carry.coverage,
            position=carry.position,
        )
        outputs, weights = out[:, 0], weights[:, 0]
        feeds = self.input_feed and self.query == "current"
        follows, covers = decoding.remembers(self._arguments(training=False))
        coverage = weights if carry.coverage is None else carry.coverage + weights
        carry = Carry(
            state,
            outputs[:, : self.fed] + 0 if feeds else None,
            weights if follows else None,
            coverage if covers else None,
            carry.position + 1,
        )
        return outputs, carry, weights

    def greedy(
        self,
        start: Any,
        memory: Array | Memory,
        *,
        embed: Any,
        project: Any,
        max_steps: int,
        end: int | None = None,
        memory_lengths: Any = None,
        state: State | None = None,
    ) -> Hypotheses:
        """The most probable token at every step; the arguments of `beam_search`, without the K axis."""
        found = self.beam_search(
            start,
            memory,
            embed=embed,
            project=project,
            max_steps=max_steps,
            beam_size=1,
            end=end,
            memory_lengths=memory_lengths,
            state=state,
        )
        return Hypotheses(*(a[:, 0] for a in found))

    def beam_search(
        self,
        start: Any,
        memory: Array | Memory,
        *,
        embed: Any,
        project: Any,
        max_steps: int,
        beam_size: int,
        end: int | None = None,
        length_penalty: float = 0.0,
        memory_lengths: Any = None,
        state: State | None = None,
    ) -> Hypotheses:
        """The most probable sequences of tokens that a beam finds.

        A row keeps its K best sequences, finished ones among them, until all are finished.

        Parameters
        ----------
        start : int or integers (B,)
            The token that is read first.
        memory : array (B, Tk, M), or what `precompute` returned
        embed : array (vocabulary, I), or callable
            Tokens (N,) to inputs (N, I).
        project : array (vocabulary, O), or callable
            Outputs (N, O) to logits or log-probabilities (N, vocabulary); -inf forbids a token.
        max_steps : int
            Most tokens of a sequence.
        beam_size : int
            K.
        end : int, optional
            The token that ends a sequence.
        length_penalty : float
            α, at least 0: the sum of log-probabilities is divided by ((5 + length) / 6)^α (Wu et al. 2016).
        memory_lengths : integers (B,), optional
        state : array (B, H), or a tuple of them, optional
            Zeros when None.

        Returns
        -------
        Hypotheses
            tokens (B, K, L), scores (B, K), lengths (B, K), weights (B, K, L, Tk).

        Raises
        ------
        ValueError, TypeError
            An argument, or what a callable returned, is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> rng = np.random.default_rng(0)
        >>> embed, project = rng.normal(size=(9, 3)), rng.normal(size=(9, 7))
        >>> memory = rng.normal(size=(2, 5, 6))
        >>> attention = pyrnn.BahdanauAttention(4, 6, 8, dtype="float64", seed=0)
        >>> decoder = pyrnn.AttentionDecoder(
        ...     "lstm", 3, 4, attention, attention_layer=7, dtype="float64", seed=0
        ... )
        >>> found = decoder.beam_search(1, memory, embed=embed, project=project, max_steps=4, beam_size=3)
        >>> found.tokens.shape, found.weights.shape
        ((2, 3, 4), (2, 3, 4, 5))
        """
        max_steps, K = checks.size("max_steps", max_steps), checks.size("beam_size", beam_size)
        length_penalty = checks.finite("length_penalty", length_penalty, 0)
        embedded = searching.embedding(embed, self.input_size, self.dtype)
        projected = searching.projection(project, self.output_size, self.dtype)
        vocabulary = searching.vocabulary_of(embed, project)
        if not isinstance(memory, Memory):
            key = checks.plain_array("memory", memory, self.dtype)
            if memory_lengths is not None and key.ndim == 3:
                memory_lengths = checks.lengths_of(
                    memory_lengths, key.shape[1], key.shape[0], False, "memory_lengths", "Tk"
                )
            memory = self.precompute(key, memory_lengths)
        elif memory_lengths is not None:
            raise ValueError("memory_lengths: expected None beside a precomputed memory, got lengths")
        B = memory.key.shape[0]
        tokens = searching.tokens_of("start", start, B, vocabulary)
        if end is not None:
            end = int(searching.tokens_of("end", end, 1, vocabulary)[0])
        if state is not None:
            states = self.states
            arrays = checks.states("state", state, states, (B, self.hidden_size), "(B, H)", self.dtype)
            state = arrays[0] if states == 1 else arrays
        rows = np.repeat(np.arange(B), K)
        repeated = rows_of(memory, rows)

        def advance(tokens: Array, carry: Carry) -> tuple[Array, Carry, Array]:
            outputs, carry, weights = self.step(embedded(tokens), repeated, carry)
            return projected(outputs), carry, weights

        return searching.beam_search(
            advance,
            Carry.select,
            Carry(state).select(rows),
            tokens,
            K,
            max_steps=max_steps,
            end=end,
            length_penalty=length_penalty,
        )


def rows_of(memory: Memory, rows: Array) -> Memory:
    """A memory's rows of the batch, in this order; a row may come more than once."""
    value, lengths = (None if a is None else a[rows] for a in (memory.value, memory.lengths))
    return Memory(memory.score, memory.key[rows], value, lengths, memory.projected[rows], memory.weight)
