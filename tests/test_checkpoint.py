# SPDX-License-Identifier: Apache-2.0
"""Backwards that compute the steps between kept states once more: the same bits, a fraction of the memory."""

import numpy as np
import pytest
from problems import CELLS, Problem

import pyrnn
from pyrnn import _core, functional, reference

#: Enough pairs of step and sequence for several chunks of the backward, with and without every option.
LONG = {"T": 90, "B": 60, "I": 3, "H": 9, "kind": "all"}


def assert_same(problem, threads, **options):
    """Every output and gradient, on one thread and on three."""

    def run(**more):
        rng = np.random.Generator(np.random.Philox(5))
        return problem.run(functional, rng=rng, **options, **more)

    threads(1)
    expected = run()
    assert any(a.any() for name, a in expected.items() if name.startswith("dweight"))
    for n in (1, 3):
        threads(n)
        for name, actual in run(checkpoint=True).items():
            assert np.array_equal(actual, expected[name]), name


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell, threads):
    assert_same(Problem(cell, dtype=np.float32, **LONG), threads)


@pytest.mark.parametrize(
    "shape",
    [
        {"T": 700, "B": 1, "I": 5, "H": 33},
        {"T": 300, "B": 3, "I": 20, "H": 17, "kind": "initial"},
        {"T": 4, "B": 1},
        {"T": 11, "B": 1},
        {"T": 0, "B": 2},
        {"T": 3, "B": 0},
        {"T": 120, "B": 37, "I": 7, "H": 16, "kind": "resets"},
        {"T": 120, "B": 37, "I": 7, "H": 16, "kind": "lengths", "num_layers": 2, "directions": 2},
        {"T": 60, "B": 300, "I": 2, "H": 5, "kind": "mask", "bias": False},
    ],
    ids=lambda shape: "_".join(map(str, shape.values())),
)
def test_shapes(shape, threads):
    problem = Problem("lstm", **shape)
    if shape["T"] * shape["B"]:
        assert_same(problem, threads)
    else:
        expected, actual = problem.run(functional), problem.run(functional, checkpoint=True)
        assert all(np.array_equal(actual[name], a) for name, a in expected.items())


@pytest.mark.parametrize(
    ("cell", "more"),
    [
        ("lstm", {}),
        ("gru", {}),
        ("mgu", {"layer_norm": True}),
        ("lstm_peephole", {"proj_size": 4}),
        ("lstm", {"layer_norm": True, "proj_size": 4}),
    ],
)
def test_masks_are_made_again(cell, more, threads):
    """Dropout between layers, zoneout and recurrent dropout, in two layers and directions."""
    problem = Problem(cell, **LONG, num_layers=2, directions=2, **more)
    assert_same(problem, threads, dropout=0.3, zoneout=0.2, recurrent_dropout=0.3)


def test_bfloat16(threads):
    assert_same(Problem("gru", dtype=np.float32, **LONG), threads, compute_dtype="bfloat16")


def test_against_the_reference():
    """Which takes the argument and keeps everything."""
    problem = Problem("lstm", 60, 20, 3, 5, kind="all")
    expected = problem.run(reference, checkpoint=True)
    for name, actual in problem.run(functional, checkpoint=True).items():
        np.testing.assert_allclose(actual, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("cell", "most"), [("lstm", 0.3), ("gru", 0.2), ("gru_reset_before", 0.3)])
def test_memory(cell, most):
    """Numbers kept for a step, a sequence, a unit and a layer, beside x and what the state before takes."""
    T, B, H = 200, 32, 64
    layer = pyrnn.Recurrent(cell, 16, H, num_layers=2, seed=0)
    x = np.ones((T, B, 16), np.float32)
    initial = 4 * 2 * (B + 1) * H

    def numbers(**options):
        saved = layer.forward(x, **options)[2]
        return max((kept.nbytes - initial) / (4 * T * B * H) for kept in saved.passes)

    assert 1 < numbers() <= 6
    assert 0 < numbers(checkpoint=True) <= most


def test_backward_twice_and_later():
    """What was kept is still there, whatever has happened to y and to the generator."""
    layer = pyrnn.LSTM(3, 8, num_layers=2, dropout=0.5, seed=0)
    x = np.random.default_rng(0).normal(size=(60, 30, 3)).astype(np.float32)
    twin = pyrnn.LSTM(3, 8, num_layers=2, dropout=0.5, seed=0)
    dy = np.ones((60, 30, 8), np.float32)
    expected = twin.backward(twin.forward(x)[2], dy)
    y, _, saved = layer.forward(x, checkpoint=True)
    y[...] = np.nan
    layer.forward(x)
    for _ in range(2):
        grads = layer.backward(saved, dy)
        assert np.array_equal(grads.x, expected.x)
        assert all(np.array_equal(grads.params[name], a) for name, a in expected.params.items())


def test_errors():
    layer = pyrnn.GRU(3, 4, seed=0)
    x = np.ones((5, 2, 3), np.float32)
    with pytest.raises(TypeError, match="checkpoint: expected a bool, got str"):
        layer.forward(x, checkpoint="yes")
    kept = layer.forward(x, checkpoint=True)[2].passes[0]
    for look in (kept.saved, kept.states):
        with pytest.raises(ValueError, match="every step's values, got those of checkpoint=True"):
            look()
    with pytest.raises(ValueError, match="checkpoint: expected False with return_states=True, got True"):
        layer.forward(x, checkpoint=True, return_states=True)
    layer.device = "cuda:0"
    with pytest.raises(ValueError, match="checkpoint: expected False on device 'cuda:0', got True"):
        layer.forward(x, checkpoint=True)


def test_without_saving_it_is_nothing():
    p = Problem("gru")
    y, out = np.empty((p.T, p.B, p.H)), [np.empty((p.B, p.H))]
    arguments = ("gru", p.x, [p.state[0]], *p.params.values(), y, out)
    assert _core.forward(*arguments, checkpoint=True) is None
