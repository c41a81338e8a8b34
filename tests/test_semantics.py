# SPDX-License-Identifier: Apache-2.0
"""What lengths, masks, resets, directions and stacking mean, said in terms of plain single sequences."""

import numpy as np
import pytest
from problems import CELLS, Problem, named
from tolerances import FLOAT64, max_error

from pyrnn import functional, reference

ENGINES = pytest.mark.parametrize("engine", [reference, functional], ids=["reference", "kernels"])
EVERY_CELL = pytest.mark.parametrize("cell", CELLS)


def of_row(state, b):
    """The state of one row, without its batch axis."""
    return tuple(s[:, b] for s in state) if isinstance(state, tuple) else state[:, b]


def assert_states(actual, expected):
    for (name, a), e in zip(named("state", actual).items(), named("state", expected).values(), strict=True):
        assert max_error(a, e) <= FLOAT64, name


@ENGINES
@EVERY_CELL
@pytest.mark.parametrize("directions", [1, 2])
def test_a_row_with_a_length_is_that_row_alone(engine, cell, directions):
    p = Problem(cell, T=6, num_layers=2, directions=directions, kind="lengths")
    y, state = engine.sequence(cell, p.x, p.state, p.params, **p.options)
    for b, length in enumerate(p.options["lengths"]):
        alone, final = engine.sequence(cell, p.x[:length, b], of_row(p.state, b), p.params)
        assert max_error(y[:length, b], alone) <= FLOAT64
        assert not y[length:, b].any()
        assert_states(of_row(state, b), final)


@ENGINES
@EVERY_CELL
@pytest.mark.parametrize("directions", [1, 2])
def test_a_masked_row_is_the_row_without_those_steps(engine, cell, directions):
    p = Problem(cell, T=6, num_layers=2, directions=directions, kind="mask")
    y, state = engine.sequence(cell, p.x, p.state, p.params, **p.options)
    for b in range(p.B):
        steps = p.options["mask"][:, b]
        alone, final = engine.sequence(
            cell, np.ascontiguousarray(p.x[steps, b]), of_row(p.state, b), p.params
        )
        assert max_error(y[steps, b], alone) <= FLOAT64
        assert not y[~steps, b].any()
        assert_states(of_row(state, b), final)


@ENGINES
@EVERY_CELL
@pytest.mark.parametrize("reset_to", ["zero", "initial"])
def test_a_reset_starts_again(engine, cell, reset_to):
    p = Problem(cell, T=7)
    resets = np.zeros((p.T, p.B), bool)
    resets[3] = True
    y, state = engine.sequence(cell, p.x, p.state, p.params, resets=resets, reset_to=reset_to)
    before, _ = engine.sequence(cell, p.x[:3], p.state, p.params)
    after, final = engine.sequence(cell, p.x[3:], p.state if reset_to == "initial" else None, p.params)
    assert max_error(y, np.concatenate([before, after])) <= FLOAT64
    assert_states(state, final)


@ENGINES
@EVERY_CELL
def test_a_skipped_step_does_not_reset(engine, cell):
    p = Problem(cell, T=5)
    mask, resets = np.ones((p.T, p.B), bool), np.zeros((p.T, p.B), bool)
    mask[2], resets[2] = False, True
    y, _ = engine.sequence(cell, p.x, p.state, p.params, mask=mask, resets=resets)
    expected, _ = engine.sequence(cell, p.x, p.state, p.params, mask=mask)
    assert np.array_equal(y, expected)


@ENGINES
@EVERY_CELL
def test_the_reverse_direction_is_the_flipped_sequence(engine, cell):
    p = Problem(cell, directions=2)
    y, state = engine.sequence(cell, p.x, p.state, p.params)
    weights = {name.removesuffix("_reverse"): a for name, a in p.params.items() if name.endswith("_reverse")}
    initial = tuple(s[1:] for s in p.state) if isinstance(p.state, tuple) else p.state[1:]
    flipped, final = engine.sequence(cell, p.x[::-1], initial, weights)
    assert max_error(y[:, :, p.H :], flipped[::-1]) <= FLOAT64
    assert_states(tuple(s[1:] for s in state) if isinstance(state, tuple) else state[1:], final)


@ENGINES
@EVERY_CELL
def test_layers_read_the_outputs_of_the_layer_below(engine, cell):
    p = Problem(cell, num_layers=2, directions=2)
    y, _ = engine.sequence(cell, p.x, None, p.params)
    z = p.x
    for layer in range(2):
        names = [n for n in p.params if f"_l{layer}" in n]
        z, _ = engine.sequence(cell, z, None, {n.replace(f"_l{layer}", "_l0"): p.params[n] for n in names})
    assert np.array_equal(y, z)


@ENGINES
@EVERY_CELL
def test_the_state_of_a_row_of_length_zero_has_no_influence(engine, cell):
    p = Problem(cell, num_layers=2, directions=2, kind="lengths")
    assert p.options["lengths"][0] == 0
    clean = p.run(engine)
    for s in p.state if isinstance(p.state, tuple) else (p.state,):
        s[:, 0] = np.nan
    poisoned = p.run(engine)
    for name, value in clean.items():
        if name.startswith("state"):
            assert np.isnan(poisoned[name][:, 0]).all()
            assert np.array_equal(value[:, 1:], poisoned[name][:, 1:])
        else:
            assert np.array_equal(value, poisoned[name]), name


@ENGINES
@EVERY_CELL
def test_dropout_keeps_the_mean_and_its_mask(engine, cell):
    p = Problem(cell, T=40, B=50, num_layers=2)
    runs = [
        engine.sequence_forward(
            cell, p.x, None, p.params, dropout=0.3, rng=np.random.Generator(np.random.Philox(s))
        )
        for s in (1, 1, 2)
    ]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[0][0], runs[2][0])
    grads = [engine.sequence_backward(run[2], p.dy).params["weight_ih_l0"] for run in (runs[0], runs[0])]
    assert np.array_equal(*grads)
    dropped = runs[0][2].dropped[1]
    assert set(np.unique(dropped)) == {0, 1 / 0.7}
    assert abs(dropped.mean() - 1) < 5 * (0.3 / 0.7 / dropped.size) ** 0.5
