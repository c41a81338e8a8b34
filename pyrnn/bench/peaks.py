# SPDX-License-Identifier: Apache-2.0
"""The machine's own limits, measured in the same run: multiply-adds, and reads of each level of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pyrnn import _core
from pyrnn.bench.grid import COMPUTE, Case

SYSTEM_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
#: Where the system does not tell: common sizes. Bytes by level, and whether each core has its own.
COMMON = {"L1": (32 << 10, True), "L2": (1 << 20, True), "L3": (32 << 20, False)}
MOST_READ = 256 << 20


class Limit(NamedTuple):
    """The time that a case takes at the least, and what decides it."""

    seconds: float
    by: str


def caches(folder: Path = SYSTEM_CACHES) -> dict[str, tuple[int, bool]]:
    """Bytes of the caches for data, by level, and whether each core has its own."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size, shared = (
                (index / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = (int(size[:-1]) << 10, int(level) < 3 or shared == "0")
    return found or COMMON


def footprints(threads: int) -> dict[str, int]:
    """Bytes that lie in each level and not in the one before, for so many threads that each read a part."""
    sizes = {name: size * (threads if own else 1) for name, (size, own) in caches().items()}
    chosen, before = {}, 0
    for name, size in sizes.items():
        chosen[name] = min(max(size // 2, min(2 * before, size)), MOST_READ)
        before = size
    chosen["memory"] = min(8 * before, MOST_READ)
    return chosen


def level_of(footprint: int, threads: int) -> str:
    """The level that holds so many bytes."""
    for name, (size, own) in caches().items():
        if footprint <= size * (threads if own else 1):
            return name
    return "memory"


def machine(threads: int, seconds: float) -> dict[str, Any]:
    """GFLOP/s of multiply-adds and GB/s of reads, the best of three measurements each."""

    def best(measure: Any, *arguments: Any) -> float:
        return max(float(measure(threads, *arguments)) for _ in range(3))

    peaks: dict[str, Any] = {
        "GFLOP/s": {c.peak: best(_core.fma_peak, seconds / 3, c.peak) for c in COMPUTE.values()},
        "footprint": footprints(threads),
    }
    peaks["GB/s"] = {
        name: best(_core.read_bandwidth, size, seconds / 3) for name, size in peaks["footprint"].items()
    }
    _core.release_memory()
    return peaks


def limit(case: Case, threads: int, seconds: float = 0.01) -> Limit:
    """Measure now what the case needs at the least: its operations at the peak, or its weights, step by step.

    The two go on at once, so the longer one counts. Weights are read from wherever as many bytes fit.
    """
    peak = COMPUTE[case.compute].peak
    computing = case.flops / (float(_core.fma_peak(threads, seconds, peak)) * 1e9)
    bandwidth = float(_core.read_bandwidth(threads, min(case.footprint, MOST_READ), seconds)) * 1e9
    reading = case.bytes_read / bandwidth
    if computing >= reading:
        return Limit(computing, "fma" if peak == "float32" else peak)
    return Limit(reading, level_of(case.footprint, threads))
