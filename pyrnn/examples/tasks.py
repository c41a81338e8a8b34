# SPDX-License-Identifier: Apache-2.0
"""Tasks that tell recurrent cells apart: the adding problem, copying from memory, the next character."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pyrnn.examples.config import VariantsConfig
from pyrnn.examples.text import Alphabet, Windows, read_text, split
from pyrnn.layout import Array
from pyrnn.losses import mean_cross_entropy, mean_squared_error

#: Held-out sequences of `Adding` and `Copy`; most held-out characters of `Text`, and rows they are read in.
HELD_OUT, CHARACTERS, ROWS = 2000, 1 << 16, 32
#: Symbols that `Copy` gives, and how many different ones there are.
GIVEN, SYMBOLS = 5, 8
BITS = 1 / math.log(2)


class Batch(NamedTuple):
    """Sequences side by side, and what should be said of their last steps.

    Attributes
    ----------
    x : array (T, B, I)
    targets : array (S, B)
        For the last S steps: numbers, or intp classes.
    """

    x: Array
    targets: Array


class Task:
    """A task; a batch depends on the seed and its number alone, so that every cell reads the same.

    Parameters
    ----------
    config : VariantsConfig
        Its length T and batch size B.

    Attributes
    ----------
    name, measure : str
        `measure` says what the error is.
    inputs, outputs : int
        I, and the size of the scores O.
    baseline : float
        Error of the best answer that does not remember anything.
    solved : float or None
        An error below this means that the task is solved, a tenth of the baseline; None: there is no such.
    unit : float
        What a loss is multiplied by to be an error.
    carries : bool
        Whether a batch goes on where the one before ended.
    """

    name: str
    measure: str
    inputs: int
    outputs: int
    baseline: float
    solved: float | None
    unit = BITS
    carries = False

    def __init__(self, config: VariantsConfig) -> None:
        self.length, self.size = config.length, config.batch

    def batch(self, seed: int, step: int) -> Batch:
        """What the update of that number learns from."""
        return self.draw(self.size, np.random.Generator(np.random.Philox([seed, 0, step])))

    def held_out(self) -> Batch:
        """What training never meets, the same for every seed."""
        return self.draw(HELD_OUT, np.random.Generator(np.random.Philox([0, 1])))

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """Random sequences."""
        raise NotImplementedError

    def loss(self, scores: Array, targets: Array) -> tuple[float, Array]:
        """Mean loss of scores (N, O), cross entropy in nats, and its gradient, in the memory of `scores`."""
        return mean_cross_entropy(scores, targets)


class Adding(Task):
    """The adding problem (Hochreiter & Schmidhuber 1997, section 5.4): the sum of two marked numbers.

    A step is a number, uniform in 0 to 1, and a mark, 1 on one step of either half and else 0. The sum, due
    after the last step, has variance 1/6: the squared error of always saying 1.
    """

    name, measure, inputs, outputs = "adding", "mean squared error", 2, 1
    baseline, solved, unit = 1 / 6, 1 / 60, 1.0

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """x (T, B, 2), targets (1, B)."""
        T, columns = self.length, np.arange(count)
        x = np.zeros((T, count, 2), np.float32)
        x[:, :, 0] = rng.random((T, count), np.float32)
        first, second = rng.integers(0, T // 2, count), rng.integers(T // 2, T, count)
        x[first, columns, 1] = x[second, columns, 1] = 1
        return Batch(x, (x[first, columns, 0] + x[second, columns, 0])[None])

    def loss(self, scores: Array, targets: Array) -> tuple[float, Array]:
        """Mean squared error, and its gradient."""
        return mean_squared_error(scores, targets[:, None])


class Copy(Task):
    """Copying from memory (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016).

    Five of eight symbols come first, then blanks, then five marks, at which the symbols are due in their
    order. Guessing costs 3 bits a symbol.
    """

    name, measure = "copy", "bits per symbol"
    baseline, solved = math.log2(SYMBOLS), math.log2(SYMBOLS) / 10
    inputs, outputs = SYMBOLS + 2, SYMBOLS

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """x one-hot (T, B, 10), targets (5, B)."""
        symbols = rng.integers(0, SYMBOLS, (GIVEN, count))
        ids = np.full((self.length, count), SYMBOLS)
        ids[:GIVEN], ids[-GIVEN:] = symbols, SYMBOLS + 1
        return Batch(one_hot(ids, self.inputs), symbols)


class Text(Task):
    """The next character of a text; its last tenth is held out.

    Parameters
    ----------
    config : VariantsConfig
    path : path, optional
        A UTF-8 file; Python's own help texts when None.

    Raises
    ------
    ValueError, OSError
        The text is too short, no UTF-8, or cannot be read.
    """

    name, measure, carries, solved = "text", "bits per character", True, None

    def __init__(self, config: VariantsConfig, path: str | None = None) -> None:
        super().__init__(config)
        content = read_text(path)
        alphabet = Alphabet(content)
        train, held_out = split(alphabet.encode(content))
        self._windows = Windows(train, config.batch, config.length)
        held_out = held_out[:CHARACTERS]
        rows = min(ROWS, len(held_out) // 2)
        if rows < 1:
            raise ValueError(f"expected a text of at least 20 characters, got {len(content)}")
        self._held_out = held_out[: len(held_out) // rows * rows].reshape(rows, -1).T
        self.inputs = self.outputs = len(alphabet)
        counts = np.bincount(train, minlength=len(alphabet)) + 1
        seen = self._held_out[1:]
        self.baseline = -float(np.log2(counts[seen] / counts.sum()).mean())

    def batch(self, seed: int, step: int) -> Batch:
        """The window of that number, whatever the seed."""
        ids, targets = self._windows[step]
        return Batch(one_hot(ids, self.inputs), targets)

    def held_out(self) -> Batch:
        """The last tenth of the text, or its beginning, in rows side by side."""
        return Batch(one_hot(self._held_out[:-1], self.inputs), self._held_out[1:])


def one_hot(ids: Array, size: int) -> Array:
    """float32 (…, size) with a one at each number."""
    x = np.zeros((*ids.shape, size), np.float32)
    np.put_along_axis(x, ids[..., None], 1, -1)
    return x


def task_of(config: VariantsConfig, path: str | None = None) -> Task:
    """The task that the options name."""
    if config.task == "text":
        return Text(config, path)
    if path is not None:
        raise ValueError(f"--file: expected --task text beside it, got --task {config.task}")
    return Adding(config) if config.task == "adding" else Copy(config)
