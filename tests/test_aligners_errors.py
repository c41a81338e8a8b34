# SPDX-License-Identifier: Apache-2.0
"""Every message of the attention objects, and files that were tampered with."""

import json
import re

import numpy as np
import pytest
from aligner_kinds import DK, DQ, TK, TQ, B, made

import pyrnn
from pyrnn.io import load_safetensors, save_safetensors


@pytest.mark.parametrize(
    "values",
    [
        {"layer": "Attention"},
        {"layer": ["BahdanauAttention"]},
        {"layer": None},
        {"layer": "LuongAttention"},
        {"units": 10**9},
        {"units": -1},
        {"units": "7"},
        {"query_size": 10**400},
        {"normalize": True},
        {"normalize": 1},
        {"alignment": "hard"},
        {"scale": "much"},
        {"dtype": "int8"},
        {"extra": 1},
        {"batch_first": False},
        {"weight_key": None},
        {"weight_key": np.zeros((7, 6))},
        {"weight_key": np.zeros((7, 5), np.float32)},
        {"weight_key": np.zeros((7, 5), np.int64)},
        {"more": np.zeros(3)},
    ],
    ids=str,
)
def test_forged_files(values, tmp_path):
    made("bahdanau", pyrnn).save(tmp_path / "x")
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


MADE = [
    ("BahdanauAttention(0, 5, 7)", ValueError, "query_size: expected an integer of at least 1, got 0"),
    ("BahdanauAttention(4, 5.0, 7)", TypeError, "key_size: expected an integer, got float"),
    ("BahdanauAttention(4, 5, True)", TypeError, "units: expected an integer, got bool"),
    ("BahdanauAttention(4, 5, 7, normalize=1)", TypeError, "normalize: expected a bool, got int"),
    ("BahdanauAttention(4, 5, 7, coverage=None)", TypeError, "coverage: expected a bool, got NoneType"),
    ("BahdanauAttention(4, 5, 7, scale='1')", TypeError, "scale: expected a number, got str"),
    ("BahdanauAttention(4, 5, 7, scale=1e999)", ValueError, "scale: expected a finite number, got inf"),
    (
        "BahdanauAttention(4, 5, 7, alignment='monotonic')",
        ValueError,
        "alignment: expected 'softmax' or 'sparsemax', got 'monotonic'",
    ),
    (
        "BahdanauAttention(4, 5, 7, dtype='float16')",
        TypeError,
        "dtype: expected float32 or float64, got float16",
    ),
    ("BahdanauAttention(4, 5, 7, seed=-1)", ValueError, "seed: expected an integer of at least 0, got -1"),
    (
        "LuongAttention(4, 5, score='add')",
        ValueError,
        "score: expected 'dot' or 'general' or 'concat' or 'scaled_dot' or 'cosine', got 'add'",
    ),
    ("LuongAttention(4, 5)", ValueError, "key_size: expected query_size = 4 for score 'dot', got 5"),
    (
        "LuongAttention(4, 5, score='concat')",
        ValueError,
        "units: expected a size for score 'concat', got None",
    ),
    ("LuongAttention(4, 4, units=3)", ValueError, "units: expected None for score 'dot', got 3"),
    (
        "LuongAttention(4, 5, score='general', coverage=True)",
        ValueError,
        "coverage: expected False for score 'general', got True",
    ),
    ("LuongAttention(4, 4, bias=True)", ValueError, "bias: expected False for score 'dot', got True"),
    ("LuongAttention(4, 4, local='x')", ValueError, "local: expected 'm' or 'p', got 'x'"),
    (
        "LuongAttention(4, 4, local='m')",
        ValueError,
        "window: expected a number of keys for local='m', got None",
    ),
    (
        "LuongAttention(4, 4, local='p', window=(1, 2))",
        ValueError,
        "window: expected a positive integer for local='p', got (1, 2)",
    ),
    ("LuongAttention(4, 4, window=-1)", ValueError, "window: expected an integer of at least 0, got -1"),
    (
        "LuongAttention(4, 4, window=(1, 2, 3))",
        ValueError,
        "window: expected an integer or a pair (left, right), got (1, 2, 3)",
    ),
    ("LuongAttention(4, 4, window=1.5)", TypeError, "window: expected an integer, got float"),
    (
        "LuongAttention(4, 4, position_units=3)",
        ValueError,
        "position_units: expected None for local=None, got 3",
    ),
    (
        "LocationAttention(4, 5, 7, filters=0)",
        ValueError,
        "filters: expected an integer of at least 1, got 0",
    ),
    (
        "LocationAttention(4, 5, 7, filter_width=4)",
        ValueError,
        "filter_width: expected an odd integer, got 4",
    ),
    (
        "MonotonicAttention(4, 5, 7, sigmoid_noise=-1)",
        ValueError,
        "sigmoid_noise: expected a finite number of at least 0, got -1",
    ),
    (
        "MonotonicAttention(4, 5, 7, score_bias_init='low')",
        TypeError,
        "score_bias_init: expected a number, got str",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), MADE, ids=[call for call, *_ in MADE])
def test_wrong_options(call, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        eval(call, vars(pyrnn))


q, k = np.ones((B, TQ, DQ)), np.ones((B, TK, DK))
CALLS = [
    (dict(query=q[..., :2]), ValueError, "query: expected shape (…, Dq) with Dq = 4, got (2, 3, 2)"),
    (dict(query=q[0, 0]), ValueError, "query: expected shape (…, Dq) with Dq = 4, got (4,)"),
    (dict(query=q.astype(np.float32)), TypeError, "query: expected dtype float64, got float32"),
    (dict(query=q.tolist()), TypeError, "query: expected a NumPy array, got list"),
    (dict(key=q), ValueError, "key: expected shape (…, Dk) with Dk = 5, got (2, 3, 4)"),
    (dict(key=None), TypeError, "key: expected a NumPy array, got NoneType"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CALLS, ids=[message for *_, message in CALLS])
def test_wrong_calls(arguments, error, message):
    attn = made("bahdanau")
    for call in (attn, attn.forward):
        with pytest.raises(error, match="^" + re.escape(message)):
            call(**({"query": q, "key": k} | arguments))


def test_flags_of_the_objects():
    attn, out = made("bahdanau"), np.full((B, TQ, DK), 7.0)
    with pytest.raises(TypeError, match=r"^return_weights: expected a bool, got int"):
        attn(q, k, return_weights=1, out=out)
    with pytest.raises(TypeError, match=r"^training: expected a bool, got str"):
        attn.forward(q, k, training="no", out=out)
    assert (out == 7).all()
    decoder = pyrnn.AttentionDecoder("gru", 3, DQ, attn, dtype="float64", seed=0)
    with pytest.raises(TypeError, match=r"^training: expected a bool, got NoneType"):
        decoder.forward(np.ones((B, TQ, 3)), k, training=None)


def test_wrong_memory_and_saved():
    attn, other = made("bahdanau"), made("bahdanau")
    other.params["weight_key"] += 1
    memory = attn.precompute(k, [2, 3])
    with pytest.raises(
        ValueError, match=r"^key: expected a memory made with the params given, got one of other"
    ):
        other(q, memory)
    with pytest.raises(
        ValueError, match=r"^key: expected a memory made for score 'dot', got one for 'additive'"
    ):
        made("dot")(q, memory)
    with pytest.raises(ValueError, match=r"^key_lengths: expected None beside a memory"):
        attn(q, memory, key_lengths=[2, 3])
    with pytest.raises(ValueError, match=r"^value: expected None beside a memory"):
        attn(q, memory, k)
    with pytest.raises(ValueError, match=r"^lengths: expected 0 to Tk = 6, got 7 in row 1"):
        attn.precompute(k, [2, 7])
    with pytest.raises(ValueError, match=r"^value: expected shape \(B, Tk, Dv\) = \(2, 6, Dv\), got"):
        attn.precompute(k, value=k[:, :2])
    with pytest.raises(ValueError, match=r"^key: expected shape \(…, Dk\) with Dk = 5, got \(2, 3, 4\)"):
        attn.precompute(q)
    context, _, saved = attn.forward(q, k)
    with pytest.raises(ValueError, match=r"^saved: expected what this attention's forward returned"):
        other.backward(saved, context)
    with pytest.raises(TypeError, match=r"^saved: expected what .*forward returned, got int"):
        attn.backward(3, context)


def test_wrong_parameters():
    attn = made("bahdanau")
    attn.params["weight_key"] = np.zeros((7, 4))
    with pytest.raises(ValueError, match=r"^weight_key: expected shape \(A, Dk\) = \(7, 5\), got \(7, 4\)"):
        attn(q, k)
    del attn.params["weight_key"]
    with pytest.raises(
        ValueError, match=r"^params: expected 'weight_key' of shape \(7, 5\), got no such name"
    ):
        attn(q, k)
    with pytest.raises(TypeError, match=r"^state: expected a dict of arrays, got NoneType"):
        attn.load_state_dict(None)
    with pytest.raises(ValueError, match=r"^weight_score: expected shape \(A,\) = \(7,\), got \(3,\)"):
        attn.load_state_dict(made("bahdanau").state_dict() | {"weight_score": np.zeros(3)})


def test_noise_needs_a_mask_that_fits():
    attn = made("monotonic", sigmoid_noise=1.0)
    with pytest.raises(
        ValueError, match=r"^mask: expected shape \(B, Tq, Tk\) = \(2, 3, 6\), got \(2, 3, 4\)"
    ):
        attn.forward(q, k, mask=np.ones((2, 3, 4), bool))


def test_a_memory_without_keys_and_wrong_lengths_of_one():
    attn = pyrnn.BahdanauAttention(4, 4, 6, seed=0)
    decoder = pyrnn.AttentionDecoder("gru", 3, 4, attn, seed=0)
    query, keys = np.ones((2, 4), np.float32), np.ones((2, 5, 4), np.float32)
    memory = attn.precompute(keys[:, :0])
    assert not attn(query, memory).any()
    assert decoder.step(query[:, :3], memory)[2].shape == (2, 0)
    for wrong, error in (([9, 1], ValueError), ([1], ValueError), ([1.0, 2.0], TypeError)):
        with pytest.raises(error, match=r"^lengths: expected"):
            attn.precompute(keys, wrong)
        with pytest.raises(error, match=r"^memory_lengths: expected"):
            decoder.greedy(
                0,
                keys,
                embed=np.ones((3, 3), np.float32),
                project=np.ones((3, 8), np.float32),
                max_steps=2,
                memory_lengths=wrong,
            )
