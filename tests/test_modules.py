# SPDX-License-Identifier: Apache-2.0
"""The layers as objects: layouts, parameters, dropout, gates, copies and files."""

import copy
import pickle

import numpy as np
import pytest
from problems import CELLS, Problem, named, named_gradients
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn import reference

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)


def layer_of(problem, cls=pyrnn.Recurrent, **options):
    """A layer with the problem's parameters."""
    layer = cls(
        problem.cell,
        problem.I,
        problem.H,
        problem.num_layers,
        bias=problem.bias,
        bidirectional=problem.directions == 2,
        dtype=problem.dtype,
        seed=0,
        **options,
    )
    layer.load_state_dict(problem.params)
    return layer


def swap(a):
    return a.swapaxes(0, 1)


def in_batch_first(options):
    return {n: swap(v) if n in ("mask", "resets") else v for n, v in options.items()}


def solve(layer, problem, x=None, dy=None, **options):
    """Everything a layer returns for a problem, by name."""
    y, state, saved = layer.forward(problem.x if x is None else x, problem.state, **options)
    grads = layer.backward(saved, problem.dy if dy is None else dy, problem.dstate)
    return {"y": y, **named("state", state), **named_gradients(grads)}


@EVERY_CELL
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_layer_equals_the_functions(cell, kind):
    p = Problem(cell, num_layers=2, directions=2, kind=kind)
    layer = layer_of(p)
    expected = p.run(pyrnn.functional)
    for name, value in solve(layer, p, **p.options).items():
        assert np.array_equal(value, expected[name]), name
    y, state = layer(p.x, p.state, **p.options)
    assert max_error(y, expected["y"]) <= FLOAT64
    for name, value in named("state", state).items():
        assert max_error(value, expected[name]) <= FLOAT64, name


@EVERY_CELL
def test_layer_equals_the_reference_layer(cell):
    p = Problem(cell, num_layers=2, directions=2, kind="all")
    kernel, ours = (solve(layer_of(p, cls), p, **p.options) for cls in (pyrnn.Recurrent, reference.Recurrent))
    for name, value in ours.items():
        assert max_error(kernel[name], value) <= FLOAT64, name


@EVERY_CELL
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_batch_first(cell, kind):
    p = Problem(cell, num_layers=2, directions=2, kind=kind)
    expected = solve(layer_of(p), p, **p.options)
    layer = layer_of(p, batch_first=True)
    for x in (swap(p.x), np.ascontiguousarray(swap(p.x))):
        result = solve(layer, p, x, swap(p.dy), **in_batch_first(p.options))
        for name in ("y", "dx"):
            assert result[name].flags.c_contiguous
            result[name] = swap(result[name])
        for name, value in expected.items():
            assert np.array_equal(result[name], value), name


@EVERY_CELL
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_unbatched(cell, batch_first, kind):
    p = Problem(cell, B=1, num_layers=2, directions=2, kind=kind)
    expected = solve(layer_of(p), p, **p.options)
    layer = layer_of(p, batch_first=batch_first)
    p.state, p.dstate = (
        tuple(a[:, 0] for a in s) if isinstance(s, tuple) else s[:, 0] for s in (p.state, p.dstate)
    )
    options = {n: v[:, 0] if n in ("mask", "resets") else v for n, v in p.options.items()}
    result = solve(layer, p, p.x[:, 0], p.dy[:, 0], **options)
    for name, value in expected.items():
        unbatched = value if name.startswith(("dweight", "dbias")) else value[:, 0]
        assert np.array_equal(result[name], unbatched), name
    if "lengths" in options:
        scalar = solve(layer, p, p.x[:, 0], p.dy[:, 0], **(options | {"lengths": int(options["lengths"][0])}))
        assert np.array_equal(scalar["y"], result["y"])


@EVERY_CELL
@pytest.mark.parametrize("batch_first", [False, True])
def test_out(cell, batch_first):
    p = Problem(cell, num_layers=2, directions=2)
    layer = layer_of(p, batch_first=batch_first)
    y, _ = layer(p.x)
    for out in (
        np.full(y.shape, np.nan),
        np.full(y.shape, np.nan, order="F"),
        np.full(y.shape, np.nan, dtype=">f8"),
        np.full((*y.shape[:2], y.shape[2] + 3), np.nan)[..., 1:-2],
    ):
        returned, _ = layer(p.x, out=out)
        assert returned is out
        assert np.array_equal(out, y)


@EVERY_CELL
def test_y_may_be_changed_before_the_backward(cell):
    p = Problem(cell, num_layers=2, directions=2)
    layer = layer_of(p)
    expected = solve(layer, p)
    y, state, saved = layer.forward(p.x, p.state)
    for a in (y, *named("state", state).values()):
        a[...] = np.nan
    for name, value in named_gradients(layer.backward(saved, p.dy, p.dstate)).items():
        assert np.array_equal(value, expected[name]), name


def test_dropout_only_in_training():
    layer = pyrnn.LSTM(4, 6, 2, dropout=0.5, dtype="float64", seed=3)
    x = np.random.default_rng(0).normal(size=(5, 3, 4))
    y, _ = layer(x)
    assert np.array_equal(layer(x)[0], y)
    assert np.array_equal(layer.forward(x, training=False)[0], y)
    dropped = layer.forward(x)[0]
    assert not np.array_equal(dropped, y)
    assert not np.array_equal(layer.forward(x)[0], dropped)
    again = pyrnn.LSTM(4, 6, 2, dropout=0.5, dtype="float64", seed=3)
    assert np.array_equal(again.forward(x)[0], dropped)


def test_dropout_of_everything():
    layer = pyrnn.LSTM(4, 6, 2, dropout=1.0, dtype="float64", seed=3)
    x = np.random.default_rng(0).normal(size=(5, 3, 4))
    y, _, saved = layer.forward(x)
    assert np.isfinite(y).all()
    assert not layer.backward(saved, y).x.any()


@EVERY_CELL
def test_gates(cell):
    p = Problem(cell, num_layers=2, directions=2, kind="all")
    layer, ours = layer_of(p), layer_of(p, reference.Recurrent)
    for number in (0, 1, -1, -2):
        gates, expected = (one.gates(p.x, p.state, layer=number, **p.options) for one in (layer, ours))
        assert list(gates) == list(expected)
        for name, value in expected.items():
            assert gates[name].shape == (p.T, p.B, 2 * p.H)
            assert max_error(gates[name], value) <= FLOAT64, name
    for bad in (2, -3):
        with pytest.raises(ValueError, match=f"^layer: expected -2 to 1, got {bad}"):
            layer.gates(p.x, layer=bad)
    for kind in ("top", 1.0, None):
        with pytest.raises(TypeError, match=r"^layer: expected an integer, got"):
            layer.gates(p.x, layer=kind)


def test_gates_are_those_of_the_equations():
    layer = pyrnn.LSTM(3, 5, dtype="float64", batch_first=True, seed=0)
    x = np.random.default_rng(0).normal(size=(2, 1, 3))
    gates = layer.gates(x)
    assert list(gates) == ["i", "f", "g", "o"]
    a = x[:, 0] @ layer.params["weight_ih_l0"].T + layer.params["bias_ih_l0"] + layer.params["bias_hh_l0"]
    i, f, g, o = np.split(a, 4, axis=1)
    for name, value in (("i", i), ("f", f), ("o", o)):
        assert max_error(gates[name][:, 0], 1 / (1 + np.exp(-value))) <= FLOAT64
    assert max_error(gates["g"][:, 0], np.tanh(g)) <= FLOAT64
    assert list(pyrnn.GRU(3, 5).gates(np.ones((1, 1, 3), np.float32))) == ["r", "z", "n"]
    y, _ = pyrnn.RNN(3, 5, seed=1)(np.ones((2, 1, 3), np.float32))
    assert np.array_equal(pyrnn.RNN(3, 5, seed=1).gates(np.ones((2, 1, 3), np.float32))["h"], y)


@EVERY_CELL
@pytest.mark.parametrize("bias", [True, False])
def test_parameters(cell, bias):
    layer = pyrnn.Recurrent(cell, 4, 16, 2, bias=bias, bidirectional=True, seed=0)
    spec = layer._layout.spec
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][:: 1 if spec.from_h else 2]
    kinds = kinds if bias else kinds[: len(kinds) // 2]
    kinds += [f"weight_{spec.param_name}"] * (spec.params > 0)
    names = [f"{kind}_l{k}{suffix}" for k in range(2) for suffix in ("", "_reverse") for kind in kinds]
    assert list(layer.params) == names
    slots = len(pyrnn._core.cells()[cell]["from_x"])
    assert layer.params["weight_ih_l0"].shape == (slots * 16, 4)
    assert layer.params["weight_ih_l1_reverse"].shape == (slots * 16, 32)
    assert layer.params["weight_hh_l1"].shape == (spec.from_h * 16 or spec.params, 16)
    own = ("weight_hh",) if cell.startswith("indrnn") else ()  # a unit's weights of its own past
    for name in (n for n in layer.params if n.startswith(own)):
        assert layer.params[name].min() >= 0 and 0.5 < layer.params[name].max() <= 1
    values = np.concatenate(
        [np.ravel(a) for n, a in layer.params.items() if "period" not in n and not n.startswith(own)]
    )
    assert values.dtype == np.float32
    assert 0.24 < np.abs(values).max() <= 0.25
    assert abs(values.mean()) < 0.01
    same, other = (pyrnn.Recurrent(cell, 4, 16, 2, bias=bias, bidirectional=True, seed=s) for s in (0, 1))
    assert all(np.array_equal(a, same.params[name]) for name, a in layer.params.items())
    assert not np.array_equal(layer.params["weight_ih_l0"], other.params["weight_ih_l0"])
    unseeded = [pyrnn.Recurrent(cell, 4, 16).params["weight_ih_l0"] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_state_dict_is_a_copy_and_loads_in_place():
    layer, other = pyrnn.GRU(3, 4, seed=0), pyrnn.GRU(3, 4, dtype="float64", seed=1)
    state = layer.state_dict()
    state["weight_ih_l0"][...] = 7
    assert layer.params["weight_ih_l0"].max() < 1
    held = other.params["weight_ih_l0"]
    other.load_state_dict(layer.state_dict())
    assert other.params["weight_ih_l0"] is held
    assert held.dtype == np.float64
    assert np.array_equal(held, layer.params["weight_ih_l0"])


def test_parameters_may_be_replaced():
    layer = pyrnn.RNN(3, 4, seed=0)
    x = np.ones((2, 1, 3), np.float32)
    layer.params["weight_hh_l0"] = np.zeros((4, 4), np.float32)
    y, _ = layer(x)
    assert np.array_equal(y[0], y[1])
    layer.params["weight_hh_l0"] = np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected shape \(H, H\) = \(4, 4\), got \(4, 5\)"):
        layer(x)
    del layer.params["weight_hh_l0"]
    with pytest.raises(ValueError, match="params: expected 'weight_hh_l0' of shape"):
        layer(x)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(clone):
    layer = pyrnn.LSTM(3, 4, 2, dropout=0.5, bidirectional=True, batch_first=True, seed=0)
    twin = clone(layer)
    x = np.ones((2, 5, 3), np.float32)
    assert repr(twin) == repr(layer)
    assert np.array_equal(twin(x)[0], layer(x)[0])
    if clone is not copy.copy:
        assert np.array_equal(twin.forward(x)[0], layer.forward(x)[0])
        twin.params["weight_ih_l0"][...] = 0
        assert layer.params["weight_ih_l0"].any()


@pytest.mark.parametrize(
    "text",
    [
        "LSTM(3, 5)",
        "LSTM(3, 5, num_layers=2, bias=False, batch_first=True, bidirectional=True)",
        "LSTM(3, 5, num_layers=2, dropout=0.5, dtype='float64')",
        "GRU(3, 5)",
        "RNN(3, 5)",
        "RNN(3, 5, nonlinearity='relu')",
        "Recurrent('rnn_relu', 3, 5)",
        "LSTMCell(3, 5, bias=False)",
        "RNNCell(3, 5, nonlinearity='relu', dtype='float64')",
        "Cell('gru', 3, 5)",
    ],
)
def test_repr_is_the_call(text):
    assert repr(eval(text, vars(pyrnn))) == text


def test_the_file_gives_the_layer_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    for layer in (
        pyrnn.LSTM(3, 4, 2, dropout=0.5, bidirectional=True, batch_first=True, dtype="float64", seed=0),
        pyrnn.GRU(3, 4, bias=False, seed=0),
        pyrnn.RNN(3, 4, nonlinearity="relu", seed=0),
        pyrnn.RNN(3, 4, seed=0),
        pyrnn.Recurrent("gru", 3, 4, seed=0),
    ):
        layer.save(tmp_path / "layer.safetensors")
        again = pyrnn.load(tmp_path / "layer.safetensors")
        assert type(again) is type(layer)
        assert repr(again) == repr(layer)
        assert np.array_equal(again(x.astype(layer.dtype))[0], layer(x.astype(layer.dtype))[0])


def test_files_without_a_layer_are_refused(tmp_path):
    from pyrnn.io.safetensors import save_safetensors

    params = pyrnn.GRU(3, 4, seed=0).params
    good = '{"layer": "GRU", "cell": "gru", "batch_first": false, "dropout": 0.0}'
    for tensors, metadata in (
        (params, {}),
        (params, {"pyrnn": "{"}),
        (params, {"pyrnn": "[]"}),
        (params, {"pyrnn": '{"layer": "GRU"}'}),
        (params, {"pyrnn": good.replace('"gru"', '"lstm"')}),
        (params, {"pyrnn": good.replace('"gru"', '"no such cell"')}),
        (params, {"pyrnn": good.replace('"gru"', "7")}),
        (params, {"pyrnn": good.replace("0.0", "2.0")}),
        (params, {"pyrnn": good.replace("false", '"yes"')}),
        ({"weight_ih_l0": params["weight_ih_l0"]}, {"pyrnn": good}),
        (params | {"more": params["bias_ih_l0"]}, {"pyrnn": good}),
        ({}, {"pyrnn": good}),
    ):
        save_safetensors(tmp_path / "bad.safetensors", tensors, metadata)
        with pytest.raises(ValueError, match=": expected"):
            pyrnn.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("add", ["set", "update", "or", "setdefault"])
def test_a_name_that_is_no_parameter_is_refused_where_it_is_written(add):
    layer = pyrnn.LSTM(3, 5, seed=0)
    before = dict(layer.params)
    zero = np.zeros(20, np.float32)
    more = {"bias_ih_l0": zero, "bias_ih_l1": zero}
    words = "params: expected one of weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, got 'bias_ih_l1'"
    with pytest.raises(ValueError, match=words):
        if add == "set":
            layer.params["bias_ih_l1"] = zero
        elif add == "update":
            layer.params.update(more)
        elif add == "or":
            layer.params |= more
        else:
            layer.params.setdefault("bias_ih_l1", zero)
    assert layer.params.keys() == before.keys()
    assert all(layer.params[name] is a for name, a in before.items())
    layer.params.update(bias_ih_l0=zero)
    assert layer.params["bias_ih_l0"] is zero
    del layer.params["bias_ih_l0"]
    assert layer.params.setdefault("bias_ih_l0", zero) is zero
    copies = copy.deepcopy(layer.params), pickle.loads(pickle.dumps(layer.params)), copy.copy(layer.params)
    for params in copies:
        assert all((params[name] == a).all() for name, a in layer.params.items())
        with pytest.raises(ValueError, match="got 'h'"):
            params["h"] = zero
    with pytest.raises(
        ValueError, match=r"expected one of 24 names, such as weight_ih_l2, .*, got 'weight_ih_2'"
    ):
        pyrnn.LSTM(3, 5, num_layers=6).params["weight_ih_2"] = zero


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyrnn.LSTMCell(3, 5),
        lambda: pyrnn.BahdanauAttention(3, 4, 5),
        lambda: pyrnn.AttentionDecoder("gru", 3, 5, pyrnn.LuongAttention(5, 5)),
    ],
)
def test_so_it_is_for_cells_attention_and_decoders(make, tmp_path):
    made = make()
    made.save(tmp_path / "x.safetensors")
    for thing in (made, pyrnn.load(tmp_path / "x.safetensors")):
        with pytest.raises(ValueError, match=r"params: expected one of .*, got 'weight'"):
            thing.params["weight"] = np.zeros(3)
