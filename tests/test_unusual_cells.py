# SPDX-License-Identifier: Apache-2.0
"""Cells with something of their own, against their papers' formulas written out and what these promise."""

import numpy as np
import pytest
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn import functional, reference
from pyrnn.reference.regularization import zoneout_shares

T, B, I, H = 7, 3, 4, 5  # noqa: E741
TANH = np.tanh


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def exponential(a, s, r):
    """sLSTM without its stabiliser (Beck et al. 2024, equations 8 to 14)."""
    _, c, n, m = s
    i, f, z, o = np.split(a + r(s[0], 0, 4), 4, axis=1)
    c, n = np.exp(f) * c + np.exp(i) * TANH(z), np.exp(f) * n + np.exp(i)
    return sigmoid(o) * c / n, c, n, m


def mut(kind):
    def step(a, s, r):
        (h,), (ar, az, an) = s, np.split(a, 3, axis=1)
        gate = sigmoid(ar + r(h, 0, 1))
        if kind == 1:
            z, n = sigmoid(az), TANH(TANH(an) + r(gate * h, 1, 2))
        else:
            z = sigmoid(az + r(h if kind == 2 else TANH(h), 1, 2))
            n = TANH(an + r(gate * h, 2, 3))
        return (n * z + h * (1 - z),)

    return step


def gate_recurrence(a, s, r):
    h, c, *gates = s
    i, f, g, o = np.split(a + r(h, 0, 4), 4, axis=1)
    for k, gate in enumerate(gates):
        i, f, o = np.add((i, f, o), np.split(r(gate, 4 + 3 * k, 7 + 3 * k), 3, axis=1))
    i, f, o = map(sigmoid, (i, f, o))
    c = f * c + i * TANH(g)
    return o * TANH(c), c, i, f, o


FORMULAS = {
    "slstm": (exponential, 4),
    "mut1": (mut(1), 1),
    "mut2": (mut(2), 1),
    "mut3": (mut(3), 1),
    "lstm_gate_recurrence": (gate_recurrence, 5),
}


@pytest.mark.parametrize("cell", FORMULAS)
def test_formula(cell):
    step, states = FORMULAS[cell]
    layer = pyrnn.Recurrent(cell, I, H, dtype="float64", seed=0)
    w, r, bw, br = (2 * layer.params[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    layer.load_state_dict({"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": bw, "bias_hh_l0": br})
    x = np.random.Generator(np.random.Philox(3)).normal(size=(T, B, I))

    def product(v, first, last):
        rows = slice(first * H, last * H)
        return v @ r[rows].T + br[rows]

    s, expected = (np.zeros((B, H)),) * states, []
    for t in range(T):
        s = step(x[t] @ w.T + bw, s, product)
        expected.append(s[0])
    assert max_error(layer(x)[0], np.array(expected)) <= FLOAT64


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_unit_of_indrnn_sees_its_own_past_alone(activation):
    layer = pyrnn.Recurrent(f"indrnn_{activation}", I, H, dtype="float64", seed=0)
    assert {name: a.shape for name, a in layer.params.items()} == {
        "weight_ih_l0": (H, I),
        "bias_ih_l0": (H,),
        "weight_hh_l0": (1, H),
    }
    x = np.random.Generator(np.random.Philox(3)).normal(size=(T, B, I))
    h, u = np.zeros((B, H)), layer.params["weight_hh_l0"][0]
    many = pyrnn.Recurrent(f"indrnn_{activation}", 1, 400, seed=0).params["weight_hh_l0"]
    assert many.min() >= 0 and many.max() <= 1 and 0.45 < many.mean() < 0.55  # a long memory for some
    for t in range(T):
        h = x[t] @ layer.params["weight_ih_l0"].T + layer.params["bias_ih_l0"] + u * h
        h = np.tanh(h) if activation == "tanh" else np.maximum(h, 0)
    assert max_error(layer(x)[1][0], h) <= FLOAT64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_gates_do_not_overflow(dtype):
    """Slots in the hundreds at every step; without the stabiliser e^1000 in float64 is infinite."""
    layer = pyrnn.Recurrent("slstm", I, H, dtype=dtype, seed=0)
    layer.params["weight_ih_l0"] *= 300
    x = np.random.Generator(np.random.Philox(3)).normal(size=(50, B, I)).astype(dtype)
    y, (_, _, n, m), saved = layer.forward(x)
    grads = layer.backward(saved, np.ones_like(y))
    assert np.abs(m).max() > 1000 and (n > 0).all()
    assert all(np.isfinite(a).all() for a in (y, grads.x, *grads.state, *grads.params.values()))


def clockwork():
    layer = pyrnn.Recurrent("clockwork", I, 16, dtype="float64", seed=0)
    x = np.random.Generator(np.random.Philox(3)).normal(size=(40, B, I))
    return layer, x, layer.params["weight_period_l0"][0]


def test_units_run_once_in_their_period():
    layer, x, period = clockwork()
    assert list(period) == [2 ** (u // 2) for u in range(16)]
    y = layer(x)[0]
    h = np.concatenate([np.zeros((1, B, 16)), y])
    ran = (h[1:] != h[:-1]).all(1)
    assert np.array_equal(ran, np.arange(40)[:, None] % period == 0)
    layer.params["weight_period_l0"][0] = 1  # all at every step, all connected: the simple network
    w, r, b, c = (layer.params[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    params = {"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": b, "bias_hh_l0": c}
    assert max_error(layer(x)[0], functional.sequence("rnn_tanh", x, None, params)[0]) <= FLOAT64


def test_slow_units_do_not_see_fast_ones():
    layer, x, period = clockwork()
    y, _, saved = layer.forward(x)
    grads = layer.backward(saved, np.ones_like(y))
    fast = period < period[:, None]  # of the unit that is read
    assert fast.any() and not grads.params["weight_hh_l0"][fast].any()
    again = period[:, None] < 40  # units that run more than once
    assert grads.params["weight_hh_l0"][~fast & again].all() and not grads.params["weight_period_l0"].any()
    layer.params["weight_hh_l0"][fast] = 7
    assert np.array_equal(layer(x)[0], y)


def test_clocks_in_streams_and_after_resets():
    layer, x, _ = clockwork()
    y = layer(x)[0]
    stream = layer.stream(B)
    assert max_error(np.stack([stream.step(step) for step in x]), y) <= FLOAT64
    resets = np.zeros((40, B), bool)
    resets[13] = True
    assert max_error(layer(x, resets=resets)[0][13:], layer(x[13:])[0]) <= FLOAT64


def test_five_states_have_five_masks_of_zoneout():
    """A counter gives four random words; the fifth state has another counter."""
    shares = zoneout_shares(((0.5,) * 5, 0.0, True, 11, 0), 30, 4, 20)
    for k in range(5):
        assert 0.4 < shares[:, k].mean() < 0.6
        assert all(0.4 < np.mean(shares[:, k] == shares[:, j]) < 0.6 for j in range(k))
    layer, ours = (
        one("lstm_gate_recurrence", I, H, zoneout=(0, 0, 0, 0, 0.5), dtype="float64", seed=2)
        for one in (pyrnn.Recurrent, reference.Recurrent)
    )
    x = np.random.Generator(np.random.Philox(3)).normal(size=(T, B, I))
    assert max_error(layer.forward(x)[0], ours.forward(x)[0]) <= FLOAT64


def test_errors():
    x, w = np.ones((T, B, I)), np.ones((H, I))
    with pytest.raises(
        ValueError, match="proj_size: expected 0, because lstm_gate_recurrence reads more than h"
    ):
        pyrnn.Recurrent("lstm_gate_recurrence", I, H, proj_size=2)
    params = {"weight_ih_l0": w, "weight_hh_l0": np.ones(H)}
    with pytest.raises(
        ValueError, match=r"weight_hh_l0: expected shape \(1, H\) with positive sizes, got \(5,\)"
    ):
        functional.sequence("indrnn_tanh", x, None, params)
    arrays = (x, None, w, np.ones((H, H)), None, None, np.ones((T, B, H)), [np.ones((B, H))])
    with pytest.raises(ValueError, match="weight_hh: expected None, indrnn_tanh has no product of h"):
        pyrnn._core.forward("indrnn_tanh", *arrays, params=np.ones((1, H)))
