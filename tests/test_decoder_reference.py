# SPDX-License-Identifier: Apache-2.0
"""Link 1 of the chain of trust for the decoder: its backward against complex steps of its forward."""

import numpy as np
import pytest
from decoder_problems import SCORES, DecoderProblem, part
from problems import varied
from tolerances import COMPLEX_STEP, FLOAT64, max_error

from pyrnn import reference

STEP = 1e-30


def check(problem):
    """Every gradient against the complex step, element by element."""
    values = {name: a.astype(complex) for name, a in problem.inputs.items()}

    def loss():
        returned = problem.outputs(problem.forward(reference, values))
        return sum(np.sum(problem.incoming[name] * a) for name, a in returned.items())

    solved = problem.run(reference)
    for name, a in values.items():
        expected = np.zeros(a.shape)
        for index in np.ndindex(a.shape):
            value = a[index]
            a[index] = value + 1j * STEP
            expected[index] = loss().imag / STEP
            a[index] = value
        assert max_error(solved["d" + name], expected) <= COMPLEX_STEP, name


@pytest.mark.parametrize("query", ["current", "previous"])
@pytest.mark.parametrize("kind", SCORES)
def test_every_score(kind, query):
    check(DecoderProblem(kind, query=query, lengths=True))


@pytest.mark.parametrize(
    ("cell", "layer", "input_feed", "query"), varied((None, 5), (True, False), ("current", "previous"))
)
def test_every_cell(cell, layer, input_feed, query):
    check(DecoderProblem("additive", cell, layer=layer, input_feed=input_feed, query=query))


@pytest.mark.parametrize("mask", ["bool", "float"])
@pytest.mark.parametrize("kind", ["general", "location", "coverage", "monotonic", "local p"])
def test_masks(kind, mask):
    check(DecoderProblem(kind, "rnn_tanh", mask=mask, lengths=True))


@pytest.mark.parametrize("kind", ["additive", "location", "coverage", "monotonic"])
def test_zeros_at_the_start(kind):
    check(DecoderProblem(kind, "lstm", given=False, bias=False))
    p = DecoderProblem(kind, "lstm", given=False)
    bare = p.outputs(p.forward(reference))
    p.given, p.inputs = True, p.inputs | {f"state[{k}]": np.zeros((p.B, p.H)) for k in range(2)}
    p.inputs["feed"] = np.zeros((p.B, 5))
    for name, a in p.outputs(p.forward(reference)).items():
        assert np.array_equal(a, bare[name]), name


def attend(score, query, key, a):
    """One query on the whole memory, by the textbook; only what the next test needs."""
    if score == "general":
        s = np.einsum("bh,hm,bkm->bk", query, a["weight"], key)
    else:
        s = np.tanh((query @ a["weight_query"].T)[:, None] + key @ a["weight_key"].T) @ a["weight_score"]
    e = np.exp(s - s.max(1, keepdims=True))
    w = e / e.sum(1, keepdims=True)
    return np.einsum("bk,bkm->bm", w, key), w


@pytest.mark.parametrize("query", ["current", "previous"])
@pytest.mark.parametrize("layer", [None, 5])
@pytest.mark.parametrize("kind", ["general", "additive"])
def test_equations(kind, layer, query):
    """The equations of Luong and of Bahdanau with a simple cell, written down once more."""
    p = DecoderProblem(kind, "rnn_tanh", layer=layer, query=query)
    a, score = part(p.inputs, "params."), part(p.inputs, "attention.")
    h, feed, memory = p.inputs["state[0]"], p.inputs.get("feed"), p.inputs["memory"]
    outputs, weights = [], []
    for t in range(p.T):
        x = p.inputs["x"][:, t]
        if query == "previous":
            context, w = attend(kind, h, memory, score)
            x = np.hstack([x, context])
        else:
            x = np.hstack([x, feed])
        h = np.tanh(x @ a["weight_ih"].T + a["bias_ih"] + h @ a["weight_hh"].T + a["bias_hh"])
        if query == "current":
            context, w = attend(kind, h, memory, score)
        out = np.hstack([context, h])
        if layer:
            out = np.tanh(out @ a["weight_attention"].T + a["bias_attention"])
        feed = out if layer else context
        outputs.append(out)
        weights.append(w)
    found = p.outputs(p.forward(reference))
    assert max_error(found["outputs"], np.stack(outputs, 1)) <= FLOAT64
    assert max_error(found["weights"], np.stack(weights, 1)) <= FLOAT64
    assert max_error(found["state[0]"], h) <= FLOAT64


@pytest.mark.parametrize("kind", SCORES)
def test_padding_has_no_influence(kind):
    p = DecoderProblem(kind, B=3, lengths=True, mask="bool")
    p.options["mask"][:, :, 2] = False
    clean = p.run(reference)
    idle = np.arange(p.Tk) >= p.options["memory_lengths"][:, None]
    idle[:, 2] = True
    assert idle.any()
    p.inputs["memory"][idle] = np.nan
    padded = p.run(reference)
    for name, value in clean.items():
        assert np.array_equal(value, padded[name]), name
    assert not padded["dmemory"][idle].any()
    assert not padded["weights"][np.broadcast_to(idle[:, None], padded["weights"].shape)].any()


@pytest.mark.parametrize("mask", ["bool", "float"])
@pytest.mark.parametrize("query", ["current", "previous"])
def test_every_step_has_its_own_mask(query, mask):
    p = DecoderProblem("general", query=query, T=6, mask="bool")
    keep = p.options["mask"]
    if mask == "float":
        p.options["mask"] = np.where(keep, 0.0, -np.inf)
    weights = p.outputs(p.forward(reference))["weights"]
    assert np.array_equal(weights > 0, keep)


@pytest.mark.parametrize("kind", ["causal", "window", "local m"])
def test_every_step_has_its_own_place(kind):
    p = DecoderProblem(kind, T=6)
    n, j = np.arange(6)[:, None], np.arange(p.Tk)
    keep = {"causal": j <= n + 1, "window": (n - 1 <= j) & (j <= n + 2), "local m": abs(j - n) <= 1}[kind]
    assert np.array_equal(
        p.outputs(p.forward(reference))["weights"] > 0, np.broadcast_to(keep, (p.B, 6, p.Tk))
    )


@pytest.mark.parametrize("sizes", [{"T": 0}, {"B": 0}, {"Tk": 0}, {"T": 1, "B": 1, "Tk": 1}], ids=str)
@pytest.mark.parametrize("kind", ["dot", "additive", "location", "monotonic", "local p"])
def test_empty(kind, sizes):
    p = DecoderProblem(kind, **sizes)
    for name, a in p.run(reference).items():
        assert np.isfinite(a).all(), name


@pytest.mark.parametrize("kind", SCORES)
def test_in_two_parts(kind):
    """Steps, feed and history handed over by hand give what one call gives."""
    p = DecoderProblem(kind, "lstm", T=5)
    whole = p.outputs(p.forward(reference))
    first, second = (p.inputs | {"x": p.inputs["x"][:, part]} for part in (slice(0, 2), slice(2, None)))
    head = p.outputs(p.forward(reference, first))
    second |= {f"state[{k}]": head[f"state[{k}]"] for k in range(2)}
    second["feed"] = head["outputs"][:, -1]
    if "previous" in second:
        second["previous"] = head["weights"][:, -1]
    if "coverage" in second:
        second["coverage"] = second["coverage"] + head["weights"].sum(1)
    p.attention = p.attention | {"query_offset": p.attention.get("query_offset", 0) + 2}
    tail = p.outputs(p.forward(reference, second))
    for name in ("outputs", "weights"):
        assert max_error(np.concatenate([head[name], tail[name]], 1), whole[name]) <= FLOAT64, name
    assert max_error(tail["state[1]"], whole["state[1]"]) <= FLOAT64


def test_hard_monotonic_has_no_gradient():
    p = DecoderProblem("monotonic", given=False)
    p.attention = p.attention | {"alignment": "hard_monotonic"}
    assert set(np.unique(p.outputs(p.forward(reference))["weights"])) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="hard_monotonic"):
        p.run(reference)
