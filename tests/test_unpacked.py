# SPDX-License-Identifier: Apache-2.0
"""Links 3 and 4 for calls of few entries, which read the weights as they lie."""

import numpy as np
import pytest
from problems import DISTINCT, FUSED, OPTIONS, Problem, active, varied
from tolerances import FLOAT64, float32_bound, l2_error, max_error

from pyrnn import functional, reference

AWKWARD = (1, 7, 8, 9, 15, 16, 17, 31, 33, 129)
#: (T, B): all of at most four entries, and the first that have more.
FEW = ((1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (4, 1), (1, 4), (1, 5), (5, 1))


#: One cell of each interface; those of several products of h have no such path.
INTERFACES = [cell for cell in DISTINCT if cell in FUSED]


def assert_float64(actual, expected):
    for name, value in expected.items():
        assert max_error(actual[name], value) <= FLOAT64, name


@pytest.mark.parametrize(("cell", "H", "bias"), varied(AWKWARD, (True, False), cells=INTERFACES))
def test_float64(cell, H, bias):
    """Units and inputs all awkward, and not the same."""
    for k, (T, B) in enumerate(FEW):
        inputs = AWKWARD[(AWKWARD.index(H) + k + 1) % len(AWKWARD)]
        problem = Problem(cell, T, B, inputs, H, 1, 1, bias, seed=k)
        assert_float64(problem.run(functional), problem.run(reference))


@pytest.mark.parametrize("cell", FUSED)
@pytest.mark.parametrize("kind", OPTIONS)
def test_options_stacks_and_directions(cell, kind):
    """Lengths and masks make a few entries of many steps."""
    few = 0
    for seed in range(6):
        for T, B in ((3, 1), (2, 2), (4, 2)):
            problem = Problem(cell, T, B, 9, 17, 2, 2, kind=kind, seed=seed)
            few += active(T, B, problem.options).sum() <= 4
            assert_float64(problem.run(functional), problem.run(reference))
    assert few >= 6


@pytest.mark.parametrize(("cell", "H", "few"), varied(AWKWARD, ((1, 1), (1, 4), (4, 1)), cells=INTERFACES))
def test_float32(cell, H, few):
    T, B = few
    single = Problem(cell, T, B, AWKWARD[-AWKWARD.index(H)], H, 2, 2, dtype=np.float32)
    result, expected = single.run(functional), single.exact().run(reference)
    for group in (("y", "state"), ("dx", "dstate"), ("dweight", "dbias")):
        names = [name for name in result if name.startswith(group)]
        actual, wanted = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, expected))
        assert l2_error(actual, wanted) <= float32_bound(T), group


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_peephole"])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_change_no_bit(cell, T, B, dtype, threads):
    """With enough units that the threads share them."""
    problem = Problem(cell, T, B, 400, 401, dtype=dtype)
    threads(1)
    once = problem.run(functional)
    for n in (2, 1, 3, 2):
        threads(n)
        for _ in range(10):
            for name, value in problem.run(functional).items():
                assert np.array_equal(value, once[name]), name


@pytest.mark.parametrize("cell", FUSED)
def test_what_is_not_there_is_not_read(cell):
    """Weights that end where memory of NaN begins; skipped steps of NaN."""
    problem = Problem(cell, 3, 1, 5, 19)
    expected = problem.run(functional)
    for name, value in problem.params.items():
        memory = np.full(value.size + 64, np.nan)
        memory[: value.size] = value.ravel()
        problem.params[name] = memory[: value.size].reshape(value.shape)
    for name, value in problem.run(functional).items():
        assert np.array_equal(value, expected[name]), name
    problem.options = {"mask": np.array([[True], [False], [True]])}
    problem.x[1] = 0
    expected = problem.run(functional)
    problem.x[1] = np.nan
    for name, value in problem.run(functional).items():
        assert np.array_equal(value, expected[name]), name


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_step_by_step_is_the_sequence(cell):
    """To rounding: sums of few entries have another order."""
    problem = Problem(cell, 12, 1, 40, 50)
    y, final, _ = functional.sequence_forward(cell, problem.x, problem.state, problem.params)
    state, steps = problem.state, []
    for x in problem.x:
        out, state, _ = functional.sequence_forward(cell, x[None], state, problem.params)
        steps.append(out)
    assert max_error(np.concatenate(steps), y) <= FLOAT64
    for a, e in zip(state, final, strict=True) if cell == "lstm" else [(state, final)]:
        assert max_error(a, e) <= FLOAT64
