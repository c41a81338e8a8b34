# SPDX-License-Identifier: Apache-2.0
"""Every message of the decoder: the argument, what was expected, what came; and files tampered with."""

import json
import re

import numpy as np
import pytest
from aligner_kinds import made
from decoder_problems import DecoderProblem

import pyrnn
from pyrnn import reference
from pyrnn.io import load_safetensors, save_safetensors

B, T, I, H, M, TK, A, O = 2, 3, 2, 4, 3, 5, 3, 5  # noqa: E741
p = DecoderProblem("normalized", "lstm")
x, memory = p.inputs["x"], p.inputs["memory"]
params = {n.removeprefix("params."): a for n, a in p.inputs.items() if n.startswith("params.")}
score = {n.removeprefix("attention."): a for n, a in p.inputs.items() if n.startswith("attention.")}
attention = {"score": "additive", "params": score}
h = np.zeros((B, H))


def without(name):
    return {n: a for n, a in params.items() if n != name}


CALLS = [
    # x and memory
    (dict(x=x[0]), ValueError, "x: expected shape (B, Tq, I) with positive I, got (3, 2)"),
    (dict(x=x[..., :0]), ValueError, "x: expected shape (B, Tq, I) with positive I, got (2, 3, 0)"),
    (
        dict(x=x[..., :1]),
        ValueError,
        "weight_ih: expected shape (4*H, I + fed) = (16, 6), got (16, 7)",
    ),
    (dict(x=x.astype(np.float32)), TypeError, "x: expected dtype float64, got float32"),
    (dict(x=None), TypeError, "x: expected a NumPy array, got NoneType"),
    (dict(memory=memory[0]), ValueError, "memory: expected shape (B, Tk, M) with positive M, got (5, 3)"),
    (dict(memory=memory[:1]), ValueError, "memory: expected shape (B, Tk, M) = (2, Tk, M), got (1, 5, 3)"),
    (dict(memory=memory.tolist()), TypeError, "memory: expected a NumPy array, got list"),
    (
        dict(memory=memory[..., :2]),
        ValueError,
        "weight_attention: expected shape (O, M + H) = (5, 6), got (5, 7)",
    ),
    (
        dict(memory_lengths=[1, 6]),
        ValueError,
        "memory_lengths: expected 0 to Tk = 5, got 6 in row 1",
    ),
    (dict(memory_lengths=[1]), ValueError, "memory_lengths: expected shape (B,) = (2,), got (1,)"),
    (dict(memory_lengths=[1.0, 2.0]), TypeError, "memory_lengths: expected integers, got float64"),
    (
        dict(mask=np.ones((B, T, 4), bool)),
        ValueError,
        "mask: expected a shape that broadcasts to (B, Tq, Tk) = (2, 3, 5), got (2, 3, 4)",
    ),
    (dict(mask=np.ones((B, T, TK), int)), TypeError, "mask: expected dtype bool or float64, got int64"),
    # state, feed, history
    (dict(state=h), TypeError, "state: expected a tuple of 2 arrays, got ndarray"),
    (dict(state=(h, h[:1])), ValueError, "state[1]: expected shape (B, H) = (2, 4), got (1, 4)"),
    (dict(feed=h), ValueError, "feed: expected shape (B, O) = (2, 5), got (2, 4)"),
    (
        dict(feed=h, query="previous", params=params | {"weight_ih": np.zeros((16, I + M))}),
        ValueError,
        "feed: expected None without input feeding of the current query, got an array",
    ),
    (
        dict(feed=h, input_feed=False, params=params | {"weight_ih": np.zeros((16, I))}),
        ValueError,
        "feed: expected None without input feeding of the current query, got an array",
    ),
    (
        dict(previous=memory[:, :, 0][:, :4]),
        ValueError,
        "previous: expected shape (B, Tk) = (2, 5), got (2, 4)",
    ),
    (
        dict(previous=memory[:, :, 0]),
        ValueError,
        "previous: expected None without location features or a monotonic alignment",
    ),
    (
        dict(coverage=memory[:, :, 0]),
        ValueError,
        "coverage: expected None without 'weight_coverage' among the params",
    ),
    (dict(coverage=3), TypeError, "coverage: expected a NumPy array, got int"),
    # options
    (dict(cell="ltsm"), ValueError, "cell: expected one of "),
    (dict(query="next"), ValueError, "query: expected 'current' or 'previous', got 'next'"),
    (dict(query=None), TypeError, "query: expected a string, got NoneType"),
    (dict(input_feed=1), TypeError, "input_feed: expected a bool, got int"),
    # parameters
    (dict(params=None), TypeError, "params: expected a dict of arrays, got NoneType"),
    (dict(params={}), ValueError, "params: expected 'weight_ih', got no such name"),
    (
        dict(params=without("weight_hh")),
        ValueError,
        "params: expected 'weight_hh' of shape (4*H, H), got no such name",
    ),
    (dict(params=params | {"weight_ih": 3}), TypeError, "weight_ih: expected a NumPy array, got int"),
    (dict(params=params | {"weight_hh": 3}), TypeError, "weight_hh: expected a NumPy array, got int"),
    (
        dict(params=params | {"weight_hh": np.zeros(16)}),
        ValueError,
        "weight_hh: expected shape (4*H, H) with positive sizes, got (16,)",
    ),
    (
        dict(params=params | {"weight_hh": np.zeros((15, 4))}),
        ValueError,
        "weight_hh: expected shape (4*H, H) = (16, 4), got (15, 4)",
    ),
    (
        dict(params=params | {"weight_attention": np.zeros(5)}),
        ValueError,
        "weight_attention: expected shape (O, M + H) with positive sizes, got (5,)",
    ),
    (
        dict(params=params | {"weight_attention": "W"}),
        TypeError,
        "weight_attention: expected a NumPy array, got str",
    ),
    (
        dict(params=without("bias_attention")),
        ValueError,
        "params: expected 'bias_attention' of shape (5,), got no such name",
    ),
    (
        dict(params=params | {"bias_attention": np.zeros(4)}),
        ValueError,
        "bias_attention: expected shape (O,) = (5,), got (4,)",
    ),
    (dict(params=params | {"more": h}), ValueError, "params: expected 6 names, got 'more' in addition"),
    (
        dict(params={n: a.astype(np.float16) for n, a in params.items()}),
        TypeError,
        "weight_ih: expected dtype float32 or float64",
    ),
    # attention
    (dict(attention=None), TypeError, "attention: expected a dict of arguments, got NoneType"),
    (
        dict(attention=attention | {"mask": None}),
        ValueError,
        "attention: expected names among score, params, scale, causal, window, alignment, local, "
        "query_offset, got 'mask'",
    ),
    (dict(attention={"score": "add"}), ValueError, "score: expected 'dot' or "),
    (dict(attention={"score": 3}), TypeError, "score: expected a string, got int"),
    (dict(attention={"params": [1]}), TypeError, "params: expected a dict of arrays, got list"),
    (dict(attention={}), ValueError, "key: expected as many features as the query for score 'dot'"),
    (
        dict(attention={"score": "additive", "params": score | {"weight_key": h}}),
        ValueError,
        "weight_key: expected shape (A, Dk) = (3, 3), got (2, 4)",
    ),
    (
        dict(
            attention={"score": "additive", "params": {**score, "weight_query": score["weight_query"] + 1j}}
        ),
        TypeError,
        "weight_query: expected dtype float64, got complex128",
    ),
    (
        dict(attention=attention | {"alignment": "argmax"}),
        ValueError,
        "alignment: expected 'softmax' or ",
    ),
    (dict(attention=attention | {"local": "m"}), ValueError, "window: expected a number of keys"),
    (dict(attention=attention | {"query_offset": -1}), ValueError, "query_offset: expected an integer of at"),
]


@pytest.mark.parametrize("module", [reference, pyrnn.functional], ids=["reference", "kernels"])
@pytest.mark.parametrize(("arguments", "error", "message"), CALLS, ids=[message for *_, message in CALLS])
def test_forward(arguments, error, message, module):
    given = {"cell": "lstm", "x": x, "memory": memory, "params": params, "attention": attention} | arguments
    with pytest.raises(error, match="^" + re.escape(message)):
        module.decoder_forward(**given)


def test_backward():
    outputs, _, weights, saved = p.forward(reference)
    for bad in (None, outputs, saved.kept):
        with pytest.raises(TypeError, match=r"^saved: expected what decoder_forward returned, got"):
            reference.decoder_backward(bad, outputs)
    for arguments, error, message in [
        ((outputs[:, :1],), ValueError, "doutputs: expected shape (B, Tq, O) = (2, 3, 5), got (2, 1, 5)"),
        ((3,), TypeError, "doutputs: expected a NumPy array, got int"),
        ((None, h), TypeError, "dstate: expected a tuple of 2 arrays, got ndarray"),
        ((None, (h, h[:1])), ValueError, "dstate[1]: expected shape (B, H) = (2, 4), got (1, 4)"),
        (
            (None, None, weights[0]),
            ValueError,
            "dweights: expected shape (B, Tq, Tk) = (2, 3, 5), got (3, 5)",
        ),
        ((None, None, weights + 1j), TypeError, "dweights: expected dtype float64, got complex128"),
    ]:
        with pytest.raises(error, match="^" + re.escape(message)):
            reference.decoder_backward(saved, *arguments)
    assert not any(np.any(a) for a in reference.decoder_backward(saved, None).params.values())


def decoder(**options):
    given = {"cell": "gru", "input_size": 3, "hidden_size": 4, "attention": made("bahdanau")}
    return reference.AttentionDecoder(**(given | {"dtype": "float64", "seed": 0} | options))


MADE = [
    (dict(cell="elman"), ValueError, "cell: expected one of "),
    (dict(input_size=0), ValueError, "input_size: expected an integer of at least 1, got 0"),
    (dict(hidden_size=2.0), TypeError, "hidden_size: expected an integer, got float"),
    (dict(attention=None), TypeError, "attention: expected an attention, got NoneType"),
    (dict(hidden_size=5), ValueError, "attention: expected query_size = hidden_size = 5, got 4"),
    (dict(dtype="float32"), TypeError, "attention: expected dtype float32, got float64"),
    (dict(input_feed=None), TypeError, "input_feed: expected a bool, got NoneType"),
    (dict(query="next"), ValueError, "query: expected 'current' or 'previous', got 'next'"),
    (dict(attention_layer=0), ValueError, "attention_layer: expected an integer of at least 1, got 0"),
    (dict(bias="yes"), TypeError, "bias: expected a bool, got str"),
    (dict(dtype="int8"), TypeError, "dtype: expected float32 or float64, got int8"),
    (dict(seed=-1), ValueError, "seed: expected an integer of at least 0, got -1"),
]


@pytest.mark.parametrize(("options", "error", "message"), MADE, ids=[message for *_, message in MADE])
def test_wrong_options(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        decoder(**options)


def test_wrong_calls():
    dec, other = decoder(), decoder(attention=made("bahdanau"))
    other.attention.params["weight_key"] += 1
    x, memory = np.ones((2, 3, 3)), np.ones((2, 6, 5))
    ready = dec.precompute(memory, [6, 2])
    for call, error, message in [
        (
            lambda: dec(x[..., :2], memory),
            ValueError,
            "x: expected shape (B, Tq, I) with I = 3, got (2, 3, 2)",
        ),
        (lambda: dec(x, memory[0]), ValueError, "memory: expected shape (B, Tk, M) with M = 5, got (6, 5)"),
        (lambda: dec(x, memory[..., 1:]), ValueError, "memory: expected shape (B, Tk, M) with M = 5, got"),
        (
            lambda: dec(x, ready, [6, 2]),
            ValueError,
            "memory_lengths: expected None beside a precomputed memory",
        ),
        (lambda: other(x, ready), ValueError, "key: expected a memory made with the params given"),
        (
            lambda: dec(x, dec.attention.precompute(memory, value=memory)),
            ValueError,
            "memory: expected one that is key and value, got one with values of its own",
        ),
        (lambda: dec.forward(x, [1.0]), TypeError, "memory: expected a NumPy array, got list"),
        (lambda: dec.forward(None, memory), TypeError, "x: expected a NumPy array, got NoneType"),
        (
            lambda: dec.precompute(memory[..., :4]),
            ValueError,
            "memory: expected shape (B, Tk, M) with M = 5, got (2, 6, 4)",
        ),
        (lambda: dec.step(x, ready), ValueError, "x: expected shape (B, I) with I = 3, got (2, 3, 3)"),
        (
            lambda: dec.step(x[:, 0], memory),
            TypeError,
            "memory: expected what precompute returned, got ndarray",
        ),
        (lambda: dec.step(x[:, 0], ready, (x,)), TypeError, "carry: expected a Carry, got tuple"),
        (
            lambda: dec.backward(other.forward(x, memory)[3], None),
            ValueError,
            "saved: expected what this decoder's forward returned, got another's",
        ),
        (lambda: dec.backward(3, None), TypeError, "saved: expected what decoder_forward returned, got int"),
    ]:
        with pytest.raises(error, match="^" + re.escape(message)):
            call()


E9, P9 = np.ones((9, 3)), np.ones((9, 9))
SEARCHES = [
    (dict(start=9), ValueError, "start: expected tokens from 0 to 8, got 9"),
    (dict(start=[0, -1]), ValueError, "start: expected tokens from 0 to 8, got [0, -1]"),
    (dict(start=[0, 1, 2]), ValueError, "start: expected shape () or (B,) = (2,), got (3,)"),
    (dict(start=0.5), TypeError, "start: expected integers, got float64"),
    (dict(end=9), ValueError, "end: expected tokens from 0 to 8, got 9"),
    (dict(end="stop"), TypeError, "end: expected integers, got <U4"),
    (
        dict(embed=E9[:, :2]),
        ValueError,
        "embed: expected shape (vocabulary, I) = (vocabulary, 3), got (9, 2)",
    ),
    (dict(embed=E9.astype("f4")), TypeError, "embed: expected dtype float64, got float32"),
    (
        dict(embed=E9[:8]),
        ValueError,
        "embed: expected a row for every token that project scores, 9, got 8",
    ),
    (dict(embed=lambda tokens: E9), ValueError, "embed: expected shape (N, I) = (6, 3), got (9, 3)"),
    (dict(embed=lambda tokens: None), TypeError, "embed: expected a NumPy array, got NoneType"),
    (
        dict(project=P9[:, :8]),
        ValueError,
        "project: expected shape (vocabulary, O) = (vocabulary, 9), got (9, 8)",
    ),
    (dict(project=None), TypeError, "project: expected a NumPy array, got NoneType"),
    (
        dict(project=lambda outputs: outputs[:1]),
        ValueError,
        "project: expected shape (N, vocabulary) = (6, vocabulary), got (1, 9)",
    ),
    (
        dict(project=lambda outputs: np.full((6, 9), np.nan)),
        ValueError,
        "project: expected finite numbers, or -inf for some tokens, got NaN or infinities",
    ),
    (
        dict(project=lambda outputs: np.full((6, 9), -np.inf)),
        ValueError,
        "project: expected finite numbers, or -inf for some tokens, got NaN or infinities",
    ),
    (
        dict(project=lambda outputs: np.ones((6, 9), int)),
        TypeError,
        "project: expected floating-point numbers, got int64",
    ),
    (dict(max_steps=0), ValueError, "max_steps: expected an integer of at least 1, got 0"),
    (dict(beam_size=0), ValueError, "beam_size: expected an integer of at least 1, got 0"),
    (dict(length_penalty=-1), ValueError, "length_penalty: expected a finite number of at least 0, got -1"),
    (dict(memory_lengths=[1, 7]), ValueError, "memory_lengths: expected 0 to Tk = 6, got 7 in row 1"),
    (dict(state=np.ones((2, 5))), ValueError, "state: expected shape (B, H) = (2, 4), got (2, 5)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), SEARCHES, ids=[m for *_, m in SEARCHES])
def test_wrong_searches(arguments, error, message):
    given = {"start": 0, "memory": np.ones((2, 6, 5)), "embed": E9, "project": P9, "max_steps": 4}
    with pytest.raises(error, match="^" + re.escape(message)):
        decoder().beam_search(**(given | {"beam_size": 3} | arguments))


@pytest.mark.parametrize(
    "values",
    [
        {"cell": "lstm"},
        {"cell": ["gru"]},
        {"input_size": 4},
        {"hidden_size": 10**12},
        {"attention_layer": 10**12},
        {"attention": None},
        {"attention": {"layer": "AttentionDecoder"}},
        {"attention": {"layer": "BahdanauAttention", "query_size": 4, "key_size": 5, "units": 10**12}},
        {"attention": {"layer": "LuongAttention", "query_size": 4, "key_size": 4}},
        {"query": "previous"},
        {"bias": False},
        {"dtype": "float32"},
        {"extra": 1},
        {"weight_ih": None},
        {"weight_ih": np.zeros((12, 5))},
        {"attention.weight_key": None},
        {"attention.more": np.zeros(3)},
    ],
    ids=str,
)
def test_forged_files(values, tmp_path):
    dec = pyrnn.AttentionDecoder(
        "gru", 3, 4, made("bahdanau", pyrnn), attention_layer=7, dtype="float64", seed=0
    )
    dec.save(tmp_path / "x")
    tensors, metadata = load_safetensors(tmp_path / "x")
    config = json.loads(metadata["pyrnn"])
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            tensors[name] = value
        elif name in tensors:
            del tensors[name]
        else:
            config[name] = value
    save_safetensors(tmp_path / "x", tensors, {"pyrnn": json.dumps(config)})
    with pytest.raises(ValueError, match="x: "):
        pyrnn.load(tmp_path / "x")
