# SPDX-License-Identifier: Apache-2.0
"""Attention against what its papers say, computed by hand, element by element; and against PyTorch."""

import itertools
import math

import numpy as np
import pytest
from attention_problems import ENGINES, AttentionProblem, named_gradients
from tolerances import FLOAT64, TORCH, max_error


def of_scores(engine, scores, alignment="softmax", **options):
    """Weights from given scores (B, Tq, Tk)."""
    B, Tq, Tk = scores.shape
    zeros = np.zeros((B, Tq, 1)), np.ones((B, Tk, 1))
    return engine.attention(*zeros, mask=scores, alignment=alignment, return_weights=True, **options)[1]


def scores(*shape, seed=0, scale=1.0):
    return np.random.Generator(np.random.Philox(seed)).normal(scale=scale, size=shape)


def softmax(s):
    e = [math.exp(x - max(s)) for x in s]
    return [x / sum(e) for x in e]


@ENGINES
def test_softmax(engine):
    s = scores(2, 3, 5)
    assert max_error(of_scores(engine, s), np.apply_along_axis(softmax, 2, s)) <= FLOAT64
    assert np.allclose(of_scores(engine, np.log([[[1.0, 2.0, 5.0]]])), [[[1 / 8, 2 / 8, 5 / 8]]])


@ENGINES
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_sparsemax_is_the_projection_on_the_simplex(engine, scale):
    """τ by bisection: Σ max(s - τ, 0) = 1."""
    s = scores(3, 4, 9, scale=scale)
    weights = of_scores(engine, s, "sparsemax")
    low, high = s.max(-1, keepdims=True) - 1, s.max(-1, keepdims=True)
    for _ in range(100):
        middle = (low + high) / 2
        above = np.maximum(s - middle, 0).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    assert max_error(weights, np.maximum(s - low, 0)) <= FLOAT64
    assert np.array_equal(of_scores(engine, np.array([[[3.0, 1.0, 2.5]]]), "sparsemax"), [[[0.75, 0, 0.25]]])
    assert np.array_equal(of_scores(engine, np.array([[[3.0, 1.0, 1.0]]]), "sparsemax"), [[[1, 0, 0]]])
    assert np.allclose(of_scores(engine, np.zeros((1, 1, 7)), "sparsemax"), 1 / 7)


def first_stop(draws, start):
    """The key at which a query stops that starts at key `start` (None: nowhere), given its draws."""
    if start is None:
        return None
    return next((j for j in range(start, len(draws)) if draws[j]), None)


def all_draws(p):
    """Every outcome of independent draws with probabilities p (Tq, Tk), and its probability."""
    for outcome in itertools.product((0, 1), repeat=p.size):
        draws = np.reshape(outcome, p.shape)
        yield draws, np.prod(np.where(draws, p, 1 - p))


@ENGINES
@pytest.mark.parametrize("start", [0, 2])
def test_monotonic_is_an_expectation(engine, start):
    """Over every outcome of the draws, each of which is an alignment by hand."""
    s = scores(1, 3, 4, scale=2)
    expected = np.zeros((3, 4))
    for draws, probability in all_draws(1 / (1 + np.exp(-s[0]))):
        at = start
        for i in range(3):
            at = first_stop(draws[i], at)
            if at is not None:
                expected[i, at] += probability
    previous = np.eye(4)[None, start] if start else None
    assert max_error(of_scores(engine, s, "monotonic", previous=previous)[0], expected) <= FLOAT64


@ENGINES
def test_monotonic_passes_over_masked_keys(engine):
    s = scores(1, 3, 4, scale=2)
    s[0, 0, 0] = s[0, 1, 2] = -np.inf
    expected = np.zeros((3, 4))
    for draws, probability in all_draws(1 / (1 + np.exp(-s[0]))):
        at = 0
        for i in range(3):
            at = first_stop(draws[i], at)
            if at is not None:
                expected[i, at] += probability
    assert max_error(of_scores(engine, s, "monotonic")[0], expected) <= FLOAT64


@ENGINES
@pytest.mark.parametrize("seed", range(5))
def test_hard_monotonic_stops_at_the_first_positive_score(engine, seed):
    s = scores(1, 6, 5, seed=seed)
    weights = of_scores(engine, s, "hard_monotonic")
    at = 0
    for i in range(6):
        at = first_stop(s[0, i] > 0, at)
        assert np.array_equal(weights[0, i], np.zeros(5) if at is None else np.eye(5)[at])
    saved = engine.attention_forward(s, s[:, :1], alignment="hard_monotonic")[2]
    with pytest.raises(
        ValueError, match=r"^saved: expected an alignment with a gradient, got 'hard_monotonic'"
    ):
        engine.attention_backward(saved, np.zeros((1, 6, 5)))


@ENGINES
def test_certain_monotonic_is_hard(engine):
    s = np.where(scores(2, 5, 7) > 0, 50.0, -50.0)
    hard = of_scores(engine, s, "hard_monotonic")
    assert hard.any()
    assert max_error(of_scores(engine, s, "monotonic"), hard) <= FLOAT64


@ENGINES
@pytest.mark.parametrize("monotonic", [False, True])
def test_additive(engine, monotonic):
    """Bahdanau et al. 2015, section A.1.2, one pair at a time."""
    problem = AttentionProblem("additive", "monotonic" if monotonic else "softmax", B=1, Tq=2, Tk=3)
    p, weights = problem.params, problem.forward(engine)[1]
    v = p["gain"] * p["weight_score"] / np.sqrt((p["weight_score"] ** 2).sum())
    s = np.zeros((1, 2, 3))
    for i, j in np.ndindex(2, 3):
        z = p["weight_query"] @ problem.query[0, i] + p["weight_key"] @ problem.key[0, j] + p["bias"]
        s[0, i, j] = sum(v[d] * math.tanh(z[d]) for d in range(problem.A)) + p.get("bias_score", 0)
    assert max_error(weights, of_scores(engine, s, problem.alignment)) <= FLOAT64


@ENGINES
@pytest.mark.parametrize("width", [1, 3, 7])
def test_location_and_coverage(engine, width):
    """Chorowski et al. 2015, equations 8 and 9; See et al. 2017, equations 10 and 11; by loops."""
    problem = AttentionProblem("location", kind="history", B=2, Tq=3, Tk=4, W=width)
    p, options = problem.params, problem.options
    weights = problem.forward(engine)[1]
    v = p["gain"] * p["weight_score"] / np.linalg.norm(p["weight_score"])
    for b in range(2):
        before, covered = options["previous"][b], options["coverage"][b].copy()
        for i in range(3):
            s = []
            for j in range(4):
                z = p["weight_query"] @ problem.query[b, i] + p["weight_key"] @ problem.key[b, j] + p["bias"]
                for f in range(problem.F):
                    for u in range(width):
                        at = j + u - width // 2
                        if 0 <= at < 4:
                            z = z + p["weight_location"][:, f] * p["weight_filter"][f, u] * before[at]
                z = z + p["weight_coverage"] * covered[j]
                s.append(float(v @ np.tanh(z)))
            before = np.array(softmax(s))
            covered += before
            assert max_error(weights[b, i], before) <= FLOAT64


@ENGINES
def test_nothing_came_before_unless_it_is_given(engine):
    problem = AttentionProblem("location", kind="history", Tk=4)
    zeros = {name: np.zeros((problem.B, 4)) for name in ("previous", "coverage")}
    problem.options |= zeros
    expected = problem.run(engine)
    for name in zeros:
        del problem.options[name], expected[f"d{name}"]
    actual = problem.run(engine)
    assert actual.keys() == expected.keys()
    assert all(np.array_equal(actual[name], value) for name, value in expected.items())

    problem = AttentionProblem("location", "monotonic", kind="plain", Tk=4)
    start = np.zeros((problem.B, 4))
    first = problem.run(engine)
    assert not np.array_equal(problem.run(engine, previous=start)["weights"], first["weights"])
    dot = AttentionProblem("dot", "monotonic", Tk=4)
    first = dot.run(engine)
    start[:, 0] = 1
    assert np.array_equal(dot.run(engine, previous=start)["weights"], first["weights"])


@ENGINES
@pytest.mark.parametrize("alignment", ["softmax", "sparsemax"])
def test_predicted_centre(engine, alignment):
    """Luong et al. 2015, equations 9, 10: keys in the window alone, then the Gaussian, not renormalised."""
    problem = AttentionProblem("dot", alignment, "local_p", B=3, Tk=9, Tq=3)
    options, p = problem.options, problem.params
    lengths = options["key_lengths"]
    assert set(lengths[:2]) == {9, 0}
    weights = problem.forward(engine)[1]
    for b, i in np.ndindex(3, 3):
        q = problem.query[b, i]
        z = p["weight_position_score"] @ np.tanh(p["weight_position"] @ q)
        center = lengths[b] / (1 + math.exp(-z))
        keys = [j for j in range(lengths[b]) if abs(j - center) <= 2]
        expected = np.zeros(9)
        s = np.array([[[problem.key[b, j] @ q for j in keys]]])
        aligned = of_scores(engine, s, alignment)[0, 0]
        for j, w in zip(keys, aligned, strict=True):
            expected[j] = w * math.exp(-((j - center) ** 2) / (2 * 1.0**2))
        assert len(keys) <= 5
        assert max_error(weights[b, i], expected) <= FLOAT64


@ENGINES
def test_centre_by_hand(engine):
    """A centre at key 2 of four, all scores equal: even weights in the window, then the Gaussian."""
    query, key = np.zeros((1, 1, 1)), np.zeros((1, 4, 1))
    params = {"weight_position": np.ones((1, 1)), "weight_position_score": np.ones(1)}
    _, weights, _ = engine.attention_forward(query, key, params=params, local="p", window=2)
    expected = [math.exp(-2) / 4, math.exp(-0.5) / 4, 1 / 4, math.exp(-0.5) / 4]
    assert np.allclose(weights[0, 0], expected, rtol=1e-15)
    _, weights, _ = engine.attention_forward(query, key, params=params, local="p", window=1)
    expected = [0, math.exp(-2) / 3, 1 / 3, math.exp(-2) / 3]
    assert np.allclose(weights[0, 0], expected, rtol=1e-15)


@ENGINES
@pytest.mark.parametrize("kind", ["plain", "mask", "bias", "causal", "heads"])
def test_scaled_dot_is_that_of_pytorch(engine, kind):
    torch = pytest.importorskip("torch")
    problem = AttentionProblem("scaled_dot", kind=kind, Tq=5, Tk=5, Dq=8, Dv=3)
    options = {}
    if kind in ("mask", "bias"):
        mask = problem.options["mask"]
        if kind == "mask":
            mask[:, :, 0] = True  # PyTorch gives no number for a row without keys
        else:
            mask[mask == -np.inf] = -1e30
        options["attn_mask"] = torch.from_numpy(np.array(np.broadcast_to(mask, (problem.B, 5, 5))))
    if kind == "causal":
        problem.options["query_offset"] = 0
        options["is_causal"] = True
    tensors = [torch.from_numpy(a).requires_grad_() for a in (problem.query, problem.key, problem.value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
    expected.backward(torch.from_numpy(problem.dcontext))
    context, _, saved = problem.forward(engine)
    assert max_error(context, expected.detach().numpy()) <= TORCH
    grads = named_gradients(engine.attention_backward(saved, problem.dcontext))
    for name, tensor in zip(("dquery", "dkey", "dvalue"), tensors, strict=True):
        assert max_error(grads[name], tensor.grad.numpy()) <= TORCH, name


@ENGINES
def test_location_is_that_of_pytorch(engine):
    """With PyTorch's convolution and its automatic gradients."""
    torch = pytest.importorskip("torch")
    problem = AttentionProblem("location", kind="history", Tq=4, Tk=6, W=5)
    t = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in problem.inputs().items()}
    v = t["gain"] * t["weight_score"] / t["weight_score"].norm()
    keys = t["key"] @ t["weight_key"].T + t["bias"]
    before, covered, rows = t["previous"], t["coverage"], []
    for i in range(4):
        features = torch.nn.functional.conv1d(before[:, None], t["weight_filter"][:, None], padding=2)
        z = keys + (t["query"][:, i] @ t["weight_query"].T)[:, None]
        z = z + features.transpose(1, 2) @ t["weight_location"].T + covered[:, :, None] * t["weight_coverage"]
        before = torch.softmax(torch.tanh(z) @ v, dim=-1)
        covered = covered + before
        rows.append(before)
    weights = torch.stack(rows, dim=1)
    context = weights @ t["value"]
    loss = (context * torch.from_numpy(problem.dcontext)).sum()
    (loss + (weights * torch.from_numpy(problem.dweights)).sum()).backward()
    result = problem.run(engine)
    assert max_error(result["context"], context.detach().numpy()) <= TORCH
    assert max_error(result["weights"], weights.detach().numpy()) <= TORCH
    for name, tensor in t.items():
        assert max_error(result[f"d{name}"], tensor.grad.numpy()) <= TORCH, name
