# SPDX-License-Identifier: Apache-2.0
"""Training of the captions, and its checkpoints."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, NamedTuple

import numpy as np

from pyrnn.examples import archive
from pyrnn.examples.canvases import MOST, SIDE, Canvases, Digits, draw, load
from pyrnn.examples.captionmodel import CaptionModel
from pyrnn.examples.config import CaptionsConfig
from pyrnn.examples.running import INTERRUPTED, Ran, check_folder, descend, run
from pyrnn.layout import Array
from pyrnn.optim import Adam

PROGRAM = "captions"
#: Held-out canvases.
VALIDATION, TEST = 500, 1000


@dataclasses.dataclass
class Progress:
    """Where a training stands, as plain values."""

    step: int = 0
    best_bits: float | None = None
    best_step: int = 0


class Quality(NamedTuple):
    """How good captions are, and where the model looked.

    Attributes
    ----------
    exact : float
        Share of canvases whose caption is right, word by word.
    looked : float
        Mean share of the weight of a digit's word on patches whose centre lies on that digit, where the
        caption is right.
    """

    exact: float
    looked: float

    def __str__(self) -> str:
        return f"{100 * self.exact:.1f} % right, {100 * self.looked:.0f} % of the weight on the digit"


def canvases_of(digits: Digits, config: CaptionsConfig, batch: int, *place: int) -> Canvases:
    """The canvases of a place in the course of a training, always the same."""
    rng = np.random.Generator(np.random.Philox([config.seed, *place]))
    return draw(digits, batch, config.height, config.width, rng)


def quality(model: CaptionModel, canvases: Canvases) -> Quality:
    """What a model makes of canvases with captions."""
    found = model.captions(canvases.images)
    L = min(found.tokens.shape[1], canvases.tokens.shape[1])
    counted = np.arange(canvases.tokens.shape[1]) < canvases.lengths[:, None]
    right = (found.lengths >= canvases.lengths) & (
        (found.tokens[:, :L] == canvases.tokens[:, :L]) | ~counted[:, :L]
    ).all(1)
    shares = looked(model, canvases, found.weights)[right]
    return Quality(float(right.mean()), float(np.nanmean(shares)) if right.any() else 0.0)


def looked(model: CaptionModel, canvases: Canvases, weights: Array) -> Array:
    """Share (B, 4) of the weight of each digit's word on patches whose centre lies on it; NaN without one.

    Parameters
    ----------
    weights : array (B, L, P)
    """
    y, x = model.centres()
    top, left = (a[:, :, None] for a in (canvases.tops, canvases.lefts))
    on = (top <= y) & (y < top + SIDE) & (left <= x) & (x < left + SIDE)
    words = np.zeros((len(weights), MOST, weights.shape[2]), weights.dtype)
    spoken = weights[:, : 2 * MOST : 2]
    words[:, : spoken.shape[1]] = spoken
    shares: Array = (words * on).sum(2)
    shares[np.arange(MOST) >= canvases.counts[:, None]] = np.nan
    return shares


class Checkpoint:
    """A checkpoint that has been read and checked.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    config, progress
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
            self.config = CaptionsConfig(**self._file.content["config"])
            self.progress = Progress(**self._file.content["progress"])
            self._file.check_progress(self.progress)
            c = self.config
            self._file.check_size(c.hidden * (c.hidden + c.features + c.units + c.embedding))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._file.refused(error) from None

    def model(self) -> CaptionModel:
        """The best of the training."""
        made = CaptionModel(self.config)
        self._file.fill(made.params)
        return made

    def training(self) -> tuple[CaptionModel, Array, Adam]:
        """Model, best parameters and optimiser, as they were after the last step."""
        made = CaptionModel(self.config)
        return made, *self._file.resume(made.params, self.progress.step)


class Training:
    """A training that can stop after any step and go on later as if it had not.

    Parameters
    ----------
    config : CaptionsConfig
    checkpoint : path
        Written at every validation and at the end.

    Raises
    ------
    ValueError
        The checkpoint cannot be written, or scikit-learn is not installed.
    """

    unit = "canvases"

    def __init__(self, config: CaptionsConfig, checkpoint: str | os.PathLike[str]) -> None:
        check_folder(checkpoint)
        self.config, self.checkpoint, self.progress = config, checkpoint, Progress()
        self.digits, self.held_out, _ = load()
        self.model = CaptionModel(config)
        self.best = self.model.params.flat.copy()
        self.adam = Adam(self.best.size)

    @classmethod
    def resume(cls, checkpoint: str | os.PathLike[str]) -> Training:
        """Go on with a checkpoint.

        Raises
        ------
        ValueError, OSError
            The checkpoint cannot be used.
        """
        self = cls.__new__(cls)
        loaded = Checkpoint(checkpoint)
        self.config, self.progress, self.checkpoint = loaded.config, loaded.progress, checkpoint
        self.digits, self.held_out, _ = load()
        self.model, self.best, self.adam = loaded.training()
        return self

    @property
    def units(self) -> int:
        """Canvases of a step."""
        return self.config.batch

    def advance(self) -> float:
        """One step; returns the loss of its batch in bits per word, before the update."""
        canvases = canvases_of(self.digits, self.config, self.config.batch, 0, self.progress.step)
        return descend(self, self.model.params, self.model.grads, self.model.gradients(canvases))

    def validation(self) -> tuple[dict[str, float], str]:
        """How good the model is; remembers the parameters when their loss is the lowest so far."""
        canvases = canvases_of(self.held_out, self.config, VALIDATION, 1)
        bits = self.model.loss(canvases) / math.log(2)
        if self.progress.best_bits is None or bits < self.progress.best_bits:
            self.progress.best_bits, self.progress.best_step = bits, self.progress.step
            self.best[...] = self.model.params.flat
        found = quality(self.model, canvases)
        return {"validation": bits, **found._asdict()}, f"held out {bits:.4f} bits per word, {found}"

    def save(self) -> None:
        """Write the checkpoint."""
        if self.progress.best_bits is None:
            self.best[...] = self.model.params.flat
        content: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "progress": dataclasses.asdict(self.progress),
        }
        archive.save(self.checkpoint, PROGRAM, content, self.model.params, self.best, self.adam, {})


def unseen(config: CaptionsConfig, count: int = TEST) -> Canvases:
    """Canvases of digits that neither training nor validation has met."""
    return canvases_of(load()[2], config, count, 2)


def train(training: Training, *, log: str | None = None, quiet: bool = False) -> int:
    """Run a training to its end or to Ctrl-C, telling how it goes on standard error.

    Parameters
    ----------
    training : Training
    log : str, optional
        Path of a file to which one line of JSON per step and per validation is appended.
    quiet : bool
        Say nothing but the result.

    Returns
    -------
    int
        0, or 130 after Ctrl-C; the checkpoint has been written either way.
    """
    config = training.config
    parameters = sum(a.size for a in training.model.params.views.values())
    header = (
        f"canvases of {config.height} x {config.width}, {len(training.digits.labels)} digits to learn from; "
        f"{config.hidden} {config.cell}, {parameters} parameters, {config.steps} steps"
    )
    ran = run(training, header, log=log, quiet=quiet)
    summary(training, ran)
    return INTERRUPTED if ran.interrupted else 0


def summary(training: Training, ran: Ran) -> None:
    """The last lines, with the best model's captions of the test canvases."""
    progress, path = training.progress, os.fspath(training.checkpoint)
    if ran.steps:
        rate = ran.steps / ran.seconds
        print(f"{ran.steps} steps in {ran.seconds:.1f} s, validation included: {rate:.1f} per s")
    if ran.interrupted:
        print(f"interrupted after step {progress.step} of {training.config.steps}; {path} is written")
        print(f"resume with: pyrnn captions --resume --checkpoint {path}")
        return
    print(f"best: {progress.best_bits:.4f} bits per held-out word, after step {progress.best_step}")
    found = quality(Checkpoint(path).model(), unseen(training.config))
    print(f"test: {found}, {TEST} canvases")
    print(f"{path} is written; look with: pyrnn captions show --checkpoint {path} --plot captions.png")
