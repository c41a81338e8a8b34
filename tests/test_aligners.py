# SPDX-License-Identifier: Apache-2.0
"""Attention as objects: what they compute, their parameters, copies and files."""

import copy
import pickle

import numpy as np
import pytest
from aligner_kinds import ENGINES, EVERY_KIND, KINDS, TK, TQ, A, B, made, problem
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn import reference
from pyrnn.stepping import rows_of


@EVERY_KIND
def test_repr_is_the_call(kind):
    assert repr(made(kind)) == KINDS[kind]
    assert repr(eval(KINDS[kind], vars(pyrnn))) == KINDS[kind]


@ENGINES
@EVERY_KIND
def test_equals_the_functions(kind, module):
    attn = made(kind, module)
    query, key, lengths = problem(attn)
    value = np.random.default_rng(1).normal(size=(B, TK, 3))
    functions = pyrnn.functional if module is pyrnn else reference
    context, weights, saved = attn.forward(query, key, value, key_lengths=lengths)
    arguments = attn._arguments(training=True) | {"params": attn.params}
    expected = functions.attention_forward(query, key, value, key_lengths=lengths, **arguments)
    assert np.array_equal(context, expected[0])
    assert np.array_equal(weights, expected[1])
    dcontext, dweights = np.cos(context), np.sin(weights)
    grads = attn.backward(saved, dcontext, dweights)
    expected = functions.attention_backward(expected[2], dcontext, dweights)
    for name in ("query", "key", "value"):
        assert np.array_equal(getattr(grads, name), getattr(expected, name)), name
    assert set(grads.params) == set(attn.params)
    for name, a in grads.params.items():
        assert a.shape == attn.params[name].shape
        assert np.array_equal(a, expected.params[name]), name
        assert np.any(a), name
    if kind != "monotonic":
        assert max_error(attn(query, key, value, key_lengths=lengths), context) <= FLOAT64


@ENGINES
@EVERY_KIND
def test_precompute(kind, module):
    attn = made(kind, module)
    query, key, lengths = problem(attn)
    expected = attn(query, key, key_lengths=lengths, return_weights=True)
    memory = attn.precompute(key, lengths)
    for a, b in zip(attn(query, memory, return_weights=True), expected, strict=True):
        assert max_error(a, b) <= FLOAT64
    rows = [1, 0, 1]
    for a, b in zip(attn(query[rows], rows_of(memory, rows), return_weights=True), expected, strict=True):
        assert max_error(a, b[rows]) <= FLOAT64
    value = np.random.default_rng(1).normal(size=(B, TK, 3))
    other = attn(query, attn.precompute(key, value=value))
    assert max_error(other, attn(query, key, value)) <= FLOAT64


@EVERY_KIND
def test_query_by_query(kind):
    """One query at a time, the history handed over, gives what all at once give."""
    attn = made(kind)
    query, key, lengths = problem(attn)
    expected = attn(query, key, key_lengths=lengths, return_weights=True)
    memory = attn.precompute(key, lengths)
    history = {}
    coverage = np.zeros((B, TK))
    for i in range(TQ):
        if "coverage" in vars(attn) and attn.coverage:
            history["coverage"] = coverage
        context, weights = attn(query[:, i], memory, query_offset=i, return_weights=True, **history)
        if kind in ("location", "monotonic"):
            history["previous"] = weights
        coverage = coverage + weights
        assert context.shape == (B, attn.key_size)
        assert max_error(context, expected[0][:, i]) <= FLOAT64
        assert max_error(weights, expected[1][:, i]) <= FLOAT64


@EVERY_KIND
def test_heads_share_the_parameters(kind):
    attn = made(kind)
    query, key, lengths = problem(attn)
    heads = np.stack([query, query[:, ::-1]], 1), np.stack([key, key[::-1]], 1)
    context, weights, saved = attn.forward(*heads, key_lengths=lengths)
    for head in range(2):
        one = attn.forward(
            np.ascontiguousarray(heads[0][:, head]),
            np.ascontiguousarray(heads[1][:, head]),
            key_lengths=lengths,
        )
        assert max_error(context[:, head], one[0]) <= FLOAT64
        assert max_error(weights[:, head], one[1]) <= FLOAT64
    assert attn.backward(saved, context).query.shape == heads[0].shape


@EVERY_KIND
def test_parameters(kind):
    attn, same, other = made(kind), made(kind), made(kind, seed=1)
    assert all(np.array_equal(a, same.params[name]) for name, a in attn.params.items())
    drawn = [name for name in attn.params if name not in ("bias", "gain", "bias_score")]
    assert all(not np.array_equal(attn.params[name], other.params[name]) for name in drawn)
    for name in drawn:
        a = attn.params[name]
        assert a.dtype == np.float64
        assert 0 < np.abs(a).max() <= a.shape[-1] ** -0.5
    expected = {"bias": 0.0, "gain": A**-0.5, "bias_score": 0.5}
    for name in set(attn.params) - set(drawn):
        assert np.all(attn.params[name] == expected[name])


def test_names_of_parameters():
    shapes = {
        "bahdanau": {"weight_query": (7, 4), "weight_key": (7, 5), "weight_score": (7,)},
        "dot": {},
        "general": {"weight": (4, 5)},
        "predictive": {"weight": (4, 5), "weight_position": (4, 4), "weight_position_score": (4,)},
        "concat": {"weight": (7, 9), "weight_score": (7,), "bias": (7,), "weight_coverage": (7,)},
    }
    shapes["normalized"] = shapes["bahdanau"] | {"bias": (7,), "gain": ()}
    shapes["coverage"] = shapes["bahdanau"] | {"weight_coverage": (7,)}
    shapes["monotonic"] = shapes["normalized"] | {"bias_score": ()}
    shapes["location"] = shapes["bahdanau"] | {
        "bias": (7,),
        "weight_filter": (2, 3),
        "weight_location": (7, 2),
    }
    for kind, expected in shapes.items():
        assert {name: a.shape for name, a in made(kind).params.items()} == expected
    small = pyrnn.LuongAttention(4, 5, score="general", local="p", window=2, position_units=3)
    assert small.params["weight_position"].shape == (3, 4)


def test_hard_and_expected():
    attn = made("monotonic")
    query, key, lengths = problem(attn)
    weights = attn(query, key, key_lengths=lengths, return_weights=True)[1]
    assert set(np.unique(weights)) == {0.0, 1.0}
    assert (weights.sum(2) <= 1).all()
    assert (np.diff(weights.argmax(2), axis=1) >= 0)[:, weights.any(2).all(0)[1:]].all()
    expected = attn.forward(query, key, key_lengths=lengths)[1]
    assert ((expected > 0) & (expected < 1))[0].all()
    attn.params["gain"][...] = 1e6
    attn.params["bias"][...] = 0.1
    hard, soft = attn(query, key, return_weights=True)[1], attn.forward(query, key)[1]
    assert max_error(soft, hard) <= 1e-6


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_noise(mask, heads):
    attn, twin = (made("monotonic", sigmoid_noise=1.0) for _ in range(2))
    quiet = made("monotonic")
    query, key, lengths = problem(attn)
    keep = np.random.default_rng(2).random((B, TQ, TK)) < 0.7
    given = {"bool": keep, "float": np.where(keep, 0.1, -np.inf)}.get(mask)
    if heads:
        query, key = np.stack([query] * 2, 1), np.stack([key] * 2, 1)
    first = attn.forward(query, key, mask=given, key_lengths=lengths)[1]
    second = attn.forward(query, key, mask=given, key_lengths=lengths)[1]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, twin.forward(query, key, mask=given, key_lengths=lengths)[1])
    without = [
        one.forward(query, key, mask=given, key_lengths=lengths, training=False)[1] for one in (attn, quiet)
    ]
    assert np.array_equal(*without)
    if mask:
        wide = np.broadcast_to(keep[:, None] if heads else keep, first.shape)
        assert not first[~wide].any()
    if heads:
        assert not np.array_equal(first[:, 0], first[:, 1])
    else:
        one = None if given is None else given[:, 0]
        assert attn.forward(query[:, 0], key, mask=one, key_lengths=lengths)[1].shape == (B, TK)


@EVERY_KIND
def test_padding_has_no_influence(kind):
    attn = made(kind)
    query, key, lengths = problem(attn)
    for memory in (False, True):
        clean = (
            attn(query, attn.precompute(key, lengths)) if memory else attn(query, key, key_lengths=lengths)
        )
        spoilt = key.copy()
        spoilt[1, 4:] = np.inf
        read = attn.precompute(spoilt, lengths) if memory else spoilt
        padded = attn(query, read, **({} if memory else {"key_lengths": lengths}))
        assert np.array_equal(clean, padded)


def test_state_dict_is_a_copy_and_loads_in_place():
    attn, other = made("normalized"), pyrnn.BahdanauAttention(4, 5, 7, normalize=True, bias=True, seed=3)
    state = attn.state_dict()
    state["gain"][...] = 7
    assert attn.params["gain"] < 1
    held = other.params["weight_key"]
    other.load_state_dict(attn.state_dict())
    assert other.params["weight_key"] is held
    assert held.dtype == np.float32
    assert np.array_equal(held, attn.params["weight_key"].astype(np.float32))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda attn: pickle.loads(pickle.dumps(attn))])
@EVERY_KIND
def test_copies(kind, clone):
    attn = made(kind)
    twin = clone(attn)
    query, key, _ = problem(attn)
    assert repr(twin) == repr(attn)
    assert np.array_equal(twin.forward(query, key)[0], attn.forward(query, key)[0])
    if clone is not copy.copy:
        for name, a in twin.params.items():
            a[...] = 9
            assert not np.all(attn.params[name] == 9)


@pytest.mark.parametrize("kind", ["bahdanau", "concat"])
def test_a_memory_is_of_values_not_of_objects(kind):
    """Copied, or made while a parameter lies in columns and has to be copied at every call."""
    attn = made(kind)
    query, key, _ = problem(attn)
    memory = attn.precompute(key)
    expected = attn(query, memory)
    assert np.array_equal(attn(query, pickle.loads(pickle.dumps(memory))), expected)
    name = "weight" if kind == "concat" else "weight_key"
    attn.params[name] = np.asfortranarray(attn.params[name])
    assert np.array_equal(attn(query, attn.precompute(key)), expected)


@EVERY_KIND
def test_the_file_gives_the_attention_back(kind, tmp_path):
    attn = made(kind, pyrnn)
    attn.save(tmp_path / "x")
    again = pyrnn.load(tmp_path / "x")
    assert type(again) is type(attn)
    assert repr(again) == repr(attn)
    for name, a in attn.params.items():
        np.testing.assert_array_equal(again.params[name], a, strict=True)


@ENGINES
@pytest.mark.parametrize("kind", ["general", "location"])
def test_into_an_array_that_is_given(kind, module):
    dec = module.AttentionDecoder("gru", 3, 4, made(kind, module), attention_layer=7, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    x, memory, lengths = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 6, 5)), [6, 4]
    expected = dec(x, memory, lengths)[0]
    out = np.full((2, 7, 3), np.nan).transpose(0, 2, 1)
    assert dec(x, memory, lengths, out=out)[0] is out and np.array_equal(out, expected)
    out[...] = np.nan
    outputs, _, _, saved = dec.forward(x, memory, lengths, out=out, training=False)
    assert outputs is out and max_error(out, expected) <= FLOAT64
    grads = dec.backward(saved, expected)
    out[...] = 7  # the backward does not read it
    assert np.array_equal(dec.backward(saved, expected).x, grads.x)
    with pytest.raises(ValueError, match=r"^out: expected shape \(B, Tq, O\) = \(2, 3, 7\), got \(2, 3, 6\)"):
        dec(x, memory, lengths, out=np.empty((2, 3, 6)))
