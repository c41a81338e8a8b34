# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the character model: the model to use and the training to go on with, in one file.

Tensors by the names of `CharModel.params` are the best model so far; `training.*` is what resuming needs.
The metadata hold the configuration, the alphabet and the progress as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from pyrnn.examples.charmodel import CharModel
from pyrnn.examples.config import Config
from pyrnn.examples.optim import Adam
from pyrnn.examples.text import Alphabet
from pyrnn.io.safetensors import load_safetensors, save_safetensors
from pyrnn.layout import Array

KEY = "pyrnn-charlm"


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
    tensors: dict[str, Array] = {}
    offsets = {
        name: (a.ctypes.data - model.params.flat.ctypes.data) // 4 for name, a in model.params.views.items()
    }
    for name, a in model.params.views.items():
        tensors[name] = best[offsets[name] : offsets[name] + a.size].reshape(a.shape)
    tensors |= {
        "training.params": model.params.flat,
        "training.adam.mean": adam.mean,
        "training.adam.square": adam.square,
    }
    for k, s in enumerate(state if isinstance(state, tuple) else () if state is None else (state,)):
        tensors[f"training.state.{k}"] = s
    content = {
        "config": dataclasses.asdict(config),
        "progress": dataclasses.asdict(progress),
        "alphabet": alphabet.characters,
        "rng": plain(model.layer.rng.bit_generator.state),
    }
    save_safetensors(path, tensors, {KEY: json.dumps(content)})


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
        self.path = os.fspath(path)
        self._tensors, metadata = load_safetensors(path)
        try:
            content = json.loads(metadata[KEY])
            self.config = Config(**content["config"])
            self.progress = Progress(**content["progress"])
            self.alphabet = Alphabet(content["alphabet"])
            self._rng = content["rng"]
            # The file's own size bounds what a forged configuration can make the model allocate.
            size = self.config.hidden * (self.config.hidden * self.config.layers + self.config.embedding)
            if size > 4 * sum(a.size for a in self._tensors.values()):
                raise ValueError("the configuration does not fit the tensors")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path}: expected a checkpoint of pyrnn charlm: {error}") from None

    def model(self) -> CharModel:
        """The best model of the training."""
        model = CharModel(len(self.alphabet), self.config)
        for name, view in model.params.views.items():
            view[...] = self._tensor(name, view.shape)
        return model

    def training(self) -> tuple[CharModel, Array, Adam, Any]:
        """Model, best parameters, optimiser and state, as they were after the last step."""
        model = self.model()
        best = model.params.flat.copy()
        shape = best.shape
        model.params.flat[...] = self._tensor("training.params", shape)
        adam = Adam(best.size)
        adam.mean[...] = self._tensor("training.adam.mean", shape)
        adam.square[...] = self._tensor("training.adam.square", shape)
        adam.steps = self.progress.step
        try:
            model.layer.rng.bit_generator.state = arrays(self._rng)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self.path}: expected the state of a generator: {error}") from None
        names = sorted(name for name in self._tensors if name.startswith("training.state."))
        shape = (self.config.layers, self.config.batch, self.config.hidden)
        states = tuple(self._tensor(name, shape) for name in names)
        return model, best, adam, states if len(states) > 1 else states[0] if states else None

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        a = self._tensors.get(name)
        if a is None or a.shape != shape or a.dtype != np.float32:
            got = "none" if a is None else f"{a.shape} of {a.dtype}"
            raise ValueError(f"{self.path}: expected {name!r} of shape {shape} in float32, got {got}")
        return a


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
