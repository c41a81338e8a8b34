# SPDX-License-Identifier: Apache-2.0
"""Every message of the checks: the argument, what was expected, what came; and nothing written before."""

import re

import numpy as np
import pytest

import pyrnn
from pyrnn.functional import sequence, sequence_backward, sequence_forward

T, B, I, H = 4, 2, 3, 5  # noqa: E741
x = np.ones((T, B, I), np.float32)
lstm = pyrnn.LSTM(I, H, 2, bidirectional=True, seed=0)
params = lstm.state_dict()
h = np.zeros((4, B, H), np.float32)


def without(name):
    return {n: a for n, a in params.items() if n != name}


CALLS = [
    # x
    (dict(x=x[0, 0]), ValueError, "x: expected shape (T, B, I) or (T, I) with I = 3, got (3,)"),
    (dict(x=x[..., :2]), ValueError, "x: expected shape (T, B, I) or (T, I) with I = 3, got (4, 2, 2)"),
    (dict(x=x[None]), ValueError, "x: expected shape (T, B, I) or (T, I) with I = 3, got (1, 4, 2, 3)"),
    (
        dict(x=x[..., :2], batch_first=True),
        ValueError,
        "x: expected shape (B, T, I) or (T, I) with I = 3, got (4, 2, 2)",
    ),
    (dict(x=x.astype(float)), TypeError, "x: expected dtype float32, got float64"),
    (dict(x=x.astype(int)), TypeError, "x: expected dtype float32, got int64"),
    (dict(x=x.astype(object)), TypeError, "x: expected dtype float32, got object"),
    (dict(x=x.tolist()), TypeError, "x: expected a NumPy array, got list"),
    (dict(x=None), TypeError, "x: expected a NumPy array, got NoneType"),
    (
        dict(x=np.ma.array(x)),
        TypeError,
        "x: expected a plain array, got a masked array; pass mask= to skip steps",
    ),
    # state
    (dict(state=h), TypeError, "state: expected a tuple of 2 arrays, got ndarray"),
    (dict(state=(h,)), ValueError, "state: expected a tuple of 2 arrays, got 1"),
    (
        dict(state=(h, h[:2])),
        ValueError,
        "state[1]: expected shape (num_layers*directions, B, H) = (4, 2, 5), got (2, 2, 5)",
    ),
    (
        dict(x=x[:, 0], state=(h, h)),
        ValueError,
        "state[0]: expected shape (num_layers*directions, H) = (4, 5), got (4, 2, 5)",
    ),
    (dict(state=(h, h.astype(float))), TypeError, "state[1]: expected dtype float32, got float64"),
    (dict(state=(h, 0)), TypeError, "state[1]: expected a NumPy array, got int"),
    # lengths, mask, resets
    (dict(lengths=[1, 5]), ValueError, "lengths: expected 0 to T = 4, got 5 in row 1"),
    (dict(lengths=[-1, 4]), ValueError, "lengths: expected 0 to T = 4, got -1 in row 0"),
    (
        dict(lengths=np.array([0, 2**64 - 1], np.uint64)),
        ValueError,
        "lengths: expected 0 to T = 4, got 18446744073709551615 in row 1",
    ),
    (dict(lengths=[1, 2, 3]), ValueError, "lengths: expected shape (B,) = (2,), got (3,)"),
    (dict(lengths=3), ValueError, "lengths: expected shape (B,) = (2,), got ()"),
    (dict(lengths=[1.0, 2.0]), TypeError, "lengths: expected integers, got float64"),
    (dict(lengths=[True, False]), TypeError, "lengths: expected integers, got bool"),
    (dict(lengths="ab"), TypeError, "lengths: expected integers, got <U2"),
    (dict(lengths=[[1], [2, 3]]), TypeError, "lengths: expected an array, got list: "),
    (dict(lengths=np.ma.array([1, 2])), TypeError, "lengths: expected a plain array, got a masked array"),
    (dict(mask=[[True], []]), TypeError, "mask: expected an array, got list: "),
    (dict(resets=np.ma.ones((T, B), bool)), TypeError, "resets: expected a plain array, got a masked array"),
    (dict(mask=np.ones((T, B))), TypeError, "mask: expected dtype bool, got float64"),
    (dict(mask=np.ones((B, T), bool)), ValueError, "mask: expected shape (T, B) = (4, 2), got (2, 4)"),
    (
        dict(x=x.swapaxes(0, 1), mask=np.ones((T, B), bool), batch_first=True),
        ValueError,
        "mask: expected shape (B, T) = (2, 4), got (4, 2)",
    ),
    (dict(x=x[:, 0], mask=np.ones((T, 1), bool)), ValueError, "mask: expected shape (T,) = (4,), got (4, 1)"),
    (dict(resets=np.ones((T, B), np.uint8)), TypeError, "resets: expected dtype bool, got uint8"),
    (dict(resets=np.ones(T, bool)), ValueError, "resets: expected shape (T, B) = (4, 2), got (4,)"),
    (dict(reset_to="one"), ValueError, "reset_to: expected 'zero' or 'initial', got 'one'"),
    (dict(reset_to=0), TypeError, "reset_to: expected a string, got int"),
    # cell and parameters
    (dict(cell="ltsm"), ValueError, "cell: expected one of "),
    (dict(cell=3), TypeError, "cell: expected a name, got int"),
    (dict(params=None), TypeError, "params: expected a dict of arrays, got NoneType"),
    (dict(params=list(params.values())), TypeError, "params: expected a dict of arrays, got list"),
    (dict(params={}), ValueError, "params: expected 'weight_ih_l0', got no such name"),
    (dict(params=without("weight_hh_l0")), ValueError, "params: expected 'weight_hh_l0', got no such name"),
    (
        dict(params=without("weight_hh_l1_reverse")),
        ValueError,
        "params: expected 'weight_hh_l1_reverse' of shape (20, 5), got no such name",
    ),
    (
        dict(params=without("bias_hh_l1")),
        ValueError,
        "params: expected 'bias_hh_l1' of shape (20,), got no such name",
    ),
    (dict(params=params | {"more": h}), ValueError, "params: expected 16 names, got 'more' in addition"),
    (dict(params=params | {7: h}), ValueError, "params: expected 16 names, got 7 in addition"),
    (
        dict(params=params | {"weight_hh_l0": np.zeros((20, 4), np.float32)}),
        ValueError,
        "weight_hh_l0: expected shape (4*H, H) = (20, 5), got (20, 4)",
    ),
    (
        dict(params=params | {"weight_ih_l1": np.zeros((20, 5), np.float32)}),
        ValueError,
        "weight_ih_l1: expected shape (4*H, 2*H) = (20, 10), got (20, 5)",
    ),
    (
        dict(params=params | {"bias_ih_l1_reverse": np.zeros((20, 1), np.float32)}),
        ValueError,
        "bias_ih_l1_reverse: expected shape (4*H,) = (20,), got (20, 1)",
    ),
    (
        dict(params=params | {"weight_hh_l0": np.zeros(20, np.float32)}),
        ValueError,
        "weight_hh_l0: expected shape (4*H, H) with positive sizes, got (20,)",
    ),
    (
        dict(params=params | {"weight_ih_l0": np.zeros((20, 0), np.float32)}),
        ValueError,
        "weight_ih_l0: expected shape (4*H, I) with positive sizes, got (20, 0)",
    ),
    (
        dict(params=params | {"bias_hh_l0": np.zeros(20)}),
        TypeError,
        "bias_hh_l0: expected dtype float32, got float64",
    ),
    (
        dict(params=params | {"bias_hh_l0": None}),
        TypeError,
        "bias_hh_l0: expected a NumPy array, got NoneType",
    ),
    (dict(params=params | {"weight_ih_l0": 3}), TypeError, "weight_ih_l0: expected a NumPy array, got int"),
    (
        dict(params={n: a.astype(np.float16) for n, a in params.items()}),
        TypeError,
        "weight_ih_l0: expected dtype float32 or float64, got float16",
    ),
    # dropout
    (dict(batch_first=1), TypeError, "batch_first: expected a bool, got int"),
    (dict(training="no"), TypeError, "training: expected a bool, got str"),
    (dict(dropout=1.5), ValueError, "dropout: expected a number from 0 to 1, got 1.5"),
    (dict(dropout=np.nan), ValueError, "dropout: expected a number from 0 to 1, got nan"),
    (dict(dropout="much"), TypeError, "dropout: expected a number, got str"),
    (dict(dropout=0.5), TypeError, "rng: expected a numpy.random.Generator, got NoneType"),
    (dict(dropout=0.5, rng=3), TypeError, "rng: expected a numpy.random.Generator, got int"),
    # out
    (dict(out=[1]), TypeError, "out: expected a NumPy array, got list"),
    (dict(out=np.zeros((T, B, 10))), TypeError, "out: expected dtype float32, got float64"),
    (
        dict(out=np.zeros((T, B, 5), np.float32)),
        ValueError,
        "out: expected shape (T, B, H*directions) = (4, 2, 10), got (4, 2, 5)",
    ),
    (
        dict(x=x[:, 0], out=np.zeros((T, 1, 10), np.float32)),
        ValueError,
        "out: expected shape (T, H*directions) = (4, 10), got (4, 1, 10)",
    ),
    (
        dict(x=x.swapaxes(0, 1), batch_first=True, out=np.zeros((T, B, 10), np.float32)),
        ValueError,
        "out: expected shape (B, T, H*directions) = (2, 4, 10), got (4, 2, 10)",
    ),
    (
        dict(out=np.broadcast_to(np.float32(0), (T, B, 10))),
        ValueError,
        "out: expected a writable array, got a read-only one",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CALLS, ids=[message for *_, message in CALLS])
def test_functional(arguments, error, message):
    given = {"cell": "lstm", "x": x, "params": params, "training": True} | arguments
    for function in (sequence, sequence_forward, pyrnn.reference.sequence, pyrnn.reference.sequence_forward):
        expected = re.escape(message)
        if function.__module__.startswith("pyrnn.reference"):
            expected = expected.replace("float32\\ or\\ float64", "float32 or float64 or complex128")
        with pytest.raises(error, match="^" + expected):
            function(**given)


@pytest.mark.parametrize("where", ["x", "state", "weight_ih_l0"])
def test_out_must_have_its_own_memory(where):
    memory = np.zeros((T, B, 20), np.float32)
    single = pyrnn.RNN(I, 10, seed=0)
    given = {"cell": "rnn_tanh", "x": x, "params": single.state_dict(), "out": memory[..., 10:]}
    if where == "x":
        given["x"] = memory[..., :I]
    elif where == "state":
        given["state"] = memory[:1, :, :10]
    else:
        given["params"]["weight_ih_l0"] = np.ndarray((10, I), np.float32, memory)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own, got memory that"):
        sequence(**given)
    assert not memory.any()


def test_a_wrong_call_writes_nothing():
    out = np.full((T, B, 10), 7, np.float32)
    with pytest.raises(ValueError, match=r"^lengths"):
        sequence("lstm", x, None, params, lengths=[9, 9], out=out)
    with pytest.raises(ValueError, match=r"^bias_hh_l1_reverse"):
        sequence("lstm", x, None, params | {"bias_hh_l1_reverse": np.zeros(3, np.float32)}, out=out)
    assert (out == 7).all()


def test_backward():
    y, _, saved = sequence_forward("lstm", x, None, params)
    for bad in (None, y, saved.passes[0], saved.passes):
        with pytest.raises(
            TypeError, match=f"^saved: expected what forward returned, got {type(bad).__name__}"
        ):
            sequence_backward(bad, y)
    with pytest.raises(ValueError, match=r"^dy: expected shape \(T, B, .*\) = \(4, 2, 10\), got \(4, 2, 5\)"):
        sequence_backward(saved, y[..., :5])
    with pytest.raises(TypeError, match=r"^dy: expected dtype float32, got float64"):
        sequence_backward(saved, y.astype(float))
    with pytest.raises(TypeError, match=r"^dstate: expected a tuple of 2 arrays, got ndarray"):
        sequence_backward(saved, y, h)
    with pytest.raises(
        ValueError, match=r"^dstate\[0\]: expected shape \(.*, B, H\) = \(4, 2, 5\), got \(2, 2, 5\)"
    ):
        sequence_backward(saved, y, (h[:2], h))
    other = pyrnn.LSTM(I, H, 2, bidirectional=True)
    with pytest.raises(ValueError, match=r"^saved: expected what this layer's forward returned"):
        other.backward(lstm.forward(x)[2], y)
    with pytest.raises(TypeError, match=r"^saved: expected what forward returned, got int"):
        other.backward(3, y)


LAYERS = [
    (dict(input_size=0), ValueError, "input_size: expected an integer of at least 1, got 0"),
    (dict(hidden_size=-1), ValueError, "hidden_size: expected an integer of at least 1, got -1"),
    (dict(hidden_size=2.5), TypeError, "hidden_size: expected an integer, got float"),
    (dict(hidden_size=True), TypeError, "hidden_size: expected an integer, got bool"),
    (dict(num_layers=0), ValueError, "num_layers: expected an integer of at least 1, got 0"),
    (dict(bias=1), TypeError, "bias: expected a bool, got int"),
    (dict(bidirectional="no"), TypeError, "bidirectional: expected a bool, got str"),
    (dict(batch_first=0), TypeError, "batch_first: expected a bool, got int"),
    (dict(dropout=-0.1), ValueError, "dropout: expected a number from 0 to 1, got -0.1"),
    (dict(dropout=True), TypeError, "dropout: expected a number, got bool"),
    (dict(dtype="float16"), TypeError, "dtype: expected float32 or float64, got float16"),
    (dict(dtype=None), TypeError, "dtype: expected float32 or float64, got None"),
    (dict(dtype="real"), TypeError, "dtype: expected float32 or float64, got 'real'"),
    (dict(seed=-1), ValueError, "seed: expected an integer of at least 0, got -1"),
    (dict(seed="s"), TypeError, "seed: expected an integer, got str"),
    (dict(device="cuda"), RuntimeError, "device: expected 'cpu', got 'cuda'"),
    (dict(proj_size=-1), ValueError, "proj_size: expected an integer of at least 0, got -1"),
    (dict(proj_size=True), TypeError, "proj_size: expected an integer, got bool"),
    (
        dict(compute_dtype="float16"),
        ValueError,
        "compute_dtype: expected 'bfloat16', got 'float16'",
    ),
    (dict(compute_dtype=16), TypeError, "compute_dtype: expected a string, got int"),
    (
        dict(compute_dtype="bfloat16", dtype="float64"),
        TypeError,
        "compute_dtype: expected None with dtype float64, got 'bfloat16'",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), LAYERS, ids=[message for *_, message in LAYERS])
def test_layers(arguments, error, message):
    for layer in (pyrnn.LSTM, pyrnn.GRU, pyrnn.RNN, pyrnn.reference.LSTM):
        with pytest.raises(error, match="^" + re.escape(message)):
            layer(**({"input_size": 3, "hidden_size": 5} | arguments))


def test_layers_of_their_own():
    with pytest.raises(TypeError, match=r"^reset_after: expected a bool, got int"):
        pyrnn.GRU(3, 5, reset_after=1)
    with pytest.raises(ValueError, match=r"^nonlinearity: expected 'tanh' or 'relu', got 'gelu'"):
        pyrnn.RNN(3, 5, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r"^cell: expected one of .*, got 'elman'"):
        pyrnn.Recurrent("elman", 3, 5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hidden'"):
        pyrnn.LSTM(3, 5, hidden=3)


def test_load_state_dict():
    layer = pyrnn.GRU(3, 4, seed=0)
    state, before = layer.state_dict(), layer.state_dict()
    bad = [
        (None, TypeError, "state: expected a dict of arrays, got NoneType"),
        ({}, ValueError, "params: expected 'weight_ih_l0' of shape (12, 3), got no such name"),
        (state | {"x": 1}, ValueError, "params: expected 4 names, got 'x' in addition"),
        (
            {n: 0 * a for n, a in state.items()} | {"bias_hh_l0": np.zeros(4)},
            ValueError,
            "bias_hh_l0: expected shape (3*H,) = (12,), got (4,)",
        ),
        (
            {n: 0 * a for n, a in state.items()} | {"bias_hh_l0": np.zeros(12, int)},
            TypeError,
            "bias_hh_l0: expected floating-point numbers, got int64",
        ),
        (state | {"bias_hh_l0": [[1.0], []]}, TypeError, "bias_hh_l0: expected an array, got list"),
    ]
    for value, error, message in bad:
        with pytest.raises(error, match="^" + re.escape(message)):
            layer.load_state_dict(value)
        assert all(np.array_equal(a, before[n]) for n, a in layer.params.items())
    layer.params["bias_hh_l0"] = np.broadcast_to(np.float32(0), (12,))
    with pytest.raises(ValueError, match=r"^bias_hh_l0: expected a writable array, got a read-only one"):
        layer.load_state_dict({n: 0 * a for n, a in state.items()})
    assert np.array_equal(layer.params["weight_ih_l0"], before["weight_ih_l0"])
