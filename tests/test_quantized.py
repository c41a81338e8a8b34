# SPDX-License-Identifier: Apache-2.0
"""Layers with int8 weights: against a plain implementation of the same rounding, and all around them."""

import copy
import pickle

import numpy as np
import pytest
from problems import DISTINCT, FUSED, options
from tolerances import INT8_VALUES, l2_error

import pyrnn
from pyrnn import _core, reference
from pyrnn.functional import KERNELS
from pyrnn.reference.sequence import forward as plain_forward


def layer_of(cell, inputs, units, layers=1, **more):
    """A layer whose every weight counts, and input in float32."""
    layer = pyrnn.Recurrent(cell, inputs, units, layers, seed=0, **more)
    rng = np.random.default_rng(1)
    for a in layer.params.values():
        a += rng.normal(scale=0.3 * a.shape[-1] ** -0.5, size=a.shape)
    return layer


def input_of(T, B, inputs):
    return np.random.default_rng(2).normal(size=(T, B, inputs)).astype(np.float32)


def plain(layer, x, **chosen):
    """y of the reference's engine in float64, both sides of every product rounded to int8."""
    weights = {name: a.astype(np.float64) for name, a in layer.params.items()}
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    y = np.asarray(x, np.float64)
    if chosen.pop("reset_to", "zero") == "initial":
        chosen["reset_to_initial"] = True
    for k in range(layer.num_layers):
        inputs, parts = y, []
        for direction in ["", "_reverse"][: 1 + layer.bidirectional]:
            named = {kind: weights.get(f"{kind}_l{k}{direction}") for kind in kinds}
            params = [a for name, a in weights.items() if name.endswith(f"peephole_l{k}{direction}")]
            out = np.empty((*x.shape[:2], layer.hidden_size))
            states = KERNELS.spec(layer.cell).states
            state = [np.zeros(out.shape[1:]) for _ in range(states)]
            arguments = (layer.cell, inputs, state, *named.values(), out, [s.copy() for s in state])
            extra = {"params": params[0]} if params else {}
            plain_forward(*arguments, reverse=bool(direction), compute_dtype="int8", **extra, **chosen)
            parts.append(out)
        y = np.concatenate(parts, -1)
    return y


def assert_as_good_as_plain(layer, x, **chosen):
    exact = reference.sequence(
        layer.cell, x.astype(float), None, {n: a.astype(float) for n, a in layer.params.items()}, **chosen
    )[0]
    y, _ = layer.quantize("int8")(x, **chosen)
    assert y.dtype == np.float32
    error = l2_error(plain(layer, x, **chosen), exact)
    assert 0 < l2_error(y, exact) <= INT8_VALUES * error < 0.1


@pytest.mark.parametrize("cell", FUSED)
@pytest.mark.parametrize("sizes", [(20, 1, 9, 33), (5, 7, 33, 16), (3, 40, 2, 65)], ids=str)
def test_every_cell(cell, sizes):
    assert_as_good_as_plain(layer_of(cell, *sizes[2:]), input_of(*sizes[:3]))


@pytest.mark.parametrize("kind", ["lengths", "all"])
def test_options(kind):
    T, B = 12, 5
    chosen = options(kind, T, B, np.random.default_rng(0))
    layer = layer_of("lstm", 7, 17, 2, bidirectional=True, bias=kind == "all")
    x = input_of(T, B, 7)
    assert_as_good_as_plain(layer, x, **chosen)
    if kind == "lengths":
        expected = layer.quantize()(x, **chosen)[0]
        x[np.arange(T)[:, None] >= chosen["lengths"]] = np.nan
        np.testing.assert_array_equal(layer.quantize()(x, **chosen)[0], expected)


def test_reverse(tmp_path):
    """A layer of the reverse direction alone."""
    x = input_of(5, 2, 3)
    layer = layer_of("gru", 3, 4, reverse=True)
    small = layer.quantize()
    assert l2_error(small(x, lengths=[5, 3])[0], layer(x, lengths=[5, 3])[0]) < 0.05
    small.save(tmp_path / "layer.safetensors")
    np.testing.assert_array_equal(pyrnn.load(tmp_path / "layer.safetensors")(x)[0], small(x)[0])
    with pytest.raises(ValueError, match="reads forward"):
        small.stream()


def test_weights_are_rounded_by_rows():
    """One row in steps of 1, one in steps of 1/127: both are exact, and so are inputs of one magnitude."""
    layer = pyrnn.RNN(4, 2, nonlinearity="relu", bias=False)
    layer.params["weight_ih_l0"][...] = [[127, -3, 55, 1], [1, 1 / 127, 3 / 127, 0]]
    layer.params["weight_hh_l0"][...] = 0
    y = layer.quantize()(np.full((1, 1, 4), 2, np.float32))[0]
    np.testing.assert_allclose(y[0, 0], [360, 2 + 8 / 127], rtol=1e-6)


@pytest.mark.parametrize("cell", [cell for cell in DISTINCT if cell in FUSED])
@pytest.mark.parametrize("sizes", [(30, 1, 20, 200), (12, 70, 33, 65)], ids=str)
def test_any_number_of_threads(cell, sizes, threads):
    layer = layer_of(cell, *sizes[2:]).quantize()
    x = input_of(*sizes[:3])
    threads(1)
    expected = layer(x)[0]
    for n in (2, 3, 5):
        threads(n)
        np.testing.assert_array_equal(layer(x)[0], expected)


@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu", "lstm_peephole"])
def test_stream(cell, B):
    """Bit by bit the layer's results; states go in and out; steps and runs mix."""
    layer = layer_of(cell, 7, 33, 2, zoneout=0.1).quantize()
    x = input_of(9, B, 7)
    y, state = layer(x)
    stream = layer.stream(batch_size=B)
    np.testing.assert_array_equal(stream.run(x[:4]), y[:4])
    kept = stream.state
    np.testing.assert_array_equal(stream.step(x[4]), y[4])
    stream.reset()
    stream.state = kept
    np.testing.assert_array_equal(stream.run(x[4:]), y[4:])
    for a, b in zip(np.atleast_1d(stream.state), np.atleast_1d(state), strict=True):
        np.testing.assert_array_equal(a, b)
    stream.reset([0])
    assert not np.asarray(stream.state).reshape(-1, 2, B, 33)[:, :, 0].any()


def test_state_and_out():
    layer = layer_of("gru", 3, 5, batch_first=True).quantize()
    x = np.swapaxes(input_of(6, 2, 3), 0, 1)
    y, h = layer(x)
    out = np.empty((2, 3, 5), np.float32)
    half, middle = layer(x[:, :3], out=out)
    assert half is out
    np.testing.assert_array_equal(half, y[:, :3])
    rest, last = layer(x[:, 3:], middle)
    np.testing.assert_array_equal(rest, y[:, 3:])
    np.testing.assert_array_equal(last, h)
    with pytest.raises(ValueError, match="out: expected memory of its own"):
        pyrnn.GRU(3, 3, seed=0).quantize()(x[0], out=x[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    """Not finite in, not finite out, and nothing of it in other rows."""
    layer = layer_of("lstm", 5, 20).quantize()
    x = np.ones((3, 2, 5), np.float32)
    expected = layer(x)[0]
    x[2, 1, 3] = value
    y = layer(x)[0]
    assert np.isnan(y[2, 1]).all()
    np.testing.assert_array_equal(y[:, 0], expected[:, 0])
    np.testing.assert_array_equal(y[:2], expected[:2])


@pytest.mark.parametrize("scale", [0, 1e-38, 1e-31, 1e30])
def test_extreme_rows(scale):
    layer = pyrnn.RNN(5, 20, nonlinearity="relu", bias=False, seed=0).quantize()
    x = np.ones((1, 1, 5), np.float32)
    y, expected = layer(x * np.float32(scale))[0], layer(x)[0] * scale
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-30)


def test_file(tmp_path):
    layer = layer_of("lstm_peephole", 3, 5, 2, bidirectional=True, zoneout=(0.1, 0.2)).quantize()
    layer.save(tmp_path / "layer.safetensors")
    loaded = pyrnn.load(tmp_path / "layer.safetensors")
    assert type(loaded) is pyrnn.Quantized
    assert repr(loaded) == repr(layer)
    assert repr(layer).endswith("bidirectional=True).quantize('int8')")
    x = input_of(4, 2, 3)
    np.testing.assert_array_equal(loaded(x)[0], layer(x)[0])
    assert {a.dtype.name for n, a in loaded.state_dict().items() if n.startswith("weight_hh")} == {
        "int8",
        "float32",
    }


def test_size_and_snapshot():
    layer = pyrnn.LSTM(256, 256, seed=0)
    small = layer.quantize()
    assert small.nbytes < 0.27 * sum(a.nbytes for a in layer.params.values())
    x = input_of(2, 1, 256)
    expected = small(x)[0]
    layer.params["weight_hh_l0"][...] = 0
    np.testing.assert_array_equal(small(x)[0], expected)
    with pytest.raises(ValueError, match="read-only"):
        small.params["weight_hh_l0"][0, 0] = 1


@pytest.mark.parametrize(
    ("layer", "dtype", "message"),
    [
        (pyrnn.LSTM(3, 4), "int4", "dtype: expected 'int8', got 'int4'"),
        (pyrnn.LSTM(3, 4, dtype="float64"), "int8", "quantize: expected a layer with dtype='float32'"),
        (pyrnn.LSTM(3, 4, layer_norm=True), "int8", "quantize: expected a layer with layer_norm=False"),
        (pyrnn.LSTM(3, 4, proj_size=2), "int8", "quantize: expected a layer with proj_size=0, got 2"),
        (pyrnn.GRU(3, 4, reset_after=False), "int8", "expected a cell of a single product of h, got"),
        (pyrnn.LSTM(3, 4, cell_clip=1.0), "int8", "quantize: expected a layer without activations, clips"),
        (pyrnn.LSTM(3, (4, 5), 2), "int8", r"quantize: expected layers of one hidden_size, got \(4, 5\)"),
        (
            pyrnn.LSTM(3, 4, learn_initial_state=True),
            "int8",
            "expected a layer with learn_initial_state=False",
        ),
        (pyrnn.LSTM(3, 4, heads=2), "int8", "quantize: expected a layer with heads=1, got 2"),
        (pyrnn.LSTM(3, 4, bidirectional=True, merge="sum"), "int8", "with merge='concat', got 'sum'"),
    ],
)
def test_refused(layer, dtype, message):
    from pyrnn.quantized import quantize

    with pytest.raises(ValueError, match=message):
        quantize(layer, dtype)


def test_wrong_device():
    layer = pyrnn.GRU(3, 4, seed=0)
    layer.device = "cuda:0"
    with pytest.raises(ValueError, match="quantize: expected a layer with device='cpu', got 'cuda:0'"):
        layer.quantize()


def test_wrong_numbers():
    layer = pyrnn.GRU(3, 4, seed=0)
    layer.params["weight_ih_l0"][2, 1] = np.inf
    with pytest.raises(ValueError, match="weight_ih_l0: expected finite numbers"):
        layer.quantize()
    small = pyrnn.GRU(3, 4, seed=0).quantize()
    with pytest.raises(TypeError, match="x: expected dtype float32, got float64"):
        small(np.zeros((2, 1, 3)))
    with pytest.raises(ValueError, match="x: expected shape"):
        small(np.zeros((2, 1, 4), np.float32))
    config, params = small.config(), small.state_dict()
    for change, error, message in (
        ({"weight_hh_l0_scale": None}, ValueError, "expected 'weight_hh_l0_scale' of shape"),
        ({"more": params["bias_ih_l0"]}, ValueError, "got 'more' in addition"),
        ({"weight_hh_l0": np.zeros((12, 4))}, TypeError, "weight_hh_l0: expected dtype int8, got float64"),
        ({"weight_ih_l0_scale": np.zeros(3, "f4")}, ValueError, "weight_ih_l0_scale: expected shape"),
    ):
        wrong = {name: a for name, a in (params | change).items() if a is not None}
        with pytest.raises(error, match=message):
            pyrnn.Quantized(config, wrong)


def test_the_kernels_check_them_too():
    w, s, f4 = np.zeros((4, 4), np.int8), np.ones(4, np.float32), np.dtype("float32")
    small = _core.Quantized("rnn_tanh", w, s, w, s)
    x, h, y = (np.zeros(shape, f4) for shape in ((2, 1, 4), (1, 4), (2, 1, 4)))
    small.forward(x, [h], y, [h.copy()])
    for wrong in (
        lambda: _core.Quantized("rnn_tanh", w.astype(f4), s, w, s),
        lambda: _core.Quantized("rnn_tanh", w, s[:3], w, s),
        lambda: _core.Quantized("rnn_tanh", w[:3], s, w, s),
        lambda: _core.Quantized("rnn_tanh", w.T[:, ::2], s, w, s),
        lambda: _core.Quantized("gru", w, s, w, s),
        lambda: _core.Quantized("mgu", w, s, w, s),
        lambda: _core.Quantized("rnn_tanh", np.zeros((4, 2**17 + 1), np.int8), s, w, s),
        lambda: small.forward(x.astype(float), [h], y, [h]),
        lambda: small.forward(x[:, :, :3], [h], y, [h]),
        lambda: small.forward(x, [h, h], y, [h]),
        lambda: small.forward(x, [h], y[:1], [h]),
        lambda: small.forward(x, [h], y, None),
        lambda: small.forward(x, [h], y, [h], lengths=np.array([3])),
        lambda: small.forward(x, [h], y, [h], regularization=([0.1], 0.0, True, 0, 0)),
        lambda: _core.Quantized.__new__(_core.Quantized).forward(x, [h], y, [h]),
        lambda: _core.Stream("rnn_tanh", [small], 1, np.dtype("float64")),
        lambda: _core.Stream("rnn_relu", [small], 1, f4),
        lambda: _core.Stream("rnn_tanh", [small, (w, w, None, None)], 1, f4),
        lambda: _core.Stream("rnn_tanh", [_core.Quantized.__new__(_core.Quantized)], 1, f4),
        lambda: _core.Stream("rnn_tanh", [small], 1, f4).reload([small, small]),
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_and_pickles(copied):
    small = pyrnn.GRU(5, 7, bidirectional=True, zoneout=0.1, seed=0).quantize("int8")
    x = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
    again = copied(small)
    assert np.array_equal(again(x)[0], small(x)[0])
    assert again.config() == small.config() and repr(again) == repr(small)
