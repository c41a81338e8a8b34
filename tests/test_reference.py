# SPDX-License-Identifier: Apache-2.0
"""Link 1 of the chain of trust: the reference's backward against complex steps of its forward."""

import numpy as np
import pytest
from problems import CELLS, OPTIONS, Problem, active, options, varied
from tolerances import COMPLEX_STEP, float32_bound, l2_error

from pyrnn import reference
from pyrnn.reference.cells import registry


@pytest.mark.parametrize(
    ("cell", "kind", "num_layers", "bidirectional"), varied(OPTIONS, (1, 2), (False, True))
)
def test_complex_step(cell, bidirectional, num_layers, kind):
    chosen = options(kind, 4, 3, np.random.Generator(np.random.Philox(7)))
    reference.gradcheck(
        cell,
        time=4,
        batch=3,
        bidirectional=bidirectional,
        num_layers=num_layers,
        tolerance=COMPLEX_STEP,
        **chosen,
    )


@pytest.mark.parametrize("cell", CELLS)
def test_complex_step_with_dropout(cell):
    reference.gradcheck(cell, num_layers=3, bidirectional=True, dropout=0.4, tolerance=COMPLEX_STEP)


@pytest.mark.parametrize("cell", CELLS)
def test_complex_step_without_bias_and_state(cell):
    reference.gradcheck(cell, bias=False, initial_state=False, tolerance=COMPLEX_STEP)


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck_sees_a_wrong_derivative(cell, monkeypatch):
    right = registry[cell]

    class Wrong(right):
        @classmethod
        def backward(cls, save, s, p, ds):
            da, ds_old, dp = right.backward(save, s, p, ds)
            return tuple(d * (1 + 1e-9) for d in da), ds_old, dp

    monkeypatch.setitem(registry, cell, Wrong)
    with pytest.raises(ArithmeticError, match=rf"{cell}: gradient of .*: expected .* by complex step, got"):
        reference.gradcheck(cell, tolerance=COMPLEX_STEP)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_what_the_cell_saves_first(cell):
    assert len(registry[cell].gate_names) <= registry[cell].saved


@pytest.mark.parametrize("kind", ["lengths", "mask", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_has_no_influence(cell, kind):
    problem = Problem(cell, num_layers=2, directions=2, kind=kind)
    clean = problem.run(reference)
    idle = ~active(problem.T, problem.B, problem.options)
    assert idle.any()
    problem.x[idle] = np.nan
    problem.dy[idle] = np.inf
    padded = problem.run(reference)
    for name, value in clean.items():
        assert np.array_equal(value, padded[name]), name
    assert not padded["y"][idle].any()
    assert not padded["dx"][idle].any()


@pytest.mark.parametrize("cell", CELLS)
def test_computes_in_float32(cell):
    problem = Problem(cell, num_layers=2, directions=2, kind="all")
    exact = problem.run(reference)
    single = Problem(cell, num_layers=2, directions=2, kind="all", dtype=np.float32).run(reference)
    for name, value in exact.items():
        assert single[name].dtype == np.float32
        assert l2_error(single[name], value) <= float32_bound(problem.T), name
