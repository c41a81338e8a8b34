# SPDX-License-Identifier: Apache-2.0
"""Options of layers by the CUDA kernels, emulated on the host, against the reference."""

import numpy as np
import pytest
from emulation import emulation
from option_problems import CASES, draw, solve
from tolerances import FLOAT64, float32_bound, l2_error, max_error

from pyrnn import _core, reference

#: Cells and options that the CUDA kernels have.
ON_CUDA = [
    case
    for case, (cell, _, call) in CASES.items()
    if cell not in ("indrnn_relu", "lstm_gate_recurrence")
    and call.get("recurrent_dropout_kind") != "candidate"
]


@pytest.fixture(scope="module", autouse=True)
def library(emulated_library):
    """The emulated library, open."""
    _core.cuda_close()
    _core.cuda_open(str(emulated_library))
    yield
    _core.cuda_close()


@pytest.mark.parametrize("case", ON_CUDA)
def test_float64(case):
    """With the states of every step and gradients that come in through them."""
    problem = draw(case)
    expected = solve(reference, problem)
    for name, a in solve(emulation(), problem).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize(
    ("case", "tier"),
    [
        *(("heads", "grid"), ("heads", "stepwise"), ("heads many", "automatic"), ("sum", "grid")),
        *(("heads before", "automatic"), ("curves", "automatic"), ("all", "automatic")),
    ],
)
def test_float32(case, tier):
    """A kernel a step, all steps in one, or several kernels a step."""
    result, wanted = solve(emulation(tier=tier), draw(case, np.float32)), solve(reference, draw(case))
    for group in ("y", "states", "dx", "dweight"):
        names = [name for name in result if name.startswith(group)]
        a, e = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, wanted))
        assert l2_error(a, e) <= 4 * float32_bound(5), group


def test_no_step_of_several_kernels_in_the_grid_tier():
    with pytest.raises(RuntimeError, match="tier"):
        solve(emulation(tier="grid"), draw("cell_norm", np.float32))


def test_padding_has_no_influence():
    """Nor has NaN there, on what is normalised, projected and summed over all steps."""
    problem = draw("cell_norm open", directions=1)
    arguments, (dy, _, dstates) = problem
    active = np.arange(5)[:, None] < arguments["lengths"]
    active = active & arguments["mask"]
    clean = solve(emulation(), problem)
    arguments["x"][~active], dy[~active] = np.nan, np.inf
    for states in dstates:
        states[:, ~active] = np.nan
    for name, a in solve(emulation(), problem).items():
        assert np.array_equal(a, clean[name]), name
