# SPDX-License-Identifier: Apache-2.0
"""Layers against their peers: every result is verified, then rounds of all peers alternate.

pytest benchmarks --benchmark-json=layers.json && python benchmarks/report.py layers.json
"""

from __future__ import annotations

import os
import time
from functools import cache

import numpy as np
import pytest
from peers import Case, Problem, installed

import pyrnn.reference
from pyrnn import _core

THREADS = int(os.environ.get("PYRNN_BENCH_THREADS", _core.available_cpus()))
ROUNDS = int(os.environ.get("PYRNN_BENCH_ROUNDS", 5))
SIZES = [
    (64, 8, 128, 128), (64, 32, 128, 128), (50, 64, 256, 256),
    (100, 64, 512, 512), (25, 128, 1024, 1024), (35, 20, 200, 200),
]  # fmt: skip
CELLS = ["lstm", "gru", "rnn_tanh"]
STEPS = [32, 64, 128, 256, 512]


def rows() -> list[object]:
    """Every (round, mode, case, peer), the peers innermost, so that they alternate."""
    work = [(mode, Case(cell, *size)) for cell in CELLS for size in SIZES for mode in ("forward", "train")]
    work += [("step", Case("lstm", 1, 1, H, H)) for H in STEPS]
    return [
        pytest.param(r, mode, case, peer, id=f"{mode}-{'-'.join(map(str, case))}-{peer.name}-{r}")
        for mode, case in work
        for r in range(ROUNDS)
        for peer in installed()
        if mode != "train" or peer.trains
    ]


@cache
def problem(case: Case) -> Problem:
    return Problem(case)


@cache
def adapter(peer: type, case: Case) -> object:
    return peer(problem(case), THREADS)


@cache
def expected(mode: str, case: Case) -> object:
    """This library's first result, against the float64 reference where that takes seconds, not minutes."""
    ours = getattr(installed()[0](problem(case), THREADS), mode)()
    if mode == "forward" and case.flops < 1e9:
        params = {name: p.astype(np.float64) for name, p in problem(case).params.items()}
        y, _ = pyrnn.reference.sequence(case.cell, problem(case).x.astype(np.float64), None, params)
        np.testing.assert_allclose(ours, y, rtol=0, atol=2e-5)
    return {name: a.copy() for name, a in ours.items()} if isinstance(ours, dict) else ours.copy()


def verify(result: object, mode: str, case: Case) -> None:
    wanted = expected(mode, case)
    if not isinstance(wanted, dict):
        wanted, result = {"y": wanted}, {"y": result}
    assert set(result) == set(wanted)
    for name, value in wanted.items():
        error = np.linalg.norm(result[name] - value) / np.linalg.norm(value)
        assert error < 1e-4, f"{name} differs by {error}"


@pytest.mark.parametrize(("round_", "mode", "case", "peer"), rows())
def test_layer(benchmark, round_, mode, case, peer):
    run = getattr(adapter(peer, case), mode)
    if round_ == 0:
        verify(run(), mode, case)
    # The peers' thread pools spin on for a while after a call; none may do so while another is timed.
    time.sleep(0.15)
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    repeats = max(1, int(0.05 / seconds))
    benchmark.group = f"{mode} {' '.join(map(str, case))}"
    benchmark.extra_info.update(
        mode=mode, case=list(case), peer=peer.name, threads=THREADS, isa=_core.isa(),
        flops=case.flops * (3 if mode == "train" else 1),
    )  # fmt: skip
    # What a share of the peak refers to: nothing but multiply-adds, just before and after. A shared machine's
    # clock drifts by more than what there is to be seen.
    before = _core.fma_peak(THREADS, 0.02)
    benchmark.pedantic(run, rounds=3, iterations=repeats)
    benchmark.extra_info["peak"] = (before + _core.fma_peak(THREADS, 0.02)) / 2
