# SPDX-License-Identifier: Apache-2.0
"""Training of the character-level language model."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from pyrnn.examples.charmodel import CharModel
from pyrnn.examples.checkpoint import Checkpoint, Progress, save_checkpoint
from pyrnn.examples.config import Config
from pyrnn.examples.running import INTERRUPTED, Ran, check_folder, descend, exhausted, run
from pyrnn.examples.text import Alphabet, Windows, read_text, split
from pyrnn.optim import Adam


class Training:
    """A training that can stop after any step and go on later as if it had not.

    Parameters
    ----------
    config : Config
    text : str, optional
        Path of a UTF-8 file; the default text when None.
    checkpoint : path
        Written at every validation and at the end.

    Attributes
    ----------
    model : CharModel
    progress : Progress
    unit : str
        What the speed is counted in.

    Raises
    ------
    ValueError, OSError
        The text or the checkpoint cannot be used; the message says why.
    """

    unit = "characters"

    def __init__(self, config: Config, text: str | None, checkpoint: str | os.PathLike[str]) -> None:
        check_folder(checkpoint)
        self.config, self.checkpoint = config, checkpoint
        self.progress = Progress(text=None if text is None else os.path.abspath(text))
        content = self._read()
        self.alphabet = Alphabet(content)
        self._prepare(content)
        self.model = CharModel(len(self.alphabet), config)
        self.best = self.model.params.flat.copy()
        self.adam = Adam(self.best.size)
        self.state: Any = None

    @classmethod
    def resume(cls, checkpoint: str | os.PathLike[str], text: str | None = None) -> Training:
        """Go on with a checkpoint; `text` is needed only when the file has moved since.

        Raises
        ------
        ValueError, OSError
            The checkpoint cannot be used, or the text is not the one it was trained on.
        """
        self = cls.__new__(cls)
        loaded = Checkpoint(checkpoint)
        self.config, self.progress, self.alphabet, self.checkpoint = (
            loaded.config,
            loaded.progress,
            loaded.alphabet,
            checkpoint,
        )
        expected = self.progress.text_sha256
        if text is not None:
            self.progress.text = os.path.abspath(text)
        content = self._read()
        if self.progress.text_sha256 != expected:
            name = self.progress.text or "the default text of this Python"
            raise ValueError(f"{name}: expected the text that the checkpoint was trained on, got another")
        self._prepare(content)
        self.model, self.best, self.adam, self.state = loaded.training()
        return self

    def _read(self) -> str:
        content = read_text(self.progress.text)
        self.progress.text_sha256 = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return content

    def _prepare(self, content: str) -> None:
        train, self.held_out = split(self.alphabet.encode(content))
        self.windows = Windows(train, self.config.batch, self.config.length)
        self.epoch_steps = len(train) / (self.config.batch * self.config.length)
        if len(self.held_out) < 2:
            raise ValueError(f"expected a text of at least 20 characters, got {len(content)}")

    def advance(self) -> float:
        """One step; returns the loss of its window in bits per character, before the update."""
        loss, state = self.model.gradients(*self.windows[self.progress.step], self.state)
        bits = descend(self, self.model.params, self.model.grads, loss)
        self.state = state
        return bits

    def validate(self) -> float:
        """Bits per character of the held-out text; remembers the parameters when they are the best so far."""
        bits = self.model.bits_per_character(self.held_out)
        if self.progress.best_bits is None or bits < self.progress.best_bits:
            self.progress.best_bits, self.progress.best_step = bits, self.progress.step
            self.best[...] = self.model.params.flat
        return bits

    def exhausted(self) -> bool:
        """Whether so many validations in a row brought nothing better that it is time to stop."""
        return exhausted(self)

    def validation(self) -> tuple[dict[str, float], str]:
        """`validate` for the log, and in words."""
        bits = self.validate()
        return {"validation": bits}, f"held out {bits:.4f} bits per character"

    @property
    def units(self) -> int:
        """Characters of a step."""
        return self.config.batch * self.config.length

    def save(self) -> None:
        """Write the checkpoint."""
        if self.progress.best_bits is None:
            self.best[...] = self.model.params.flat
        save_checkpoint(
            self.checkpoint,
            self.config,
            self.progress,
            self.alphabet,
            self.model,
            self.best,
            self.adam,
            self.state,
        )


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
        f"{config.layers} x {config.hidden} {config.cell}, {parameters} parameters, "
        f"{len(training.alphabet)} different characters, {config.steps} steps, "
        f"{training.epoch_steps:.0f} steps per epoch"
    )
    ran = run(training, header, log=log, quiet=quiet)
    summary(training, ran)
    return INTERRUPTED if ran.interrupted else 0


def summary(training: Training, ran: Ran) -> None:
    """The last lines."""
    progress, path = training.progress, os.fspath(training.checkpoint)
    if progress.best_bits is not None:
        print(f"best: {progress.best_bits:.4f} bits per held-out character, after step {progress.best_step}")
    characters = ran.steps * training.units
    if characters:
        rate = characters / ran.seconds
        print(f"{characters} characters in {ran.seconds:.1f} s, validation included: {rate:.0f} per s")
    if ran.interrupted:
        print(f"interrupted after step {progress.step} of {training.config.steps}; {path} is written")
        print(f"resume with: pyrnn charlm --resume --checkpoint {path}")
    else:
        print(f"{path} is written; sample with: pyrnn charlm sample --checkpoint {path}")
