# SPDX-License-Identifier: Apache-2.0
"""This build against another wheel of the library: ratios of times, and whether anything is slower."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from pyrnn.bench.grid import Case
from pyrnn.bench.processes import start
from pyrnn.bench.timing import Pace, quartiles

SCRIPT = Path(__file__).with_name("contender.py")


def installed(wheel: str, folder: str) -> Path:
    """Unpack a wheel into a folder, which can be imported from then.

    Raises
    ------
    OSError, ValueError
        There is no such file, or it is no wheel of this library for this Python.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile:
        raise ValueError(f"{wheel}: expected a wheel") from None
    if not list(Path(folder).glob(f"pyrnn/_core*{sys.implementation.cache_tag}*")) and not list(
        Path(folder).glob("pyrnn/_core*abi3*")
    ):
        raise ValueError(f"{wheel}: expected a wheel of pyrnn for {sys.implementation.cache_tag}")
    return Path(folder)


class Contender:
    """A process that has imported one build.

    Raises
    ------
    ValueError
        The process has imported another one, as an editable installation makes it, or none.
    """

    def __init__(self, threads: int, package: Path | None) -> None:
        pipe = subprocess.PIPE
        self.process = start([str(SCRIPT)], threads, package, stdin=pipe, stdout=pipe)
        assert self.process.stdout
        file = self.process.stdout.readline().strip()
        if not file or (package and package.resolve() not in Path(file).resolve().parents):
            self.__exit__()
            raise ValueError(f"expected to import pyrnn from {package or 'here'}, got {file or 'an error'}")

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.stdin and self.process.stdout:
            self.process.stdin.close()
            self.process.stdout.close()
        self.process.wait()

    def seconds(self, case: Case, batch: float) -> float:
        """Seconds of a call.

        Raises
        ------
        ValueError
            The build cannot do it, or its process ended.
        """
        lengths = None if case.lengths is None else case.lengths.tolist()
        request = json.dumps({"case": {**asdict(case), "lengths": lengths}, "batch": batch})
        assert self.process.stdin and self.process.stdout
        print(request, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with code {self.process.wait()}"}
        if "error" in answer:
            raise ValueError(answer["error"])
        return float(answer["seconds"])


def rounds(
    ours: Contender, other: Contender, case: Case, pace: Pace, count: int
) -> list[tuple[float, float]]:
    """Seconds of both in rounds, every other one in the opposite order."""
    found = []
    for turn in range(count):
        taken = {}
        for build in (ours, other) if turn % 2 == 0 else (other, ours):
            time.sleep(pace.rest)
            taken[build] = build.seconds(case, pace.batch)
        found.append((taken[ours], taken[other]))
    return found


def slower(samples: Sequence[tuple[float, float]], threshold: float) -> bool:
    """Whether this build's median exceeds the other's by the threshold, and the rounds agree.

    They do when three of four have a ratio above one: a machine that falls asleep for a round proves nothing.
    """
    mine, theirs = (median(taken) for taken in zip(*samples, strict=True))
    return mine > threshold * theirs and quartiles([a / b for a, b in samples])[0] > 1


def compare(
    cases: Sequence[Case],
    other: Path,
    threads: int,
    pace: Pace,
    threshold: float,
    say: Callable[[str], None] = print,
) -> list[Case]:
    """Print a line for each case; those in which this build is slower.

    What seems slower is measured again in twice as many rounds, and must be slower in all of them together.
    """
    worse = []
    with Contender(threads, None) as ours, Contender(threads, other) as theirs:
        for case in cases:
            samples = rounds(ours, theirs, case, pace, pace.rounds)
            if slower(samples, threshold):
                samples += rounds(ours, theirs, case, pace, 2 * pace.rounds)
                if slower(samples, threshold):
                    worse.append(case)
            a, b = (median(taken) for taken in zip(*samples, strict=True))
            low, _, high = quartiles([x / y for x, y in samples])
            verdict = f"  slower by more than {threshold:g}" if case in worse else ""
            say(
                f"{case}: {1e6 * a:,.1f} µs, the other {1e6 * b:,.1f} µs, ratio {a / b:.3f} "
                f"({low:.3f} to {high:.3f} between the quartiles){verdict}"
            )
    say(f"{len(cases) - len(worse)} of {len(cases)} are no slower than {threshold:g} times the other build")
    return worse
