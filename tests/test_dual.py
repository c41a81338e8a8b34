# SPDX-License-Identifier: Apache-2.0
"""Link 2 of the chain of trust: every backward of a cell or score against its own forward on dual numbers."""

import numpy as np
import pytest
from problems import CELLS
from tolerances import DUAL

from pyrnn import _core
from pyrnn.reference.attention import SCORES
from pyrnn.reference.cells import possible, registry

#: Every form of every score: its own, and the one for pairs beyond its limit.
FORMS = [
    (score, fallback)
    for score, constants in _core.scores().items()
    for fallback in ([False, True] if constants["fallback"] else [False])
]


def test_the_registries_agree():
    """Every compiled cell has its reference, with the same constants; and the other way round."""
    from pyrnn import reference

    assert _core.cells() == reference.cells()
    assert _core.scores().keys() == SCORES.keys()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cell", CELLS)
def test_backward_is_the_transpose_of_the_derivative(cell, seed):
    """w·(J v) from forward on dual numbers equals (Jᵀ w)·v from backward."""
    sizes = [_core.cells()[cell][name] for name in ("slots", "states", "params")]
    rng = np.random.Generator(np.random.Philox(seed))
    point = [list(rng.normal(scale=2, size=n)) for n in sizes]
    point[1] = possible(cell, point[1])
    v = [list(rng.normal(size=n)) for n in sizes]
    w = list(rng.normal(size=sizes[1]))
    s_new, jv = _core.cell_jvp(cell, *point, *v)
    jtw = _core.cell_vjp(cell, *point, w)
    left = np.dot(w, jv)
    right = sum(np.dot(g, t) for g, t in zip(jtw, v, strict=True))
    assert abs(left - right) <= DUAL * np.linalg.norm(w) * np.linalg.norm(np.concatenate(v))

    arrays = [[np.array([[value]]) for value in values] for values in point]
    expected, _ = registry[cell].forward(*arrays)
    assert np.allclose(s_new, np.ravel(expected), rtol=DUAL, atol=DUAL)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("missing", range(3))
def test_counts_are_checked(cell, missing):
    counts = _core.cells()[cell]
    values = [[0.5] * counts[name] for name in ("slots", "states", "params")]
    values[missing] = [0.5] * (len(values[missing]) + 1)
    with pytest.raises(ValueError, match=f"^{'asp'[missing]}: expected"):
        _core.cell_vjp(cell, *values, [1.0] * counts["states"])
    with pytest.raises(ValueError, match=f"^{'asp'[missing]}: expected"):
        _core.cell_jvp(cell, *values, *values)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.1, 2.0, 100.0])
@pytest.mark.parametrize(("score", "fallback"), FORMS)
def test_gradients_of_a_score_are_its_derivative(score, fallback, spread, seed):
    """Feature by feature, along each of query, key and weight; and the value is the reference's."""
    constants, D = _core.scores()[score], 7
    rng = np.random.Generator(np.random.Philox(seed))
    q, k = np.clip(rng.normal(scale=spread, size=(2, D)), -170, 170)  # |q| + |k| within the limit of float64
    w = rng.normal(size=D) if constants["weighted"] else np.zeros(0)
    ds = rng.normal()
    point, sizes = [list(q), list(k), list(w)], [D, D, len(w)]
    gradients = np.concatenate(_core.score_vjp(score, fallback, *point, ds))
    derivatives = []
    for direction in np.eye(sum(sizes)):
        value, derivative = _core.score_jvp(
            score, fallback, *point, *np.split(direction, np.cumsum(sizes)[:2])
        )
        derivatives.append(ds * derivative)
    # 1 - y² of a saturated y = tanh is exact to eps only, and so is 1 - 2/(1 + E) near zero.
    scale = abs(ds) * max(1, *np.abs(w), *(np.abs([*q, *k]) if constants["product"] else [0]))
    assert np.abs(gradients - derivatives).max() <= DUAL * scale

    rows = [unit_of(a) if constants["unit_rows"] else a for a in (q, k)]
    value = _core.score_jvp(score, fallback, *rows, w, *np.zeros((2, D)), 0 * w)[0]
    expected = SCORES[score].forward(q[None], k[None, None], w)[0, 0]
    terms = np.abs(w).sum() if constants["weighted"] else np.abs(rows[0] * rows[1]).sum()
    assert abs(value - expected) <= DUAL * terms


def unit_of(row):
    return row / np.sqrt((row * row).sum())


@pytest.mark.parametrize(("score", "fallback"), FORMS)
@pytest.mark.parametrize("wrong", ["k", "w", "tq", "tk", "tw"])
def test_counts_of_scores_are_checked(score, fallback, wrong):
    w = [0.5] * (3 if _core.scores()[score]["weighted"] else 0)
    given = {"q": [0.5] * 3, "k": [0.5] * 3, "w": w, "tq": [1.0] * 3, "tk": [1.0] * 3, "tw": w}
    given[wrong] = [*given[wrong], 0.5]
    with pytest.raises(ValueError, match=f"^{wrong}: expected"):
        _core.score_jvp(score, fallback, **given)
    if wrong in ("k", "w"):
        with pytest.raises(ValueError, match=f"^{wrong}: expected"):
            _core.score_vjp(score, fallback, *(given[name] for name in "qkw"), 1.0)
    with pytest.raises(ValueError, match=r"^score: unknown score 'sum'"):
        _core.score_vjp("sum", fallback, [], [], [], 1.0)
