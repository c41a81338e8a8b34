# SPDX-License-Identifier: Apache-2.0
"""Attention and decoder of `pyrnn._core` called with anything: a result or an exception, never a crash."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import FUSED
from test_core_arguments import CELLS
from wrong_arguments import ARRAYS, FUZZ, OBJECTS, refused_or_done, wrong_array, wrong_list

from pyrnn import _core

DTYPES = st.sampled_from([np.float32, np.float64])
PROBLEMS = st.fixed_dictionaries(
    {
        "score": st.sampled_from(sorted(_core.scores())),
        "alignment": st.sampled_from(["softmax", "sparsemax", "monotonic"]),
        "B": st.integers(0, 3),
        "Tq": st.integers(0, 4),
        "Tk": st.integers(0, 6),
        "D": st.integers(1, 9),
        "Dv": st.integers(1, 9),
        "F": st.integers(0, 2),
        "covers": st.booleans(),
        "dtype": DTYPES,
    }
)
NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e300, float("inf"), float("nan"), None, "1", 2, 2**70, [1.0]])


def history(p):
    """What weights before add to a score, where it is one that takes it; W = 3."""
    weighted = _core.scores()[p["score"]]["weighted"]
    F, D, ones = p["F"] if weighted else 0, p["D"], np.ones
    arrays = {"weight_score": ones(D) if weighted else None}
    arrays["weight_filter"] = ones((F, 3)) if F else None
    arrays["weight_location"] = ones((D, F)) if F else None
    arrays["weight_coverage"] = ones(D) if weighted and p["covers"] else None
    arrays["previous"] = ones((p["B"], p["Tk"])) if F or p["alignment"] == "monotonic" else None
    arrays["coverage"] = ones((p["B"], p["Tk"])) if arrays["weight_coverage"] is not None else None
    return {name: None if a is None else a.astype(p["dtype"]) for name, a in arrays.items()}


def bounds_of(p):
    bounds = np.zeros((p["B"], p["Tq"], 2), np.int64)
    bounds[:, :, 1] = p["Tk"]
    return bounds


def forward_arguments(p):
    B, Tq, Tk, D, Dv, dtype = (p[name] for name in ("B", "Tq", "Tk", "D", "Dv", "dtype"))
    rng = np.random.default_rng(D)
    arguments = {"score": p["score"], "alignment": p["alignment"]}
    shapes = {"query": (B, Tq, D), "key": (B, Tk, D), "value": (B, Tk, Dv)}
    arguments |= {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    arguments |= history(p) | {"bounds": bounds_of(p)}
    outputs = {"context": (B, Tq, Dv), "weights": (B, Tq, Tk)}
    return arguments | {name: np.full(shape, np.nan, dtype) for name, shape in outputs.items()}


def options_of(p):
    """Options that are right, all of them."""
    B, Tq, Tk, dtype = p["B"], p["Tq"], p["Tk"], p["dtype"]
    options = {"mask": np.ones((B, Tq, Tk), bool), "bias": np.zeros((B, Tq, Tk), dtype), "scale": 0.5}
    if p["alignment"] != "monotonic":
        options |= {"center": np.ones((B, Tq), dtype), "sigma": 0.5}
    return options


def gradients_like(p, arguments, options):
    B, Tq, Tk, Dv, dtype = (p[name] for name in ("B", "Tq", "Tk", "Dv", "dtype"))
    grads = {"dcontext": np.ones((B, Tq, Dv), dtype), "dweights": np.ones((B, Tq, Tk), dtype)}
    for name in ("query", "key", "value", *history(p), "center"):
        a = (arguments | options).get(name)
        grads[f"d{name}"] = None if a is None else np.full_like(a, np.nan)
    return grads | {"dbias": np.full(1, np.nan, dtype)}


def spoil(draw, arguments, most=3):
    """Some arguments replaced by wrong ones."""
    names = draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=most, unique=True))
    for name in names:
        value = arguments[name]
        if isinstance(value, list):
            arguments[name] = wrong_list(draw, value)
        elif isinstance(value, np.ndarray):
            arguments[name] = wrong_array(draw, value)
        elif isinstance(value, float):
            arguments[name] = draw(NUMBERS)
        elif value is None:
            arguments[name] = np.ones(draw(st.sampled_from([(), (1,), (3, 3), (2, 3, 4)])))
        else:
            arguments[name] = draw(st.sampled_from([*OBJECTS, "cosine", "additive", "hard_monotonic"]))


def wrong_bounds(draw, p):
    """Whole numbers, few of which are of keys that there are."""
    shape = (p["B"], p["Tq"], 2)
    numbers = st.sampled_from([0, 1, p["Tk"], p["Tk"] + 1, -1, 2**62, -(2**63), 2**63 - 1])
    values = draw(st.lists(numbers, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return wrong_array(draw, np.array(values, np.int64).reshape(shape))


@FUZZ
@given(st.data(), PROBLEMS, st.booleans())
def test_attention_forward(data, p, with_options):
    arguments = forward_arguments(p) | (options_of(p) if with_options else {})
    spoil(data.draw, arguments)
    with refused_or_done():
        saved = _core.attention_forward(**arguments, save=data.draw(st.booleans()))
        if saved is not None:
            options = options_of(p) if with_options else {}
            _core.attention_backward(saved, **gradients_like(p, forward_arguments(p), options))


@FUZZ
@given(st.data(), PROBLEMS)
def test_bounds(data, p):
    """Whatever is accepted also goes through the backward."""
    arguments = forward_arguments(p)
    arguments["bounds"] = wrong_bounds(data.draw, p)
    with refused_or_done():
        saved = _core.attention_forward(**arguments, save=True)
        _core.attention_backward(saved, **gradients_like(p, arguments, {}))


@FUZZ
@given(st.data(), PROBLEMS, st.booleans())
def test_attention_backward(data, p, with_options):
    options = options_of(p) if with_options else {}
    arguments = forward_arguments(p) | options
    saved = _core.attention_forward(**arguments, save=True)
    grads = gradients_like(p, arguments, options)
    spoil(data.draw, grads)
    with refused_or_done():
        _core.attention_backward(saved, **grads)
    grads = gradients_like(p, arguments, options)
    _core.attention_backward(saved, **grads)  # what is saved is still whole
    assert all(np.isfinite(a).all() for a in grads.values() if a is not None)


@FUZZ
@given(PROBLEMS, PROBLEMS)
def test_attention_backward_of_another_forward(p, other):
    saved = _core.attention_forward(**forward_arguments(p), save=True)
    with refused_or_done():
        _core.attention_backward(saved, **gradients_like(other, forward_arguments(other), {}))


# The decoder: H = D, no projection of the query; O outputs.

DECODERS = st.tuples(
    PROBLEMS,
    st.fixed_dictionaries(
        {
            "cell": st.sampled_from(FUSED),
            "layer": st.booleans(),
            "query_previous": st.booleans(),
            "input_feed": st.booleans(),
            "biases": st.booleans(),
            "projected": st.booleans(),
        }
    ),
)


def decoder_arguments(p, d):
    B, T, D, M, dtype = p["B"], p["Tq"], p["D"], p["Dv"], p["dtype"]
    H, I, O = D if not d["projected"] else 5, 3, 4 if d["layer"] else M + (D if not d["projected"] else 5)  # noqa: E741
    fed = (M if d["query_previous"] or not d["layer"] else O) if d["input_feed"] else 0
    cell = CELLS[d["cell"]]
    rows_x, rows_h = len(cell["from_x"]) * H, len(cell["from_h"]) * H
    attention = forward_arguments(p)
    shapes = {
        "x": (B, T, I),
        "weight_ih": (rows_x, I + fed),
        "weight_hh": (rows_h, H),
        "bias_ih": (rows_x,) if d["biases"] else None,
        "bias_hh": (rows_h,) if d["biases"] else None,
        "weight_attention": (O, M + H) if d["layer"] else None,
        "bias_attention": (O,) if d["layer"] and d["biases"] else None,
        "weight_query": (D, H) if d["projected"] else None,
        "bias_query": (D,) if d["biases"] else None,
        "feed": (B, fed) if d["biases"] else None,
        "params": (cell["params"], H) if cell["params"] else None,
    }
    rng = np.random.default_rng(H)
    arrays = {n: None if s is None else 0.3 * rng.normal(size=s).astype(dtype) for n, s in shapes.items()}
    states = {
        name: [np.zeros((B, H), dtype) for _ in range(cell["states"])] for name in ("state", "state_out")
    }
    del attention["query"], attention["context"]
    arguments = {"cell": d["cell"]} | attention | arrays | states
    arguments |= {name: d[name] for name in ("query_previous", "input_feed")}
    return arguments | {"outputs": np.full((B, T, O), np.nan, dtype)}


def decoder_gradients(arguments):
    names = ("x", "key", "value", "feed", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
    names += ("weight_attention", "bias_attention", "weight_query", "bias_query", "weight_score", "previous")
    names += ("coverage", "weight_filter", "weight_location", "weight_coverage", "params")
    grads = {
        f"d{name}": None if arguments[name] is None else np.full_like(arguments[name], np.nan)
        for name in names
    }
    return grads | {
        "doutputs": np.ones_like(arguments["outputs"]),
        "dweights": np.ones_like(arguments["weights"]),
        "dstate": [np.ones_like(a) for a in arguments["state"]],
        "dstate_out": [np.full_like(a, np.nan) for a in arguments["state"]],
        "dbias": np.full(1, np.nan, arguments["x"].dtype),
    }


@FUZZ
@given(st.data(), DECODERS, st.booleans())
def test_decoder_forward(data, decoder, with_options):
    arguments = decoder_arguments(*decoder)
    if with_options:
        options = options_of(decoder[0])
        arguments |= {name: options[name] for name in ("mask", "bias", "scale")}
    spoil(data.draw, arguments)
    with refused_or_done():
        saved = _core.decoder_forward(**arguments, save=data.draw(st.booleans()))
        if saved is not None:
            _core.decoder_backward(saved, **decoder_gradients(decoder_arguments(*decoder)))


@FUZZ
@given(st.data(), DECODERS)
def test_decoder_bounds(data, decoder):
    arguments = decoder_arguments(*decoder)
    arguments["bounds"] = wrong_bounds(data.draw, decoder[0])
    with refused_or_done():
        saved = _core.decoder_forward(**arguments, save=True)
        _core.decoder_backward(saved, **decoder_gradients(arguments))


@FUZZ
@given(st.data(), DECODERS)
def test_decoder_backward(data, decoder):
    arguments = decoder_arguments(*decoder)
    saved = _core.decoder_forward(**arguments, save=True)
    grads = decoder_gradients(arguments)
    spoil(data.draw, grads)
    with refused_or_done():
        _core.decoder_backward(saved, **grads)
    grads = decoder_gradients(arguments)
    _core.decoder_backward(saved, **grads)  # what is saved is still whole
    assert all(np.isfinite(a).all() for a in grads.values() if isinstance(a, np.ndarray))


@FUZZ
@given(DECODERS, DECODERS)
def test_decoder_backward_of_another_forward(decoder, other):
    saved = _core.decoder_forward(**decoder_arguments(*decoder), save=True)
    with refused_or_done():
        _core.decoder_backward(saved, **decoder_gradients(decoder_arguments(*other)))


@FUZZ
@given(st.data(), st.tuples(*(st.integers(0, 40),) * 3), st.tuples(st.booleans(), st.booleans()), DTYPES)
def test_multiply(data, sizes, transposed, dtype):
    (M, N, K), (a, b) = sizes, transposed
    arguments = {
        "a": np.ones((K, M) if a else (M, K), dtype),
        "b": np.ones((N, K) if b else (K, N), dtype),
        "out": np.full((M, N), np.nan, dtype),
    }
    _core.multiply(**arguments, a_transposed=a, b_transposed=b)
    assert (arguments["out"] == K).all()
    spoil(data.draw, arguments)
    wrong = st.sampled_from([a, not a, None, 2, "yes"])
    with refused_or_done():
        _core.multiply(**arguments, a_transposed=data.draw(wrong), b_transposed=b)


# By hand


@pytest.mark.parametrize("axis", ["B", "Tq", "Tk", "D", "Dv"])
@pytest.mark.parametrize("size", [2**31, 2**40, 2**55])
def test_sizes_beyond_memory(axis, size):
    p = {"score": "dot", "alignment": "softmax", "B": 1, "Tq": 2, "Tk": 3, "D": 4, "Dv": 5, "F": 0}
    p |= {"covers": False, "dtype": np.float32}
    shapes = {"query": ("B", "Tq", "D"), "key": ("B", "Tk", "D"), "value": ("B", "Tk", "Dv")}
    shapes |= {"context": ("B", "Tq", "Dv"), "weights": ("B", "Tq", "Tk")}
    arguments, sizes = forward_arguments(p), p | {axis: size}
    one = np.zeros(4, np.float32)
    for name, axes in shapes.items():
        if axis in axes:
            shape = tuple(sizes[a] for a in axes)
            strides = tuple(4 if n == 1 else 0 for n in shape)
            arguments[name] = np.lib.stride_tricks.as_strided(one, shape, strides)
    with pytest.raises(ValueError):
        _core.attention_forward(**arguments)


UNMADE = """
import numpy as np
from pyrnn import _core
x = np.zeros((1, 1, 1), np.float32)
for kind, backward, arrays in (
    (_core.AttentionSaved, _core.attention_backward, [x] * 5 + [None] + [x] + [None] * 6),
    (_core.DecoderSaved, _core.decoder_backward, [x, [x], x, x, x, x, [x], x, x, x] + [x] * 13),
):
    for saved in (kind.__new__(kind), None):
        try:
            backward(saved, *arrays)
        except TypeError as error:
            assert "incompatible" in str(error) or "made by its class" in str(error), error
        else:
            raise AssertionError(backward)
    try:
        kind()
    except TypeError:
        continue
    raise AssertionError(kind)
"""


def test_objects_that_were_never_made():
    """In a process of its own: what is read there is memory that nobody has written."""
    process = subprocess.run(
        [sys.executable, "-P", "-c", UNMADE], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


P = {"score": "additive", "alignment": "softmax", "B": 2, "Tq": 3, "Tk": 5, "D": 4, "Dv": 3, "F": 2}
P |= {"covers": True, "dtype": np.float64}
D = {
    "cell": "lstm_peephole",
    "layer": True,
    "query_previous": False,
    "input_feed": True,
    "biases": True,
    "projected": True,
}


def spoiled(arguments):
    """The arguments with one array after the other too short, where there is one."""
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            yield name, arguments | {name: ARRAYS["shorter"](value)}
        elif isinstance(value, list):
            yield name, arguments | {name: value[:-1]}


def test_what_is_refused_is_not_written():
    """Everything is checked before anything is written."""
    for make, forward, outputs in (
        (lambda: forward_arguments(P), _core.attention_forward, ("context", "weights")),
        (lambda: decoder_arguments(P, D), _core.decoder_forward, ("outputs", "weights")),
    ):
        for name, _ in spoiled(make()):
            arguments = dict(spoiled(make()))[name]
            written = [arguments[output] for output in outputs]
            with pytest.raises(ValueError):
                forward(**arguments)
            assert all(np.isnan(a).all() for a in written), name
    saved = _core.attention_forward(**forward_arguments(P), save=True)
    decoded = _core.decoder_forward(**decoder_arguments(P, D), save=True)
    for make, backward in (
        (
            lambda: gradients_like(P, forward_arguments(P), {}),
            lambda given: _core.attention_backward(saved, **given),
        ),
        (
            lambda: decoder_gradients(decoder_arguments(P, D)),
            lambda given: _core.decoder_backward(decoded, **given),
        ),
    ):
        for name, _ in spoiled(make()):
            arguments = dict(spoiled(make()))[name]
            with pytest.raises(ValueError):
                backward(arguments)
            for output, a in arguments.items():
                if isinstance(a, np.ndarray) and output not in ("dcontext", "dweights", "doutputs"):
                    assert np.isnan(a).all(), (name, output)


def test_what_is_kept_for_the_backward_keeps_its_arrays():
    """What the forward read and wrote may be forgotten by the caller."""
    arguments = forward_arguments(P)
    saved, grads = _core.attention_forward(**arguments, save=True), gradients_like(P, arguments, {})
    _core.attention_backward(saved, **grads)
    decoder = decoder_arguments(P, D)
    decoded, decoder_grads = _core.decoder_forward(**decoder, save=True), decoder_gradients(decoder)
    _core.decoder_backward(decoded, **decoder_grads)
    again, decoder_again = gradients_like(P, arguments, {}), decoder_gradients(decoder)
    del arguments, decoder
    junk = [np.full(n, np.nan) for n in (8, 12, 24, 30, 40) for _ in range(100)]
    _core.attention_backward(saved, **again)
    _core.decoder_backward(decoded, **decoder_again)
    assert len(junk) == 500
    for first, second in ((grads, again), (decoder_grads, decoder_again)):
        for name, a in first.items():
            assert a is None or isinstance(a, list) or np.array_equal(a, second[name]), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("D", [7, 33])
def test_phi_saves_work_and_changes_nothing(D, dtype):
    """Once it is where dkey goes the backward need not compute it; before and after that it does."""
    p = {"score": "additive", "alignment": "softmax", "B": 3, "Tq": 1, "Tk": 9, "D": D, "Dv": 5}
    p |= {"dtype": dtype, "F": 0, "covers": False}
    arguments = forward_arguments(p)
    arguments["bounds"][1] = 2, 6
    arguments["key"][1, 7] = np.nan  # beyond the bounds
    phi = np.full_like(arguments["key"], np.nan)
    mask = np.arange(9) % 4 > 0
    options = {"mask": np.tile(mask, (3, 1, 1)), "save": True}
    results = []
    for more in ({}, {"phi": phi}):
        saved = _core.attention_forward(**arguments | options | more)
        for dkey in (np.full_like(phi, np.nan), phi, phi):
            grads = gradients_like(p, arguments, {}) | {"dkey": dkey}
            _core.attention_backward(saved, **grads)
            given = ("dquery", "dkey", "dvalue", "dweight_score", "dbias")
            results.append({name: grads[name].copy() for name in given})
    assert all(np.isfinite(a).all() for a in results[0].values())
    for result in results[1:]:
        assert all(np.array_equal(result[name], a) for name, a in results[0].items())


@pytest.mark.parametrize("change", [{"Tq": 2}, {"score": "dot"}, {"F": 2}, {"covers": True}])
def test_phi_is_of_one_query(change):
    p = {"score": "additive", "alignment": "softmax", "B": 2, "Tq": 1, "Tk": 3, "D": 4, "Dv": 5}
    p |= {"dtype": np.float32, "F": 0, "covers": False} | change
    arguments = forward_arguments(p)
    with pytest.raises(ValueError, match=r"^phi: expected None but for one query"):
        _core.attention_forward(**arguments, phi=np.empty((2, 3, 4), np.float32), save=True)
