# SPDX-License-Identifier: Apache-2.0
"""Layers whose h is projected to fewer numbers (Sak et al. 2014)."""

import numpy as np
import pytest
from problems import FUSED, OPTIONS, Problem, varied
from tolerances import COMPLEX_STEP, FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import _core, functional, reference

CELLS = [name for name, constants in _core.cells().items() if constants["states"] > 1 and name in FUSED]
EVERY_CELL = pytest.mark.parametrize("cell", CELLS)
#: T, B, I, H and the numbers of h; not one of them, from which normalisation leaves nothing but rounding.
SIZES = [(5, 3, 4, 7, 2), (1, 1, 4, 8, 3), (7, 9, 5, 33, 32), (4, 1, 3, 17, 8), (3, 2, 65, 129, 40)]
MASKS = {"zoneout": 0.2, "recurrent_dropout": 0.3}


def run(problem, module, **options):
    return problem.run(module, rng=np.random.Generator(np.random.Philox(5)), **options)


def assert_float64(problem, **options):
    expected = run(problem, reference, **options)
    for name, a in run(problem, functional, **options).items():
        assert a.shape == expected[name].shape
        assert max_error(a, expected[name]) <= FLOAT64, name


def test_cells():
    assert {"lstm", "lstm_peephole", "lstm_coupled"} <= set(CELLS) and "gru" not in CELLS


@pytest.mark.parametrize(
    ("cell", "sizes", "layer_norm", "options"),
    varied(SIZES, (False, True), ({}, MASKS), cells=CELLS),
    ids=str,
)
def test_float64(cell, sizes, layer_norm, options):
    *sizes, proj_size = sizes
    problem = Problem(cell, *sizes, num_layers=2, directions=2, layer_norm=layer_norm, proj_size=proj_size)
    assert_float64(problem, **options)


@pytest.mark.parametrize(("cell", "kind", "bias"), varied(OPTIONS, (True, False), cells=CELLS))
def test_options(cell, kind, bias):
    problem = Problem(cell, 6, 5, 4, 18, kind=kind, directions=2, bias=bias, proj_size=5)
    assert_float64(problem)
    assert_float64(problem, **MASKS)


@EVERY_CELL
def test_one_number(cell):
    assert_float64(Problem(cell, 4, 3, 4, 9, directions=2, proj_size=1), **MASKS)


@EVERY_CELL
def test_complex_step(cell):
    sizes = {"time": 4, "hidden_size": 4, "proj_size": 2, "num_layers": 2, "tolerance": COMPLEX_STEP}
    for functions in ({}, {"forward": functional.sequence_forward, "backward": functional.sequence_backward}):
        reference.gradcheck(cell, **sizes, **functions, lengths=[4, 2])


@EVERY_CELL
def test_float32(cell):
    problem = Problem(cell, 7, 4, 9, 33, proj_size=12, dtype=np.float32)
    result, wanted = problem.run(functional), problem.exact().run(reference)
    for group in (("y", "state"), ("dx", "dstate"), ("dweight", "dbias")):
        names = [name for name in result if name.startswith(group)]
        a, e = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, wanted))
        assert l2_error(a, e) <= float32_bound(7), group


def test_every_number_of_threads_has_the_same_bits():
    options = {"num_layers": 2, "directions": 2, "kind": "all", "proj_size": 37, "dtype": np.float32}
    problem = Problem("lstm", 20, 13, 40, 96, **options)
    before, results = pyrnn.num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            pyrnn.set_num_threads(threads)
            results.append(problem.run(functional))
    finally:
        pyrnn.set_num_threads(before)
    for result in results[1:]:
        assert all(np.array_equal(a, results[0][name]) for name, a in result.items())


def test_identity():
    """Projected on all units but the last, which nothing then reads, h is that of a layer without it."""
    plain = pyrnn.LSTM(3, 7, dtype="float64", seed=0)
    layer = pyrnn.LSTM(3, 8, proj_size=7, dtype="float64", seed=1)
    rows = np.arange(32).reshape(4, 8)[:, :7].ravel()
    for name, a in plain.params.items():
        layer.params[name][rows] = a
    layer.params["weight_hr_l0"][...] = np.eye(7, 8)
    x = np.random.Generator(np.random.Philox(3)).normal(size=(6, 4, 3))
    y, (h, c) = plain(x)
    for a, e in zip((layer(x)[0], *layer(x)[1]), (y, h, c), strict=True):
        assert max_error(a[..., :7], e) <= FLOAT64


def test_padding_has_no_influence():
    problem = Problem("lstm", 6, 4, 5, 18, directions=2, proj_size=7)
    problem.options = {"lengths": np.array([6, 0, 3, 1])}
    expected = problem.run(functional)
    for b, length in enumerate(problem.options["lengths"]):
        problem.x[length:, b] = problem.dy[length:, b] = np.nan
    for name, a in problem.run(functional).items():
        assert np.array_equal(a, expected[name]), name


def test_layer(tmp_path):
    layer = pyrnn.LSTM(3, 20, 2, proj_size=5, bidirectional=True, seed=0)
    assert repr(layer) == "LSTM(3, 20, num_layers=2, proj_size=5, bidirectional=True)"
    assert list(layer.params)[:5] == [
        f"{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    assert layer.params["weight_hh_l1"].shape == (80, 5) and layer.params["weight_ih_l1"].shape == (80, 10)
    x = np.random.Generator(np.random.Philox(2)).normal(size=(6, 4, 3)).astype(np.float32)
    y, (h, c) = layer(x)
    assert (y.shape, h.shape, c.shape) == ((6, 4, 10), (4, 4, 5), (4, 4, 20))
    alone, (h, c) = layer(x[:, 0])
    assert np.allclose(alone, y[:, 0], atol=1e-6) and (h.shape, c.shape) == ((4, 5), (4, 20))
    assert np.array_equal(layer(x, out=np.empty_like(y))[0], y)
    assert layer.gates(x)["o"].shape == (6, 4, 40)
    layer.save(tmp_path / "layer.safetensors")
    again = pyrnn.load(tmp_path / "layer.safetensors")
    assert repr(again) == repr(layer) and np.array_equal(again(x)[0], y)


def test_stream():
    layer = pyrnn.LSTM(3, 20, 2, proj_size=6, seed=0)
    x = np.random.Generator(np.random.Philox(2)).normal(size=(6, 4, 3)).astype(np.float32)
    y, state = layer(x)
    stream = layer.stream(4)
    assert np.allclose(stream.run(x[:3]), y[:3], rtol=1e-5, atol=1e-6)
    for t in range(3, 6):
        assert np.allclose(stream.step(x[t]), y[t], rtol=1e-5, atol=1e-6)
    for a, b in zip(stream.state, state, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)
    stream.state = state
    assert stream.step(x[0], np.empty((4, 6), np.float32)).shape == (4, 6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pyrnn.GRU(3, 4, proj_size=2), ValueError, "proj_size: expected 0, because gru has no state"),
        (lambda: pyrnn.LSTM(3, 4, proj_size=4), ValueError, "proj_size: expected less than hidden_size = 4"),
        (lambda: pyrnn.LSTM(3, 4, proj_size=-1), ValueError, "proj_size: expected an integer of at least 0"),
        (lambda: pyrnn.LSTM(3, 4, proj_size=1.5), TypeError, "proj_size: expected an integer, got float"),
    ],
)
def test_wrong_size(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_arrays():
    layer, x = pyrnn.LSTM(3, 5, proj_size=2), np.ones((2, 1, 3), np.float32)
    h, c = np.zeros((1, 1, 5), np.float32), np.zeros((1, 1, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"state\[0\]: expected shape \(num_layers\*directions, B, P\) = \(1, 1, 2\)"
    ):
        layer(x, (h, c))
    params = layer.params | {"weight_hh_l0": np.zeros((20, 5), np.float32)}
    with pytest.raises(
        ValueError, match=r"weight_hh_l0: expected shape \(4\*H, P\) = \(20, 2\), got \(20, 5\)"
    ):
        functional.sequence("lstm", x, None, params)
    for wrong in (np.zeros((5, 5), np.float32), np.zeros(5, np.float32)):
        with pytest.raises(ValueError, match=r"weight_hr_l0: expected shape \(P, H\) with P < H"):
            functional.sequence("lstm", x, None, layer.params | {"weight_hr_l0": wrong})
    with pytest.raises(TypeError, match="weight_hr_l0: expected a NumPy array, got list"):
        functional.sequence("lstm", x, None, layer.params | {"weight_hr_l0": [[1.0] * 5]})
    gru = pyrnn.GRU(3, 5).params | {"weight_hr_l0": np.zeros((2, 5), np.float32)}
    with pytest.raises(ValueError, match="params: expected no 'weight_hr_l0', because gru has no state"):
        functional.sequence("gru", x, None, gru)


def test_wrong_arguments_of_the_binding():
    """Whoever calls it directly gets an error, too, and nothing is written."""
    p = Problem("lstm", proj_size=2)
    y, state = np.zeros((p.T, p.B, 2)), [s[0] for s in p.state]
    *weights, projection = p.params.values()
    good = {"weight_hr": projection}
    for wrong in (
        {},
        {"weight_hr": None},
        {"weight_hr": projection[:1]},
        {"weight_hr": projection[:, :1]},
        {"weight_hr": projection[0]},
        {"weight_hr": "half"},
        {"weight_hr": projection.astype(np.float32)},
    ):
        with pytest.raises((ValueError, TypeError)):
            _core.forward("lstm", p.x, state, *weights, y, [s.copy() for s in state], **wrong)
    assert not y.any()
    outs = [s.copy() for s in state]
    saved = _core.forward("lstm", p.x, state, *weights, y, outs, save=True, **good)
    grads = [np.empty_like(a) for a in weights]
    with pytest.raises(ValueError, match="dweight_hr: expected an array"):
        _core.backward(saved, None, None, None, False, outs, *grads)
    plain = Problem("gru")
    with pytest.raises(ValueError, match="weight_hr: expected None, gru reads h"):
        _core.forward(
            "gru", plain.x, [plain.state[0]], *plain.params.values(), np.empty((5, 3, 6)),
            [plain.state[0].copy()], weight_hr=np.zeros((6, 6)),
        )  # fmt: skip
