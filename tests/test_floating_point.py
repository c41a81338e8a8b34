# SPDX-License-Identifier: Apache-2.0
"""Modes of the floating-point unit: a call neither follows the caller's, nor leaves its own behind."""

import ctypes
import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

import pyrnn
from pyrnn import functional

X86 = platform.machine() in ("x86_64", "AMD64")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (X86 or platform.machine() == "aarch64"),
    reason="reads the C library's fenv_t as it is on Linux for x86-64 and aarch64",
)

#: Where the control register stands in fenv_t, its bits that are modes (others record events), and modes.
#: `trap` makes signals of invalid operations and of divisions by zero.
AT, MASK, MODES = (
    (7, 0xFFC0, {"flush": 0x8040, "upward": 0x4000, "toward_zero": 0x6000, "trap": -0x0280})
    if X86
    else (0, 0x07C00000, {"flush": 1 << 24, "upward": 1 << 22, "toward_zero": 3 << 22})
)


def environment():
    words = (ctypes.c_uint32 * 8)()
    assert ctypes.CDLL(None).fegetenv(words) == 0
    return words


def modes():
    return environment()[AT] & MASK


@contextmanager
def caller_in(mode):
    """The caller's modes are these until the end."""
    before = environment()
    words = type(before)(*before)
    words[AT] += MODES[mode]
    ctypes.CDLL(None).fesetenv(words)
    try:
        yield words[AT] & MASK
    finally:
        ctypes.CDLL(None).fesetenv(before)


def entries():
    """Everything that computes, ready: denormal numbers among the inputs."""
    rng = np.random.default_rng(0)

    def array(*shape):
        a = rng.standard_normal(shape, dtype=np.float32)
        a[..., ::3] *= np.float32(1e-39)
        return a

    x, queries, key = array(6, 9, 21), array(9, 6, 21), array(9, 7, 21)
    layers = {
        "fused": pyrnn.LSTM(21, 70, seed=0),
        "staged": pyrnn.GRU(21, 33, layer_norm=True, seed=0),
        "unpacked": pyrnn.GRU(21, 33, seed=0),
    }
    attention = pyrnn.BahdanauAttention(33, 21, 17, dtype="float32")
    decoder = pyrnn.AttentionDecoder("gru", 21, 33, attention, dtype="float32", seed=0)

    def layer(name, x=x, checkpoint=False):
        y, state, saved = layers[name].forward(x, checkpoint=checkpoint)
        grads = layers[name].backward(saved, y)
        return [y, *np.atleast_1d(state), grads.x, *grads.params.values()]

    def attend():
        params = {"weight_score": key[0, 0]}
        forward = functional.attention_forward
        context, weights, saved = forward(queries, key, key, score="additive", params=params)
        grads = functional.attention_backward(saved, context)
        return [context, weights, grads.query, grads.key, grads.value, *grads.params.values()]

    def decode():
        outputs, _, weights, saved = decoder.forward(queries, key)
        grads = decoder.backward(saved, outputs)
        # That of the memory is a sum of NumPy's, which rounds as it is told.
        return [outputs, weights, grads.x, *grads.params.values()]

    return {
        "fused": lambda: layer("fused"),
        "staged": lambda: layer("staged"),
        "unpacked": lambda: layer("unpacked", x[:2, :1]),
        "checkpoint": lambda: layer("fused", checkpoint=True),
        "attention": attend,
        "decoder": decode,
        "stream": lambda: [layers["fused"].stream(9).run(x)],
    }


def bits(arrays):
    return [np.asarray(a).tobytes() for a in arrays]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_the_caller(mode, threads):
    """They change no bit of a result, whatever the number of threads, and are the same after the call."""
    calls = entries()
    threads(1)
    expected = {name: bits(call()) for name, call in calls.items()}
    for n in (1, 3):
        threads(n)
        for name, call in calls.items():
            before = modes()
            with caller_in(mode) as chosen:
                result = call()
                after = modes()
            assert after == chosen and modes() == before, name
            assert bits(result) == expected[name], (name, n)


#: The pool's threads are made by a caller with modes of its own, which a new thread has too.
FIRST = """
from concurrent.futures import ThreadPoolExecutor
from test_floating_point import *
pyrnn.set_num_threads(1)
calls = entries()
expected = {name: bits(call()) for name, call in calls.items()}
pyrnn.set_num_threads(4)
with caller_in("upward"):
    started = {name: bits(call()) for name, call in calls.items()}
assert started == expected
assert {name: bits(call()) for name, call in calls.items()} == expected
before = modes()
with ThreadPoolExecutor(2) as pool:
    for call in calls.values():
        assert set(pool.map(lambda _: (call(), modes())[1], range(2))) == {before}
"""


def test_modes_of_new_threads():
    process = subprocess.run(
        [sys.executable, "-P", "-c", FIRST],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
