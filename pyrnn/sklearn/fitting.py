# SPDX-License-Identifier: Apache-2.0
"""Training of a network: batches, Adam, early stopping, a progress bar."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pyrnn.layout import Array
from pyrnn.optim import Adam
from pyrnn.sklearn.network import Loss, Network
from pyrnn.sklearn.sequences import Sequences


class Schedule(NamedTuple):
    """How a network is trained.

    Attributes
    ----------
    max_iter : int
        Most epochs.
    batch_size : int
    learning_rate : float
    clip : float
        The gradient's norm is limited to this; 0 leaves it.
    tol : float
    n_iter_no_change : int
        Epochs in a row that may bring the loss no lower by `tol`.
    verbose : bool
    """

    max_iter: int
    batch_size: int
    learning_rate: float
    clip: float
    tol: float
    n_iter_no_change: int
    verbose: bool


class Curves(NamedTuple):
    """Mean loss of each epoch, of what is trained on and of what is held out (empty: nothing is)."""

    training: list[float]
    validation: list[float]


def fit(
    network: Network,
    sequences: Sequences,
    targets: Array,
    loss: Loss,
    rows: Array,
    held_out: Callable[[], float] | None,
    schedule: Schedule,
    rng: np.random.RandomState,
) -> Curves:
    """Train on the sequences with the numbers `rows`.

    With `held_out`, the loss of what is held out, it decides when to stop, and the parameters of the epoch
    where it was lowest are put back in the end; without it the loss of training decides when to stop.

    Raises
    ------
    ValueError
        The loss or the gradient is not finite any more.
    """
    curves, adam = Curves([], []), Adam(network.params.flat.size)
    best, best_params, waited = math.inf, network.params.flat.copy(), 0
    with progress(schedule) as report:
        for _ in range(schedule.max_iter):
            order, total = rng.permutation(rows), 0.0
            for k in range(0, len(order), schedule.batch_size):
                batch = order[k : k + schedule.batch_size]
                value = network.gradients(*sequences.batch(batch), targets[batch], loss)
                total += value * len(batch)
                try:
                    adam.step(network.params.flat, network.grads.flat, schedule.learning_rate, schedule.clip)
                except ArithmeticError as error:
                    raise ValueError(f"learning_rate: expected a lower one, because {error}") from None
            curves.training.append(total / len(order))
            if held_out is not None:
                curves.validation.append(held_out())
            current = (curves.validation or curves.training)[-1]
            report(curves)
            waited = 0 if current < best - schedule.tol else waited + 1
            if current < best:
                best = current
                if held_out is not None:
                    best_params[...] = network.params.flat
            if waited >= schedule.n_iter_no_change:
                break
    if held_out is not None:
        network.params.flat[...] = best_params
    return curves


@contextlib.contextmanager
def progress(schedule: Schedule) -> Iterator[Callable[[Curves], None]]:
    """What to call after every epoch: a bar where tqdm is installed, else lines on standard error."""
    if not schedule.verbose:
        yield lambda curves: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda curves: print(f"epoch {len(curves.training)}: {words(curves)}", file=sys.stderr)
        return
    with tqdm(total=schedule.max_iter, unit="epoch") as bar:

        def report(curves: Curves) -> None:
            bar.set_postfix_str(words(curves), refresh=False)
            bar.update()

        yield report


def words(curves: Curves) -> str:
    """The losses of the last epoch."""
    held_out = f", held out {curves.validation[-1]:.4f}" if curves.validation else ""
    return f"loss {curves.training[-1]:.4f}{held_out}"
