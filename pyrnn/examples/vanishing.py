# SPDX-License-Identifier: Apache-2.0
"""How long gradients are on their way back through time, before and after training: where they vanish."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyrnn.examples.config import GradientsConfig, VariantsConfig
from pyrnn.examples.sequencemodel import SequenceModel
from pyrnn.examples.tasks import Adding, Batch
from pyrnn.examples.variants import Comparison, Run, number
from pyrnn.layout import Array

#: Sequences that the lengths are the mean of.
SEQUENCES = 100
MOMENTS = ("at initialisation", "after training")


class Lengths(NamedTuple):
    """Of the gradients of a loss, through time: root mean square over the sequences.

    Attributes
    ----------
    states : array (states, T)
        |∂L/∂h_t|, then |∂L/∂c_t| where the cell has one, for t = 1 to T, divided by |∂L/∂h_T|.
    """

    states: Array

    @property
    def whole(self) -> Array:
        """Of the whole state (T,): √(|∂L/∂h_t|² + |∂L/∂c_t|²)."""
        found: Array = np.linalg.norm(self.states, axis=0)
        return found

    @property
    def per_step(self) -> float:
        """What is left of the whole after one step back: the geometric mean over all steps."""
        whole = self.whole
        return float((whole[0] / whole[-1]) ** (1 / (len(whole) - 1)))


def through_time(model: SequenceModel, batch: Batch) -> list[Array]:
    """Gradients of the mean loss by the states after every step, one backward for each.

    Parameters
    ----------
    model : SequenceModel
    batch : Batch

    Returns
    -------
    list of arrays (T, B, H)
        ∂L/∂h_t, and ∂L/∂c_t for a cell that has it: what a change of that state alone does to the loss.
    """
    layer, T, due = model.layer, len(batch.x), len(batch.targets)
    kept, outputs, state = [], [], None
    for t in range(T):
        y, state, saved = layer.forward(batch.x[t : t + 1], state)
        kept.append(saved)
        outputs.append(y)
    dy = model.outer(np.concatenate(outputs[-due:]), batch.targets)[2]
    count = len(state) if isinstance(state, tuple) else 1
    found = [np.zeros((T, *outputs[0].shape[1:]), outputs[0].dtype) for _ in range(count)]
    dstate: Any = [np.zeros_like(outputs[0]) for _ in range(count)]
    for t in reversed(range(T)):
        if t >= T - due:
            dstate[0] = dstate[0] + dy[t - T]
        for k in range(count):
            found[k][t] = dstate[k][0]
        before = layer.backward(kept[t], None, tuple(dstate) if count > 1 else dstate[0]).state
        dstate = list(before) if isinstance(before, tuple) else [before]
    return found


def lengths(model: SequenceModel, batch: Batch) -> Lengths:
    """In float64, in which a gradient may shrink by 300 orders of magnitude and still be seen."""
    exact = SequenceModel(model.layer.cell, model.task, model.layer.hidden_size, dtype="float64")
    exact.params.flat[...] = model.params.flat
    found = through_time(exact, Batch(batch.x.astype(np.float64), batch.targets))
    norms = np.stack([np.sqrt(np.mean(np.linalg.norm(g, axis=2) ** 2, axis=1)) for g in found])
    return Lengths(norms / (norms[0, -1] or 1.0))


class Vanishing(Comparison):
    """Cells trained on the adding problem, with the lengths of their gradients before and after.

    Parameters
    ----------
    cells : sequence of str
    config : GradientsConfig
    out : path, optional

    Attributes
    ----------
    moments : dict of dicts
        `Lengths` by cell, at initialisation and after training; the latter of those that have ended.
    """

    def __init__(
        self, cells: Sequence[str], config: GradientsConfig, out: str | os.PathLike[str] | None = None
    ) -> None:
        options = VariantsConfig(seeds=1, **dataclasses.asdict(config))
        super().__init__(cells, Adding(options), options, out)
        self.shown = Batch(self.held_out.x[:, :SEQUENCES], self.held_out.targets[:, :SEQUENCES])
        before = {}
        for cell in self.cells:
            run = Run(cell, config.seed, self.hidden[cell], self.task, self.held_out, options)
            before[cell] = lengths(run.model, self.shown)
        self.moments: dict[str, dict[str, Lengths]] = {MOMENTS[0]: before, MOMENTS[1]: {}}

    def finish(self, run: Run) -> None:
        """Its gradients, unless it has diverged."""
        if not run.diverged:
            self.moments[MOMENTS[1]][run.cell] = lengths(run.model, self.shown)

    def report(self) -> dict[str, Any]:
        """The comparison's, and the lengths."""
        return super().report() | {
            "gradients": {
                moment: {
                    cell: {
                        "per_step": number(found.per_step),
                        **{f"d{name}": row.tolist() for name, row in zip("hc", found.states, strict=False)},
                    }
                    for cell, found in cells.items()
                }
                for moment, cells in self.moments.items()
            }
        }


def table(vanishing: Vanishing) -> list[str]:
    """Lengths at five steps, for each cell, before and after, with what one step back leaves."""
    T = vanishing.options.length
    steps = [1, *(round(T * k / 4) for k in (1, 2, 3)), T - 1]
    width = max(map(len, vanishing.cells)) + 3
    lines = []
    for moment, cells in vanishing.moments.items():
        if cells:
            columns = "".join(f"{f't = {t}':>10}" for t in steps)
            lines.append(f"{moment}, |∂L/∂h_t| / |∂L/∂h_T|{columns:>{width + 10 * len(steps) - 27}}")
        for cell, found in cells.items():
            for name, row in zip("hc", found.states, strict=False):
                values = "".join(f"{row[t - 1]:>10.1e}" for t in steps)
                lines.append(f"{f'{cell} {name}':<{width}}{values}")
    return lines


def seen(vanishing: Vanishing) -> list[str]:
    """A line for each cell that says what the plot shows."""
    before, after = (vanishing.moments[moment] for moment in MOMENTS)
    lines = []
    for cell in vanishing.cells:
        words = [f"{cell}: a step back leaves {share(before[cell])} of the gradient at initialisation"]
        error = next((r.error for r in vanishing.results if r.cell == cell), math.nan)
        if cell in after:
            words.append(f"{share(after[cell])} after training, to an error of {error:.4f}")
        lines.append(", ".join(words))
    return lines


def share(found: Lengths) -> str:
    """What a step leaves, and how many halve it."""
    rate = found.per_step
    if 0 < rate < 0.999:
        return f"{rate:.3f} (half in {math.log(0.5) / math.log(rate):.1f} steps)"
    return f"{rate:.3f}"
