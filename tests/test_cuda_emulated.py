# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' own source, emulated thread by thread on the host, against the reference.

What this shows: indices, fragments, the cell's surroundings, the order of launches. What it cannot: races of
the hardware, and speed.
"""

import numpy as np
import pytest
from cuda_library import build_emulation
from emulation import emulation
from problems import CELLS, OPTIONS, Problem
from tolerances import FLOAT64, float32_bound, l2_error, max_error

from pyrnn import _core, reference

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)
#: T, B, I, H, layers, directions: single elements, whole tiles, ends of tiles.
SIZES = [
    (1, 1, 1, 1, 1, 2),
    (5, 3, 4, 6, 2, 2),
    (3, 17, 33, 17, 1, 2),
    (3, 70, 8, 33, 1, 1),
    (2, 2, 65, 64, 1, 1),
]


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory):
    """The emulated library, open."""
    _core.cuda_close()
    _core.cuda_open(str(build_emulation(tmp_path_factory.mktemp("cuda"))))
    yield
    _core.cuda_close()


def test_it_is_the_emulation():
    assert _core.cuda_devices() == ["emulation"]
    assert _core.cuda_host_memory()


@EVERY_CELL
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float64(cell, kind, sizes):
    problem = Problem(cell, *sizes, kind=kind)
    expected = problem.run(reference)
    for name, a in problem.run(emulation()).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@EVERY_CELL
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES[1:4], ids=str)
def test_float32(cell, kind, sizes):
    """Three TF32 products are as good as float32's own."""
    problem = Problem(cell, *sizes, kind=kind, dtype=np.float32)
    expected = problem.run(reference)
    for name, a in problem.run(emulation()).items():
        assert a.dtype == np.float32
        assert l2_error(a, expected[name]) <= 2 * float32_bound(problem.T), name


@EVERY_CELL
def test_tf32(cell):
    """Ten bits of mantissa: worse than float32, and not much worse than that."""
    problem = Problem(cell, 5, 9, 12, 20, dtype=np.float32)
    expected = problem.run(reference)
    for name, a in problem.run(emulation(precision="tf32")).items():
        assert l2_error(a, expected[name]) <= 4 * 2.0**-11, name
    assert l2_error(problem.run(emulation(precision="tf32"))["y"], expected["y"]) > float32_bound(5)


@EVERY_CELL
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_inference_is_the_same(cell, kind):
    p = Problem(cell, 6, 5, 4, 9, 2, 2, kind=kind)
    y, state = emulation().sequence(cell, p.x, p.state, p.params, **p.options)
    kept_y, kept_state, _ = emulation().sequence_forward(cell, p.x, p.state, p.params, **p.options)
    assert np.array_equal(y, kept_y)
    for a, b in zip(
        state if isinstance(state, tuple) else (state,),
        kept_state if isinstance(kept_state, tuple) else (kept_state,),
        strict=True,
    ):
        assert np.array_equal(a, b)


@EVERY_CELL
@pytest.mark.parametrize("kind", ["lengths", "mask", "all"])
def test_padding_has_no_influence(cell, kind):
    problem = Problem(cell, 6, 9, 8, 17, 2, 2, kind=kind)
    idle = ~np.broadcast_to(problem.options.get("mask", True), (6, 9))
    if "lengths" in problem.options:
        idle = idle | (np.arange(6)[:, None] >= problem.options["lengths"])
    clean = problem.run(emulation())
    problem.x[idle] = np.nan
    problem.dy[idle] = np.inf
    for name, a in problem.run(emulation()).items():
        assert np.array_equal(a, clean[name]), name
    assert not clean["y"][idle].any() and not clean["dx"][idle].any()


@EVERY_CELL
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(cell, T, B):
    problem = Problem(cell, T, B, num_layers=2, directions=2)
    expected = problem.run(reference)
    for name, a in problem.run(emulation()).items():
        assert max_error(a, expected[name]) <= FLOAT64, name
