# SPDX-License-Identifier: Apache-2.0
"""Memory stays flat over thousands of calls, and running out of it is an exception like any other."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")

#: One call of everything, and one that is refused after each.
FLAT = """
import os, sys
import numpy as np
import pyrnn
pyrnn.set_num_threads(2)
rng = np.random.default_rng(0)
layer = pyrnn.LSTM(6, 9, num_layers=2, bidirectional=True, dropout=0.2, seed=0)
staged = pyrnn.GRU(6, 9, layer_norm=True, zoneout=0.1, seed=0)
attention = pyrnn.BahdanauAttention(9, 6, 5, dtype="float32")
decoder = pyrnn.AttentionDecoder("gru", 6, 9, attention, dtype="float32", seed=0)
small = pyrnn.GRU(6, 9, seed=0)
stream, int8, cell = small.stream(3), small.quantize("int8"), pyrnn.GRUCell(6, 9, seed=0)
small.save(sys.argv[1])
x = rng.normal(size=(5, 3, 6)).astype("float32")
memory = np.ascontiguousarray(x.transpose(1, 0, 2))
def refused(call, *arguments):
    try:
        call(*arguments)
    except (TypeError, ValueError):
        return
    raise AssertionError(call)
def calls():
    y, state, saved = layer.forward(x)
    layer.backward(saved, y)
    refused(layer.backward, saved, y[:-1])
    y, _, saved = layer.forward(x, checkpoint=True)
    layer.backward(saved, y)
    pyrnn.load(sys.argv[1])(x)
    refused(pyrnn.load, sys.argv[1] + ".cut")
    int8(x)
    cell(x[0])
    y, _, saved = staged.forward(x)
    staged.backward(saved, y)
    refused(staged, x[..., :-1])
    outputs, _, weights, saved = decoder.forward(memory, memory)
    decoder.backward(saved, outputs)
    refused(decoder.backward, saved, outputs.astype(float))
    stream.run(x)
    refused(stream.step, x)
    pyrnn.attention(memory, memory, causal=True)
    refused(pyrnn.attention, memory, memory[:, :, :2])
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
with open(sys.argv[1], "rb") as whole, open(sys.argv[1] + ".cut", "wb") as cut:
    cut.write(whole.read()[:-1])
for _ in range(200):
    calls()
before = resident()
for _ in range(10_000 // 16):
    calls()
print(resident() - before)
"""

#: Less address space than a call asks for, step by step: each is done or refused, and small ones go on.
EXHAUSTED = """
import resource
import numpy as np
import pyrnn
from pyrnn import _core
pyrnn.set_num_threads(2)
layer = pyrnn.LSTM(16, 64, seed=0)
x = np.ones((64, 64, 16), np.float32)
attention = pyrnn.BahdanauAttention(64, 64, 64, dtype="float32")
decoder = pyrnn.AttentionDecoder("lstm", 16, 64, attention, dtype="float32", seed=0)
def use():
    y, _, saved = layer.forward(x)
    outputs = decoder(x[:4], y[:4])[0]
    return y.tobytes() + layer.backward(saved, y).x.tobytes() + outputs.tobytes()
expected = use()
def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
big = np.broadcast_to(x[:1], (2000, 64, 16))
memory = np.ones((64, 700, 64), np.float32)
out_of_memory = done = 0
for room in [*range(16, 400, 40)]:
    _core.release_memory()
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + (room << 20), resource.RLIM_INFINITY))
    for call in (
        lambda: layer.backward((s := layer.forward(big))[2], s[0]),
        lambda: layer.stream(64).run(big),
        lambda: pyrnn.attention(memory, memory, score="additive", params={"weight_score": memory[0, 0]}),
        lambda: decoder(np.broadcast_to(x[:1], (64, 64, 16)), memory),
    ):
        try:
            call()
            done += 1
        except MemoryError:
            out_of_memory += 1
    _core.release_memory()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert use() == expected
print(out_of_memory, done)
"""


def run(text, *arguments):
    process = subprocess.run(
        [sys.executable, "-P", "-c", text, *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [int(number) for number in process.stdout.split()]


def test_resident_memory_is_flat(tmp_path):
    """Over ten thousand calls, a third of them refused: less than 100 bytes a call."""
    (growth,) = run(FLAT, str(tmp_path / "layer"))
    assert growth < 1_000_000


def test_out_of_memory():
    out_of_memory, done = run(EXHAUSTED)
    assert out_of_memory > 5 and done > 5
