# SPDX-License-Identifier: Apache-2.0
"""From texts to texts with a trained model, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pyrnn.examples.pairs import Pair, Symbols
from pyrnn.examples.translation import ROWS, Batch, TranslationModel
from pyrnn.layout import Array


class Answer(NamedTuple):
    """A translation.

    Attributes
    ----------
    text : str
    score : float
        Sum of its characters' log-probabilities over the length penalty.
    weights : array (Tq, Tk)
        Alignment of its characters to those of the source, each with its end; (Tq, 1) without attention.
    """

    text: str
    score: float
    weights: Array


class Translator:
    """A model and the characters of both sides.

    Parameters
    ----------
    model : TranslationModel
    source, target : Symbols
    longest : int
        Characters of the longest target that it has learnt; it may write twice as many.
    """

    def __init__(self, model: TranslationModel, source: Symbols, target: Symbols, longest: int) -> None:
        self.model, self.source, self.target, self.longest = model, source, target, longest

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """Pairs as numbers."""
        sources, targets = zip(*pairs, strict=True)
        return Batch(*self.source.encode(sources), *self.target.encode(targets))

    def gradients(self, pairs: Sequence[Pair]) -> float:
        """Mean cross entropy in nats per character of the targets; see `TranslationModel.gradients`."""
        return self.model.gradients(self.batch(pairs), self.target.start)

    def bits(self, pairs: Sequence[Pair]) -> float:
        """Mean cross entropy in bits per character of the targets."""
        total = count = 0.0
        for part in parts(pairs):
            nats, characters = self.model.loss(self.batch(part), self.target.start)
            total, count = total + nats, count + characters
        return total / count / math.log(2)

    def translate(self, texts: Sequence[str], beam: int = 1, length_penalty: float = 0.0) -> list[Answer]:
        """What the model makes of each text; see `pyrnn.AttentionDecoder.beam_search`.

        Sources of like length are read together: the answers come in the order of the texts.
        """
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        found = self.model.translate(
            *self.source.encode([texts[k] for k in order]),
            start=self.target.start,
            end=self.target.end,
            max_steps=2 * (self.longest + 1),
            beam=beam,
            length_penalty=length_penalty,
        )
        answers = {
            k: Answer(self.target.decode(t.tokens), t.score, t.weights)
            for k, t in zip(order, found, strict=True)
        }
        return [answers[k] for k in range(len(texts))]


def parts(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Some at a time."""
    for k in range(0, len(pairs), ROWS):
        yield pairs[k : k + ROWS]


class Quality(NamedTuple):
    """How good some translations are.

    Attributes
    ----------
    examples : int
        How many.
    exact : float
        Share of translations that are the target, character by character.
    bleu : float or None
        0 to 100 (Papineni et al. 2002), as sacrebleu computes it by default; None when it is not installed.
    """

    examples: int
    exact: float
    bleu: float | None

    def __str__(self) -> str:
        bleu = "BLEU needs sacrebleu" if self.bleu is None else f"BLEU {self.bleu:.2f}"
        return f"exact match {100 * self.exact:.2f} %, {bleu}"


def quality(texts: Sequence[str], pairs: Sequence[Pair]) -> Quality:
    """Of what was made of the sources of `pairs`."""
    targets = [pair.target for pair in pairs]
    exact = float(np.mean([text == target for text, target in zip(texts, targets, strict=True)]))
    try:
        from sacrebleu import corpus_bleu
    except ImportError:
        return Quality(len(pairs), exact, None)
    return Quality(len(pairs), exact, float(corpus_bleu(list(texts), [targets]).score))


def by_length(
    texts: Sequence[str], pairs: Sequence[Pair], bins: int = 10
) -> list[tuple[tuple[int, int], Quality]]:
    """`quality` of the sources of each range of lengths, [shortest, longest], ranges without any left out."""
    lengths = np.array([len(pair.source) for pair in pairs])
    least = int(lengths.min())
    width = max(1, math.ceil((int(lengths.max()) + 1 - least) / bins))
    found = []
    for low in range(least, least + bins * width, width):
        rows = np.flatnonzero((lengths >= low) & (lengths < low + width)).tolist()
        if rows:
            part = quality([texts[k] for k in rows], [pairs[k] for k in rows])
            found.append(((low, low + width - 1), part))
    return found
