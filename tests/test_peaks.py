# SPDX-License-Identifier: Apache-2.0
"""The machine's limits as they are measured: plausible, and in the order that they must have."""

import numpy as np
import pytest

import pyrnn
from pyrnn import _core
from pyrnn.bench import peaks
from pyrnn.bench.grid import Case


def best(measure, *arguments):
    """The least disturbed of some short measurements."""
    return max(measure(*arguments) for _ in range(8))


def test_multiply_adds():
    """AVX512-BF16 takes a pair where a multiply-add takes one number, AVX512-VNNI four, as often at the most.

    More than that is a compiler that sees through the measurement; less is a machine with other work, which
    gets more rounds.
    """
    peak = dict.fromkeys(("float32", "float64", "bfloat16", "int8"), 0.0)
    for measured in range(300):
        peak = {dtype: max(best, _core.fma_peak(1, 0.001, dtype)) for dtype, best in peak.items()}
        single, double, half, eighth = peak.values()
        if measured >= 8 and single > 1.3 * double and 0.7 * single < half < 2.2 * single:
            break
    assert single > 1.3 * double
    assert 0.7 * single < half < 2.2 * single
    assert 0.2 * single < eighth < 4.4 * single
    assert 0.5 < double and single < 5000


def test_memory_is_slower_than_caches():
    near, far = (best(_core.read_bandwidth, 1, size, 0.005) for size in (16 << 10, 128 << 20))
    _core.release_memory()
    assert near > far > 0.1


@pytest.mark.parametrize("size", [1, 511, 513, 4097, 100_000])
def test_any_number_of_bytes_and_threads(size):
    assert all(_core.read_bandwidth(threads, size, 0.001) > 0 for threads in (1, 2, 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_footprints_lie_in_their_levels(threads):
    sizes = peaks.footprints(threads)
    assert list(sizes) == [*peaks.caches(), "memory"]
    assert [peaks.level_of(size, threads) for name, size in sizes.items() if name != "memory"] == list(
        peaks.caches()
    )
    assert list(sizes.values()) == sorted(sizes.values())


def test_caches_of_a_system(tmp_path):
    found = [(1, "Data", "48K", "0"), (1, "Instruction", "32K", "0"), (3, "Unified", "32768K", "0-1")]
    for index, words in enumerate(found):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, word in zip(("level", "type", "size", "shared_cpu_list"), words, strict=True):
            (folder / name).write_text(f"{word}\n")
    assert peaks.caches(tmp_path) == {"L1": (48 << 10, True), "L3": (32 << 20, False)}
    assert peaks.caches(tmp_path / "nothing") == peaks.COMMON


def test_limits():
    """Many sequences are bound by the multiply-adds, one step of a large layer by what is read."""
    assert peaks.limit(Case("lstm", 10, 64, 128, 128), 1, 0.002).by == "fma"
    assert peaks.limit(Case("lstm", 10, 64, 128, 128, compute="bfloat16"), 1, 0.002).by == "bfloat16"
    step = peaks.limit(Case("lstm", 1, 1, 1500, 1500, "stream"), 1, 0.002)
    assert step.by in peaks.caches() | {"memory": 0}
    assert 1e-6 < step.seconds < 1


@pytest.mark.parametrize(("cell", "numbers"), [("lstm", 5), ("gru", 4), ("rnn_tanh", 1)])
def test_bytes_kept_for_the_backward(cell, numbers):
    """At least the gates and states of every step; the arena has some rows more."""
    T, B, H = 50, 4, 64
    layer = pyrnn.Recurrent(cell, 16, H, seed=0)
    _, _, saved = layer.forward(np.zeros((T, B, 16), np.float32))
    kept = saved.passes[0].nbytes / (4 * T * B * H)
    assert numbers <= kept < 2 * numbers + 2
