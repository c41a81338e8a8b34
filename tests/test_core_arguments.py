# SPDX-License-Identifier: Apache-2.0
"""`pyrnn._core` called directly with anything: a result or a ValueError or TypeError, never a crash."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import FUSED
from wrong_arguments import (
    FUZZ,
    OBJECTS,
    refused_or_done,
    wrong_array,
    wrong_flags,
    wrong_lengths,
    wrong_list,
)

from pyrnn import _core

CELLS = _core.cells()


# -------------------------------------------------------------------------------- right arguments


def weights(cell, I, H, dtype):  # noqa: E741
    """Both weights, both biases, and the parameters of each unit if the cell has some."""
    rows_x, rows_h = len(CELLS[cell]["from_x"]) * H, len(CELLS[cell]["from_h"]) * H
    rng = np.random.default_rng(H)
    shapes = [(rows_x, I), (rows_h, H), (rows_x,), (rows_h,)]
    shapes += [(CELLS[cell]["params"], H)] * (CELLS[cell]["params"] > 0)
    return [rng.normal(size=shape).astype(dtype) if shape[0] else None for shape in shapes]


FORWARD = ("x", "state", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "y", "state_out", "params")
BACKWARD = (
    "dy",
    "dstate",
    "dx",
    "dx_accumulate",
    "dstate_out",
    "dweight_ih",
    "dweight_hh",
    "dbias_ih",
    "dbias_hh",
    "dparams",
)


def forward_arguments(cell, T, B, I, H, dtype):  # noqa: E741
    states = CELLS[cell]["states"]
    arrays = [
        np.ones((T, B, I), dtype),
        [np.ones((B, H), dtype) for _ in range(states)],
        *weights(cell, I, H, dtype)[:4],
        np.full((T, B, H), np.nan, dtype),
        [np.full((B, H), np.nan, dtype) for _ in range(states)],
        *weights(cell, I, H, dtype)[4:],
    ]
    return dict(zip(FORWARD, arrays, strict=False))


def backward_arguments(cell, T, B, I, H, dtype):  # noqa: E741
    states = CELLS[cell]["states"]
    arrays = [
        np.ones((T, B, H), dtype),
        [np.ones((B, H), dtype) for _ in range(states)],
        np.zeros((T, B, I), dtype),
        False,
        [np.full((B, H), np.nan, dtype) for _ in range(states)],
        *(None if w is None else np.full_like(w, np.nan) for w in weights(cell, I, H, dtype)),
    ]
    return dict(zip(BACKWARD, arrays, strict=False))


PROBLEMS = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(sorted(CELLS)),
        "T": st.integers(0, 4),
        "B": st.integers(0, 4),
        "I": st.integers(1, 9),
        "H": st.integers(1, 17),
        "dtype": st.sampled_from([np.float32, np.float64]),
    }
)


def spoil(draw, arguments):
    """Some arguments replaced by wrong ones."""
    names = draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=3, unique=True))
    for name in names:
        value = arguments[name]
        arguments[name] = (
            wrong_list(draw, value)
            if isinstance(value, list)
            else wrong_array(draw, value)
            if isinstance(value, np.ndarray)
            else draw(st.sampled_from(OBJECTS))
        )


# -------------------------------------------------------------------------------- fuzz


@FUZZ
@given(st.data(), PROBLEMS)
def test_forward(data, problem):
    arguments = forward_arguments(**problem)
    draw, T, B = data.draw, problem["T"], problem["B"]
    spoil(draw, arguments)
    options = {name: draw(st.booleans()) for name in ("reset_to_initial", "reverse", "save")}
    for name, make in (("lengths", wrong_lengths), ("mask", wrong_flags), ("resets", wrong_flags)):
        if draw(st.booleans()):
            options[name] = make(draw, T, B)
    with refused_or_done():
        saved = _core.forward(problem["cell"], **arguments, **options)
        if saved is not None:
            saved.saved()
            _core.backward(saved, **backward_arguments(**problem))


ALONE = ("x", "state", "weight_ih", "weight_hh", "bias_ih", "bias_hh")


def alone_arguments(**problem):
    arguments = forward_arguments(**problem)
    alone = {name: arguments[name] for name in ALONE}
    alone["state"] = [s[None] for s in alone["state"]]
    return alone | {"batch_first": False, "save": True}


@FUZZ
@given(st.data(), PROBLEMS)
def test_forward_alone(data, problem):
    arguments = alone_arguments(**problem)
    spoil(data.draw, arguments)
    with refused_or_done(MemoryError):  # sizes that strides of zero claim
        _core.forward_alone(problem["cell"], **arguments)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("stated", [False, True])
def test_forward_alone_is_forward(batch_first, stated):
    problem = {"cell": "lstm", "T": 3, "B": 2, "I": 5, "H": 17, "dtype": np.float32}
    arguments, alone = forward_arguments(**problem), alone_arguments(**problem)
    if not stated:
        arguments["state"], alone["state"] = [np.zeros_like(s) for s in arguments["state"]], None
    _core.forward("lstm", **arguments)
    axes = (1, 0, 2) if batch_first else (0, 1, 2)
    alone |= {"batch_first": batch_first, "x": np.ascontiguousarray(alone["x"].transpose(axes))}
    y, finals, saved = _core.forward_alone("lstm", **alone)
    assert np.array_equal(y.transpose(axes), arguments["y"]) and saved.nbytes > 0
    assert np.array_equal(finals, [s[None] for s in arguments["state_out"]])
    with pytest.raises(ValueError, match="state: expected arrays of shape"):
        _core.forward_alone("lstm", **alone | {"state": arguments["state"]})


@FUZZ
@given(st.data(), PROBLEMS)
def test_options_of_forward(data, problem):
    """Right arrays, wrong options: whatever is accepted also goes through the backward."""
    draw, T, B = data.draw, problem["T"], problem["B"]
    options = {}
    for name, make in (("lengths", wrong_lengths), ("mask", wrong_flags), ("resets", wrong_flags)):
        if draw(st.booleans()):
            options[name] = make(draw, T, B)
    with refused_or_done():
        saved = _core.forward(problem["cell"], **forward_arguments(**problem), save=True, **options)
        _core.backward(saved, **backward_arguments(**problem))


@FUZZ
@given(st.data(), PROBLEMS)
def test_backward(data, problem):
    saved = _core.forward(problem["cell"], **forward_arguments(**problem), save=True)
    arguments = backward_arguments(**problem)
    spoil(data.draw, arguments)
    with refused_or_done():
        _core.backward(saved, **arguments)
    _core.backward(saved, **backward_arguments(**problem))  # what is saved is still whole


@FUZZ
@given(st.data(), PROBLEMS, PROBLEMS)
def test_backward_of_another_forward(data, problem, other):
    saved = _core.forward(problem["cell"], **forward_arguments(**problem), save=True)
    with refused_or_done():
        _core.backward(saved, **backward_arguments(**other))


@FUZZ
@given(st.data(), PROBLEMS.filter(lambda problem: problem["cell"] in FUSED))
def test_stream(data, problem):
    cell, B, I, H, dtype = (problem[k] for k in ("cell", "B", "I", "H", "dtype"))  # noqa: E741
    draw, B = data.draw, max(B, 1)
    layers = [tuple(weights(cell, I, H, dtype)), tuple(weights(cell, H, H, dtype))]
    stream = _core.Stream(cell, layers, B, np.dtype(dtype))

    def wrong_layers():
        kind = draw(
            st.sampled_from(["one wrong", "fewer", "more", "three", "object", "other sizes", "no biases"])
        )
        if kind == "one wrong":
            k = draw(st.integers(0, 3))
            return [tuple(wrong_array(draw, w) if i == k else w for i, w in enumerate(layers[0])), layers[1]]
        if kind == "object":
            return draw(
                st.sampled_from([*OBJECTS, [object()], ["four"], [layers[0], None], [[None] * 4] * 2])
            )
        return {
            "fewer": layers[:1],
            "more": [*layers, layers[1]],
            "three": [layers[0][:3], layers[1]],
            "other sizes": [tuple(weights(cell, H + 1, H + 2, dtype))] * 2,
            "no biases": [(*layers[0][:2], None, None), layers[1]],
        }[kind]

    for _ in range(draw(st.integers(1, 4))):
        method = draw(
            st.sampled_from(["new", "step", "out", "run", "set_state", "reset", "reload", "get_state"])
        )
        x, y = np.ones((B, I), dtype), np.ones((B, H), dtype)
        with refused_or_done(MemoryError):  # a block of 2⁴⁰ steps is a right argument
            if method == "new":
                wrong = draw(st.sampled_from(["layers", "cell", "batch_size", "dtype"]))
                sizes = st.sampled_from([0, -1, 2**24 + 1, 2**40, 2**63 - 1, 2**64, 1.5, None, "3"])
                dtypes = st.sampled_from(
                    ["float32", "f2", ">f4", "O", None, 3, np.dtype("S4"), np.dtype(">f8")]
                )
                _core.Stream(
                    draw(st.sampled_from(OBJECTS)) if wrong == "cell" else cell,
                    wrong_layers() if wrong == "layers" else layers,
                    draw(sizes) if wrong == "batch_size" else B,
                    draw(dtypes) if wrong == "dtype" else np.dtype(dtype),
                ).step(x)
            elif method == "step":
                stream.step(wrong_array(draw, x))
            elif method == "out":
                stream.step(x, wrong_array(draw, y))
            elif method == "run":
                stream.run(wrong_array(draw, np.ones((3, B, I), dtype)))
            elif method == "set_state":
                states = [np.ones((2, B, H), dtype) for _ in range(CELLS[cell]["states"])]
                stream.set_state(wrong_list(draw, states))
            elif method == "reset":
                rows = st.lists(st.sampled_from([0, B - 1, B, -1, 2**62, 2**64, 0.5, None]), max_size=4)
                stream.reset(draw(st.one_of(rows, st.sampled_from(OBJECTS))))
            elif method == "reload":
                stream.reload(wrong_layers())
            else:
                assert all(s.shape == (2, B, H) for s in stream.get_state())
    assert stream.step(np.ones((B, I), dtype)).shape == (B, H)  # whatever was refused, it still runs


NUMBERS = st.one_of(
    st.lists(st.sampled_from([0.0, 1.0, -1e300, float("inf"), float("nan")]), max_size=9),
    st.sampled_from(OBJECTS),
)


@FUZZ
@given(st.data(), st.sampled_from([*sorted(CELLS), "", "Lstm", None, 3]))
def test_derivatives_of_cells(data, cell):
    with refused_or_done():
        _core.cell_jvp(cell, *(data.draw(NUMBERS) for _ in range(6)))
    with refused_or_done():
        _core.cell_vjp(cell, *(data.draw(NUMBERS) for _ in range(4)))


@FUZZ
@given(
    st.data(), st.sampled_from([*_core.scores(), "", "Dot", None, 3]), st.sampled_from([True, False, None])
)
def test_derivatives_of_scores(data, score, fallback):
    with refused_or_done():
        _core.score_jvp(score, fallback, *(data.draw(NUMBERS) for _ in range(6)))
    with refused_or_done():
        _core.score_vjp(score, fallback, *(data.draw(NUMBERS) for _ in range(3)), data.draw(st.floats()))


@FUZZ
@given(st.data(), st.integers(0, 40), st.sampled_from([np.float32, np.float64]))
def test_activation(data, n, dtype):
    names = st.sampled_from(["sigmoid", "tanh", "relu", "exp", "Exp", "", None, 3, b"exp"])
    with refused_or_done():
        y = _core.activation(data.draw(names), wrong_array(data.draw, np.zeros(n, dtype)))
        assert y.ndim == 1


@FUZZ
@given(
    st.sampled_from([0, -1, 1025, 2**31, 2**40, None, "1", 1.5]),
    st.sampled_from([0.0, -1.0, 61.0, float("nan"), float("inf"), None, "x"]),
    st.sampled_from(["float32", "float16", "", None, np.float32]),
    st.sampled_from([0, -1, 2**30 + 1, 2**63 - 1, 2**64, None, "1", 1.5]),
)
def test_settings(threads, seconds, dtype, size):
    before = _core.num_threads()
    for call in (
        lambda: _core.set_num_threads(threads),
        lambda: _core.fma_peak(threads, 0.001, "float32"),
        lambda: _core.fma_peak(1, seconds, "float32"),
        lambda: _core.read_bandwidth(threads, 1, 0.001),
        lambda: _core.read_bandwidth(1, 1, seconds),
        lambda: _core.read_bandwidth(1, size, 0.001),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()
    if dtype != "float32":
        with pytest.raises((ValueError, TypeError)):
            _core.fma_peak(1, 0.001, dtype)
    assert _core.num_threads() == before


# -------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    "call", ["cells", "scores", "isa", "isas", "num_threads", "available_cpus", "release_memory"]
)
def test_functions_without_arguments(call):
    function = getattr(_core, call)
    function()
    for wrong in (3, None, "x"):
        with pytest.raises(TypeError):
            function(wrong)


UNMADE = """
import numpy as np
from pyrnn import _core
stream = _core.Stream.__new__(_core.Stream)
saved = _core.Saved.__new__(_core.Saved)
x = np.zeros((1, 3), np.float32)
for call in (
    _core.Saved,
    saved.saved,
    lambda: _core.backward(saved, None, None, None, False, [x], x, x, None, None),
    lambda: _core.backward(None, None, None, None, False, [x], x, x, None, None),
    lambda: stream.step(x),
    lambda: stream.run(x[None]),
    stream.get_state,
    lambda: stream.set_state([x[None]]),
    stream.reset,
    lambda: stream.reload([]),
):
    try:
        call()
    except TypeError:
        continue
    raise AssertionError(call)
"""


def test_objects_that_were_never_made():
    """In a process of its own: what is read there is memory that nobody has written."""
    process = subprocess.run(
        [sys.executable, "-P", "-c", UNMADE], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("T, B", [(2**31, 1), (2**20, 2**20), (2**40, 1), (1, 2**31), (2**29, 2**29)])
def test_sizes_beyond_the_schedule(T, B):
    arguments = forward_arguments("gru", 2, 2, 3, 4, np.float32)
    zero = np.zeros((1, 1, 4), np.float32)
    arguments["x"] = np.lib.stride_tricks.as_strided(zero[..., :3], (T, B, 3), (0, 0, 4), writeable=False)
    arguments["y"] = np.lib.stride_tricks.as_strided(zero, (T, B, 4), (0, 0, 4))
    arguments["state"] = [np.lib.stride_tricks.as_strided(zero[0], (B, 4), (0, 4))]
    arguments["state_out"] = [np.lib.stride_tricks.as_strided(zero[0], (B, 4), (0, 4))]
    with pytest.raises(ValueError, match="too large"):
        _core.forward("gru", **arguments)


def test_what_is_refused_is_not_written():
    """Everything is checked before anything is written."""
    for name in FORWARD:
        arguments = forward_arguments("lstm_peephole", 3, 2, 3, 4, np.float64)
        y, finals = arguments["y"], arguments["state_out"]
        arguments[name] = [] if isinstance(arguments[name], list) else arguments[name][..., :-1]
        with pytest.raises(ValueError):
            _core.forward("lstm_peephole", **arguments)
        assert np.isnan(y).all() and all(np.isnan(s).all() for s in finals)
    saved = _core.forward(
        "lstm_peephole", **forward_arguments("lstm_peephole", 3, 2, 3, 4, np.float64), save=True
    )
    for name in BACKWARD:
        if name == "dx_accumulate":
            continue
        arguments = backward_arguments("lstm_peephole", 3, 2, 3, 4, np.float64)
        dx, others = arguments["dx"], [*arguments["dstate_out"], *(arguments[k] for k in BACKWARD[5:])]
        arguments[name] = [] if isinstance(arguments[name], list) else arguments[name][..., :-1]
        with pytest.raises(ValueError):
            _core.backward(saved, **arguments)
        assert not dx.any() and all(np.isnan(a).all() for a in others)


def test_what_is_kept_for_the_backward_keeps_its_arrays():
    """x and the weights may be forgotten by the caller."""
    arguments = forward_arguments("gru", 3, 2, 3, 4, np.float64)
    expected = backward_arguments("gru", 3, 2, 3, 4, np.float64)
    saved = _core.forward("gru", **arguments, save=True)
    _core.backward(saved, **expected)
    del arguments
    junk = [np.full(24, np.nan) for _ in range(100)]
    actual = backward_arguments("gru", 3, 2, 3, 4, np.float64)
    _core.backward(saved, **actual)
    assert len(junk) == 100 and np.array_equal(actual["dweight_ih"], expected["dweight_ih"])


def test_lengths_that_are_not_aligned():
    lengths = np.frombuffer(b"\0" * 17, np.uint8)[1:].view(np.int64)
    with pytest.raises(ValueError, match="lengths"):
        _core.forward("gru", **forward_arguments("gru", 3, 2, 3, 4, np.float32), lengths=lengths)


@pytest.mark.parametrize("option", ["mask", "resets"])
def test_any_byte_but_zero_is_true(option):
    """As in NumPy, where a view of other bytes may be a bool array."""
    plain = np.array([[0, 1], [1, 1], [1, 0]], bool)
    strange = np.array([[0, 2], [4, 128], [255, 0]], np.uint8).view(bool)
    results = []
    for flags in (plain, strange):
        arguments = forward_arguments("gru", 3, 2, 3, 4, np.float32)
        saved = _core.forward("gru", **arguments, **{option: flags}, save=True)
        gradients = backward_arguments("gru", 3, 2, 3, 4, np.float32)
        _core.backward(saved, **gradients)
        results.append([arguments["y"], *arguments["state_out"], gradients["dx"], gradients["dweight_hh"]])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
