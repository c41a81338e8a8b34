# SPDX-License-Identifier: Apache-2.0
"""What masks, lengths, windows, heads and steps mean for attention, said in terms of plain calls."""

import numpy as np
import pytest
from attention_problems import CASES, ENGINES, EVERY_CASE, AttentionProblem, named_gradients
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn.scoring import SCORES

EVERY_SCORE = pytest.mark.parametrize("score", SCORES)
EVERY_ALIGNMENT = pytest.mark.parametrize("alignment", ["softmax", "sparsemax", "monotonic"])


def allowed(problem):
    """The keys that each query may attend to, bool (B, Tq, Tk), one by one; not for predicted centres."""
    options = problem.options
    lengths = options.get("key_lengths", np.full(problem.B, problem.Tk))
    mask = np.broadcast_to(options.get("mask", True), (problem.B, problem.Tq, problem.Tk))
    left, right = options.get("window", (np.inf, np.inf)) if "local" not in options else (2, 2)
    may = np.zeros((problem.B, problem.Tq, problem.Tk), bool)
    for b, i, j in np.ndindex(*may.shape):
        n = options.get("query_offset", 0) + i
        may[b, i, j] = (
            j < lengths[b]
            and (mask[b, i, j] if mask.dtype == bool else mask[b, i, j] > -np.inf)
            and (j <= n or not options.get("causal", False))
            and n - left <= j <= n + right
        )
    return may


def assert_same(actual, expected, tolerance=0.0):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert max_error(actual[name], value) <= tolerance, name


@ENGINES
@pytest.mark.parametrize(
    ("score", "alignment", "kind"), [case for case in CASES if case[2] not in ("local_p", "heads", "single")]
)
def test_only_the_keys_allowed_have_weight(engine, score, alignment, kind):
    problem = AttentionProblem(score, alignment, kind)
    context, weights, _ = problem.forward(engine)
    may = allowed(problem)
    assert may.any()
    assert not weights[~may].any()
    if alignment == "softmax":
        assert weights[may].all()
    if alignment != "monotonic":
        assert np.allclose(weights.sum(-1), may.any(-1), rtol=1e-14)
    values = problem.key if problem.value is None else problem.value
    assert max_error(context, np.einsum("bij,bjd->bid", weights, values)) <= FLOAT64


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
@pytest.mark.parametrize("kind", ["lengths", "mask", "bias", "causal", "window", "local_m", "all"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_attended_to_has_no_influence(engine, score, alignment, kind, poison):
    problem = AttentionProblem(score, alignment, kind, B=4, Tk=7)
    idle_queries, idle_keys = idle(problem)
    clean = problem.run(engine)
    for name, rows in (("query", idle_queries), ("key", idle_keys), ("value", idle_keys)):
        getattr(problem, name)[rows] = poison
    problem.dcontext[idle_queries] = poison
    problem.dweights[~allowed(problem)] = poison
    poisoned = problem.run(engine)
    assert_same(poisoned, clean)
    assert not clean["context"][idle_queries].any()
    assert not clean["dquery"][idle_queries].any()
    assert not clean["dkey"][idle_keys].any()
    assert not clean["dvalue"][idle_keys].any()
    for name, rows in (("dquery", idle_queries), ("dkey", idle_keys), ("dvalue", idle_keys)):
        assert not poisoned[name][rows].any()


def idle(problem):
    """Queries without a key and keys without a query; at least one of either."""
    if problem.kind in ("bias", "causal", "window", "local_m"):
        problem.options["key_lengths"] = np.array([problem.Tk, 0, 3, 6])
    if problem.kind == "mask":
        problem.options["mask"][0, :, 2] = False
    may = allowed(problem)
    idle_queries, idle_keys = ~may.any(2), ~may.any(1)
    assert idle_queries.any()
    assert idle_keys.any()
    assert may.any()
    return idle_queries, idle_keys


@ENGINES
@EVERY_SCORE
@pytest.mark.parametrize("alignment", ["softmax", "sparsemax"])
def test_a_query_without_keys_predicts_no_centre(engine, score, alignment):
    """Neither where there are no keys nor where all are masked; and none of its numbers are used."""
    problem = AttentionProblem(score, alignment, "local_p", B=3, Tk=5)
    assert problem.options["key_lengths"][1] == 0
    mask = np.ones((3, problem.Tq, 5), bool)
    mask[0, 2] = False
    problem.options["mask"] = mask
    clean = problem.run(engine)
    for poison in (np.nan, np.inf):
        problem.query[0, 2] = problem.query[1] = poison
        assert_same(problem.run(engine), clean)


@ENGINES
@EVERY_ALIGNMENT
def test_a_float_mask_behind_the_lengths_has_no_influence(engine, alignment):
    problem = AttentionProblem("dot", alignment, "bias", Tk=6)
    problem.options["key_lengths"] = np.array([6, 0, 4])
    clean = problem.run(engine)
    for poison in (np.nan, np.inf):
        problem.options["mask"][1] = problem.options["mask"][2, :, 4:] = poison
        assert_same(problem.run(engine), clean)


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
def test_a_key_of_some_queries_has_no_influence_on_the_others(engine, score, alignment):
    """Causal, and the last key is no number: only the last query knows."""
    problem = AttentionProblem(score, alignment, "causal", Tk=4)
    problem.options["query_offset"] = 0
    clean, weights, saved = problem.forward(engine)
    problem.dcontext[:, -1] = problem.dweights[:, -1] = 0
    dquery = engine.attention_backward(saved, problem.dcontext, problem.dweights).query
    problem.key[:, -1] = problem.value[:, -1] = np.nan
    context, poisoned, saved = problem.forward(engine)
    assert np.array_equal(context[:, :-1], clean[:, :-1])
    assert np.array_equal(poisoned[:, :-1], weights[:, :-1])
    assert np.isnan(context[:, -1]).all()
    if score != "location" and alignment != "monotonic":  # else the last query reads the others' weights
        grads = engine.attention_backward(saved, problem.dcontext, problem.dweights)
        assert np.array_equal(grads.query[:, :-1], dquery[:, :-1])


@ENGINES
@EVERY_CASE
@pytest.mark.parametrize("empty", ["B", "Tq", "Tk"])
def test_empty_arrays(engine, score, alignment, kind, empty):
    problem = AttentionProblem(score, alignment, kind, **{empty: 0})
    result = problem.run(engine)
    assert {f"d{name}" for name in problem.inputs()} <= result.keys()
    assert result["context"].shape == problem.dcontext.shape
    assert result["weights"].shape == problem.dweights.shape
    for name, a in problem.inputs().items():
        assert result[f"d{name}"].shape == a.shape
        assert (kind, empty) == ("single", "Tq") or not result[f"d{name}"].any(), name


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
@pytest.mark.parametrize("kind", ["lengths", "causal", "window", "local_m"])
def test_bounds_are_masks(engine, score, alignment, kind):
    problem = AttentionProblem(score, alignment, kind, Tk=7)
    bounded = problem.run(engine)
    may = allowed(problem)
    problem.options = {"score": score, "alignment": alignment, "mask": may}
    assert_same(problem.run(engine), bounded, FLOAT64)
    problem.options["mask"] = np.where(may, 0.0, -np.inf)
    assert_same(problem.run(engine), bounded, FLOAT64)


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
def test_a_row_with_a_length_is_that_row_alone(engine, score, alignment):
    problem = AttentionProblem(score, alignment, "lengths", Tk=7)
    rows = problem.run(engine)
    lengths = problem.options.pop("key_lengths")
    assert {0, 7} <= set(lengths)
    for b, length in enumerate(lengths):
        alone = AttentionProblem(score, alignment, "plain", Tk=7)
        alone.params = problem.params
        for name in ("query", "dcontext"):
            setattr(alone, name, getattr(problem, name)[b : b + 1])
        for name in ("key", "value"):
            setattr(alone, name, getattr(problem, name)[b : b + 1, :length])
        alone.dweights = problem.dweights[b : b + 1, :, :length]
        result = alone.run(engine)
        for name in ("context", "dquery"):
            assert max_error(result[name][0], rows[name][b]) <= FLOAT64
        for name in ("dkey", "dvalue"):
            assert max_error(result[name][0], rows[name][b, :length]) <= FLOAT64
        assert max_error(result["weights"][0], rows["weights"][b, :, :length]) <= FLOAT64


@ENGINES
@EVERY_CASE
def test_heads_are_calls_of_their_own(engine, score, alignment, kind):
    if kind == "heads":
        kind = "plain"
    one = AttentionProblem(score, alignment, kind)
    if kind == "single":
        one.query, one.dcontext, one.dweights = (a[:, None] for a in (one.query, one.dcontext, one.dweights))
    other = AttentionProblem(score, alignment, kind, seed=1)
    both = AttentionProblem(score, alignment, kind)
    other.params, other.options = one.params, dict(one.options)
    other.query, other.dcontext, other.dweights = 2 * one.query, one.dcontext + 1, one.dweights + 1
    for name in ("query", "key", "value", "dcontext", "dweights"):
        pair = (getattr(one, name), getattr(other, name))
        setattr(both, name, None if pair[0] is None else np.stack(pair, axis=1))
    for name in ("previous", "coverage"):
        if name in one.options:
            other.options[name] = one.options[name] + 0.25
            both.options[name] = np.stack([one.options[name], other.options[name]], axis=1)
    result, expected = both.run(engine), [one.run(engine), other.run(engine)]
    for name in result:
        pair = [e[name] for e in expected]
        if name.removeprefix("d") in one.params:
            assert max_error(result[name], np.asarray(pair[0] + pair[1])) <= FLOAT64, name
        else:
            assert max_error(result[name], np.stack(pair, axis=1)) <= FLOAT64, name


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
def test_one_query_without_time_is_one_of_length_one(engine, score, alignment):
    problem = AttentionProblem(score, alignment, "single")
    without = problem.run(engine)
    problem.query, problem.dcontext, problem.dweights = (
        a[:, None] for a in (problem.query, problem.dcontext, problem.dweights)
    )
    expected = problem.run(engine)
    for name in ("context", "weights", "dquery"):
        expected[name] = expected[name][:, 0]
    assert_same(without, expected)


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
def test_keys_are_the_values_when_there_are_none(engine, score, alignment):
    problem = AttentionProblem(score, alignment, "shared")
    shared = problem.run(engine)
    problem.value = problem.key
    expected = problem.run(engine)
    expected["dkey"] = expected["dkey"] + expected.pop("dvalue")
    assert_same(shared, expected)


@ENGINES
@EVERY_ALIGNMENT
@EVERY_SCORE
@pytest.mark.parametrize("kind", ["history", "all", "local_m", "bias"])
def test_step_by_step(engine, score, alignment, kind):
    """One query at a time, with the weights and the coverage of those before, over a memory made once."""
    problem = AttentionProblem(score, alignment, kind, Tk=6)
    context, weights, _ = problem.forward(engine)
    options = dict(problem.options)
    memory = engine.precompute(
        problem.key,
        problem.value,
        score=score,
        params=problem.params,
        key_lengths=options.pop("key_lengths", None),
    )
    mask = np.broadcast_to(options.pop("mask", True), weights.shape)
    offset = options.pop("query_offset", 0)
    for i in range(problem.Tq):
        step, w = engine.attention(
            problem.query[:, i],
            memory,
            params=problem.params,
            mask=mask[:, i],
            query_offset=offset + i,
            return_weights=True,
            **options,
        )
        assert max_error(step, context[:, i]) <= FLOAT64
        assert max_error(w, weights[:, i]) <= FLOAT64
        if score == "location" or alignment == "monotonic":
            options["previous"] = w
        if "coverage" in options:
            options["coverage"] = options["coverage"] + w


@ENGINES
@EVERY_SCORE
@pytest.mark.parametrize("kind", ["plain", "bare", "lengths", "heads"])
def test_a_memory_is_its_keys(engine, score, kind):
    problem = AttentionProblem(score, kind=kind)
    expected = problem.run(engine)
    memory = engine.precompute(
        problem.key,
        problem.value,
        score=score,
        params=problem.params,
        key_lengths=problem.options.pop("key_lengths", None),
    )
    context, weights, saved = engine.attention_forward(
        problem.query, memory, params=problem.params, **problem.options
    )
    grads = engine.attention_backward(saved, problem.dcontext, problem.dweights)
    assert_same({"context": context, "weights": weights, **named_gradients(grads)}, expected)


@ENGINES
def test_scores_that_are_others(engine):
    """scaled_dot, general, concat and a gain, in terms of scores without them."""
    p = AttentionProblem("general", Dq=3, Dk=2)
    q, k, v, W = p.query, p.key, p.value, p.params["weight"]
    general = engine.attention(q, k, v, score="general", params={"weight": W})
    assert max_error(general, engine.attention(q @ W, k, v)) <= FLOAT64
    assert max_error(general, engine.attention(q, k @ W.T, v)) <= FLOAT64
    k = k @ W.T
    scaled = engine.attention(q, k, v, score="scaled_dot")
    assert max_error(scaled, engine.attention(q, k, v, scale=3**-0.5)) <= FLOAT64
    assert np.array_equal(scaled, engine.attention(q, k, v, score="scaled_dot", scale=3**-0.5))
    assert not np.array_equal(scaled, engine.attention(q, k, v, score="scaled_dot", scale=1.0))
    units = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k)]
    cosine = engine.attention(q, k, v, score="cosine", scale=5.0)
    assert max_error(cosine, engine.attention(*units, v, scale=5.0)) <= FLOAT64

    c = AttentionProblem("concat", Dq=3, Dk=2).params
    Wq, Wk = c["weight"][:, :3], c["weight"][:, 3:]
    rest = {"weight_score": c["weight_score"], "bias": c["bias"]}
    split = rest | {"weight_query": Wq, "weight_key": Wk}
    concat = engine.attention(p.query, p.key, v, score="concat", params=c)
    assert max_error(concat, engine.attention(p.query, p.key, v, score="additive", params=split)) <= FLOAT64
    projected = engine.attention(p.query @ Wq.T, p.key @ Wk.T, v, score="additive", params=rest)
    assert max_error(concat, projected) <= FLOAT64
    unit = c["weight_score"] / np.linalg.norm(c["weight_score"])
    gained = engine.attention(*(p.query, p.key, v), score="additive", params=split | {"gain": np.array(1.5)})
    plain = engine.attention(p.query, p.key, v, score="additive", params=split | {"weight_score": 1.5 * unit})
    assert max_error(gained, plain) <= FLOAT64


@ENGINES
def test_masks_broadcast(engine):
    problem = AttentionProblem("dot", B=2, Tq=3, Tk=4)
    q, k, v = problem.query, problem.key, problem.value
    rng = np.random.Generator(np.random.Philox(3))
    for shape in [(4,), (1, 4), (3, 4), (3, 1), (2, 1, 4), (1, 3, 4), (2, 3, 1), ()]:
        mask = rng.random(shape) < 0.6
        full = np.broadcast_to(mask, (2, 3, 4))
        assert np.array_equal(engine.attention(q, k, v, mask=mask), engine.attention(q, k, v, mask=full))
        added = np.asarray(rng.normal(size=shape))
        full = np.broadcast_to(added, (2, 3, 4))
        assert np.array_equal(engine.attention(q, k, v, mask=added), engine.attention(q, k, v, mask=full))

    heads = [np.stack([a, 2 * a, -a], axis=1) for a in (q, k, v)]
    mask = rng.random((2, 1, 4)) < 0.6
    spread = engine.attention(*heads, mask=mask[:, None])
    assert np.array_equal(engine.attention(*heads, mask=mask), spread)
    one = rng.random((3, 1, 1)) < 0.6
    assert np.array_equal(
        engine.attention(*heads, mask=one[None]),
        engine.attention(*heads, mask=np.broadcast_to(one, (2, 3, 3, 4))),
    )

    mask = rng.random((2, 4)) < 0.6
    single = engine.attention(q[:, 0], k, v, mask=mask)
    assert np.array_equal(single, engine.attention(q[:, 0], k, v, mask=mask[:, None]))
    assert np.array_equal(single, engine.attention(q[:, :1], k, v, mask=mask[:, None])[:, 0])
    padding = engine.attention(q, k, v, mask=pyrnn.from_padding_mask(~mask))
    assert np.array_equal(padding, engine.attention(q, k, v, mask=mask[:, None]))
    assert not np.array_equal(padding, engine.attention(q, k, v, mask=~mask[:, None]))


@ENGINES
@EVERY_ALIGNMENT
def test_scores_far_apart(engine, alignment):
    """Neither overflow nor a warning; the largest score wins."""
    query, key = np.array([[[1000.0]]]), np.array([[[-900.0], [1.0], [2.0], [-3.0]]])
    _, weights, saved = engine.attention_forward(query, key, alignment=alignment)
    assert np.allclose(weights, [[[0, 1, 0, 0]]] if alignment == "monotonic" else [[[0, 0, 1, 0]]])
    grads = engine.attention_backward(saved, np.ones((1, 1, 1)))
    assert np.isfinite(grads.query).all() and np.isfinite(grads.key).all()


@ENGINES
@EVERY_CASE
def test_arrays_of_any_layout(engine, score, alignment, kind):
    """Strided, byte-swapped, read-only, Fortran order; and nothing that is read is written."""
    problem = AttentionProblem(score, alignment, kind)
    expected = problem.run(engine)
    before = {name: a.copy() for name, a in problem.inputs().items()}
    forms = [
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.asfortranarray(a) if a.ndim else a,
        lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ]
    for form in forms:
        other = AttentionProblem(score, alignment, kind)
        for name, a in vars(problem).items():
            if isinstance(a, np.ndarray):
                setattr(other, name, form(a))
        other.params = {name: form(a) for name, a in problem.params.items()}
        other.options = {
            name: form(a) if isinstance(a, np.ndarray) and name != "key_lengths" else a
            for name, a in problem.options.items()
        }
        assert_same(other.run(engine), expected)
    assert_same(problem.inputs(), before)


@ENGINES
@EVERY_CASE
def test_backward_may_be_repeated(engine, score, alignment, kind):
    problem = AttentionProblem(score, alignment, kind)
    saved = problem.forward(engine)[2]
    first, second = (
        named_gradients(engine.attention_backward(saved, problem.dcontext, problem.dweights))
        for _ in range(2)
    )
    assert_same(first, second)
    halves = [(problem.dcontext, None), (None, problem.dweights)]
    parts = [named_gradients(engine.attention_backward(saved, *half)) for half in halves]
    assert_same({name: np.asarray(parts[0][name] + parts[1][name]) for name in first}, first, FLOAT64)


@ENGINES
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("heads", [(), (2,)])
def test_into_an_array_that_is_given(engine, heads, layout):
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(3, *heads, 4, 5)), rng.normal(size=(3, *heads, 6, 5))
    for q in (query, query[..., 0, :]) if not heads else (query,):
        expected, weights = engine.attention(q, key, return_weights=True)
        out = np.full((*expected.shape[:-1], 10), np.nan)[..., :5] if layout == "strided" else expected + 1
        context, w, saved = engine.attention_forward(q, key, out=out)
        assert context is out and np.array_equal(out, expected) and np.array_equal(w, weights)
        grads = engine.attention_backward(saved, expected)
        out[...] = 7  # the backward does not read it
        again = engine.attention_backward(saved, expected)
        assert np.array_equal(again.query, grads.query) and np.array_equal(again.key, grads.key)
        assert engine.attention(q, key, out=out) is out and np.array_equal(out, expected)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own"):
        engine.attention(query, key, out=query)
    with pytest.raises(ValueError, match=r"^out: expected shape \(B, .*Tq, Dv\)"):
        engine.attention(query, key, out=np.empty((3, *heads, 4, 6)))
    with pytest.raises(TypeError, match=r"^out: expected dtype float64, got float32"):
        engine.attention(query, key, out=np.empty((3, *heads, 4, 5), np.float32))
