# SPDX-License-Identifier: Apache-2.0
"""The command line of `pyrnn bench`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrnn.bench.grid import Case

DESCRIPTION = """Time layers against every other library that is installed, on the same numbers and as many
threads, in rounds that alternate, and against what this machine can do at the most. Every result is compared
with a float64 reference before it is timed."""

EPILOG = """Leave the machine alone meanwhile: what else runs on it is in the figures. Without options four
sizes of three cells take some minutes; --full takes hours. Ctrl-C leaves the rows measured so far in the JSON
file. Lists: --cell lstm,rnn --threads 1,2 --peers pytorch,onnxruntime --shapes 64,8,128,128 50,64,256,256.
With --against the exit code is 1 where this build is slower than the other wheel's."""


def add_bench(commands: Any) -> None:
    """Add the command to the commands of `pyrnn`."""
    bench = commands.add_parser(
        "bench",
        help="time layers against other libraries, the machine's limits, or another build",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    bench.set_defaults(run=run_bench, prog=bench.prog)
    bench.add_argument("--cell", metavar="NAMES", help="default: lstm,gru,rnn_tanh")
    bench.add_argument(
        "--form", metavar="NAMES", help="of plain, bidirectional, stacked, lengths; default: plain"
    )
    bench.add_argument("--mode", metavar="NAMES", help="of inference, training, stream; default: all")
    bench.add_argument("--compute", metavar="NAMES", help="of float32, bfloat16, int8; default: float32")
    bench.add_argument("--threads", metavar="N", help="default: every CPU available")
    bench.add_argument("--shapes", metavar="T,B,I,H", nargs="+", help="default: four; all with --full")
    bench.add_argument("--peers", metavar="NAMES", help="or none; default: those installed")
    bench.add_argument("--rounds", metavar="N", type=int, help="batches of each library; default: 5")
    bench.add_argument("--json", metavar="FILE", help="write every sample there, row by row")
    bench.add_argument("--plot", metavar="FOLDER", help="write the roofline and the ratios as pictures there")
    bench.add_argument("--figures", metavar="FILE", help="report on this JSON file and measure nothing")
    bench.add_argument("--against", metavar="WHEEL", help="compare with this wheel of pyrnn and nothing else")
    factor = "ratio of times from which --against fails; default: %(default)s"
    bench.add_argument("--threshold", metavar="X", type=float, default=1.1, help=factor)
    size = bench.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="seconds, to see that all works")
    size.add_argument(
        "--full", action="store_true", help="the whole grid: every size, form and kind of number"
    )


def run_bench(options: argparse.Namespace) -> int:
    """Measure, or read, and report."""
    from pyrnn.bench.figures import Figures
    from pyrnn.bench.report import report

    if options.figures:
        figures = Figures.read(options.figures)
        print(report(figures), end="")
        if options.plot:
            draw(figures, options.plot)
        return 0
    if options.against:
        return run_against(options)
    if options.plot:
        from pyrnn.examples.plots import figure

        figure(1, 1)  # what is missing for a plot is said before hours of measuring, not after
    if options.json:
        return measured(options, options.json)
    with tempfile.TemporaryDirectory() as folder:
        return measured(options, os.path.join(folder, "figures.json"))


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the options name."""
    from pyrnn import cells
    from pyrnn.bench import grid

    def words(option: str, known: Any, default: Any) -> list[str]:
        text = getattr(options, option)
        return (
            list(default)
            if text is None
            else grid.parse_words(option, text, list(known), {"rnn": "rnn_tanh"})
        )

    names = words("cell", cells(), grid.CELLS)
    modes = words("mode", grid.MODES, grid.MODES)
    forms = words("form", grid.FORMS, grid.FORMS if options.full else grid.FORMS[:1])
    computes = words("compute", grid.COMPUTE, grid.COMPUTE if options.full else ["float32"])
    if options.shapes:
        shapes = [grid.parse_shape(text) for text in options.shapes]
    elif options.full:
        return grid.full(names, forms, modes, computes)
    else:
        shapes = list(grid.QUICK if options.quick else grid.SHORT)
    found = list(grid.cases(names, forms, modes, computes, shapes))
    if not found:
        raise ValueError(
            "nothing to measure: a stream is plain or stacked, and some sizes are for some cells only"
        )
    return found


def pace_of(options: argparse.Namespace) -> Any:
    """How thoroughly is measured."""
    from dataclasses import replace

    from pyrnn.bench.timing import QUICK, Pace

    pace = QUICK if options.quick else Pace()
    if options.rounds is not None:
        if options.rounds < 1:
            raise ValueError(f"--rounds: expected at least 1, got {options.rounds}")
        pace = replace(pace, rounds=options.rounds)
    return pace


def threads_of(options: argparse.Namespace) -> list[int]:
    """The numbers of threads."""
    from pyrnn import _core

    most = _core.available_cpus()
    if options.threads is None:
        return [most]
    try:
        numbers = [int(word) for word in options.threads.split(",")]
    except ValueError:
        raise ValueError(f"--threads: expected numbers as in 1,2, got {options.threads!r}") from None
    if not all(1 <= number <= most for number in numbers):
        raise ValueError(f"--threads: expected 1 to {most}, the CPUs available, got {options.threads}")
    return numbers


def measured(options: argparse.Namespace, path: str) -> int:
    """Measure into a file and print the report, also of what there is after Ctrl-C."""
    from pyrnn.bench import figures, processes
    from pyrnn.bench.grid import parse_words
    from pyrnn.bench.peers import PEERS, missing
    from pyrnn.bench.report import report
    from pyrnn.bench.session import Plan

    names = list(PEERS)
    if options.peers is not None:
        names = (
            []
            if options.peers == "none"
            else parse_words("peers", options.peers, names, {"torch": "pytorch"})
        )
    lacking = missing(names)
    plans = [
        Plan(os.path.abspath(path), threads, chosen(options), [name for name in names if name not in lacking],
             options.peers is not None, pace_of(options))
        for threads in threads_of(options)
    ]  # fmt: skip
    start = figures.Figures(["pyrnn", *sys.argv[1:]], figures.machine(), figures.versions(), lacking)
    start.write(path)
    for name, reason in lacking.items():
        print(f"{name}: {reason}")
    try:
        for plan in plans:
            processes.measure(plan)
    finally:
        found = figures.Figures.read(path)
        if found.rows:
            print("\n" + report(found), end="", flush=True)
    if options.plot:
        draw(found, options.plot)
    return 1 if any("pyrnn" in row.errors for row in found.rows) else 0


def draw(figures: Any, folder: str) -> None:
    """Write the pictures and say where."""
    from pyrnn.bench.plots import plots

    for path in plots(figures, Path(folder)):
        print(path)


def run_against(options: argparse.Namespace) -> int:
    """Compare with another wheel; 1 if anything is slower."""
    from pyrnn.bench.against import compare, installed

    if not options.threshold >= 1:
        raise ValueError(f"--threshold: expected a number from 1, got {options.threshold}")
    with tempfile.TemporaryDirectory() as folder:
        other = installed(options.against, folder)
        slower = compare(chosen(options), other, threads_of(options)[0], pace_of(options), options.threshold)
    return 1 if slower else 0
