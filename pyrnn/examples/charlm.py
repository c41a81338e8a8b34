# SPDX-License-Identifier: Apache-2.0
"""Training of the character-level language model: schedule, validation, progress, checkpoints, Ctrl-C."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from pyrnn.examples.charmodel import CharModel
from pyrnn.examples.checkpoint import Checkpoint, Progress, save_checkpoint
from pyrnn.examples.config import Config
from pyrnn.examples.optim import Adam
from pyrnn.examples.text import Alphabet, Windows, read_text, split

#: Exit code of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


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

    Raises
    ------
    ValueError, OSError
        The text or the checkpoint cannot be used; the message says why.
    """

    def __init__(self, config: Config, text: str | None, checkpoint: str | os.PathLike[str]) -> None:
        if not os.access(os.path.dirname(os.path.abspath(checkpoint)), os.W_OK):  # sooner than after a minute
            raise ValueError(f"{os.fspath(checkpoint)}: expected a folder that can be written to")
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

    def rate(self, step: int) -> float:
        """The learning rate before `step`: a short rise, then half a cosine down to zero."""
        warm = min(1.0, (step + 1) / (1 + self.config.steps // 20))
        return self.config.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def advance(self) -> float:
        """One step; returns the loss of its window in bits per character, before the update."""
        loss, state = self.model.gradients(*self.windows[self.progress.step], self.state)
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss} at step {self.progress.step}; a lower --rate may help")
        self.adam.step(
            self.model.params.flat, self.model.grads.flat, self.rate(self.progress.step), self.config.clip
        )
        self.state = state
        self.progress.step += 1
        return loss / math.log(2)

    def validate(self) -> float:
        """Bits per character of the held-out text; remembers the parameters when they are the best so far."""
        bits = self.model.bits_per_character(self.held_out)
        if self.progress.best_bits is None or bits < self.progress.best_bits:
            self.progress.best_bits, self.progress.best_step = bits, self.progress.step
            self.best[...] = self.model.params.flat
        return bits

    def exhausted(self) -> bool:
        """Whether so many validations in a row brought nothing better that it is time to stop."""
        waited = self.progress.step - self.progress.best_step
        return 0 < self.config.patience * self.config.every <= waited

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
    config, progress = training.config, training.progress
    with (
        contextlib.ExitStack() as stack,
        interruption() as stop,
        blas_threads(1),
    ):
        lines: TextIO | None = stack.enter_context(open(log, "a", encoding="utf-8")) if log else None
        report = stack.enter_context(contextlib.closing(Report(training, quiet)))
        began, first = time.perf_counter(), progress.step
        while progress.step < config.steps and not stop.is_set():
            bits = training.advance()
            record(lines, step=progress.step, bits=bits)
            report.step(bits)
            if progress.step % config.every == 0 or progress.step == config.steps:
                validation = training.validate()
                record(lines, step=progress.step, validation=validation)
                training.save()
                report.validation(bits, validation)
                if training.exhausted():
                    break
        seconds = time.perf_counter() - began
        training.save()
    interrupted = stop.is_set() and progress.step < config.steps
    summary(training, seconds, (progress.step - first) * config.batch * config.length, interrupted)
    return INTERRUPTED if interrupted else 0


def blas_threads(n: int) -> contextlib.AbstractContextManager[object]:
    """Limit the threads of NumPy's products, where threadpoolctl is installed.

    OpenBLAS's threads go on spinning for a while after a product, on cores that the recurrent layers need.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(n, "blas")
    return limits


def summary(training: Training, seconds: float, characters: int, interrupted: bool) -> None:
    """The last lines."""
    progress, path = training.progress, os.fspath(training.checkpoint)
    if progress.best_bits is not None:
        print(f"best: {progress.best_bits:.4f} bits per held-out character, after step {progress.best_step}")
    if characters:
        rate = characters / seconds
        print(f"{characters} characters in {seconds:.1f} s, validation included: {rate:.0f} per s")
    if interrupted:
        print(f"interrupted after step {progress.step} of {training.config.steps}; {path} is written")
        print(f"resume with: pyrnn charlm --resume --checkpoint {path}")
    else:
        print(f"{path} is written; sample with: pyrnn charlm sample --checkpoint {path}")


class Report:
    """Progress on standard error: a bar when tqdm is installed and a person is looking, else plain lines."""

    def __init__(self, training: Training, quiet: bool) -> None:
        self._training, self._quiet, self._bar = training, quiet, None
        self._rate, self._last = 0.0, time.perf_counter()
        config, step = training.config, training.progress.step
        if not quiet and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

                self._bar = tqdm(total=config.steps, initial=step, unit="step", dynamic_ncols=True)
        parameters = sum(a.size for a in training.model.params.views.values())
        self.line(
            f"{config.layers} x {config.hidden} {config.cell}, {parameters} parameters, "
            f"{len(training.alphabet)} different characters, {config.steps} steps, "
            f"{training.epoch_steps:.0f} steps per epoch"
        )

    def step(self, bits: float) -> None:
        """After every step."""
        now = time.perf_counter()
        rate = self._training.config.batch * self._training.config.length / (now - self._last)
        self._rate += (0.1 if self._rate else 1) * (rate - self._rate)
        self._last = now
        if self._bar is not None:
            self._bar.set_postfix_str(f"{bits:.3f} bits, {self._rate:.0f} char/s", refresh=False)
            self._bar.update()

    def validation(self, bits: float, validation: float) -> None:
        """After every validation."""
        progress = self._training.progress
        best = " (best)" if progress.best_step == progress.step else ""
        self.line(
            f"step {progress.step}: training {bits:.3f}, held out {validation:.4f} bits per character{best}, "
            f"{self._rate:.0f} characters per s"
        )
        self._last = time.perf_counter()

    def line(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def record(lines: TextIO | None, **values: float) -> None:
    """Append a line of JSON; numbers are written so that they read back exactly."""
    if lines is not None:
        lines.write(json.dumps(values) + "\n")
        lines.flush()


@contextlib.contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, to finish the step in hand; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return

    def set_once(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, set_once)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
