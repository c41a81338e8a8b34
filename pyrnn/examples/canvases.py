# SPDX-License-Identifier: Apache-2.0
"""Captioned pictures: scikit-learn's digits on an empty canvas, and the words that name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pyrnn.layout import Array

#: Rows and columns of a digit.
SIDE = 8
#: Left edges of a canvas's digits are at least this far apart, so that their order is never in doubt.
APART = 3
FEWEST, MOST = 2, 4
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", ",", "and", "")
COMMA, AND, END = 10, 11, 12
#: Words of the longest caption, its end included.
LONGEST = 2 * MOST


class Digits(NamedTuple):
    """Digits as pictures.

    Attributes
    ----------
    images : float32 array (N, 8, 8)
        From 0, paper, to 1, ink.
    labels : intp array (N,)
    """

    images: Array
    labels: Array


class Canvases(NamedTuple):
    """Pictures with their captions.

    Attributes
    ----------
    images : float32 array (B, height, width)
    tokens : intp array (B, 8)
        The caption's words and END, which is repeated behind it.
    lengths : intp array (B,)
        Words of each caption, END included.
    counts : intp array (B,)
        Digits of each canvas.
    tops, lefts : intp arrays (B, 4)
        Where each digit stands, in the order of the caption; those behind `counts` mean nothing.
    """

    images: Array
    tokens: Array
    lengths: Array
    counts: Array
    tops: Array
    lefts: Array


def load() -> tuple[Digits, Digits, Digits]:
    """scikit-learn's 1797 digits, shuffled: eight tenths to learn from, one for validation, one for the test.

    Raises
    ------
    ValueError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            'the digits are part of scikit-learn, which is not installed: pip install "pyrnn-kernels[demo]"'
        ) from None
    data = load_digits()
    order = np.random.Generator(np.random.Philox(0)).permutation(len(data.target))
    images, labels = (data.images / 16).astype(np.float32)[order], data.target.astype(np.intp)[order]
    tenth = len(order) // 10
    parts = np.split(np.arange(len(order)), [len(order) - 2 * tenth, len(order) - tenth])
    train, validation, test = (Digits(images[part], labels[part]) for part in parts)
    return train, validation, test


def draw(digits: Digits, batch: int, height: int, width: int, rng: np.random.Generator) -> Canvases:
    """Random canvases of two to four random digits at random places, without overlap, and their captions.

    A caption names the digits from left to right: "three, seven and one".
    """
    counts = rng.integers(FEWEST, MOST + 1, batch)
    tops, lefts = places(counts, height, width, rng)
    chosen = rng.integers(0, len(digits.labels), (batch, MOST))
    there = np.arange(MOST) < counts[:, None]
    row, place = np.nonzero(there)
    images = np.zeros((batch, height, width), np.float32)
    y, x = (a[row, place][:, None] + np.arange(SIDE) for a in (tops, lefts))
    images[row[:, None, None], y[:, :, None], x[:, None, :]] = digits.images[chosen[row, place]]
    tokens = np.full((batch, LONGEST), END, np.intp)
    tokens[:, ::2] = np.where(there, digits.labels[chosen], END)
    gap = np.arange(1, MOST)
    tokens[:, 1:-1:2] = np.select([gap < counts[:, None] - 1, gap < counts[:, None]], [COMMA, AND], END)
    return Canvases(images, tokens, 2 * counts, counts, tops, lefts)


def places(counts: Array, height: int, width: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Top and left edges (B, 4) of as many digits as `counts` (B,) says, from left to right."""
    tops, lefts = np.zeros((2, len(counts), MOST), np.intp)
    bad = np.arange(len(counts))
    while bad.size:  # all digits of a canvas are drawn anew until none touches another
        tops[bad] = rng.integers(0, height - SIDE + 1, (bad.size, MOST))
        lefts[bad] = spaced(counts[bad], width - SIDE + 1, rng)
        bad = bad[~clear(tops[bad], lefts[bad], counts[bad])]
    return tops, lefts


def spaced(counts: Array, room: int, rng: np.random.Generator) -> Array:
    """Rising numbers (B, 4) below `room`, APART or more apart; every choice of `counts` (B,) is as likely.

    Those behind `counts` mean nothing.
    """
    # Without the gaps they are any distinct numbers below what the gaps leave.
    keys = rng.random((len(counts), room))
    keys[np.arange(room) >= (room - (counts - 1) * (APART - 1))[:, None]] = np.inf
    there = np.arange(MOST) < counts[:, None]
    chosen = np.sort(np.where(there, np.argsort(keys, axis=1)[:, :MOST], room), axis=1)
    rising: Array = chosen + (APART - 1) * np.arange(MOST)
    return rising


def clear(tops: Array, lefts: Array, counts: Array) -> Array:
    """Whether the first `counts` (B,) digits of each row overlap nowhere."""
    down, across = (np.abs(a[:, :, None] - a[:, None, :]) for a in (tops, lefts))
    pairs = np.triu(np.ones((MOST, MOST), bool), 1) & (np.arange(MOST) < counts[:, None])[:, None, :]
    fine: Array = ((across >= SIDE) | (down >= SIDE) | ~pairs).all((1, 2))
    return fine


def caption(tokens: Iterable[int]) -> str:
    """The words up to the end as a sentence's part: "three, seven and one"."""
    text = ""
    for token in tokens:
        if token == END:
            break
        text += WORDS[token] if token == COMMA or not text else " " + WORDS[token]
    return text
