# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the character model: configuration, alphabet, progress, and the state of the text."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from pyrnn.examples import archive
from pyrnn.examples.charmodel import CharModel
from pyrnn.examples.config import Config
from pyrnn.examples.text import Alphabet
from pyrnn.layout import Array
from pyrnn.optim import Adam

PROGRAM = "charlm"


@dataclasses.dataclass
class Progress:
    """Where a training stands, as plain values."""

    step: int = 0
    best_bits: float | None = None
    best_step: int = 0
    text: str | None = None  # path; None is the default text
    text_sha256: str = ""


def save_checkpoint(
    path: str | os.PathLike[str],
    config: Config,
    progress: Progress,
    alphabet: Alphabet,
    model: CharModel,
    best: Array,
    adam: Adam,
    state: Any,
) -> None:
    """Write everything, atomically; `best` is the flat buffer of the best parameters so far."""
    states = state if isinstance(state, tuple) else () if state is None else (state,)
    content = {
        "config": dataclasses.asdict(config),
        "progress": dataclasses.asdict(progress),
        "alphabet": alphabet.characters,
        "rng": plain(model.layer.rng.bit_generator.state),
    }
    others = {f"training.state.{k}": s for k, s in enumerate(states)}
    archive.save(path, PROGRAM, content, model.params, best, adam, others)


class Checkpoint:
    """A checkpoint that has been read and checked.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    config, progress, alphabet
        As they were saved.

    Raises
    ------
    ValueError
        The file is damaged, or no checkpoint.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = archive.Archive(path, PROGRAM)
        try:
            content = self._file.content
            self.config = Config(**content["config"])
            self.progress = Progress(**content["progress"])
            self.alphabet = Alphabet(content["alphabet"])
            self._rng = content["rng"]
            self._file.check_progress(self.progress)
            self._file.check_size(
                self.config.hidden * (self.config.hidden * self.config.layers + self.config.embedding)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._file.refused(error) from None

    def model(self) -> CharModel:
        """The best model of the training."""
        model = CharModel(len(self.alphabet), self.config)
        self._file.fill(model.params)
        return model

    def training(self) -> tuple[CharModel, Array, Adam, Any]:
        """Model, best parameters, optimiser and state, as they were after the last step."""
        model = CharModel(len(self.alphabet), self.config)
        best, adam = self._file.resume(model.params, self.progress.step)
        try:
            model.layer.rng.bit_generator.state = arrays(self._rng)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self._file.path}: expected the state of a generator: {error}") from None
        names = sorted(name for name in self._file.tensors if name.startswith("training.state."))
        shape = (self.config.layers, self.config.batch, self.config.hidden)
        states = tuple(self._file.tensor(name, shape) for name in names)
        return model, best, adam, states if len(states) > 1 else states[0] if states else None


def plain(value: Any) -> Any:
    """A generator's state with lists of integers in place of arrays, for JSON."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [int(v) for v in value] if isinstance(value, np.ndarray) else value


def arrays(value: Any) -> Any:
    """The inverse of `plain`."""
    if isinstance(value, dict):
        return {key: arrays(v) for key, v in value.items()}
    return np.array(value, np.uint64) if isinstance(value, list) else value
