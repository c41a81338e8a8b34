# SPDX-License-Identifier: Apache-2.0
"""Pairs of a source and a target: from a file, and as padded arrays of numbers."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pyrnn.examples.text import Alphabet, read_text
from pyrnn.layout import Array

#: ASCII's start and end of text, and Unicode's sign for a character that could not be represented.
START, END, UNKNOWN = "\x02", "\x03", "\ufffd"
#: Of 20 sources, as their checksums go, one is for validation and one for the test.
VALIDATION, TEST, EVERY = 0, 10, 20
#: Most examples of each.
HELD_OUT = 2000


class Pair(NamedTuple):
    """What is read and what is to be written."""

    source: str
    target: str


class Corpus(Protocol):
    """Pairs to learn from, and pairs that are held out.

    Attributes
    ----------
    validation, test : lists of Pair
        To choose the best model by, and to measure it with.
    """

    validation: list[Pair]
    test: list[Pair]

    def __getitem__(self, step: int) -> list[Pair]:
        """The batch of a step, B pairs; a function of the step alone."""

    def characters(self) -> tuple[str, str]:
        """Those of sources and of targets."""

    def longest(self) -> int:
        """Characters of the longest target."""

    def fingerprint(self) -> str:
        """Two corpora with the same one have the same pairs."""


class Pairs:
    """The lines of a tab-separated file: source, target, and whatever else, which is not read.

    All lines with the same source are on one side of the split.

    Parameters
    ----------
    path : path
        UTF-8.
    batch : int
        B; an epoch is a permutation of the training pairs.
    seed : int
        Of the permutations.

    Raises
    ------
    ValueError, OSError
        The file cannot be read, or there are too few pairs; the message names the file and the line.
    """

    def __init__(self, path: str | os.PathLike[str], batch: int, seed: int) -> None:
        self.batch, self.seed, name = batch, seed, os.fspath(path)
        content = read_text(path)
        self._sha256 = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        self._train: list[Pair] = []
        self.validation: list[Pair] = []
        self.test: list[Pair] = []
        sides = {VALIDATION: self.validation, TEST: self.test}
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            columns = [column.strip() for column in line.split("\t")]
            if len(columns) < 2 or not columns[0] or not columns[1]:
                raise ValueError(f"{name}: line {number}: expected a source, a tab and a target")
            place = zlib.crc32(columns[0].encode("utf-8", "surrogatepass")) % EVERY
            side = sides.get(place, self._train)
            if side is self._train or len(side) < HELD_OUT:
                side.append(Pair(*columns[:2]))
        if not self._train or not self.validation or not self.test:
            raise ValueError(f"{name}: expected some hundred pairs with different sources, got too few")
        self._order: tuple[int, Array] = (-1, np.arange(0))

    def __getitem__(self, step: int) -> list[Pair]:
        """The batch of a step; the last of an epoch goes on into the next."""
        places = range(step * self.batch, (step + 1) * self.batch)
        return [self._train[self._permutation(k // len(self._train))[k % len(self._train)]] for k in places]

    def _permutation(self, epoch: int) -> Array:
        if self._order[0] != epoch:
            rng = np.random.Generator(np.random.Philox([self.seed, 2, epoch]))
            self._order = epoch, rng.permutation(len(self._train))
        return self._order[1]

    def characters(self) -> tuple[str, str]:
        """Those that the training pairs have more than once; the others are unknown to the model."""
        counts = (Counter("".join(texts)) for texts in zip(*self._train, strict=True))
        sources, targets = ("".join(sorted(c for c, n in count.items() if n > 1)) for count in counts)
        return sources, targets

    def longest(self) -> int:
        """Characters of the longest target."""
        return max(len(pair.target) for pair in self._train)

    def fingerprint(self) -> str:
        """Of the file."""
        return self._sha256

    def __str__(self) -> str:
        return f"{len(self._train)} training pairs"


class Symbols:
    """The characters of a side of the pairs, and three of their own: start, end, unknown.

    Parameters
    ----------
    characters : str

    Attributes
    ----------
    alphabet : Alphabet
    start, end : int
        Their numbers.
    """

    def __init__(self, characters: str) -> None:
        self.alphabet = Alphabet(characters + START + END + UNKNOWN)
        self._known = set(self.alphabet.characters) - {START, END}
        self.start, self.end = (int(k) for k in self.alphabet.encode(START + END))

    def __len__(self) -> int:
        return len(self.alphabet)

    def encode(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Numbers of the characters, intp (B, T), and lengths (B,).

        The rest of each row is ends, of which the first counts.
        """
        lengths = np.array([len(text) + 1 for text in texts])
        ids = np.full((len(texts), int(lengths.max(initial=1))), self.end)
        for row, text in zip(ids, texts, strict=True):
            known = "".join(c if c in self._known else UNKNOWN for c in text)
            row[: len(text)] = self.alphabet.encode(known)
        return ids, lengths

    def decode(self, ids: Array) -> str:
        """The text before the first end."""
        text = self.alphabet.decode(ids)
        return text.split(END, 1)[0].replace(START, UNKNOWN)
