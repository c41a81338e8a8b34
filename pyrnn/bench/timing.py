# SPDX-License-Identifier: Apache-2.0
"""Calls timed in rounds that alternate, and what a sample of times says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True)
class Pace:
    """How thoroughly is measured.

    Attributes
    ----------
    rounds : int
        Batches of every contestant.
    rest : float
        Seconds before each batch, in which other libraries' threads stop spinning.
    batch : float
        Seconds that a batch lasts at the least.
    patience : float
        A call that takes more seconds is timed once, before the rounds.
    peak : float
        Seconds for each of the machine's peaks, before everything.
    """

    rounds: int = 5
    rest: float = 0.15
    batch: float = 0.02
    patience: float = 3.0
    peak: float = 0.2


#: To see that everything works.
QUICK = Pace(rounds=2, rest=0.02, batch=0.005, peak=0.03)


def repeats(call: Call, batch: float) -> tuple[int, float]:
    """How many calls make a batch, and the seconds that one takes: the faster of two, if one is no batch."""
    once = math.inf
    for _ in range(2):
        start = time.perf_counter()
        call()
        once = min(once, max(time.perf_counter() - start, 1e-9))
        if once > batch:
            break
    return max(1, round(batch / once + 0.5)), once


def timed(call: Call, count: int, rest: float) -> float:
    """Seconds of a call, the mean of a batch, after a rest and a call that is not looked at."""
    time.sleep(rest)
    call()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def alternate(
    calls: Mapping[str, Call], pace: Pace, around: Mapping[str, Call] | None = None
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Time everything in turns, every other round in the opposite order.

    Parameters
    ----------
    calls : callables by name
    pace : Pace
    around : callables by name
        Called before and after each batch of that name: what drifts with the machine is measured then.

    Returns
    -------
    seconds : for every name those of a call, one for each round
    readings : for every name in `around` pairs, one for each round
    """
    around = around or {}
    counts, once = {}, {}
    for name, call in calls.items():
        counts[name], once[name] = repeats(call, pace.batch)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    readings: dict[str, list[Any]] = {name: [] for name in around}
    for turn in range(pace.rounds):
        for name in list(calls) if turn % 2 == 0 else reversed(list(calls)):
            gauge = around.get(name)
            if once[name] > pace.patience and not gauge:
                seconds[name] = [once[name]]
                continue
            before = gauge() if gauge else None
            seconds[name].append(timed(calls[name], counts[name], pace.rest))
            if gauge:
                readings[name].append((before, gauge()))
    return seconds, readings


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, median(values), high
