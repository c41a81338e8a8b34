# SPDX-License-Identifier: Apache-2.0
"""Every message of attention's checks: the argument, what was expected, what came."""

import re

import numpy as np
import pytest
from attention_problems import ENGINES

import pyrnn

B, Tq, Tk, Dq, Dk, Dv, A = 2, 3, 5, 4, 6, 7, 8
query = np.ones((B, Tq, Dq), np.float32)
key = np.ones((B, Tk, Dk), np.float32)
value = np.ones((B, Tk, Dv), np.float32)
same = np.ones((B, Tk, Dq), np.float32)


def zeros(*shape):
    return np.zeros(shape, np.float32)


additive = {
    "weight_query": zeros(A, Dq),
    "weight_key": zeros(A, Dk),
    "weight_score": zeros(A),
    "bias": zeros(A),
    "gain": np.float32(1),
}
location = additive | {"weight_filter": zeros(2, 3), "weight_location": zeros(A, 2)}
position = {"weight_position": zeros(3, Dq), "weight_position_score": zeros(3)}
dot = dict(score="dot", params=None, key=same)


def without(name, params=additive):
    return {n: a for n, a in params.items() if n != name}


CALLS = [
    # query, key, value
    (
        dict(query=zeros(3)),
        ValueError,
        "query: expected shape (B, Tq, Dq), (B, Dq) or (B, heads, Tq, Dq) with positive Dq, got (3,)",
    ),
    (dict(query=zeros(B, Tq, 0)), ValueError, "query: expected shape (B, Tq, Dq), (B, Dq) or (B, heads, Tq"),
    (dict(query=query.tolist()), TypeError, "query: expected a NumPy array, got list"),
    (dict(query=None), TypeError, "query: expected a NumPy array, got NoneType"),
    (dict(query=query.astype(int)), TypeError, "query: expected dtype float32 or float64"),
    (dict(query=query.astype(np.float16)), TypeError, "query: expected dtype float32 or float64"),
    (
        dict(query=np.ma.array(query)),
        TypeError,
        "query: expected a plain array, got a masked array; pass mask= to skip steps",
    ),
    (dict(key=key[:1]), ValueError, "key: expected shape (B, Tk, Dk) = (2, Tk, Dk), got (1, 5, 6)"),
    (dict(key=key[0]), ValueError, "key: expected shape (B, Tk, Dk) = (2, Tk, Dk), got (5, 6)"),
    (dict(key=key[:, None]), ValueError, "key: expected shape (B, Tk, Dk) = (2, Tk, Dk), got (2, 1, 5, 6)"),
    (
        dict(query=query[:, None]),
        ValueError,
        "key: expected shape (B, heads, Tk, Dk) = (2, 1, Tk, Dk), got (2, 5, 6)",
    ),
    (dict(key=key.astype(float)), TypeError, "key: expected dtype float32, got float64"),
    (dict(key=None), TypeError, "key: expected a NumPy array, got NoneType"),
    (
        dict(value=value[:, :4]),
        ValueError,
        "value: expected shape (B, Tk, Dv) = (2, 5, Dv), got (2, 4, 7)",
    ),
    (dict(value=value[..., :0]), ValueError, "value: expected shape (B, Tk, Dv) = (2, 5, Dv), got (2, 5, 0)"),
    (dict(value=value.astype(float)), TypeError, "value: expected dtype float32, got float64"),
    (dict(value=3), TypeError, "value: expected a NumPy array, got int"),
    # sizes that do not meet
    (
        dict(score="dot", params=None),
        ValueError,
        "key: expected as many features as the query for score 'dot', Dk = Dq = 4, got 6",
    ),
    (
        dict(params=without("weight_query")),
        ValueError,
        "query: expected Dq = A = 8 without weight_query, got 4",
    ),
    (dict(params=without("weight_key")), ValueError, "key: expected Dk = A = 8 without weight_key, got 6"),
    # words
    (
        dict(score="bilinear"),
        ValueError,
        "score: expected 'dot' or 'scaled_dot' or 'general' or 'cosine' or 'additive' or 'concat' "
        "or 'location', got 'bilinear'",
    ),
    (dict(score=None), TypeError, "score: expected a string, got NoneType"),
    (
        dict(alignment="softmin"),
        ValueError,
        "alignment: expected 'softmax' or 'sparsemax' or 'monotonic' or 'hard_monotonic', got 'softmin'",
    ),
    (dict(local="x", window=1), ValueError, "local: expected 'm' or 'p', got 'x'"),
    (dict(local=1, window=1), TypeError, "local: expected a string, got int"),
    (dict(local="m"), ValueError, "window: expected a number of keys with local='m', got None"),
    (dict(local="p"), ValueError, "window: expected a number of keys with local='p', got None"),
    (
        dict(local="p", window=2, alignment="monotonic", params=additive | position),
        ValueError,
        "local: expected None or 'm' with alignment='monotonic', got 'p'",
    ),
    # numbers
    (dict(window=-1), ValueError, "window: expected an integer of at least 0, got -1"),
    (dict(window=(1, -1)), ValueError, "window: expected an integer of at least 0, got -1"),
    (
        dict(window=(1, 2, 3)),
        ValueError,
        "window: expected a number of keys or (left, right), got 3 numbers",
    ),
    (dict(window=1.5), TypeError, "window: expected an integer, got float"),
    (dict(window=True), TypeError, "window: expected an integer, got bool"),
    (dict(local="p", window=0), ValueError, "window: expected an integer of at least 1, got 0"),
    (dict(local="p", window=(1, 1)), TypeError, "window: expected an integer, got tuple"),
    (dict(query_offset=-1), ValueError, "query_offset: expected an integer of at least 0, got -1"),
    (dict(query_offset=2**60), ValueError, f"query_offset: expected 0 to {2**53}, got {2**60}"),
    (dict(query_offset=1.0), TypeError, "query_offset: expected an integer, got float"),
    (dict(causal=1), TypeError, "causal: expected a bool, got int"),
    (dict(scale="1"), TypeError, "scale: expected a number, got str"),
    (dict(scale=np.inf), ValueError, "scale: expected a finite number, got inf"),
    # lengths and masks
    (dict(key_lengths=[1, 6]), ValueError, "key_lengths: expected 0 to Tk = 5, got 6 in row 1"),
    (dict(key_lengths=[-1, 5]), ValueError, "key_lengths: expected 0 to Tk = 5, got -1 in row 0"),
    (dict(key_lengths=[1]), ValueError, "key_lengths: expected shape (B,) = (2,), got (1,)"),
    (dict(key_lengths=[1.0, 2.0]), TypeError, "key_lengths: expected integers, got float64"),
    (dict(mask=np.ones((B, Tq, Tk), int)), TypeError, "mask: expected dtype bool or float32, got int64"),
    (dict(mask=np.ones((B, Tq, Tk))), TypeError, "mask: expected dtype bool or float32, got float64"),
    (
        dict(mask=np.ones((B, Tk), bool)),
        ValueError,
        "mask: expected a shape that broadcasts to (B, Tq, Tk) = (2, 3, 5), got (2, 5)",
    ),
    (
        dict(mask=np.ones((1, B, Tq, Tk), bool)),
        ValueError,
        "mask: expected a shape that broadcasts to (B, Tq, Tk) = (2, 3, 5), got (1, 2, 3, 5)",
    ),
    (
        dict(query=query[:, 0], mask=np.ones((B, 4), bool)),
        ValueError,
        "mask: expected a shape that broadcasts to (B, Tk) = (2, 5), got (2, 4)",
    ),
    (dict(mask=[[True], []]), TypeError, "mask: expected an array, got list: "),
    (dict(mask=np.ma.ones((B, 1, Tk), bool)), TypeError, "mask: expected a plain array, got a masked array"),
    # what came before
    (
        dict(previous=zeros(B, Tk)),
        ValueError,
        "previous: expected None without location features or a monotonic alignment",
    ),
    (
        dict(previous=zeros(B, 4), alignment="monotonic"),
        ValueError,
        "previous: expected shape (B, Tk) = (2, 5), got (2, 4)",
    ),
    (
        dict(previous=np.zeros((B, Tk)), score="location", params=location),
        TypeError,
        "previous: expected dtype float32, got float64",
    ),
    (
        dict(coverage=zeros(B, Tk)),
        ValueError,
        "coverage: expected None without 'weight_coverage' among the params",
    ),
    (
        dict(coverage=zeros(B, 1), params=additive | {"weight_coverage": zeros(A)}),
        ValueError,
        "coverage: expected shape (B, Tk) = (2, 5), got (2, 1)",
    ),
    # parameters
    (dict(params=[]), TypeError, "params: expected a dict of arrays, got list"),
    (dict(params=None), ValueError, "params: expected 'weight_score' of shape (A,), got no such name"),
    (
        dict(params=without("weight_score")),
        ValueError,
        "params: expected 'weight_score' of shape (A,), got no such name",
    ),
    (
        dict(params=additive | {"weight_score": [1.0]}),
        TypeError,
        "weight_score: expected a NumPy array, got list",
    ),
    (
        dict(params=additive | {"weight_score": zeros(1, A)}),
        ValueError,
        "weight_score: expected shape (A,) with positive sizes, got (1, 8)",
    ),
    (
        dict(params=additive | {"weight_score": zeros(0)}),
        ValueError,
        "weight_score: expected shape (A,) with positive sizes, got (0,)",
    ),
    (
        dict(params=additive | {"weight_query": zeros(A, Dk)}),
        ValueError,
        "weight_query: expected shape (A, Dq) = (8, 4), got (8, 6)",
    ),
    (
        dict(params=additive | {"weight_key": zeros(A, Dq)}),
        ValueError,
        "weight_key: expected shape (A, Dk) = (8, 6), got (8, 4)",
    ),
    (
        dict(params=additive | {"bias": np.zeros(A)}),
        TypeError,
        "bias: expected dtype float32, got float64",
    ),
    (dict(params=additive | {"gain": zeros(1)}), ValueError, "gain: expected shape () = (), got (1,)"),
    (dict(params=additive | {"gain": 1.0}), TypeError, "gain: expected a NumPy array, got float"),
    (
        dict(params=additive | {"weight": zeros(1)}),
        ValueError,
        "params: expected 5 names, got 'weight' in addition",
    ),
    (
        dict(params=additive | {"bias_score": np.float32(0)}),
        ValueError,
        "params: expected 5 names, got 'bias_score' in addition",
    ),
    (
        dict(params=additive | position),
        ValueError,
        "params: expected 5 names, got 'weight_position' in addition",
    ),
    (
        dict(score="concat", params={"weight_score": zeros(A)}),
        ValueError,
        "params: expected 'weight' of shape (8, 10), got no such name",
    ),
    (
        dict(score="concat", params={"weight_score": zeros(A), "weight": zeros(A, Dq)}),
        ValueError,
        "weight: expected shape (A, Dq + Dk) = (8, 10), got (8, 4)",
    ),
    (
        dict(score="general", params={"weight": zeros(Dk, Dq)}),
        ValueError,
        "weight: expected shape (Dq, Dk) = (4, 6), got (6, 4)",
    ),
    (
        dict(score="general", params=None),
        ValueError,
        "params: expected 'weight' of shape (4, 6), got no such name",
    ),
    (
        dict(score="location"),
        ValueError,
        "params: expected 'weight_filter' of shape (F, W), got no such name",
    ),
    (
        dict(score="location", params=location | {"weight_filter": zeros(2, 4)}),
        ValueError,
        "weight_filter: expected shape (F, W) with odd W, got (2, 4)",
    ),
    (
        dict(score="location", params=location | {"weight_location": zeros(2, A)}),
        ValueError,
        "weight_location: expected shape (A, F) = (8, 2), got (2, 8)",
    ),
    (
        dict(score="dot", key=same, params={"weight_coverage": zeros(A)}),
        ValueError,
        "params: expected 0 names, got 'weight_coverage' in addition",
    ),
    (
        dict(local="p", window=1),
        ValueError,
        "params: expected 'weight_position_score' of shape (P,), got no such name",
    ),
    (
        dict(local="p", window=1, params=additive | position | {"weight_position": zeros(2, Dq)}),
        ValueError,
        "weight_position: expected shape (P, Dq) = (3, 4), got (2, 4)",
    ),
]


@ENGINES
@pytest.mark.parametrize(("arguments", "error", "message"), CALLS, ids=[message for *_, message in CALLS])
def test_attention_forward(engine, arguments, error, message):
    arguments = {
        "query": query,
        "key": key,
        "value": value,
        "score": "additive",
        "params": additive,
    } | arguments
    for function in (engine.attention_forward, engine.attention):
        with pytest.raises(error, match="^" + re.escape(message)):
            function(**arguments)


@ENGINES
def test_attention_backward(engine):
    context, weights, saved = engine.attention_forward(query, same, value)
    bad = [
        ((None, context), TypeError, "saved: expected what attention_forward returned, got NoneType"),
        ((saved, context[0]), ValueError, "dcontext: expected shape (B, Tq, Dv) = (2, 3, 7), got (3, 7)"),
        ((saved, context.astype(float)), TypeError, "dcontext: expected dtype float32, got float64"),
        ((saved, context.tolist()), TypeError, "dcontext: expected a NumPy array, got list"),
        (
            (saved, context, context),
            ValueError,
            "dweights: expected shape (B, Tq, Tk) = (2, 3, 5), got (2, 3, 7)",
        ),
        ((saved, context, weights.astype(int)), TypeError, "dweights: expected dtype float32, got int64"),
    ]
    for arguments, error, message in bad:
        with pytest.raises(error, match="^" + re.escape(message)):
            engine.attention_backward(*arguments)
    context, weights, saved = engine.attention_forward(query[:, 0], same, value)
    with pytest.raises(ValueError, match=r"^dcontext: expected shape \(B, Dv\) = \(2, 7\), got \(2, 1, 7\)"):
        engine.attention_backward(saved, context[:, None])
    heads = [a[:, None] for a in (query, same, value)]
    context, weights, saved = engine.attention_forward(*heads)
    with pytest.raises(
        ValueError, match=r"^dweights: expected shape \(B, heads, Tq, Tk\) = \(2, 1, 3, 5\), got \(2, 3, 5\)"
    ):
        engine.attention_backward(saved, context, weights[:, 0])


@ENGINES
def test_precompute(engine):
    memory = engine.precompute(key, value, score="additive", params=additive, key_lengths=[5, 2])
    other = additive | {"weight_key": zeros(A, Dk) + 1}
    uses = [
        (dict(value=value), ValueError, "value: expected None beside a memory, which has its own, got one"),
        (
            dict(key_lengths=[5, 2]),
            ValueError,
            "key_lengths: expected None beside a memory, which has its own",
        ),
        (
            dict(score="dot", params=None),
            ValueError,
            "key: expected a memory made for score 'dot', got one for",
        ),
        (
            dict(params=other),
            ValueError,
            "key: expected a memory made with the params given, got one of other",
        ),
        (dict(query=query[:1]), ValueError, "key: expected shape (B, Tk, Dk) = (1, Tk, Dk), got (2, 5, 6)"),
        (dict(query=query.astype(float)), TypeError, "key: expected dtype float64, got float32"),
    ]
    for arguments, error, message in uses:
        arguments = {"query": query, "key": memory, "score": "additive", "params": additive} | arguments
        with pytest.raises(error, match="^" + re.escape(message)):
            engine.attention(**arguments)
    makings = [
        (dict(key=None), TypeError, "key: expected a NumPy array, got NoneType"),
        (
            dict(key=key[0]),
            ValueError,
            "key: expected shape (B, Tk, Dk) or (B, heads, Tk, Dk) with positive Dk",
        ),
        (dict(key=key.astype(int)), TypeError, "key: expected dtype float32 or float64"),
        (dict(value=value[:1]), ValueError, "value: expected shape (B, Tk, Dv) = (2, 5, Dv), got (1, 5, 7)"),
        (dict(key_lengths=[6, 1]), ValueError, "key_lengths: expected 0 to Tk = 5, got 6 in row 0"),
        (dict(score="product"), ValueError, "score: expected 'dot' or "),
        (
            dict(params={"weight_key": zeros(A, Dq)}),
            ValueError,
            "weight_key: expected shape (A, Dk) with Dk = 6, got (8, 4)",
        ),
        (
            dict(score="concat", params={"weight": zeros(A, Dk)}),
            ValueError,
            "weight: expected shape (A, Dq + Dk) with Dk = 6, got (8, 6)",
        ),
        (dict(params={"weight_key": [1]}), TypeError, "weight_key: expected a NumPy array, got list"),
        (
            dict(params={"weight_key": np.zeros((A, Dk))}),
            TypeError,
            "weight_key: expected dtype float32, got float64",
        ),
    ]
    for arguments, error, message in makings:
        arguments = {"key": key, "value": value, "score": "additive", "params": additive} | arguments
        with pytest.raises(error, match="^" + re.escape(message)):
            engine.precompute(**arguments)


@ENGINES
def test_return_weights_is_a_flag(engine):
    with pytest.raises(TypeError, match=r"^return_weights: expected a bool, got int"):
        engine.attention(query, same, return_weights=1)


def test_from_padding_mask():
    with pytest.raises(TypeError, match=r"^pad: expected dtype bool, got int64"):
        pyrnn.from_padding_mask(np.ones((2, 3), int))
    with pytest.raises(ValueError, match=r"^pad: expected shape \(B, Tk\), got \(3,\)"):
        pyrnn.from_padding_mask([True, False, True])
    with pytest.raises(TypeError, match=r"^pad: expected an array, got list: "):
        pyrnn.from_padding_mask([[True], [True, False]])


@ENGINES
def test_nothing_is_computed_before_everything_is_checked(engine, monkeypatch):
    """A mistake in the last argument is found before the first product."""
    import pyrnn.scoring

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(pyrnn.scoring, "project", fail)
    for arguments, error, message in CALLS:
        arguments = {
            "query": query,
            "key": key,
            "value": value,
            "score": "additive",
            "params": additive,
        } | arguments
        with pytest.raises(error, match="^" + re.escape(message)):
            engine.attention_forward(**arguments)
