# SPDX-License-Identifier: Apache-2.0
"""Training of one model for each cell and seed on the same task, and the comparison of what came out."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import pyrnn
from pyrnn.examples.captions import Progress
from pyrnn.examples.config import VariantsConfig, one_of
from pyrnn.examples.running import check_folder, descend
from pyrnn.examples.sequencemodel import SequenceModel, hidden_for, weights_of
from pyrnn.examples.tasks import Batch, Task
from pyrnn.io.safetensors import write_atomically
from pyrnn.optim import Adam


class Result(NamedTuple):
    """What one training came to.

    Attributes
    ----------
    cell : str
    seed, hidden, weights : int
    error : float
        Held out, after the last update; NaN when the training diverged.
    seconds : float
        Of the updates, without the validations.
    step_seconds : float
        Median of one update.
    curve : list of (int, float)
        Held-out error after some updates.
    """

    cell: str
    seed: int
    hidden: int
    weights: int
    error: float
    seconds: float
    step_seconds: float
    curve: list[tuple[int, float]]


class Run:
    """The training of one cell from one seed.

    Parameters
    ----------
    cell : str
    seed, hidden : int
    task : Task
    held_out : Batch
    config : VariantsConfig

    Attributes
    ----------
    model : SequenceModel
    diverged : bool
        A loss or a gradient was no finite number; nothing is updated any more.
    """

    def __init__(
        self, cell: str, seed: int, hidden: int, task: Task, held_out: Batch, config: VariantsConfig
    ) -> None:
        self.cell, self.seed, self.task, self.held_out, self.config = cell, seed, task, held_out, config
        self.model = SequenceModel(cell, task, hidden, config.forget, seed)
        self.adam, self.progress = Adam(self.model.params.flat.size), Progress()
        self.state: Any = None
        self.diverged = False
        self.times: list[float] = []
        self.curve: list[tuple[int, float]] = []
        self._marks = {round(config.steps * k / config.points) for k in range(1, config.points + 1)}

    def advance(self) -> float:
        """One update; returns the error of its batch before it, NaN once the training has diverged."""
        if self.diverged:
            self.progress.step += 1
            return math.nan
        began = time.perf_counter()
        batch = self.task.batch(self.seed, self.progress.step)
        with np.errstate(over="ignore", invalid="ignore"):
            loss, state = self.model.gradients(batch, self.state if self.task.carries else None)
            try:
                descend(self, self.model.params, self.model.grads, loss)
            except ArithmeticError:
                self.diverged = True
                return self.advance()
        self.state = state
        self.times.append(time.perf_counter() - began)
        if self.progress.step in self._marks:
            self.curve.append((self.progress.step, self.error()))
        return loss * self.task.unit

    def error(self) -> float:
        """Of the held-out sequences."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.model.error(self.held_out)

    def result(self) -> Result:
        """What it came to."""
        error = math.nan if self.diverged else self.curve[-1][1]
        weights = weights_of(self.cell, self.task, self.model.layer.hidden_size)
        hidden, median = self.model.layer.hidden_size, float(np.median(self.times or [0.0]))
        return Result(self.cell, self.seed, hidden, weights, error, sum(self.times), median, self.curve)


class Plan(NamedTuple):
    """How long a comparison takes: all runs one after the other, a validation at the end of each."""

    steps: int
    every: int
    patience: int = 0


class Comparison:
    """Every cell trained from every seed; all cells from one seed before the next, so that none is ahead.

    Parameters
    ----------
    cells : sequence of str
    task : Task
    config : VariantsConfig
    out : path, optional
        JSON of all that is finished, written after each training.

    Attributes
    ----------
    results : list of Result
        Of the trainings that have ended.

    Raises
    ------
    ValueError
        An unknown cell, too few weights, or a file that cannot be written.
    """

    unit = "sequences"

    def __init__(
        self,
        cells: Sequence[str],
        task: Task,
        config: VariantsConfig,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        for cell in cells:
            one_of("cell", cell, pyrnn.cells())
        if out is not None:
            check_folder(out)
        self.cells, self.task, self.options, self.out = list(dict.fromkeys(cells)), task, config, out
        self.measure = task.measure
        self.hidden = {
            cell: hidden_for(cell, task, config.weights) if config.weights else config.hidden
            for cell in self.cells
        }
        self.config = Plan(len(self.cells) * config.seeds * config.steps, config.steps)
        self.progress = Progress(best_step=-1)  # no validation is marked as the best so far
        self.held_out = task.held_out()
        self.results: list[Result] = []
        self._runs = self._made()
        self._run = next(self._runs)

    def _made(self) -> Iterator[Run]:
        for seed in range(self.options.seed, self.options.seed + self.options.seeds):
            for cell in self.cells:
                yield Run(cell, seed, self.hidden[cell], self.task, self.held_out, self.options)

    @property
    def units(self) -> int:
        """Sequences of a step."""
        return self.options.batch

    def advance(self) -> float:
        """One update of the training in hand; returns the error of its batch."""
        if self._run.progress.step == self.options.steps:
            self._run = next(self._runs)
        self.progress.step += 1
        return self._run.advance()

    def validation(self) -> tuple[Mapping[str, float], str]:
        """The end of a training: its result is kept."""
        result = self._run.result()
        self.results.append(result)
        self.finish(self._run)
        found = "diverged" if math.isnan(result.error) else f"{result.error:.4f} {self.measure}"
        return {"error": number(result.error)}, f"{result.cell}, seed {result.seed}, held out {found}"

    def finish(self, run: Run) -> None:
        """Called at the end of each training, while its model is there."""

    def save(self) -> None:
        """Write what is finished."""
        if self.out is not None:
            write_json(self.out, self.report())

    def report(self) -> dict[str, Any]:
        """Options, task and results as plain values."""
        return {
            "config": dataclasses.asdict(self.options),
            "threads": pyrnn.num_threads(),
            "measure": self.measure,
            "baseline": self.task.baseline,
            "cells": [summary._asdict() for summary in self.summaries()],
        }

    def summaries(self) -> list[Summary]:
        """A row for each cell of which a training has ended, in the order in which they were named."""
        found = {cell: [r for r in self.results if r.cell == cell] for cell in self.cells}
        return [summarised(results, self.task) for results in found.values() if results]


class Summary(NamedTuple):
    """What the trainings of one cell came to.

    Attributes
    ----------
    cell : str
    hidden, weights : int
    errors : list of float
        Of each seed; None where the training diverged.
    mean, spread : float
        Mean and standard deviation (n - 1) of the errors that are numbers.
    solved : list of int
        Updates after which each seed's error was first seen below the task's threshold; None for never.
    seconds, step_seconds : float
        Mean time of a training's updates, and the median of one update.
    curves : list of lists of (int, float)
    """

    cell: str
    hidden: int
    weights: int
    errors: list[float | None]
    mean: float | None
    spread: float | None
    solved: list[int | None]
    seconds: float
    step_seconds: float
    curves: list[list[tuple[int, float | None]]]


def summarised(results: Sequence[Result], task: Task) -> Summary:
    """One cell's results together."""
    errors = [r.error for r in results if math.isfinite(r.error)]
    threshold = -math.inf if task.solved is None else task.solved
    return Summary(
        results[0].cell,
        results[0].hidden,
        results[0].weights,
        [number(r.error) for r in results],
        float(np.mean(errors)) if errors else None,
        float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0 if errors else None,
        [next((step for step, error in r.curve if error < threshold), None) for r in results],
        float(np.mean([r.seconds for r in results])),
        float(np.median([r.step_seconds for r in results])),
        [[(step, number(error)) for step, error in r.curve] for r in results],
    )


def number(value: float) -> Any:
    """A float, or None where JSON has no number."""
    return value if math.isfinite(value) else None


def table(comparison: Comparison) -> list[str]:
    """The lines of the comparison."""
    rows = [["cell", "units", "weights", "error", "spread", "solved", "after", "ms/update", "s"]]
    for s in comparison.summaries():
        reached = [step for step in s.solved if step is not None]
        diverged = s.errors.count(None)
        rows.append(
            [
                s.cell,
                str(s.hidden),
                str(s.weights),
                "diverged" if s.mean is None else f"{s.mean:.4f}",
                "" if s.spread is None else f"± {s.spread:.4f}" + f", {diverged} diverged" * (diverged > 0),
                f"{len(reached)} of {len(s.solved)}",
                f"{np.median(reached):.0f}" if reached else "-",
                f"{1e3 * s.step_seconds:.2f}",
                f"{s.seconds:.1f}",
            ]
        )
    if comparison.task.solved is None:
        rows = [row[:5] + row[7:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}"
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def conclusion(comparison: Comparison) -> str:
    """What the columns are."""
    task = comparison.task
    words = f"error: {task.measure}, {comparison.options.seeds} seeds; "
    words += f"without memory {task.baseline:.4f}"
    if task.solved is not None:
        words += f"; solved: below {task.solved:.4f}, after so many updates (median)"
    return words


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """The file is whole at any moment."""
    write_atomically(path, [(json.dumps(content, indent=1, allow_nan=False) + "\n").encode()])
