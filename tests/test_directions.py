# SPDX-License-Identifier: Apache-2.0
"""Directions of a layer, and layers of a stack, at the same time or in turn: the same bits."""

import numpy as np
import pytest

import pyrnn
from pyrnn import _core, functional

CASES = {
    "lstm": {},
    "gru, one sequence": {"cell": "gru", "B": 1, "T": 90},
    "sum": {"merge": "sum", "B": 3},
    "rnn, batch first": {"cell": "rnn_tanh", "batch_first": True},
    "layer norm, one sequence": {"layer_norm": True, "B": 1, "T": 90},
    "projection": {"proj_size": 7},
    "late slots": {"cell": "mut2"},
    "zoneout, dropout": {"zoneout": 0.3, "recurrent_dropout": 0.2},
    "checkpoints": {"cell": "gru", "checkpoint": True, "T": 70},
}


STACKS = {
    "one sequence": {"B": 1, "T": 150},
    "gru, three layers": {"cell": "gru", "num_layers": 3},
    "sizes, reverse": {"hidden_size": (40, 9), "reverse": True, "B": 2},
    "staged": {"layer_norm": True},
    "training": {"zoneout": 0.3, "recurrent_dropout": 0.2, "weight_dropout": 0.1, "dropout": 0.0},
    "dropout": {"dropout": 0.5},
    "checkpoints": {"checkpoint": True, "T": 70},
    "bfloat16": {"compute_dtype": "bfloat16", "B": 1, "T": 90},
}


def problem(
    cell="lstm", B=5, T=40, checkpoint=False, batch_first=False, bidirectional=True, hidden_size=24, **options
):
    """A layer and its arguments."""
    options.update(bidirectional=bidirectional, batch_first=batch_first, seed=3)
    layer = pyrnn.Recurrent(cell, 12, hidden_size, **options)
    rng = np.random.default_rng(0)
    shape = (B, T) if batch_first else (T, B)
    x = rng.normal(size=(*shape, 12)).astype("float32")
    more = {
        "lengths": rng.integers(T // 2, T + 1, B),
        "resets": rng.random(shape) < 0.05,
        "checkpoint": checkpoint,
    }
    return layer, x, more


def run(layer, x, more):
    """Outputs, states and every gradient."""
    y, state, saved = layer.forward(x, **more)
    grads = layer.backward(saved, np.cos(y))
    states = {f"state {k}": a for k, a in enumerate(flat((state, grads.state)))}
    return {"y": y, "x": grads.x, **states, **grads.params}


def flat(state):
    """The arrays of nested tuples."""
    return [a for s in state for a in flat(s)] if isinstance(state, tuple) else [state]


def equal(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_as_in_turn(threads, name):
    """The second call follows the first, whose threads still spin: then they share out the directions."""
    layer, x, more = problem(**CASES[name])
    found = []
    for count in (1, 2, 3, 2):
        threads(count)
        layer.rng = np.random.Generator(np.random.Philox(9))
        found.append(run(layer, x, more))
    for other in found[1:]:
        equal(other, found[0])


@pytest.mark.parametrize("cell", ["lstm", "mgu"])
@pytest.mark.parametrize("count", [1, 2])
def test_each_is_a_layer(threads, count, cell):
    """The halves of the output and the gradients, and the gradient of x: the sum of two layers'."""
    threads(count)
    both, x, more = problem(cell)
    found = run(both, x, more)
    layers = [pyrnn.Recurrent(cell, 12, 24, reverse=bool(d)) for d in range(2)]
    state = both.state_dict()
    for layer, end in zip(layers, ("_l0", "_l0_reverse"), strict=True):
        layer.load_state_dict({n: state[n.removesuffix("_l0") + end] for n in layer.params})
    single = [run(layer, x, more) for layer in layers]
    np.testing.assert_array_equal(found["y"], np.concatenate([s["y"] for s in single], axis=-1))
    np.testing.assert_array_equal(found["x"], single[0]["x"] + single[1]["x"])
    for one, end in zip(single, ("_l0", "_l0_reverse"), strict=True):
        equal(found, {n.removesuffix("_l0") + end: a for n, a in one.items() if n.endswith("_l0")})


def arguments(T=4):
    """Of one direction, for `_core.forward_all`."""
    rng = np.random.default_rng(1)
    x, state = rng.normal(size=(T, 2, 3)), [rng.normal(size=(2, 5))]
    weights = [rng.normal(size=s) for s in ((15, 3), (15, 5), (15,), (15,))]
    return ("gru", x, state, *weights, np.full((T, 2, 5), np.nan), [np.empty((2, 5))])


def test_nothing_is_written_where_one_is_wrong():
    """Every call is checked before the first is computed."""
    first, second = arguments(), list(arguments())
    second[7] = np.empty((4, 2, 6))
    with pytest.raises(ValueError, match=r"^y: "):
        _core.forward_all([(first, {}), (tuple(second), {})])
    assert np.isnan(first[7]).all()
    with pytest.raises(TypeError):
        _core.forward_all([(first, {}), (first[:3], {})])
    for wrong in (first, [(first,)], [(1, {})], None):
        with pytest.raises((TypeError, RuntimeError)):
            _core.forward_all(wrong)
    assert np.isnan(first[7]).all()


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_any_number_of_calls(threads, count):
    threads(2)
    calls = [(arguments(30 + k), {"reverse": k % 2 == 1, "save": True}) for k in range(count)]
    saved = _core.forward_all(calls)
    assert len(saved) == count
    for (given, options), kept in zip(calls, saved, strict=True):
        again = arguments(len(given[1]))
        alone = _core.forward(*again, **options)
        np.testing.assert_array_equal(given[7], again[7])
        np.testing.assert_array_equal(kept.saved(), alone.saved())


@pytest.mark.parametrize("name", STACKS)
def test_layers_as_in_turn(threads, monkeypatch, name):
    layer, x, more = problem(**{"num_layers": 2, "bidirectional": False, **STACKS[name]})

    def again(count):
        threads(count)
        layer.rng = np.random.Generator(np.random.Philox(9))
        found = run(layer, x, more)
        more_of_call = {key: value for key, value in more.items() if key != "checkpoint"}
        return {**found, "inference": layer(x, **more_of_call)[0]}

    found = [again(count) for count in (1, 2, 3, 2)]
    monkeypatch.setattr(functional.KERNELS, "forward_chain", None)
    expected = again(2)
    for one in found:
        equal(one, expected)


@pytest.mark.parametrize("apart", [False, True])
def test_a_chain_that_is_none(threads, apart):
    """Calls that do not read each other, or other steps of each other, are computed all the same."""
    threads(2)
    first, second = arguments(400), list(arguments(300 if apart else 400))
    if not apart:
        second[1:4] = first[7], second[2], np.random.default_rng(2).normal(size=(15, 5))
    options = [{}, {"lengths": np.array([20, 300])}]
    _core.forward_chain(list(zip((first, tuple(second)), options, strict=True)))
    alone = list(second)
    alone[7] = np.empty_like(second[7])
    _core.forward(*alone, **options[1])
    np.testing.assert_array_equal(second[7], alone[7])
