# SPDX-License-Identifier: Apache-2.0
"""Layers against their peers through pytest-benchmark: the cases, adapters and checks of `pyrnn bench`.

pytest benchmarks --benchmark-json=layers.json && python benchmarks/report.py layers.json
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from pyrnn import _core
from pyrnn.bench import grid, peaks
from pyrnn.bench.grid import Case
from pyrnn.bench.peers import PEERS, missing
from pyrnn.bench.problem import Problem
from pyrnn.bench.session import contestants, prepared
from pyrnn.bench.timing import Pace, repeats, timed

THREADS = int(os.environ.get("PYRNN_BENCH_THREADS", _core.available_cpus()))
ROUNDS = int(os.environ.get("PYRNN_BENCH_ROUNDS", 5))
SIZES = [
    (64, 8, 128, 128), (64, 32, 128, 128), (50, 64, 256, 256),
    (100, 64, 512, 512), (25, 128, 1024, 1024), (35, 20, 200, 200),
]  # fmt: skip


def rows() -> list[object]:
    """Every (round, case, peer), the peers innermost, so that they alternate."""
    work = [
        *grid.cases(grid.CELLS, ["plain"], ["inference", "training"], ["float32"], SIZES),
        *grid.cases(["lstm"], ["plain"], ["stream"], ["float32"], grid.STREAMS),
    ]
    installed = [name for name in PEERS if name not in missing(PEERS)]
    return [
        pytest.param(r, case, peer, id=f"{str(case).replace(' ', '-')}-{peer.name}-{r}")
        for case in work
        for r in range(ROUNDS)
        for peer in contestants(case, installed, False)
    ]


@cache
def problem(case: Case) -> Problem:
    return Problem(case)


@cache
def adapter(peer: type, case: Case) -> object:
    return prepared(peer, problem(case), THREADS)


@pytest.mark.parametrize(("round_", "case", "peer"), rows())
@pytest.mark.filterwarnings("ignore")  # of libraries about their own insides
def test_layer(benchmark, round_, case, peer):
    run = adapter(peer, case).run
    count, _ = repeats(run, Pace.batch)
    benchmark.group = str(case)
    benchmark.extra_info.update(
        mode=case.mode, case=[case.cell, *case.shape], peer=peer.name, threads=THREADS, isa=_core.isa()
    )
    before = peaks.limit(case, THREADS)
    timed(run, 1, Pace.rest)
    benchmark.pedantic(run, rounds=3, iterations=count)
    after = peaks.limit(case, THREADS)
    benchmark.extra_info.update(limit=min(before, after).seconds, by=before.by)
