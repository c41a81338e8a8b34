# SPDX-License-Identifier: Apache-2.0
"""Options of layers: sizes by layer, learned states, the sum of directions, dropout of weights."""

import numpy as np
import pytest
from problems import named_gradients, options
from tolerances import COMPLEX_STEP, FLOAT64, max_error

import pyrnn
from pyrnn import functional, reference
from pyrnn.layout import Layout
from pyrnn.reference.functional import REFERENCE
from pyrnn.reference.gradcheck import flat
from pyrnn.states import built, result

#: (cell, options of the layout, options of the call)
CASES = {
    "sizes": ("lstm", {"hidden_size": (5, 9)}, {}),
    "sizes gru": ("gru", {"hidden_size": (9, 4), "merge": "sum"}, {}),
    "sum": ("lstm_peephole", {"merge": "sum"}, {}),
    "learned": ("lstm", {"learned": True}, {}),
    "learned gru": ("gru", {"learned": True, "hidden_size": (4, 6)}, {}),
    "weights": ("gru_reset_before", {}, {"weight_dropout": 0.4}),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def draw(case, dtype=np.float64, T=5, B=4, kind="all", directions=2):
    """A problem of two layers as keyword arguments of `sequence_forward`, and gradients coming in."""
    cell, of_layout, call = CASES[case]
    of_layout = {"hidden_size": 6, "num_layers": 2, "directions": directions} | of_layout
    layout = Layout(REFERENCE.spec(cell), 3, **of_layout)
    rng = np.random.Generator(np.random.Philox(3))

    def of(a):
        return a.astype(dtype)

    def states(*axes):
        return result(built(layout, lambda rows, n: of(rng.normal(size=(rows, *axes, n)))), False)

    params = {name: of(rng.normal(scale=0.5, size=shape)) for name, shape in layout.shapes.items()}
    arguments = {
        "cell": cell,
        "x": of(rng.normal(size=(T, B, 3))),
        "state": None if layout.initial else states(B),
        "params": params,
        "merge": layout.merge,
        **options(kind, T, B, rng),
        **call,
    }
    gradients = of(rng.normal(size=(T, B, layout.sizes[2]))), states(B)
    return arguments, gradients


def solve(module, problem):
    arguments, gradients = problem
    rng = np.random.Generator(np.random.Philox(5))
    y, state, saved = module.sequence_forward(rng=rng, **arguments)
    grads = module.sequence_backward(saved, *gradients)
    return {"y": y, **flat("state", state), **flat("dstate", grads.state)} | {
        name: a for name, a in named_gradients(grads).items() if not name.startswith("dstate")
    }


@EVERY_CASE
def test_float64(case):
    problem = draw(case)
    expected = solve(reference, problem)
    for name, a in solve(functional, problem).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize(
    "case",
    [
        *("sizes", "sum", "learned", "weights"),
    ],
)
def test_complex_step(case):
    """The masks are frozen: every evaluation starts from the same generator."""
    cell, of_layout, call = CASES[case]
    of_layout = dict(of_layout)
    learned = of_layout.pop("learned", False)
    of_layout["hidden_size"] = {"sizes": (3, 2)}.get(case, 4 if "proj_size" in of_layout else 2)
    both = {"bidirectional": True} if "merge" in of_layout else {}
    sizes = {"time": 3, "batch": 2, "input_size": 2, "num_layers": 2 if case in ("sizes", "all") else 1}
    more = {"learn_initial_state": learned, "initial_state": not learned, **both}
    steps = {"lengths": [3, 2], "resets": np.array([[0, 0], [1, 0], [0, 1]], bool), "reset_to": "initial"}
    reference.gradcheck(cell, tolerance=COMPLEX_STEP, **sizes, **of_layout, **more, **steps, **call)


@pytest.mark.parametrize("case", ["sizes gru", "weights"])
def test_every_number_of_threads_has_the_same_bits(case):
    problem, before, results = draw(case, np.float32, T=9, B=13), pyrnn.num_threads(), []
    try:
        for threads in (1, 2, 3):
            pyrnn.set_num_threads(threads)
            results.append(solve(functional, problem))
    finally:
        pyrnn.set_num_threads(before)
    for found in results[1:]:
        assert all(np.array_equal(a, results[0][name]) for name, a in found.items())


def normal(*shape):
    return np.random.Generator(np.random.Philox(7)).normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_sizes_by_layer_are_two_layers():
    layer = pyrnn.LSTM(3, (5, 9), 2, dtype="float64", seed=0)
    assert layer.hidden_size == (5, 9) and layer.params["weight_ih_l1"].shape == (36, 5)
    x, one, two = normal(6, 2, 3), *(pyrnn.LSTM(*s, dtype="float64") for s in ((3, 5), (5, 9)))
    for k, part in enumerate((one, two)):
        part.load_state_dict({n: layer.params[n.replace("_l0", f"_l{k}")] for n in part.params})
    y, (h, c) = layer(x)
    assert [a.shape for a in (*h, *c)] == [(1, 2, 5), (1, 2, 9)] * 2
    below, (h0, _) = one(x)
    assert max_error(y, two(below)[0]) <= FLOAT64 and max_error(h[0], h0) <= FLOAT64
    assert pyrnn.LSTM(3, (5, 5), 2, seed=0).hidden_size == 5


def test_a_sum_of_directions():
    both = pyrnn.GRU(3, 5, bidirectional=True, dtype="float64", seed=0)
    summed = pyrnn.GRU(3, 5, bidirectional=True, merge="sum", dtype="float64", seed=0)
    y, z = both(normal(6, 2, 3))[0], summed(normal(6, 2, 3), out=np.empty((6, 2, 5)))[0]
    assert max_error(z, y[..., :5] + y[..., 5:]) <= FLOAT64


@pytest.mark.parametrize("cell", ["lstm", "lstm_no_input_gate", "lstm_no_output_gate", "janet", "mgu"])
def test_forget_bias(cell):
    layer = pyrnn.Recurrent(cell, 3, 5, 2, bidirectional=True, forget_bias=1.5, dtype="float64", seed=0)
    for name in layer.params:
        if name.startswith("weight"):
            layer.params[name][...] = 0
    assert np.allclose(layer.gates(normal(1, 1, 3))["f"], sigmoid(1.5))


def test_learned_initial_states():
    layer = pyrnn.LSTM(3, 5, learn_initial_state=True, dtype="float64", seed=0)
    assert not layer.params["h0_l0"].any()
    for name in ("h0_l0", "c0_l0"):
        layer.params[name][:] = normal(5)
    start = tuple(np.tile(layer.params[name], (1, 3, 1)) for name in ("h0_l0", "c0_l0"))
    x, lengths = normal(4, 3, 3), [4, 0, 2]
    y, state, saved = layer.forward(x, lengths=lengths)
    z, same, given = layer.forward(x, start, lengths=lengths)
    assert np.array_equal(y, z) and all(map(np.array_equal, state, same))
    assert np.array_equal(state[1][0, 1], layer.params["c0_l0"])
    free, fixed = layer.backward(saved, y, state), layer.backward(given, y, state)
    assert not fixed.params["c0_l0"].any()
    assert max_error(free.params["c0_l0"], fixed.state[1][0].sum(0)) <= FLOAT64
    stream = layer.stream(3)
    assert max_error(stream.run(x), layer(x)[0]) <= FLOAT64
    stream.reset([1])
    assert np.array_equal(stream.state[0][0, 1], layer.params["h0_l0"])
    stream.reset()
    assert max_error(stream.step(x[0]), layer(x)[0][0]) <= FLOAT64


def test_weights_are_dropped():
    x = np.zeros((3, 1, 2))
    weights = pyrnn.RNN(2, 64, nonlinearity="relu", weight_dropout=0.4, dtype="float64", seed=0)
    _, _, saved = weights.forward(normal(3, 1, 2), np.ones((1, 1, 64)))
    zero = weights.backward(saved, np.ones((3, 1, 64))).params["weight_hh_l0"] == 0
    assert 0.3 < zero.mean() < 0.75 and np.array_equal(weights(x)[0], weights.forward(x, training=False)[0])


@pytest.mark.parametrize(
    "layer",
    [
        pyrnn.LSTM(3, (5, 9), 2, learn_initial_state=True, seed=0),
        pyrnn.GRU(3, 5, weight_dropout=0.5, batch_first=True, seed=0),
        pyrnn.LSTM(3, 5, bidirectional=True, merge="sum", forget_bias=1.0, weight_dropout=0.1, seed=0),
    ],
    ids=str,
)
def test_files_words_and_streams(layer, tmp_path):
    layer.save(tmp_path / "layer.safetensors")
    again = pyrnn.load(tmp_path / "layer.safetensors")
    x = normal(6, 4, 3).astype(np.float32)
    y, state = layer(x)
    assert repr(again) == repr(layer)
    assert np.array_equal(again(x)[0], y)
    if layer.bidirectional:
        return
    stream = layer.stream(6 if layer.batch_first else 4)
    steps = stream.run(x.swapaxes(0, 1) if layer.batch_first else x)
    assert np.allclose(steps.swapaxes(0, 1) if layer.batch_first else steps, y, rtol=1e-5, atol=1e-6)
    for name, a in flat("state", stream.state).items():
        assert np.allclose(a, flat("state", state)[name], rtol=1e-5, atol=1e-6)
    stream.state = state


WRONG = [
    ("gru", {"forget_bias": 1.0}, "forget_bias: expected None, because gru has no forget gate"),
    ("lstm", {"forget_bias": 1.0, "bias": False}, "forget_bias: expected None without bias"),
    ("lstm", {"weight_dropout": 2.0}, "weight_dropout: expected a number from 0 to 1, got 2.0"),
    ("lstm", {"merge": "sum"}, "merge: expected 'concat' for a single direction, got 'sum'"),
    ("lstm", {"hidden_size": (3, 4)}, "hidden_size: expected num_layers = 1 sizes, got 2"),
]


@pytest.mark.parametrize(("cell", "given", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_options(cell, given, message):
    with pytest.raises(ValueError, match=message):
        pyrnn.Recurrent(cell, 3, **({"hidden_size": 5} | given))


def test_wrong_kinds():
    for name, value in (
        ("activations", "tanh"),
        ("activations", [3, 3, 3]),
        ("cell_norm", 1),
        ("merge", None),
    ):
        with pytest.raises(TypeError, match=name):
            pyrnn.LSTM(3, 5, **{name: value})
    layer = pyrnn.LSTM(3, (5, 4), 2, seed=0)
    x, a, b = np.ones((2, 1, 3), np.float32), *(np.zeros((1, 1, n), np.float32) for n in (5, 4))
    for state, message in (
        (a, "state: expected a tuple of 2, got ndarray"),
        ((a, b), r"state\[0\]: expected a tuple of 2, got ndarray"),
        (((a, b), (a, a)), r"state\[1\]\[1\]: expected shape \(directions, B, H\) = \(1, 1, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            layer(x, state)
