# SPDX-License-Identifier: Apache-2.0
"""Attention and the decoder against PyTorch, eager and compiled: results are verified, then rounds alternate.

pytest benchmarks/test_attention.py --benchmark-json=attention.json
python benchmarks/report.py attention.json
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
from peers_attention import (
    CompiledAttention,
    DecoderCase,
    Pair,
    PyrnnAttention,
    PyrnnDecoder,
    TorchAttention,
    TorchDecoder,
)

from pyrnn import _core

THREADS = int(os.environ.get("PYRNN_BENCH_THREADS", _core.available_cpus()))
ROUNDS = int(os.environ.get("PYRNN_BENCH_ROUNDS", 5))
PAIRS = [
    Pair("additive", 128, 10, 128, 1024), Pair("additive", 32, 33, 34, 1024),
    Pair("additive", 32, 1, 50, 512), Pair("additive", 8, 200, 200, 256),
    Pair("dot", 8, 200, 200, 256), Pair("dot", 4, 512, 512, 512), Pair("dot", 4, 512, 512, 1024),
]  # fmt: skip
DECODERS = [DecoderCase(score, 32, 50, 50, 512) for score in ("additive", "general")]


def rows() -> list[object]:
    """Every (round, mode, case, peer), the peers innermost, so that they alternate."""
    work: list[tuple[str, Any, list[Any]]] = []
    for case in PAIRS:
        peers = [PyrnnAttention, TorchAttention]
        if case.score == "additive" and os.environ.get("PYRNN_BENCH_COMPILE", "1") == "1":
            peers.append(CompiledAttention)
        work += [(mode, case, peers) for mode in ("forward", "train")]
    work += [(mode, case, [PyrnnDecoder, TorchDecoder]) for case in DECODERS for mode in ("forward", "train")]
    return [
        pytest.param(r, mode, case, peer, id=f"{mode}-{'-'.join(map(str, case))}-{peer.name}-{r}")
        for mode, case, peers in work
        for r in range(ROUNDS)
        for peer in peers
    ]


@cache
def adapter(peer: type, case: Any) -> Any:
    return peer(case, THREADS)


@cache
def expected(mode: str, case: Any) -> dict[str, np.ndarray]:
    ours = PyrnnDecoder if isinstance(case, DecoderCase) else PyrnnAttention
    return {name: a.copy() for name, a in getattr(adapter(ours, case), mode)().items()}


@pytest.mark.parametrize(("round_", "mode", "case", "peer"), rows())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attention(benchmark, round_, mode, case, peer):
    run = getattr(adapter(peer, case), mode)
    if round_ == 0:
        result, wanted = run(), expected(mode, case)
        assert set(result) == set(wanted)
        for name, value in wanted.items():
            error = np.linalg.norm(result[name] - value) / np.linalg.norm(value)
            assert error < 1e-3, f"{name} differs by {error}"
    # The peers' thread pools spin on for a while after a call; none may do so while another is timed.
    time.sleep(0.15)
    run()
    start = time.perf_counter()
    run()
    repeats = max(1, int(0.05 / (time.perf_counter() - start)))
    benchmark.group = f"{mode} {' '.join(map(str, case))}"
    benchmark.extra_info.update(
        mode=mode, case=list(case), peer=peer.name, threads=THREADS, isa=_core.isa(), flops=case.flops(mode)
    )
    before = _core.fma_peak(THREADS, 0.02)
    benchmark.pedantic(run, rounds=3, iterations=repeats)
    benchmark.extra_info["peak"] = (before + _core.fma_peak(THREADS, 0.02)) / 2
