# SPDX-License-Identifier: Apache-2.0
"""What every program that trains does around its steps: validation, progress, log, checkpoints, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TextIO

from pyrnn.blas import blas_threads
from pyrnn.optim import FlatBuffer

#: Exit code of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


class Plan(Protocol):
    """The options that every training has."""

    @property
    def steps(self) -> int:
        """Updates."""

    @property
    def every(self) -> int:
        """Steps between validations."""

    @property
    def patience(self) -> int:
        """Validations without a better one before it stops; 0 for never."""


class Place(Protocol):
    """Where a training stands."""

    step: int
    best_bits: float | None
    best_step: int


class Trainable(Protocol):
    """A training that can stop after any step.

    Attributes
    ----------
    unit : str
        What its speed is counted in: characters, examples.
    units : int
        How many of them a step has.
    """

    unit: str

    @property
    def config(self) -> Plan:
        """The options."""

    @property
    def progress(self) -> Place:
        """Where it stands."""

    @property
    def units(self) -> int:
        """How many of `unit` a step has."""

    def advance(self) -> float:
        """One step; its loss in bits per character."""

    def validation(self) -> tuple[Mapping[str, float], str]:
        """What the held-out examples say: for the log, and in words."""

    def save(self) -> None:
        """Write the checkpoint."""


class Ran(NamedTuple):
    """How a run went."""

    seconds: float
    steps: int
    interrupted: bool


def run(training: Trainable, header: str, *, log: str | None = None, quiet: bool = False) -> Ran:
    """Train to the end or to Ctrl-C, telling how it goes on standard error.

    Parameters
    ----------
    training : Trainable
    header : str
        What is trained, in a line.
    log : str, optional
        Path of a file to which one line of JSON per step and per validation is appended.
    quiet : bool
        Say nothing.

    Returns
    -------
    Ran
        The checkpoint has been written, whether interrupted or not.
    """
    config, progress = training.config, training.progress
    with contextlib.ExitStack() as stack, interruption() as stop, blas_threads(1):
        lines: TextIO | None = stack.enter_context(open(log, "a", encoding="utf-8")) if log else None
        report = stack.enter_context(contextlib.closing(Report(training, header, quiet)))
        began, first = time.perf_counter(), progress.step
        while progress.step < config.steps and not stop.is_set():
            bits = training.advance()
            record(lines, step=progress.step, bits=bits)
            report.step(bits)
            if progress.step % config.every == 0 or progress.step == config.steps:
                values, words = training.validation()
                record(lines, step=progress.step, **values)
                training.save()
                report.validation(bits, words)
                if exhausted(training):
                    break
        seconds = time.perf_counter() - began
        training.save()
    return Ran(seconds, progress.step - first, stop.is_set() and progress.step < config.steps)


def exhausted(training: Trainable) -> bool:
    """Whether so many validations in a row brought nothing better that it is time to stop."""
    waited = training.progress.step - training.progress.best_step
    return 0 < training.config.patience * training.config.every <= waited


def scheduled(rate: float, step: int, steps: int) -> float:
    """The learning rate before `step`: a short rise, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / (1 + steps // 20))
    return rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def descend(training: Any, params: FlatBuffer, grads: FlatBuffer, loss: float) -> float:
    """One update of a training with `config`, `progress` and `adam`; returns its loss in bits.

    Raises
    ------
    ArithmeticError
        The loss is not finite.
    """
    step, config = training.progress.step, training.config
    if not math.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss} at step {step}; a lower --rate may help")
    rate = scheduled(config.rate, step, config.steps)
    training.adam.step(params.flat, grads.flat, rate, config.clip)
    training.progress.step += 1
    return loss / math.log(2)


def check_folder(path: str | os.PathLike[str]) -> None:
    """ValueError when a file cannot be written there: sooner than after a minute of training."""
    if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise ValueError(f"{os.fspath(path)}: expected a folder that can be written to")


class Report:
    """Progress on standard error: a bar when tqdm is installed and a person is looking, else plain lines."""

    def __init__(self, training: Trainable, header: str, quiet: bool) -> None:
        self._training, self._quiet, self._bar = training, quiet, None
        self._measure: str = getattr(training, "measure", "bits")
        self._rate, self._last = 0.0, time.perf_counter()
        if not quiet and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

                self._bar = tqdm(
                    total=training.config.steps,
                    initial=training.progress.step,
                    unit="step",
                    dynamic_ncols=True,
                )
        self.line(header)

    def step(self, bits: float) -> None:
        """After every step."""
        now = time.perf_counter()
        rate = self._training.units / (now - self._last)
        self._rate += (0.1 if self._rate else 1) * (rate - self._rate)
        self._last = now
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{bits:.3f} {self._measure}, {self._rate:.0f} {self._training.unit}/s", refresh=False
            )
            self._bar.update()

    def validation(self, bits: float, words: str) -> None:
        """After every validation."""
        progress = self._training.progress
        best = " (best)" if progress.best_step == progress.step else ""
        self.line(
            f"step {progress.step}: training {bits:.3f}, {words}{best}, "
            f"{self._rate:.0f} {self._training.unit} per s"
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
