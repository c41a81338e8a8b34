# SPDX-License-Identifier: Apache-2.0
"""Streams: step by step equals the whole sequence."""

import copy
import pickle

import numpy as np
import pytest
from problems import CELLS, Problem, varied
from tolerances import FLOAT64, float32_bound, l2_error, max_error

import pyrnn

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)


def layer_of(p):
    layer = pyrnn.Recurrent(p.cell, p.I, p.H, p.num_layers, bias=p.bias, dtype=p.dtype, seed=0)
    layer.load_state_dict(p.params)
    return layer


def assert_states(actual, expected, tolerance=FLOAT64):
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    for a, e in pairs:
        assert max_error(a, e) <= tolerance


@pytest.mark.parametrize(
    ("cell", "sizes", "num_layers", "bias"),
    varied(((1, 1, 1), (1, 17, 9), (3, 33, 8), (17, 16, 31)), (1, 3), (True, False)),
)
def test_steps_equal_the_sequence(cell, num_layers, bias, sizes):
    B, H, inputs = sizes
    p = Problem(cell, 9, B, inputs, H, num_layers, bias=bias)
    layer = layer_of(p)
    expected, final = layer(p.x, p.state)
    stream = layer.stream(B)
    stream.state = p.state
    assert_states(stream.state, p.state, 0)
    out = np.full((B, H), np.nan)
    for t in range(4):
        assert max_error(stream.step(p.x[t]), expected[t]) <= FLOAT64
    assert stream.step(p.x[4], out=out) is out
    assert max_error(out, expected[4]) <= FLOAT64
    assert max_error(stream.run(p.x[5:]), expected[5:]) <= FLOAT64
    assert_states(stream.state, final)
    assert stream.run(p.x[:0]).shape == (0, B, H)


@EVERY_CELL
def test_float32(cell):
    p = Problem(cell, 50, 3, 9, 33, 2, dtype=np.float32)
    layer = layer_of(p)
    assert l2_error(layer.stream(3).run(p.x), layer(p.x)[0]) <= float32_bound(50)


@EVERY_CELL
def test_single_sequences_without_their_axis(cell):
    p = Problem(cell, B=1)
    layer = layer_of(p)
    expected, _ = layer(p.x)
    stream = layer.stream()
    assert max_error(stream.step(p.x[0, 0]), expected[0, 0]) <= FLOAT64
    assert max_error(stream.run(p.x[1:, 0]), expected[1:, 0]) <= FLOAT64


def test_reset_clears_the_state_and_reads_the_weights_again():
    layer = pyrnn.LSTM(3, 4, dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(3, 2, 3))
    stream = layer.stream(2)
    y = stream.run(x)
    layer.params["weight_hh_l0"] *= -2
    assert not np.array_equal(stream.run(x), y)
    stream.reset()
    assert max_error(stream.run(x), layer(x)[0]) <= FLOAT64


def test_reset_of_some_rows():
    layer = pyrnn.GRU(3, 4, 2, dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(3, 3, 3))
    for rows in ([1], np.array([1]), (1, 1)):
        stream = layer.stream(3)
        stream.run(x)
        before = stream.state
        stream.reset(rows)
        assert np.array_equal(stream.state[:, [0, 2]], before[:, [0, 2]])
        assert not stream.state[:, 1].any()
    stream.reset([])
    assert stream.state[:, [0, 2]].all()


def test_layouts_of_x_are_read_right():
    layer = pyrnn.LSTM(3, 4, dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(2, 2, 3))
    expected = layer(x)[0]
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    raw[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for strange in (np.asfortranarray(x), x.astype(">f8"), raw, read_only, np.repeat(x, 2, axis=2)[..., ::2]):
        assert max_error(layer.stream(2).run(strange), expected) <= FLOAT64
        stream = layer.stream(2)
        assert max_error(np.stack([stream.step(strange[t]) for t in range(2)]), expected) <= FLOAT64


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("H", [4, 33])
def test_out_may_be_x(num_layers, H):
    layer = pyrnn.LSTM(H, H, num_layers, dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(5, 3, H))
    expected = layer(x)[0]
    stream = layer.stream(3)
    for t in range(5):
        assert stream.step(x[t], out=x[t]) is not None
    assert max_error(x, expected) <= FLOAT64


def test_errors():
    layer = pyrnn.LSTM(3, 4, seed=0)
    with pytest.raises(
        ValueError, match=r"^stream: expected a layer in one direction, got a bidirectional one"
    ):
        pyrnn.LSTM(3, 4, bidirectional=True).stream()
    with pytest.raises(ValueError, match=r"^batch_size: expected an integer of at least 1, got 0"):
        layer.stream(0)
    with pytest.raises(TypeError, match=r"^batch_size: expected an integer, got float"):
        layer.stream(2.0)
    stream = layer.stream(2)
    for call in (stream.step, stream.run):
        with pytest.raises(ValueError, match=r"^(x|block): expected shape"):
            call(np.zeros((2, 2, 2), np.float32))
        with pytest.raises(TypeError, match=r"^(x|block): expected dtype float32, got float64"):
            call(np.zeros((2, 3) if call == stream.step else (1, 2, 3)))
        with pytest.raises(TypeError, match=r"^(x|block): expected a NumPy array, got list"):
            call([[1.0, 2.0, 3.0]] * 2)
    with pytest.raises(ValueError, match=r"^out: expected shape"):
        stream.step(np.zeros((2, 3), np.float32), out=np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"^state\[1\]: expected shape \(num_layers\*directions, B, H\)"):
        stream.state = (np.zeros((1, 2, 4), np.float32), np.zeros((1, 3, 4), np.float32))
    for rows in ([2], [-1]):
        with pytest.raises(ValueError, match=r"^rows: expected indices from 0 to 1"):
            stream.reset(rows)
    with pytest.raises(TypeError, match=r"^rows: expected integers, got float64"):
        stream.reset([0.5])
    with pytest.raises(ValueError, match=r"^rows: expected shape \(n,\), got \(\)"):
        stream.reset(1)
    layer.params["weight_hh_l0"] = np.zeros((16, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"^weight_hh_l0: expected shape \(4\*H, H\) = \(16, 4\), got \(16, 5\)"
    ):
        stream.reset()
    with pytest.raises(NotImplementedError, match=r"^stream: the reference"):
        pyrnn.reference.LSTM(3, 4).stream()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
@pytest.mark.parametrize("kind", ["plain", "stages", "int8"])
def test_copies_go_on_by_themselves(kind, clone):
    layer = pyrnn.LSTM(3, 4, 2, layer_norm=kind == "stages", seed=0)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    stream = (layer.quantize("int8") if kind == "int8" else layer).stream(2)
    expected = stream.run(x)
    stream.reset()
    stream.run(x[:3])
    twin = clone(stream)
    assert np.array_equal(twin.run(x[3:]), expected[3:])
    assert np.array_equal(stream.step(x[3]), expected[3])


def test_repr():
    assert repr(pyrnn.GRU(3, 4).stream(2)) == "GRU(3, 4).stream(2)"


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=["plain", "stages"])
def test_a_block_into_an_array_that_is_given(options):
    layer = pyrnn.LSTM(4, 4, seed=0, **options)
    x = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    expected = layer.stream(2).run(x)
    out = np.full_like(expected, np.nan)
    assert layer.stream(2).run(x, out=out) is out and np.array_equal(out, expected)
    over = x.copy()
    assert np.array_equal(layer.stream(2).run(over, out=over), expected)
    with pytest.raises(ValueError, match=r"^out: expected shape \(n, B, H\) = \(5, 2, 4\), got \(5, 2, 5\)"):
        layer.stream(2).run(x, out=np.empty((5, 2, 5), np.float32))
    with pytest.raises(TypeError, match=r"^out: expected"):
        layer.stream(2).run(x, out=np.empty((5, 2, 4)))


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=["plain", "stages"])
def test_a_refused_output_leaves_the_state_alone(options):
    stream = pyrnn.GRU(3, 4, seed=0, **options).stream(2)
    x = np.ones((2, 3), np.float32)
    stream.step(x)
    before = stream.state
    for wrong in (np.empty((2, 5), np.float32), np.empty((2, 4)), [0.0]):
        for call, given in ((stream.step, x), (stream.run, x[None])):
            with pytest.raises((TypeError, ValueError), match=r"^out: expected"):
                call(given, out=wrong)
    assert np.array_equal(stream.state, before)
