# SPDX-License-Identifier: Apache-2.0
"""Text for character-level language models: the default corpus, the alphabet, and windows for training."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from pyrnn.layout import Array


def default_text() -> str:
    """The about 465 000 characters of English that CPython ships: the topics of `pydoc_data`, by name."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | os.PathLike[str] | None) -> str:
    """A UTF-8 file, or the default text for None.

    Raises
    ------
    ValueError
        The file is not UTF-8.
    OSError
        It cannot be read.
    """
    if path is None:
        return default_text()
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: expected UTF-8 text: {error}") from None


class Alphabet:
    """The characters of a text and their numbers.

    Parameters
    ----------
    characters : iterable of str
        Sorted and made unique here.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self._codes = np.frombuffer(self.characters.encode("utf-32-le", "surrogatepass"), "<u4")

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Numbers of the characters, intp (N,).

        Raises
        ------
        ValueError
            A character is not in the alphabet.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = np.searchsorted(self._codes, codes)
        known = self._codes[np.minimum(ids, len(self) - 1)] == codes
        if not known.all():
            raise ValueError(f"expected characters of the training text, got {text[int(np.argmin(known))]!r}")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some numbers."""
        return "".join(self.characters[k] for k in ids)


def split(ids: Array, held_out: float = 0.1) -> tuple[Array, Array]:
    """The first part for training, and the last `held_out` of a text for validation."""
    end = len(ids) - int(len(ids) * held_out)
    return ids[:end], ids[end:]


class Windows:
    """Successive windows of B places of a text, for truncated backpropagation with the state carried over.

    The B rows begin evenly spaced. Each goes on where it stopped, into the next row's part and around the end
    of the text, so that a state is never reset and the window of a step depends on the step's number alone.
    Unless `length` divides the text, every epoch also cuts it in other places.

    Parameters
    ----------
    ids : intp array (N,)
    batch_size, length : int
        B and T.
    """

    def __init__(self, ids: Array, batch_size: int, length: int) -> None:
        if len(ids) < length + 1:
            raise ValueError(f"expected a training text of at least {length + 1} characters, got {len(ids)}")
        self._ids, self._length = ids, length
        self._places = np.arange(batch_size) * len(ids) // batch_size + np.arange(length + 1)[:, None]

    def __getitem__(self, step: int) -> tuple[Array, Array]:
        """Inputs and the characters that follow them, each intp (T, B)."""
        window = self._ids[(self._places + step * self._length) % len(self._ids)]
        return window[:-1], window[1:]
