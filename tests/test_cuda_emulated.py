# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' own source, emulated thread by thread on the host, against the reference.

What this shows: indices, fragments, the cell's surroundings, the order of launches. What it cannot: races of
the hardware, and speed.
"""

import numpy as np
import pytest
from emulation import emulation
from problems import DISTINCT, FUSED, ON_CUDA, OPTIONS, Problem, varied
from tolerances import FLOAT64, float32_bound, l2_error, max_error

from pyrnn import _core, reference

#: Every one of `FUSED` has its own test; an emulated step takes its time.
EVERY_CELL = pytest.mark.parametrize("cell", [cell for cell in DISTINCT if cell in FUSED])
#: T, B, I, H, layers, directions: single elements, whole tiles, ends of tiles.
SIZES = [
    (1, 1, 1, 1, 1, 2),
    (5, 3, 4, 6, 2, 2),
    (3, 17, 33, 17, 1, 2),
    (3, 37, 8, 33, 1, 1),
    (2, 2, 65, 64, 1, 1),
]


@pytest.fixture(scope="module", autouse=True)
def library(emulated_library):
    """The emulated library, open."""
    _core.cuda_close()
    _core.cuda_open(str(emulated_library))
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


@pytest.mark.parametrize("cell", ON_CUDA)
def test_every_cell(cell):
    problem = Problem(cell, *SIZES[1], kind="all")
    expected = problem.run(reference)
    for name, a in problem.run(emulation()).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@EVERY_CELL
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
@pytest.mark.parametrize("kind", ["plain", "lengths", "all"])
@pytest.mark.parametrize("sizes", SIZES[1:4], ids=str)
def test_float32(cell, kind, sizes, tier):
    """Three TF32 products are as good as float32's own, a kernel a step or all steps in one."""
    problem = Problem(cell, *sizes, kind=kind, dtype=np.float32)
    expected = problem.run(reference)
    for name, a in problem.run(emulation(tier=tier)).items():
        assert a.dtype == np.float32
        assert l2_error(a, expected[name]) <= 2 * float32_bound(problem.T), name


#: Drawn masks, the shares without training, masks of nothing and of everything.
REGULARIZED = {
    "zoneout": {"zoneout": 0.3},
    "dropout": {"recurrent_dropout": 0.4},
    "step": {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "step", "zoneout": 0.2},
    "expected": {"zoneout": 0.3, "recurrent_dropout": 0.5, "training": False},
    "certain": {"zoneout": 1.0, "recurrent_dropout": 1.0},
}


@pytest.mark.parametrize(
    ("cell", "kind", "tier", "sizes", "options"),
    varied(
        tuple(REGULARIZED),
        ("float64", "stepwise", "grid"),
        SIZES[1:4],
        ("plain", "all"),
        cells=[cell for cell in DISTINCT if cell in FUSED],
    ),
)
def test_masks_of_training(cell, kind, tier, sizes, options):
    """Those of the CPU, forward and backward, whichever kernels run."""
    problem = Problem(cell, *sizes, kind=options, dtype=np.float64 if tier == "float64" else np.float32)
    module = emulation() if tier == "float64" else emulation(tier=tier)
    found, expected = (
        p.run(m, rng=np.random.Generator(np.random.Philox(5)), **REGULARIZED[kind])
        for p, m in ((problem, module), (problem.exact(), reference))
    )
    bound = FLOAT64 if tier == "float64" else 2 * float32_bound(problem.T)
    for name, a in found.items():
        assert l2_error(a, expected[name]) <= bound, name


@pytest.mark.parametrize(
    ("cell", "kind", "masks", "sizes", "dtype"),
    varied(
        OPTIONS,
        (None, "step", "certain"),
        SIZES,
        (np.float32, np.float64),
        cells=[cell for cell in DISTINCT if cell in ON_CUDA and cell not in FUSED],
    ),
)
def test_late_slots(cell, kind, masks, sizes, dtype):
    """Cells whose last products wait for what their first ones make: two kernels a step."""
    problem = Problem(cell, *sizes, kind=kind, dtype=dtype)
    found, expected = (
        p.run(m, rng=np.random.Generator(np.random.Philox(5)), **REGULARIZED.get(masks, {}))
        for p, m in ((problem, emulation()), (problem.exact(), reference))
    )
    bound = FLOAT64 if dtype is np.float64 else 2 * float32_bound(problem.T)
    for name, a in found.items():
        assert l2_error(a, expected[name]) <= bound, name


def rounded_to_tf32(a):
    """The nearest numbers with ten bits of mantissa."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


@EVERY_CELL
def test_tf32(cell):
    """Ten bits of mantissa: worse than float32, and not much worse than that.

    The reference reads x and weights rounded alike: sLSTM's gradients of n and m jump where its max changes
    sides, which the rounding decides (of the reference itself it moves dx by 0.17, and y by 2e-4).
    """
    problem = Problem(cell, 5, 9, 12, 20, dtype=np.float32)
    found, exact = problem.run(emulation(precision="tf32")), problem.run(reference)
    problem.x = rounded_to_tf32(problem.x)
    problem.params = {n: rounded_to_tf32(a) if "weight" in n else a for n, a in problem.params.items()}
    expected = problem.run(reference)
    for name, a in found.items():
        assert l2_error(a, expected[name]) <= 4 * 2.0**-11, name
    assert l2_error(found["y"], exact["y"]) > float32_bound(5)


@EVERY_CELL
@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
def test_inference_is_the_same(cell, kind, tier):
    p = Problem(cell, 6, 5, 4, 9, 2, 2, kind=kind, dtype=np.float32)
    module = emulation(tier=tier)
    y, state = module.sequence(cell, p.x, p.state, p.params, **p.options)
    kept_y, kept_state, _ = module.sequence_forward(cell, p.x, p.state, p.params, **p.options)
    assert np.array_equal(y, kept_y)
    for a, b in zip(
        state if isinstance(state, tuple) else (state,),
        kept_state if isinstance(kept_state, tuple) else (kept_state,),
        strict=True,
    ):
        assert np.array_equal(a, b)


@EVERY_CELL
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
def test_padding_has_no_influence(cell, tier):
    problem = Problem(cell, 6, 9, 8, 17, 2, 2, kind="all", dtype=np.float32)
    module = emulation(tier=tier)
    idle = ~np.broadcast_to(problem.options.get("mask", True), (6, 9))
    if "lengths" in problem.options:
        idle = idle | (np.arange(6)[:, None] >= problem.options["lengths"])
    clean = problem.run(module)
    problem.x[idle] = np.nan
    problem.dy[idle] = np.inf
    for name, a in problem.run(module).items():
        assert np.array_equal(a, clean[name]), name
    assert not clean["y"][idle].any() and not clean["dx"][idle].any()


@EVERY_CELL
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(cell, T, B):
    problem = Problem(cell, T, B, num_layers=2, directions=2)
    expected = problem.run(reference)
    for name, a in problem.run(emulation()).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@EVERY_CELL
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
def test_nan_arrives(cell, tier):
    """A NaN that is computed is no sign of a word that was not written: the exchange goes on."""
    problem = Problem(cell, 4, 3, 3, 9, dtype=np.float32)
    problem.x[1, 0] = -np.float32(np.nan)
    result = problem.run(emulation(tier=tier))
    assert np.isnan(result["y"][1:, 0]).all() and np.isfinite(result["y"][:, 1:]).all()


def test_a_tier_that_does_not_fit_is_refused():
    problem = Problem("lstm", 2, 2, 3, 9)
    with pytest.raises(RuntimeError, match="tier"):
        problem.run(emulation(tier="grid"))  # float64 has no tensor cores
