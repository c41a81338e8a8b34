# SPDX-License-Identifier: Apache-2.0
"""Measures the rows of one number of threads, as the program of a process that has as many processors.

Libraries fix their pools at their first use, some by the number of processors alone; hence a process for
each number of threads. The JSON file is written after every row: whatever ends a run, its rows are there.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from pyrnn.bench import peaks
from pyrnn.bench.figures import Figures, Row
from pyrnn.bench.grid import Case
from pyrnn.bench.peers import OURS, PEERS, Peer
from pyrnn.bench.problem import STREAM_STEPS, Problem, Wrong
from pyrnn.bench.timing import Pace, alternate


@dataclass(frozen=True)
class Plan:
    """What a process is told.

    Attributes
    ----------
    path : str
        The JSON file, there already; rows are added to it.
    threads : int
    cases : list of Case
    peers : list of str
        Names in PEERS.
    asked : bool
        Whether they were named on the command line: those that take part by name alone do then.
    pace : Pace
    """

    path: str
    threads: int
    cases: list[Case]
    peers: list[str]
    asked: bool
    pace: Pace

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Plan:
        """From JSON."""
        fields = json.loads(text)
        cases = [Case(**case) for case in fields.pop("cases")]
        return cls(cases=cases, pace=Pace(**fields.pop("pace")), **fields)


def contestants(case: Case, peers: Iterable[str], asked: bool) -> list[type[Peer]]:
    """This library and the peers that have the case."""
    return [OURS, *(p for p in map(PEERS.__getitem__, peers) if p.takes(case) and (asked or p.invited(case)))]


def prepared(kind: type[Peer], problem: Problem, threads: int) -> Peer:
    """An adapter whose result has been compared with the reference.

    Raises
    ------
    Wrong
        The result differs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about their own insides
        peer = kind(problem, threads)
        ran: Any = None
        for _ in range(STREAM_STEPS if problem.case.mode == "stream" else 1):
            ran = peer.run()
        problem.verify(peer.result(ran))
    return peer


def measure(case: Case, kinds: Iterable[type[Peer]], threads: int, pace: Pace) -> Row:
    """Verify and time a case. What cannot be prepared, or is wrong, is an error of the row, and not timed."""
    problem, row = Problem(case), Row(case, threads)
    ready: dict[str, Peer] = {}
    for kind in kinds:
        try:
            ready[kind.name] = prepared(kind, problem, threads)
        except Exception as error:  # whatever another library raises: the others go on
            first = (str(error).strip().splitlines() or [""])[0]
            row.errors[kind.name] = first if isinstance(error, Wrong) else f"{type(error).__name__}: {first}"
    around = {OURS.name: lambda: peaks.limit(case, threads)} if OURS.name in ready else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row.seconds, readings = alternate({name: peer.run for name, peer in ready.items()}, pace, around)
    for before, after in readings.get(OURS.name, []):
        row.limits.append(min(before, after).seconds)
        row.by = before.by
    if case.mode == "training" and OURS.name in ready:
        row.saved_bytes = ready[OURS.name].saved_bytes()  # type: ignore[attr-defined]
    return row


def line_of(row: Row) -> str:
    """A row as it appears while the run goes on."""
    words = []
    for name, taken in row.seconds.items():
        middle = median(taken)
        if name == OURS.name:
            share = f" ({100 * median(row.shares):.0f} % of {row.by})" if row.shares else ""
            words.append(f"{name} {1e6 * middle:,.1f} µs{share}")
        else:
            words.append(f"{name} {middle / row.ours:.2f}×" if row.ours else f"{name} {1e6 * middle:,.1f} µs")
    words += [f"{name}: {error}" for name, error in row.errors.items()]
    return f"{row.case}, {row.threads} thread{'s' * (row.threads > 1)}: " + ", ".join(words)


def run(plan: Plan, say: Callable[[str], None]) -> None:
    """Measure every case of the plan and add the rows to its file."""
    figures = Figures.read(plan.path)
    figures.peaks[str(plan.threads)] = peaks.machine(plan.threads, plan.pace.peak)
    figures.write(plan.path)
    for number, case in enumerate(plan.cases, 1):
        figures.rows.append(measure(case, contestants(case, plan.peers, plan.asked), plan.threads, plan.pace))
        figures.write(plan.path)
        gc.collect()  # compiled functions hold their adapters, and those the row's arrays, in cycles
        say(f"[{number}/{len(plan.cases)}] {line_of(figures.rows[-1])}")


def main() -> int:
    """Run the plan that stands in the input; 130 after Ctrl-C."""
    try:
        run(Plan.of(sys.stdin.read()), lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
