# SPDX-License-Identifier: Apache-2.0
"""Options of layers: activations, clips, normalised c, all states, masks, learned states, sizes by layer."""

import numpy as np
import pytest
from option_problems import CANDIDATE, CASES, STEP, draw, solve
from problems import named_gradients
from tolerances import COMPLEX_STEP, FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import functional, reference
from pyrnn.options import CURVES
from pyrnn.reference.gradcheck import flat

EVERY_CASE = pytest.mark.parametrize("case", CASES)


@EVERY_CASE
def test_float64(case):
    problem = draw(case)
    expected = solve(reference, problem)
    for name, a in solve(functional, problem).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@pytest.mark.parametrize("case", ["candidate", "curves gru", "heads many", "all"])
def test_float32(case):
    result, wanted = solve(functional, draw(case, np.float32)), solve(reference, draw(case))
    for group in ("y", "states", "dx", "dweight"):
        names = [name for name in result if name.startswith(group)]
        a, e = (np.concatenate([np.ravel(r[name]) for name in names]) for r in (result, wanted))
        assert l2_error(a, e) <= 4 * float32_bound(5), group


@pytest.mark.parametrize(
    "case",
    [
        *("sizes", "sum", "learned", "weights", "step before", "candidate gru", "candidate coupled"),
        *("curves peephole", "curves before", "cell_clip", "cell_norm peephole", "heads before", "all"),
    ],
)
def test_complex_step(case):
    """The masks are frozen: every evaluation starts from the same generator."""
    cell, of_layout, call = CASES[case]
    of_layout = dict(of_layout)
    learned = of_layout.pop("learned", False)
    of_layout["hidden_size"] = {"sizes": (3, 2), "all": 3}.get(case, 2)
    if "proj_size" in of_layout:
        of_layout["proj_size"] = 2
    both = {"bidirectional": True} if "merge" in of_layout else {}
    sizes = {"time": 3, "batch": 2, "input_size": 2, "num_layers": 1 + (case == "sizes")}
    more = {"learn_initial_state": learned, "initial_state": not learned, "return_states": True, **both}
    steps = {"lengths": [3, 2], "resets": np.array([[0, 0], [1, 0], [0, 1]], bool), "reset_to": "initial"}
    reference.gradcheck(cell, tolerance=COMPLEX_STEP, **sizes, **of_layout, **more, **steps, **call)


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve(curve):
    """The kernel's value and slope at many points, with the numbers of the operator and with others."""
    for numbers in ((), (0.7, 0.3)[: len(CURVES[curve])]):
        call = {"activations": [(curve, *numbers)], "params": {}}
        call["params"] = {"weight_ih_l0": np.eye(40), "weight_hh_l0": np.zeros((40, 40))}
        x = np.linspace(-5, 5, 120).reshape(3, 1, 40) + 0.01
        found = []
        for module in (functional, reference):
            y, _, saved = module.sequence_forward("rnn_tanh", x, None, **call)
            found.append((y, module.sequence_backward(saved, np.ones_like(y)).x))
        for a, expected in zip(*found, strict=True):
            assert max_error(a, expected) <= FLOAT64
        y, _ = reference.sequence(
            "rnn_tanh", x + 1e-30j, None, **call | {"params": complex_of(call["params"])}
        )
        assert max_error(found[0][1], y.imag / 1e-30) <= COMPLEX_STEP


def complex_of(params):
    return {name: a.astype(complex) for name, a in params.items()}


@pytest.mark.parametrize("case", ["candidate gru", "heads many", "all"])
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


def test_formulas():
    """Clip and normalisation of c, dropout aside, as one writes them down."""
    layer = pyrnn.LSTM(3, 8, cell_clip=0.2, cell_norm=True, gate_clip=0.5, dtype="float64", seed=0)
    for name in ("weight_ln_c_l0", "bias_ln_c_l0"):
        layer.params[name][:] = normal(8)
    p, x = layer.params, 2 * normal(6, 2, 3)
    h, c = np.zeros((2, 8)), np.zeros((2, 8))
    for t in range(6):
        a = x[t] @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
        i, f, g, o = np.split(np.clip(a, -0.5, 0.5), 4, axis=1)
        c = np.clip(sigmoid(f) * c + sigmoid(i) * np.tanh(g), -0.2, 0.2)
        mean, variance = c.mean(1, keepdims=True), c.var(1, keepdims=True)
        c_hat = (c - mean) / np.sqrt(variance + 1e-5) * p["weight_ln_c_l0"] + p["bias_ln_c_l0"]
        h = sigmoid(o) * np.tanh(c_hat)
    _, (h_n, c_n) = layer(x)
    assert max_error(h_n[0], h) <= FLOAT64 and max_error(c_n[0], c) <= FLOAT64 and (np.abs(c) == 0.2).any()


def test_its_own_activations_change_nothing():
    x = normal(5, 2, 3)
    for layer, curves in ((pyrnn.LSTM, ("Sigmoid", "Tanh", "tanh")), (pyrnn.GRU, ("sigmoid", "tanh"))):
        plain, named = (layer(3, 9, dtype="float64", seed=0, **o) for o in ({}, {"activations": curves}))
        (y, _, kept), (z, _, also) = plain.forward(x), named.forward(x)
        assert max_error(z, y) <= FLOAT64
        for name, grad in plain.backward(kept, y).params.items():
            assert max_error(named.backward(also, y).params[name], grad) <= FLOAT64


@pytest.mark.parametrize("batch_first", [False, True])
def test_states_are_those_of_single_steps(batch_first):
    layer = pyrnn.LSTM(3, 5, 2, batch_first=batch_first, dtype="float64", seed=0)
    x = normal(4, 2, 3)
    given = x.swapaxes(0, 1) if batch_first else x
    y, state, states = layer(given, return_states=True)
    assert max_error(layer(given)[0], y) <= FLOAT64
    after = None
    for t in range(4):
        _, after = layer(given[:, t : t + 1] if batch_first else given[t : t + 1], after)
        for a, expected in zip(states, after, strict=True):
            assert max_error(a[:, :, t] if batch_first else a[:, t], expected) <= FLOAT64
    y, state, states, saved = layer.forward(given, return_states=True)
    last = [np.zeros_like(a) for a in states]
    for d, s in zip(last, state, strict=True):
        (d[:, :, 3] if batch_first else d[:, 3])[...] = s
    one, other = layer.backward(saved, y, state), layer.backward(saved, y, None, tuple(last))
    for name, a in named_gradients(other).items():
        assert max_error(a, named_gradients(one)[name]) <= FLOAT64, name


def test_states_of_a_single_sequence():
    layer = pyrnn.GRU(3, 5, bidirectional=True, dtype="float64", seed=0)
    y, _, states, saved = layer.forward(normal(4, 3), return_states=True)
    assert states.shape == (2, 4, 5) and np.array_equal(np.concatenate(states, axis=1), y)
    assert layer.backward(saved, None, None, states).x.shape == (4, 3)


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


def test_masks_are_drawn_afresh():
    x = np.zeros((3, 1, 2))
    step = pyrnn.RNN(2, 64, nonlinearity="relu", dtype="float64", seed=0, **STEP)
    step.params["weight_hh_l0"][...] = np.eye(64)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        step.params[name][...] = 0
    y = step.forward(x, np.ones((1, 1, 64)))[0]
    kept = [(a > 0).mean() for a in y[:, 0]]
    assert 0.4 < kept[0] < 0.8 and 0.2 < kept[1] < 0.55 and kept[2] < kept[1]
    assert not np.array_equal(step.forward(x, np.ones((1, 1, 64)))[0], y)
    weights = pyrnn.RNN(2, 64, nonlinearity="relu", weight_dropout=0.4, dtype="float64", seed=0)
    _, _, saved = weights.forward(normal(3, 1, 2), np.ones((1, 1, 64)))
    zero = weights.backward(saved, np.ones((3, 1, 64))).params["weight_hh_l0"] == 0
    assert 0.3 < zero.mean() < 0.75 and np.array_equal(weights(x)[0], weights.forward(x, training=False)[0])


@pytest.mark.parametrize(
    "layer",
    [
        pyrnn.LSTM(3, (5, 9), 2, cell_norm=True, cell_clip=1.0, learn_initial_state=True, seed=0),
        pyrnn.GRU(3, 5, activations=["softsign", ("elu", 0.5)], gate_clip=2.0, batch_first=True, seed=0),
        pyrnn.LSTM(3, 5, bidirectional=True, merge="sum", forget_bias=1.0, weight_dropout=0.1, seed=0),
        pyrnn.LSTM(3, 5, **CANDIDATE, seed=0),
        pyrnn.LSTM(3, 5, zoneout=[np.float32(0.25), 0.5], learn_initial_state=np.True_, seed=0),
        pyrnn.GRU(3, 5, activations=[("elu", np.float32(0.5)), "tanh"], gate_clip=np.float16(2), seed=0),
        pyrnn.LSTM(3, 5, forget_bias=np.int64(1), recurrent_dropout_kind=np.str_("step"), seed=0),
        pyrnn.Recurrent("slstm", 3, (8, 4), 2, heads=4, seed=0),
    ],
    ids=str,
)
def test_files_words_and_streams(layer, tmp_path):
    layer.save(tmp_path / "layer.safetensors")
    again = pyrnn.load(tmp_path / "layer.safetensors")
    x = normal(6, 4, 3).astype(np.float32)
    y, state = layer(x)
    assert repr(again) == repr(layer) and again.config() == layer.config()
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
    ("gru", {"cell_clip": 1.0}, "cell_clip: expected none, because gru makes no h of a c"),
    ("gru", {"cell_norm": True}, "cell_norm: expected none, because gru makes no h of a c"),
    ("lstm_peephole", {"cell_clip": 1.0}, "cell_clip: expected None, because the output gate"),
    ("lstm", {"cell_clip": 0.0}, "cell_clip: expected a positive number, got 0.0"),
    ("lstm", {"gate_clip": np.nan}, "gate_clip: expected a positive number, got nan"),
    ("lstm_no_input_activation", {"gate_clip": 1.0}, "gate_clip: expected None, because the activations of"),
    ("gru", {"forget_bias": 1.0}, "forget_bias: expected None, because gru has no forget gate"),
    ("lstm", {"forget_bias": 1.0, "bias": False}, "forget_bias: expected None without bias"),
    ("lstm", {"activations": ["tanh"]}, r"activations: expected 3 \(f, g, h\), got 1"),
    ("rnn_tanh", {"activations": ["tanh"] * 2}, r"activations: expected 1 \(f\), got 2"),
    ("rnn_tanh", {"activations": ["gelu"]}, r"activations\[0\]: expected one of sigmoid, .*, got 'gelu'"),
    ("rnn_tanh", {"activations": [("elu", -1.0)]}, r"activations\[0\]: expected an alpha of at least 0"),
    ("rnn_tanh", {"activations": [("tanh", 1.0)]}, r"activations\[0\]: expected at most 0 numbers for tanh"),
    ("rnn_tanh", {"recurrent_dropout_kind": "candidate"}, "expected no 'candidate', rnn_tanh has none"),
    ("lstm", {"recurrent_dropout_kind": "candidate", "gate_clip": 1.0}, "no 'candidate' beside gate_clip"),
    ("lstm", {"recurrent_dropout_kind": "often"}, "recurrent_dropout_kind: expected 'sequence' or 'step'"),
    ("lstm", {"weight_dropout": 2.0}, "weight_dropout: expected a number from 0 to 1, got 2.0"),
    ("lstm", {"merge": "sum"}, "merge: expected 'concat' for a single direction, got 'sum'"),
    ("lstm", {"heads": 2}, "heads: expected a divisor of hidden_size = 5, got 2"),
    ("lstm", {"heads": 5, "proj_size": 2}, "heads: expected 1 with a projection, got 5"),
    ("clockwork", {"heads": 5}, "heads: expected 1, because clockwork has no full product of h, got 5"),
    ("indrnn_relu", {"heads": 5}, "heads: expected 1, because indrnn_relu has no full product of h, got 5"),
    ("lstm", {"heads": 0}, "heads: expected an integer of at least 1, got 0"),
    ("lstm", {"hidden_size": (3, 4)}, "hidden_size: expected num_layers = 1 sizes, got 2"),
    (
        "lstm",
        {"gate_clip": 1.0, "compute_dtype": "bfloat16"},
        "compute_dtype: expected None beside activations",
    ),
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
    y, _, states, saved = layer.forward(x, return_states=True)
    with pytest.raises(ValueError, match=r"dstates: expected a tuple of 2, got 1"):
        layer.backward(saved, y, None, states[:1])


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        (((("sigmoid", 0, 0),) * 2, 0, 0, "step"), "expected 3 curves"),
        (((("gelu", 0, 0),) * 3, 0, 0, "step"), "expected a known curve, got gelu"),
        (((("sigmoid", np.nan, 0),) * 3, 0, 0, "step"), "expected finite numbers"),
        (((("sigmoid", 0, 0),) * 3, -1, 0, "step"), "expected a finite gate_clip"),
        (((("sigmoid", 0, 0),) * 3, 0, np.inf, "step"), "expected a finite cell_clip"),
        (((("sigmoid", 0, 0),) * 3, 0, 1, "step"), "gru has no output activation"),
        (((("sigmoid", 0, 0),) * 3, 0, 0, "often"), "expected a known kind of dropout"),
    ],
)
def test_the_kernels_check_them_too(variation, message):
    x, h = normal(2, 1, 3), np.zeros((1, 5))
    arguments = (x, [h], normal(15, 3), normal(15, 5), None, None, np.empty((2, 1, 5)), [h.copy()])
    with pytest.raises(ValueError, match=message):
        pyrnn._core.forward("gru", *arguments, variation=variation)
    with pytest.raises(ValueError, match="norm_c: expected a variation beside it"):
        pyrnn._core.forward("gru", *arguments, norm_c=np.ones(5))
    saved = pyrnn._core.forward("gru", *arguments, True)
    weights = [np.empty(shape) for shape in ((15, 3), (15, 5))]
    with pytest.raises(ValueError, match=r"dstates\[0\]"):
        pyrnn._core.backward(saved, None, None, None, False, [h], *weights, None, None, dstates=[h])
