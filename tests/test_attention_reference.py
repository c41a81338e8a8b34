# SPDX-License-Identifier: Apache-2.0
"""Link 1 of the chain of trust: attention's backward in NumPy against complex steps of its forward."""

import numpy as np
import pytest
from attention_problems import EVERY_CASE, AttentionProblem, named_gradients
from tolerances import COMPLEX_STEP, float32_bound, l2_error, max_error

from pyrnn import reference
from pyrnn.reference.attention import ALIGNMENTS, SCORES, Saved

STEP = 1e-30


def complex_step(problem, dcontext, dweights):
    """Gradients of Σ dcontext · context + Σ dweights · weights, by name, one element at a time."""
    inputs = {name: a.astype(complex) for name, a in problem.inputs().items()}
    grads = {}
    for name, a in inputs.items():
        grads[f"d{name}"] = np.zeros(a.shape)
        for index in np.ndindex(a.shape):
            value = a[index]
            a[index] = value + 1j * STEP
            context, weights, _ = problem.forward(reference, inputs)
            a[index] = value
            loss = np.sum(dcontext * context) + np.sum(dweights * weights)
            grads[f"d{name}"][index] = loss.imag / STEP
    return grads


def largest_errors(problem, dcontext, dweights):
    """Of every gradient, relative to the largest element expected; and the gradients expected."""
    saved = problem.forward(reference)[2]
    given = named_gradients(reference.attention_backward(saved, dcontext, dweights))
    expected = complex_step(problem, 0 if dcontext is None else dcontext, 0 if dweights is None else dweights)
    assert given.keys() == expected.keys()
    return {name: max_error(given[name], value) for name, value in expected.items()}, expected


@EVERY_CASE
def test_complex_step(score, alignment, kind):
    problem = AttentionProblem(score, alignment, kind, B=2, Tq=3)
    errors, expected = largest_errors(problem, problem.dcontext, problem.dweights)
    assert all(value.any() for value in expected.values()), "a gradient of zero tells nothing"
    assert max(errors.values()) <= COMPLEX_STEP, errors


@pytest.mark.parametrize("alignment", ["softmax", "sparsemax", "monotonic"])
@pytest.mark.parametrize("score", ["dot", "location"])
@pytest.mark.parametrize("given", ["dcontext", "dweights"])
def test_complex_step_from_one_gradient(given, score, alignment):
    problem = AttentionProblem(score, alignment, "history", B=2, Tq=3)
    gradients = {"dcontext": None, "dweights": None, given: getattr(problem, given)}
    errors, _ = largest_errors(problem, **gradients)
    assert max(errors.values()) <= COMPLEX_STEP, errors


@pytest.mark.parametrize(
    ("score", "sizes"),
    [
        ("location", {"Tq": 5, "Tk": 9, "W": 5, "F": 3}),
        ("location", {"Tk": 3, "W": 7}),
        ("location", {"W": 1}),
        ("concat", {"Dq": 4, "Dk": 1}),
        ("additive", {"A": 1}),
        ("general", {"Dq": 1, "Dk": 4}),
        ("cosine", {"Dq": 7}),
        ("additive", {"Tk": 1}),
        ("dot", {"Tq": 1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("alignment", ["softmax", "sparsemax", "monotonic"])
def test_complex_step_of_sizes(score, sizes, alignment):
    problem = AttentionProblem(score, alignment, "history", **({"B": 1, "Tq": 3} | sizes))
    errors, _ = largest_errors(problem, problem.dcontext, problem.dweights)
    assert max(errors.values()) <= COMPLEX_STEP, errors


def test_cosine_of_zero_vectors():
    """The cosine is zero there, and so is its gradient; the others' are not touched."""
    problem = AttentionProblem("cosine", B=2)
    problem.query[0, 1] = problem.key[1, 2] = 0
    _, weights, saved = problem.forward(reference)
    assert np.allclose(weights[0, 1], 1 / problem.Tk, rtol=1e-15)
    grads = reference.attention_backward(saved, problem.dcontext, problem.dweights)
    assert not grads.query[0, 1].any()
    assert not grads.key[1, 2].any()
    expected = complex_step(problem, problem.dcontext, problem.dweights)
    expected["dquery"][0, 1] = expected["dkey"][1, 2] = 0
    assert max_error(grads.query, expected["dquery"]) <= COMPLEX_STEP
    assert max_error(grads.key, expected["dkey"]) <= COMPLEX_STEP


@pytest.mark.parametrize("name", SCORES)
def test_a_wrong_derivative_of_a_score_is_seen(name, monkeypatch):
    right = SCORES[name]

    class Wrong(right):
        @staticmethod
        def backward(q, k, v, ds):
            dq, dk, dv = right.backward(q, k, v, ds)
            return dq, dk * (1 + 1e-11), dv

    monkeypatch.setitem(SCORES, name, Wrong)
    problem = AttentionProblem(name, B=2, Tq=3)
    errors, _ = largest_errors(problem, problem.dcontext, problem.dweights)
    assert max(errors.values()) > COMPLEX_STEP


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "monotonic"])
def test_a_wrong_derivative_of_an_alignment_is_seen(name, monkeypatch):
    right = ALIGNMENTS[name]

    class Wrong(right):
        @classmethod
        def backward(cls, p, before, dw):
            ds, dbefore = right.backward(p, before, dw)
            return ds * (1 + 1e-11), dbefore

    monkeypatch.setitem(ALIGNMENTS, name, Wrong)
    problem = AttentionProblem("dot", name, B=2, Tq=3)
    errors, _ = largest_errors(problem, problem.dcontext, problem.dweights)
    assert max(errors.values()) > COMPLEX_STEP


@EVERY_CASE
def test_computes_in_float32(score, alignment, kind):
    single = AttentionProblem(score, alignment, kind, dtype=np.float32)
    result, expected = single.run(reference), single.exact().run(reference)
    assert all(value.dtype == np.float32 for value in result.values())
    assert {n: a.shape for n, a in result.items()} == {n: a.shape for n, a in expected.items()}
    outputs = {"context", "weights"}
    # Together: a sum that happens to cancel has no small relative error.
    for group in (outputs, result.keys() - outputs):
        actual, wanted = (np.concatenate([np.ravel(r[name]) for name in group]) for r in (result, expected))
        assert l2_error(actual, wanted) <= float32_bound(single.Tq)


def test_what_is_kept_is_of_the_size_of_the_weights():
    """Nothing of size B·Tq·Tk·D outlives a query."""
    problem = AttentionProblem("additive", A=64)
    kept = problem.forward(reference)[2].kept
    assert isinstance(kept, Saved)
    assert kept.weights.size == kept.kept.size == problem.B * problem.Tq * problem.Tk
