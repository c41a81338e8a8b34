# SPDX-License-Identifier: Apache-2.0
"""Zoneout and recurrent dropout: the masks, and the kernels under them against the reference."""

import os
import subprocess
import sys

import numpy as np
import pytest
from problems import CELLS, Problem, varied
from tolerances import COMPLEX_STEP, FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import _core, functional, reference
from pyrnn.reference.regularization import dropout_factors, philox, zoneout_shares

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)
KINDS = {
    "zoneout": {"zoneout": 0.3},
    "dropout": {"recurrent_dropout": 0.4},
    "both": {"zoneout": 0.2, "recurrent_dropout": 0.3},
    "expected": {"zoneout": 0.3, "recurrent_dropout": 0.5, "training": False},
    "certain": {"zoneout": 1.0, "recurrent_dropout": 1.0},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def run(problem, module, kind):
    """With the same key of the masks every time."""
    return problem.run(module, rng=np.random.Generator(np.random.Philox(5)), **KINDS[kind])


# The known answers of the generator's authors: counter and key of zeros, of ones, of digits of pi.
@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox(key, counter, words):
    assert tuple(int(w) for w in philox(key, counter)) == words


@pytest.mark.parametrize(
    ("cell", "kind", "sizes"),
    varied(tuple(KINDS), ((5, 3, 4, 6), (7, 9, 5, 33), (4, 1, 3, 17), (3, 2, 65, 129))),
)
def test_float64(cell, kind, sizes):
    problem = Problem(cell, *sizes, num_layers=2, directions=2)
    expected = run(problem, reference, kind)
    for name, a in run(problem, functional, kind).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize(
    ("cell", "kind", "options"), varied(tuple(KINDS), ("lengths", "mask", "resets", "all"))
)
def test_with_options(cell, kind, options):
    problem = Problem(cell, 6, 5, 4, 18, kind=options, directions=2)
    expected = run(problem, reference, kind)
    for name, a in run(problem, functional, kind).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@EVERY_CELL
@EVERY_KIND
def test_float32(cell, kind):
    problem = Problem(cell, 7, 4, 9, 33, dtype=np.float32)
    result, wanted = run(problem, functional, kind), run(problem.exact(), reference, kind)
    for group in (("y", "state"), ("dx", "dstate"), ("dweight", "dbias")):
        names = [name for name in result if name.startswith(group)]
        a, e = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, wanted))
        assert l2_error(a, e) <= float32_bound(7), group


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(c, "both") for c in CELLS] + [(c, k) for c in ("lstm", "gru") for k in KINDS if k != "both"],
)
def test_complex_step(cell, kind):
    """The masks are frozen: every evaluation starts from the same generator."""
    reference.gradcheck(cell, time=4, batch=2, bidirectional=True, tolerance=COMPLEX_STEP, **KINDS[kind])


@pytest.mark.parametrize("kind", ["zoneout", "both"])
def test_every_number_of_threads_has_the_same_bits(kind):
    problem = Problem("lstm", 20, 13, 40, 96, num_layers=2, directions=2, kind="all", dtype=np.float32)
    before, results = pyrnn.num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            pyrnn.set_num_threads(threads)
            results.append(run(problem, functional, kind))
    finally:
        pyrnn.set_num_threads(before)
    for result in results[1:]:
        assert all(np.array_equal(a, results[0][name]) for name, a in result.items())


SCRIPT = """
import numpy as np, pyrnn
layer = pyrnn.RNN(3, 50, nonlinearity="relu", zoneout=0.5, recurrent_dropout=0.5, dtype="float64", seed=1)
x = np.random.Generator(np.random.Philox(2)).normal(size=(9, 4, 3))
y = layer.forward(x)[0]
print(np.packbits(y[1:] == y[:-1]).tobytes().hex())
"""


def test_every_instruction_set_draws_the_same_masks():
    """Where a unit keeps its value, in processes of their own."""
    found = set()
    for isa in _core.isas():
        environment = {**os.environ, "PYRNN_ISA": isa}
        found.add(subprocess.check_output([sys.executable, "-P", "-c", SCRIPT], env=environment, text=True))
    assert len(found) == 1 and "1" in found.pop()


def test_masks_are_as_likely_as_asked():
    T, B, H, rate = 50, 20, 100, 0.3
    shares = zoneout_shares(((rate, 0.0, 1.0), 0.0, True, 2**63 + 11, 4), T, B, H)
    assert set(np.unique(shares)) == {0.0, 1.0} and not shares[:, 1].any() and shares[:, 2].all()
    expected = 5 * (rate * (1 - rate) / (T * B * H)) ** 0.5  # five standard deviations
    assert abs(shares[:, 0].mean() - rate) < expected
    for axis in (0, 1, 2):  # neighbours are independent
        a = np.moveaxis(shares[:, 0], axis, 0)
        assert abs(np.mean(a[1:] * a[:-1]) - rate**2) < 5 * rate / (T * B * H) ** 0.5
    factors = dropout_factors(((0.0,), rate, True, 3, 4), 500, H)
    assert set(np.unique(factors)) == {0.0, 1 / (1 - rate)}
    assert abs((factors == 0).mean() - rate) < 5 * (rate * (1 - rate) / factors.size) ** 0.5


def test_layers_and_directions_draw_their_own():
    one = [zoneout_shares(((0.5,), 0.0, True, 7, stream), 4, 3, 50) for stream in range(4)]
    drops = [dropout_factors(((0.5,), 0.5, True, 7, stream), 3, 50) for stream in range(4)]
    for k in range(4):
        for other in range(k):
            assert 0.2 < np.mean(one[k] == one[other]) < 0.8
            assert 0.2 < np.mean(drops[k] == drops[other]) < 0.8


def test_only_training_draws():
    layer = pyrnn.LSTM(3, 8, zoneout=(0.05, 0.5), recurrent_dropout=0.3, dtype="float64", seed=0)
    again = pyrnn.LSTM(3, 8, zoneout=(0.05, 0.5), recurrent_dropout=0.3, dtype="float64", seed=0)
    x = np.random.Generator(np.random.Philox(2)).normal(size=(6, 2, 3))
    y = layer(x)[0]
    assert np.array_equal(y, layer(x)[0])
    assert np.array_equal(y, layer.forward(x, training=False)[0])
    first, second = layer.forward(x)[0], layer.forward(x)[0]
    assert not np.array_equal(first, second) and not np.array_equal(first, y)
    assert np.array_equal(first, again.forward(x)[0])  # the same seed, the same masks


def test_the_expectation_in_a_stream():
    layer = pyrnn.LSTM(3, 20, 2, zoneout=(0.1, 0.5), seed=0)
    x = np.random.Generator(np.random.Philox(2)).normal(size=(6, 4, 3)).astype(np.float32)
    y, state = layer(x)
    stream = layer.stream(4)
    assert np.allclose(stream.run(x), y, rtol=1e-5, atol=1e-6)
    for a, b in zip(stream.state, state, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_unit_that_always_keeps_its_state():
    layer = pyrnn.GRU(3, 8, zoneout=1.0, seed=0)
    h = np.ones((1, 2, 8), np.float32)
    y, final, saved = layer.forward(np.ones((5, 2, 3), np.float32), h)
    assert (y == 1).all() and np.array_equal(final, h)
    grads = layer.backward(saved, np.ones_like(y))
    assert (grads.state == 5).all() and not grads.x.any() and not grads.params["weight_hh_l0"].any()


@pytest.mark.parametrize(
    "layer", [pyrnn.LSTM(3, 8, zoneout=(0.1, 0.5)), pyrnn.GRU(3, 8, recurrent_dropout=0.2)]
)
def test_files_and_words(layer, tmp_path):
    layer.save(tmp_path / "layer.safetensors")
    again = pyrnn.load(tmp_path / "layer.safetensors")
    assert repr(again) == repr(layer)
    assert (again.zoneout, again.recurrent_dropout) == (layer.zoneout, layer.recurrent_dropout)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zoneout": 1.5}, ValueError, "zoneout: expected a number from 0 to 1, got 1.5"),
        ({"zoneout": (0.1,)}, ValueError, "zoneout: expected a number or 2 of them, got 1"),
        ({"zoneout": (0.1, -1)}, ValueError, r"zoneout\[1\]: expected a number from 0 to 1, got -1"),
        ({"zoneout": "much"}, TypeError, "zoneout: expected a number, got str"),
        ({"recurrent_dropout": 2}, ValueError, "recurrent_dropout: expected a number from 0 to 1, got 2"),
    ],
)
def test_wrong_rates(options, error, message):
    with pytest.raises(error, match=message):
        pyrnn.LSTM(3, 4, **options)
    problem = Problem("lstm")
    with pytest.raises(error, match=message):
        functional.sequence("lstm", problem.x, None, problem.params, **options)


@pytest.mark.parametrize("name", ["zoneout", "recurrent_dropout"])
def test_masks_need_a_generator(name):
    problem = Problem("lstm")
    with pytest.raises(TypeError, match=r"rng: expected a numpy.random.Generator, got NoneType"):
        functional.sequence_forward("lstm", problem.x, None, problem.params, **{name: 0.5})


@pytest.mark.parametrize(
    "wrong",
    [
        ([0.1], 0.0, True, 0, 0),
        ([0.1, 2.0], 0.0, True, 0, 0),
        ([0.1, np.nan], 0.0, True, 0, 0),
        ([0.1, 0.1], -1.0, True, 0, 0),
        ([0.1, 0.1], 0.0, True, -1, 0),
        ([0.1, 0.1], 0.0, True, 2**64, 0),
        ([0.1, 0.1], 0.0, True, 0, 2**32),
        (0.1, 0.1),
        "half",
    ],
)
def test_the_kernels_check_them_too(wrong):
    p = Problem("lstm")
    y, state = np.empty((p.T, p.B, p.H)), [s[0] for s in p.state]
    weights = list(p.params.values())
    with pytest.raises((ValueError, TypeError)):
        _core.forward("lstm", p.x, state, *weights, y, [s.copy() for s in state], regularization=wrong)
