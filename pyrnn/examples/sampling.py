# SPDX-License-Identifier: Apache-2.0
"""Writing text with a trained character model, one character at a time through `layer.stream`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyrnn.examples.charmodel import CharModel
from pyrnn.examples.text import Alphabet
from pyrnn.layout import Array


def sample(
    model: CharModel, alphabet: Alphabet, prime: str = "", temperature: float = 0.8, seed: int | None = None
) -> Iterator[str]:
    """Characters that the model goes on with, without end.

    Parameters
    ----------
    model : CharModel
    alphabet : Alphabet
        Of the text that the model was trained on.
    prime : str
        Read first, and not repeated; a line's end when empty (the first character where there is none).
    temperature : float
        1 draws from the model's distribution; lower is bolder about the likely; 0 always takes the likeliest.
    seed : int, optional
        Of the draws.

    Raises
    ------
    ValueError
        A character of `prime` is not in the alphabet, or the temperature is negative.
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"--temperature: expected a number from 0, got {temperature}")
    if not prime:
        prime = "\n" if "\n" in alphabet.characters else alphabet.characters[0]
    try:
        ids = alphabet.encode(prime)
    except ValueError as error:
        raise ValueError(f"--prime: {error}") from None
    return characters(model, alphabet, ids, temperature, np.random.default_rng(seed))


def characters(
    model: CharModel, alphabet: Alphabet, ids: Array, temperature: float, rng: np.random.Generator
) -> Iterator[str]:
    """`sample` without its checks."""
    stream = model.layer.stream()
    for k in ids:
        y = stream.step(model.inputs(k))
    while True:
        k = draw(model.logits(y), temperature, rng)
        yield alphabet.characters[k]
        y = stream.step(model.inputs(np.array(k)))


def draw(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """A character's number from the softmax of `logits` / `temperature`."""
    if temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64)
    scores = np.exp((scores - scores.max()) / temperature)
    cumulated = np.cumsum(scores)
    return int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
