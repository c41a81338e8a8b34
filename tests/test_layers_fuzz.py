# SPDX-License-Identifier: Apache-2.0
"""Layers, cells and streams, functions and objects, called with anything: a result or an exception."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import CELLS, Problem
from wrong_arguments import FUZZ, OBJECTS, refused_or_done, spoiled, wrong, wrong_array

import pyrnn
from pyrnn import functional, reference

SIZES = st.integers(0, 4)
KINDS = st.sampled_from(["plain", "lengths", "all"])
DTYPES = st.sampled_from([np.float32, np.float64])
OPTIONS = ("lengths", "mask", "resets", "reset_to", "batch_first", "dropout", "zoneout", "compute_dtype")
#: Of a layer, valid together; `spoiled` makes some of them wrong.
RIGHT = {
    "num_layers": 2,
    "bias": True,
    "batch_first": False,
    "dropout": 0.25,
    "bidirectional": False,
    "layer_norm": False,
    "zoneout": 0.1,
    "recurrent_dropout": 0.2,
    "dtype": "float32",
    "seed": 3,
}
#: Sizes that are wrong; one that is large is a right argument, and takes its memory.
WRONG_SIZES = st.sampled_from([0, -1, 1.5, "3", None, [3], float("nan"), True, (2, 2)])


def problem_of(cell, B, T, kind, dtype):
    """`Problem` draws its lengths for at least one sequence."""
    return Problem(cell, T=T, B=B, kind=kind if B else "plain", num_layers=2, directions=2, dtype=dtype)


@FUZZ
@given(st.data(), st.sampled_from(CELLS), st.tuples(SIZES, SIZES), KINDS, DTYPES)
def test_functions(data, cell, sizes, kind, dtype):
    p = problem_of(cell, *sizes, kind, dtype)
    right = {"cell": cell, "x": p.x, "state": p.state, "params": p.params, **p.options}
    for module in (functional, reference):
        arguments = spoiled(data.draw, right, OPTIONS)
        with refused_or_done(NotImplementedError, UserWarning):
            y, _, saved = module.sequence_forward(**arguments)
            assert y.dtype == arguments["x"].dtype.newbyteorder("=")
            module.sequence_backward(saved, y)
    saved = functional.sequence_forward(**right)[-1]
    gradients = {"dy": p.dy, "dstate": p.dstate}
    with refused_or_done():
        functional.sequence_backward(saved, **spoiled(data.draw, gradients))
    functional.sequence_backward(saved, **gradients)  # what is saved is still whole


@FUZZ
@given(st.data(), st.sampled_from([*CELLS, "", None, 3, "Lstm"]))
def test_constructors(data, cell):
    draw = data.draw
    options = spoiled(
        draw, RIGHT, ("device", "proj_size", "compute_dtype", "nonlinearity", "reset_after", "x")
    )
    if isinstance(options["num_layers"], int) and options["num_layers"] > 100:
        options["num_layers"] = 2
    sizes = [draw(st.one_of(st.just(3), WRONG_SIZES)) for _ in range(2)]
    for made in (
        lambda: pyrnn.Recurrent(cell, *sizes, **options),
        lambda: pyrnn.LSTM(*sizes, **options),
        lambda: pyrnn.GRU(*sizes, **options),
        lambda: pyrnn.RNN(*sizes, **options),
        lambda: pyrnn.Cell(cell, *sizes, seed=options["seed"], dtype=options["dtype"]),
    ):
        with refused_or_done(NotImplementedError, RuntimeError, UserWarning):
            made()


@FUZZ
@given(st.data(), st.sampled_from(CELLS), st.tuples(SIZES, SIZES), st.booleans())
def test_objects(data, cell, sizes, batch_first):
    draw, (B, T) = data.draw, sizes
    layer = pyrnn.Recurrent(cell, 3, 5, 2, batch_first=batch_first, dropout=0.3, bidirectional=True, seed=0)
    rng = np.random.default_rng(T)
    x = rng.normal(size=(B, T, 3) if batch_first else (T, B, 3)).astype(np.float32)
    y, state, saved = layer.forward(x)
    right = {"x": x, "state": state, "lengths": np.full(B, T), "training": True}
    with refused_or_done():
        layer.forward(**spoiled(draw, right, OPTIONS))
    del right["training"]
    with refused_or_done():
        layer(**spoiled(draw, right, OPTIONS))
    with refused_or_done():
        layer.backward(saved, **spoiled(draw, {"dy": y, "dstate": state}))
    with refused_or_done():
        layer.backward(draw(st.sampled_from(OBJECTS)), y)
    with refused_or_done():
        layer.gates(wrong(draw, x))
    with refused_or_done():
        layer.load_state_dict(spoiled(draw, layer.state_dict(), ("weight_ih_l9",)))
    name = draw(st.sampled_from(sorted(layer.params)))
    kept = layer.params[name]
    layer.params[name] = wrong(draw, kept)
    with refused_or_done():
        layer(x)
    layer.params[name] = kept
    assert layer(x)[0].shape == y.shape  # whatever was refused, it still runs


@FUZZ
@given(st.data(), st.sampled_from(CELLS), st.integers(1, 3))
def test_steps(data, name, B):
    draw, x = data.draw, np.ones((B, 3), np.float32)
    cell = pyrnn.Cell(name, 3, 5, seed=0)
    state, saved = cell.forward(x)
    for call in (cell, cell.forward):
        with refused_or_done():
            call(**spoiled(draw, {"x": x, "state": state}))
    with refused_or_done():
        cell.backward(**spoiled(draw, {"saved": saved, "dstate": state}))
    layer = pyrnn.Recurrent(name, 3, 5, 2, seed=0)
    with refused_or_done(NotImplementedError):
        layer.stream(draw(WRONG_SIZES))
    stream = layer.stream(B)
    with refused_or_done():
        stream.step(wrong_array(draw, x))
    with refused_or_done(MemoryError):  # a block of 2⁴⁰ steps is a right argument
        stream.run(wrong_array(draw, np.ones((2, B, 3), np.float32), huge=False))
    with refused_or_done():
        stream.state = wrong(draw, stream.state)
    with refused_or_done():
        stream.reset(draw(st.sampled_from([*OBJECTS, [0], [B], [-1], [0.5], [True]])))
    assert stream.step(x).shape == (B, 5)


@pytest.mark.parametrize("cell", CELLS)
def test_the_fuzz_is_about_calls_that_work(cell):
    """Without anything wrong nothing is refused."""
    pyrnn.Recurrent(cell, 3, 3, **RIGHT)
    p = problem_of(cell, 3, 4, "all", np.float32)
    y, _, saved = functional.sequence_forward(cell, p.x, p.state, p.params, **p.options)
    assert y.shape == p.dy.shape
    functional.sequence_backward(saved, p.dy, p.dstate)
