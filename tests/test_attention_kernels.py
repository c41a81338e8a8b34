# SPDX-License-Identifier: Apache-2.0
"""Links 3 and 4 of the chain of trust for attention: kernels against the reference, at awkward sizes."""

import copy

import numpy as np
import pytest
from attention_problems import CASES, AttentionProblem
from tolerances import FLOAT64, attention_float32_bound, l2_error, max_error

from pyrnn import _core, functional, reference

AWKWARD = (1, 7, 8, 9, 15, 16, 17, 31, 33, 129)
ALIGNMENTS = ("softmax", "sparsemax", "monotonic")


def problem_of_sizes(case, draw, **more):
    """Every size awkward, drawn anew for every case; one of them is the largest."""
    score, alignment, kind = case
    rng = np.random.Generator(np.random.Philox([CASES.index(case), draw]))
    sizes = {name: int(rng.choice(AWKWARD[:-1])) for name in ("Tq", "Tk", "Dq", "Dk", "Dv", "A")}
    sizes[rng.choice(["A", "Dv", "Dq", "Tk"])] = AWKWARD[-1]
    sizes |= {
        "B": int(rng.choice((1, 2, 3, 7))),
        "F": int(rng.choice((1, 3))),
        "W": int(rng.choice((1, 7, 33))),
    }
    if alignment == "monotonic":  # which the reference takes key by key
        sizes["Tk"], sizes["Tq"] = min(sizes["Tk"], 33), min(sizes["Tq"], 9)
    if score == "location":  # each step multiplies the errors of the step before
        sizes["Tq"] = min(sizes["Tq"], 9)
    if kind == "local_p":  # a centre has the rounding errors of numbers to Tk
        sizes["Tk"] = min(sizes["Tk"], 33)
    return AttentionProblem(score, alignment, kind, seed=draw, **(sizes | more))


def assert_float64(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert max_error(actual[name], value) <= FLOAT64, name


def assert_float32(actual, expected, T, outputs=("context", "weights")):
    """Outputs together and gradients together: a sum that happens to cancel has no small relative error."""
    assert actual.keys() == expected.keys()
    assert all(value.dtype == np.float32 for value in actual.values())
    for group in (set(outputs), actual.keys() - set(outputs)):
        a, e = (np.concatenate([np.ravel(r[name]) for name in sorted(group)]) for r in (actual, expected))
        assert l2_error(a, e) <= attention_float32_bound(T), group


EVERY_CASE = pytest.mark.parametrize("case", CASES, ids="-".join)


@EVERY_CASE
@pytest.mark.parametrize("draw", [0, 1])
def test_float64(case, draw):
    problem = problem_of_sizes(case, draw)
    assert_float64(problem.run(functional), problem.run(reference))


@EVERY_CASE
@pytest.mark.parametrize("draw", [2, 3])
def test_float32(case, draw):
    problem = problem_of_sizes(case, draw, dtype=np.float32)
    assert_float32(problem.run(functional), problem.exact().run(reference), problem.Tq)


@pytest.mark.parametrize("n", AWKWARD)
@pytest.mark.parametrize("score", ["dot", "cosine", "additive"])
@pytest.mark.parametrize("axis", ["Tq", "Tk", "Dq", "Dv"])
def test_float64_by_axis(score, axis, n):
    """Every size along every axis, the others small; queries and keys are projected already."""
    sizes = {"B": 2, "Tq": 5, "Tk": 6, "Dq": 4, "A": 4, "Dv": 3, axis: n}
    if axis == "Dq":
        sizes["A"] = n
    problem = AttentionProblem(score, kind="bare", **sizes)
    assert_float64(problem.run(functional), problem.run(reference))


# The additive score is computed from e^2q · e^2k up to |q| + |k| = 43, in float64 353, as tanh(q + k) beyond.


def opposite(rng, shape, magnitude, rows):
    """Every `rows`th query near ±magnitude, every such key near ∓magnitude; sums are exact in float32."""
    B, Tq, Tk, A = shape
    sign = np.where(rng.random((B, 1, A)) < 0.5, -1.0, 1.0)
    far_queries, far_keys = (np.arange(n)[None, :, None] % rows == 0 for n in (Tq, Tk))
    query = np.where(far_queries, sign * magnitude, 0) + np.round(32 * rng.normal(size=(B, Tq, A))) / 64
    key = np.where(far_keys, -sign * magnitude, 0) + np.round(32 * rng.normal(size=(B, Tk, A))) / 64
    return query, key


@pytest.mark.parametrize("rows", [1, 3], ids=["all rows", "some rows"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("sizes", [(1, 33), (2, 7), (4, 16), (17, 31)], ids=str)
@pytest.mark.parametrize("magnitude", [15, 20, 21.5, 22, 43, 60, 100, 175, 176.5, 177, 353, 1e4])
def test_both_forms_of_the_additive_score(magnitude, sizes, alignment, rows):
    """The sums are of order one, however far from zero queries and keys are: nothing is saturated."""
    rng = np.random.Generator(np.random.Philox(int(2 * magnitude)))
    for dtype in (np.float64, np.float32):
        problem = AttentionProblem("additive", alignment, "bare", 2, *sizes, A=17, Dv=5, dtype=dtype)
        query, key = opposite(rng, (2, *sizes, 17), magnitude, rows)
        problem.query, problem.key = query.astype(dtype), key.astype(dtype)
        problem.options["scale"] = 0.05  # more than one key in the support of sparsemax
        expected = problem.exact().run(reference)
        assert np.abs(expected["dquery"]).max() > 1e-3
        if dtype == np.float64:
            assert_float64(problem.run(functional), expected)
        else:
            assert_float32(problem.run(functional), expected, sizes[0])


# Two features of an additive score share a reciprocal where the product of two is in its range, which depends
# on how far the weights are apart.


@pytest.mark.parametrize("weights", ["far apart", "equal", "a zero", "zeros"])
@pytest.mark.parametrize("A", [31, 33, 64, 70])
def test_features_two_at_a_time(weights, A):
    """Some rows of every tile are beyond the range and some are not; none depends on the others."""
    rng = np.random.Generator(np.random.Philox(A))
    for dtype in (np.float64, np.float32):
        problem = AttentionProblem("additive", "softmax", "bare", 2, 7, 9, A=A, dtype=dtype)
        problem.key, problem.query = (
            (a * 2.0 ** rng.integers(-2, 5, (*a.shape[:2], 1))).astype(dtype)
            for a in (problem.key, problem.query)
        )
        w = {
            "far apart": problem.params["weight_score"] * 10.0 ** rng.integers(-6, 1, A),
            "equal": np.full(A, -0.3),
            "a zero": np.where(np.arange(A) == A // 2, 0, problem.params["weight_score"]),
            "zeros": np.zeros(A),
        }[weights]
        problem.params["weight_score"] = w.astype(dtype)
        result, expected = problem.run(functional), problem.exact().run(reference)
        if dtype == np.float64:
            assert_float64(result, expected)
        else:
            assert_float32(result, expected, 7)
        few = copy.copy(problem)
        few.query, few.dcontext = problem.query[:, 3:5].copy(), problem.dcontext[:, 3:5].copy()
        few.dweights = problem.dweights[:, 3:5].copy()
        np.testing.assert_array_equal(few.run(functional)["weights"], result["weights"][:, 3:5])


@pytest.mark.parametrize("score", ["dot", "cosine", "additive"])
def test_gradients_larger_than_the_caches(score):
    """Gradients of 17 MB are written past the caches: the same numbers, whoever reads them."""
    problem = AttentionProblem(score, kind="bare", B=16, Tq=5, Tk=130, Dq=1024, A=1024, Dv=1024)
    assert_float64(problem.run(functional), problem.run(reference))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("Tq", [1, 4, 9])
@pytest.mark.parametrize("magnitude", [22, 43, 44, 88, 177, 353, 354, 710, 1e4, 1e30])
def test_saturated_scores(magnitude, Tq, dtype):
    """q + k far from zero on either side: tanh is ±1, its derivative zero, and everything a finite number."""
    problem = AttentionProblem("additive", kind="bare", Tq=Tq, Tk=9, A=9, dtype=dtype)
    problem.query = np.where(problem.query > 0, magnitude, -magnitude).astype(dtype)
    problem.key = np.where(problem.key > 0, magnitude / 2, -magnitude / 2).astype(dtype)
    result, expected = problem.run(functional), problem.exact().run(reference)
    assert not expected["dquery"].any() or magnitude < 44
    for name, value in expected.items():
        assert np.isfinite(result[name]).all(), name
        assert np.abs(result[name] - value).max() <= 1e3 * np.finfo(dtype).eps, name


class Guarded:
    """In place of `_core.empty`: arrays of NaN amid memory that is watched."""

    def __init__(self):
        self.given = []

    def __call__(self, shape, dtype):
        n = int(np.prod(shape))
        memory = np.full(n + 32, 77.0, dtype)
        memory[16 : 16 + n] = np.nan
        array = memory[16 : 16 + n].reshape(shape)
        self.given.append((memory, array))
        return array

    def check(self):
        assert self.given
        for memory, array in self.given:
            assert (memory[:16] == 77).all() and (memory[16 + array.size :] == 77).all()
            assert not np.isnan(array).any()


@EVERY_CASE
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_every_element_is_written_and_nothing_beside(case, dtype, monkeypatch):
    guarded = Guarded()
    problem = problem_of_sizes(case, 4, dtype=dtype)
    expected = problem.run(functional)
    monkeypatch.setattr(_core, "empty", guarded)
    actual = problem.run(functional)
    guarded.check()
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name
