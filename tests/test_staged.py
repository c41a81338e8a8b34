# SPDX-License-Identifier: Apache-2.0
"""Layers whose step has stages: normalised products, and cells that make what their last slots read."""

import numpy as np
import pytest
from problems import CELLS, FUSED, OPTIONS, Problem, varied
from tolerances import COMPLEX_STEP, FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import _core, functional, reference

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)
STAGED = [cell for cell in CELLS if cell not in FUSED]
#: Neither one input nor one unit: what is normalised does not change with its scale, and of the gradient that
#: belongs to it nothing is left but rounding.
SIZES = [(5, 3, 4, 7), (1, 1, 4, 8), (7, 9, 5, 33), (4, 1, 3, 17), (3, 2, 65, 129)]
MASKS = {"zoneout": 0.2, "recurrent_dropout": 0.3}


def run(problem, module, **options):
    return problem.run(module, rng=np.random.Generator(np.random.Philox(5)), **options)


def test_there_are_such_cells():
    assert {"gru_reset_before", "mgu", "mut3", "indrnn_relu", "lstm_gate_recurrence"} <= set(STAGED)


@pytest.mark.parametrize(("cell", "sizes", "options"), varied(SIZES, ({}, MASKS)), ids=str)
def test_normalised_float64(cell, sizes, options):
    problem = Problem(cell, *sizes, num_layers=2, directions=2, layer_norm=True)
    expected = run(problem, reference, **options)
    for name, a in run(problem, functional, **options).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize(("cell", "kind", "bias"), varied(OPTIONS, (True, False)))
def test_normalised_with_options(cell, kind, bias):
    problem = Problem(cell, 6, 5, 4, 18, kind=kind, directions=2, bias=bias, layer_norm=True)
    expected = problem.run(reference)
    for name, a in problem.run(functional).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize("cell", STAGED)
@pytest.mark.parametrize("kind", OPTIONS)
def test_masks(cell, kind):
    problem = Problem(cell, 6, 5, 4, 18, kind=kind, directions=2)
    expected = run(problem, reference, **MASKS)
    for name, a in run(problem, functional, **MASKS).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@EVERY_CELL
def test_normalised_complex_step(cell):
    lengths = {"lengths": [4, 2]}
    reference.gradcheck(cell, time=4, hidden_size=5, layer_norm=True, tolerance=COMPLEX_STEP, **lengths)


@EVERY_CELL
@pytest.mark.parametrize("layer_norm", [True, False])
def test_float32(cell, layer_norm):
    problem = Problem(cell, 7, 4, 9, 33, layer_norm=layer_norm, dtype=np.float32)
    result, wanted = problem.run(functional), problem.exact().run(reference)
    for group in (("y", "state"), ("dx", "dstate"), ("dweight", "dbias")):
        names = [name for name in result if name.startswith(group)]
        a, e = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, wanted))
        assert l2_error(a, e) <= float32_bound(7), group


@pytest.mark.parametrize(("cell", "layer_norm"), [("lstm", True), ("gru_reset_before", False), ("mgu", True)])
def test_every_number_of_threads_has_the_same_bits(cell, layer_norm):
    problem = Problem(
        cell, 20, 13, 40, 96, num_layers=2, directions=2, kind="all", layer_norm=layer_norm, dtype=np.float32
    )
    before, results = pyrnn.num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            pyrnn.set_num_threads(threads)
            results.append(problem.run(functional))
    finally:
        pyrnn.set_num_threads(before)
    for result in results[1:]:
        assert all(np.array_equal(a, results[0][name]) for name, a in result.items())


def test_products_are_normalised():
    """Scaling the weights by a power of two changes nothing but what is added for the variance."""
    layer = pyrnn.GRU(5, 16, layer_norm=True, dtype="float64", seed=0)
    x = np.random.Generator(np.random.Philox(3)).normal(size=(6, 4, 5))
    y, _ = layer(x)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        layer.params[name] *= 64
    assert np.allclose(layer(x)[0], y, atol=1e-3)
    assert (layer.params["weight_ln_ih_l0"] == 1).all()


def test_gru_with_the_reset_gate_before_the_product():
    """Written out, with weights of one layer."""
    layer = pyrnn.GRU(3, 4, reset_after=False, dtype="float64", seed=0)
    assert layer.cell == "gru_reset_before"
    w, r, bi, bh = (layer.params[f"{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    x = np.random.Generator(np.random.Philox(3)).normal(size=(6, 1, 3))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = np.zeros(4)
    for t in range(6):
        a = w @ x[t, 0] + bi + bh
        reset, z = sigmoid(a[:4] + r[:4] @ h), sigmoid(a[4:8] + r[4:8] @ h)
        n = np.tanh(a[8:] + r[8:] @ (reset * h))
        h = (1 - z) * n + z * h
    assert max_error(layer(x)[1][0, 0], h) <= FLOAT64


@pytest.mark.parametrize(
    "layer",
    [
        pyrnn.LSTM(3, 20, 2, layer_norm=True, seed=0),
        pyrnn.GRU(3, 20, 2, reset_after=False, seed=0),
        pyrnn.Recurrent("mgu", 3, 20, zoneout=0.2, seed=0),
    ],
    ids=repr,
)
def test_streams(layer):
    x = np.random.Generator(np.random.Philox(2)).normal(size=(6, 4, 3)).astype(np.float32)
    y, state = layer(x)
    stream = layer.stream(4)
    assert np.allclose(stream.run(x[:2]), y[:2], rtol=1e-5, atol=1e-6)
    out = np.empty((4, 20), np.float32)
    for t in range(2, 6):
        assert stream.step(x[t], out) is out
        assert np.allclose(out, y[t], rtol=1e-5, atol=1e-6)
    for a, b in zip(np.atleast_1d(stream.state), np.atleast_1d(state), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)
    stream.reset([1])
    assert np.allclose(stream.step(x[0])[1], y[0, 1], rtol=1e-5, atol=1e-6)
    layer.params["weight_ih_l0"][...] *= 1.5
    stream.reset()
    assert np.allclose(stream.step(x[0]), layer(x[:1])[0][0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"x: expected shape \(B, I\) = \(4, 3\), got \(4, 2\)"):
        stream.step(x[0, :, :2])


@pytest.mark.parametrize(
    "layer",
    [pyrnn.LSTM(3, 5, layer_norm=True), pyrnn.GRU(3, 5, 2, reset_after=False, bidirectional=True)],
    ids=repr,
)
def test_files(layer, tmp_path):
    layer.save(tmp_path / "layer.safetensors")
    again = pyrnn.load(tmp_path / "layer.safetensors")
    assert repr(again) == repr(layer)
    x = np.ones((4, 2, 3), np.float32)
    assert np.array_equal(again(x)[0], layer(x)[0])


def test_wrong_gains():
    layer = pyrnn.LSTM(3, 5, layer_norm=True)
    layer.params["weight_ln_hh_l0"] = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=r"weight_ln_hh_l0: expected shape \(4\*H,\) = \(20,\), got \(5,\)"):
        layer(np.ones((2, 1, 3), np.float32))
    p = Problem("lstm", layer_norm=True)
    y, state = np.empty((p.T, p.B, p.H)), [s[0] for s in p.state]
    weights = [a for name, a in p.params.items() if "_ln_" not in name]
    gains = {"norm_ih": p.params["weight_ln_ih_l0"], "norm_hh": p.params["weight_ln_hh_l0"]}
    for wrong in ({"norm_ih": None}, {"norm_hh": None}, {"norm_ih": np.ones(3)}, {"norm_hh": "half"}):
        with pytest.raises((ValueError, TypeError), match="norm_"):
            _core.forward("lstm", p.x, state, *weights, y, [s.copy() for s in state], **(gains | wrong))
    saved = _core.forward("lstm", p.x, state, *weights, y, [s.copy() for s in state], **gains, save=True)
    outs = [np.empty_like(a) for a in (*weights,)]
    with pytest.raises(ValueError, match="dnorm_ih: expected an array"):
        _core.backward(saved, None, None, None, False, [s.copy() for s in state], *outs)
