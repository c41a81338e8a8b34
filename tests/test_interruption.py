# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and other signals in the midst of a long call: it ends soon, and everything is usable afterwards."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no setitimer")

#: Calls of a second and more. `call(name)` makes one ready and returns what takes that long.
PROGRAM = """
import os, signal, sys, threading, time
import numpy as np, pyrnn
pyrnn.set_num_threads(2)
rng = np.random.default_rng(0)
def array(*shape):
    return rng.standard_normal(shape, dtype="float32")
def forward(**options):
    layer, x = pyrnn.LSTM(4, 1024, seed=0, **options), array(1500, 16, 4)
    return lambda: layer(x)
def backward():
    layer = pyrnn.LSTM(512, 512, seed=0)
    y, _, saved = layer.forward(array(300, 48, 512))
    return lambda: layer.backward(saved, y)
def attention():
    query, key = array(1, 1500, 8192), array(1, 1500, 8192)
    return lambda: pyrnn.attention(query, key, score="additive", params={"weight_score": array(8192)})
def attention_backward():
    layer = pyrnn.functional
    query, key = array(1, 400, 8192), array(1, 600, 8192)
    params = {"weight_score": query[0, 0]}
    context, _, saved = layer.attention_forward(query, key, key, score="additive", params=params)
    return lambda: layer.attention_backward(saved, context)
def decoder():
    attn = pyrnn.BahdanauAttention(512, 512, 512)
    layer = pyrnn.AttentionDecoder("lstm", 64, 512, attn)
    x, memory = array(4, 4000, 64), array(4, 600, 512)
    return lambda: layer(x, memory)
def stream():
    layer = pyrnn.LSTM(1024, 1024, seed=0).stream()
    layer.run(array(3, 1, 1024))
    block = array(4000, 1, 1024)
    def run():
        before = layer.state
        try:
            layer.run(block)
        except BaseException:
            assert all(np.array_equal(a, b) for a, b in zip(layer.state, before))
            raise
    return run
def staged():
    return forward(layer_norm=True)
def directions():
    return forward(bidirectional=True)
def layers():
    pyrnn.stacking.AT_ONCE = 1 << 30  # both run at the same time, however much memory their outputs take
    layer, x = pyrnn.GRU(4, 160, num_layers=2, seed=0), array(200_000, 1, 4)
    return lambda: layer(x)
small = pyrnn.GRU(5, 40, num_layers=2, seed=1)
x_small = array(6, 3, 5)
ticker = small.stream(3)
def use():
    ticker.reset()
    steps = ticker.step(x_small[0]), ticker.run(x_small[1:])
    y, state, saved = small.forward(x_small)
    return b"".join(a.tobytes() for a in (y, state, small.backward(saved, y).x, *steps))
def denormals():
    return bool((np.full(64, 1e-38, np.float32) * np.float32(0.1) != 0).all())
expected = use()
"""

INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
call, sent, best = globals()[sys.argv[1]](), [], 9
def send():
    time.sleep(0.12)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
for attempt in range(4):
    thread = threading.Thread(target=send)
    try:
        thread.start()
        call()
        thread.join()
    except KeyboardInterrupt:
        best = min(best, time.perf_counter() - sent[-1])
    else:
        raise AssertionError("nobody interrupted it")
    assert use() == expected and denormals()
    if best < 0.2:
        break
print(best)
"""

#: A handler that raises nothing runs while the call goes on, with Python's floating-point state.
HANDLED = """
layer, x = pyrnn.LSTM(4, 512, seed=0), array(700, 16, 4)
y, _ = layer(x)
calls = []
def handler(*_):
    calls.append(use() == expected and denormals())
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
inside = 0
for _ in range(40):
    before = len(calls)
    start = time.perf_counter()
    again, _ = layer(x)
    inside = max(inside, (len(calls) - before))
    if inside >= 3: break
signal.setitimer(signal.ITIMER_REAL, 0)
assert np.array_equal(y, again) and all(calls)
print(inside)
"""

#: Python runs handlers on the main thread: a call on another goes on.
OTHER_THREAD = """
signal.signal(signal.SIGINT, signal.default_int_handler)
layer, x, results = pyrnn.LSTM(4, 512, seed=0), array(500, 16, 4), []
y, _ = layer(x)
thread = threading.Thread(target=lambda: results.extend(layer(x)[0] for _ in range(3)))
try:
    thread.start()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
    thread.join()
    time.sleep(1)
except KeyboardInterrupt:
    thread.join()
    print(len(results) == 3 and all(np.array_equal(y, other) for other in results))
"""

#: As a shell starts what it puts into the background.
IGNORED = """
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
layer, x = pyrnn.LSTM(4, 512, seed=0), array(500, 16, 4)
y, _ = layer(x)
threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
print(np.array_equal(layer(x)[0], y))
"""

#: The child of a fork has a main thread too, that which forked.
FORKED = """
def child():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    call = forward()
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    start = time.perf_counter()
    try:
        call()
    except KeyboardInterrupt:
        os._exit(0 if use() == expected else 4)
    os._exit(5)
def fork():
    pid = os.fork()
    if pid == 0:
        child()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""


def run(text, *arguments, **options):
    process = subprocess.run(
        [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", text, *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


CALLS = [
    "forward",
    "backward",
    "attention",
    "attention_backward",
    "decoder",
    "stream",
    "staged",
    "directions",
    "layers",
]


@pytest.mark.parametrize("name", CALLS)
def test_interrupted(name):
    """The best of a few: on a busy machine a thread may wait for a core."""
    assert float(run(PROGRAM + INTERRUPTED, name)) < 0.2


def test_handlers_run():
    assert int(run(PROGRAM + HANDLED)) >= 3


def test_another_thread_goes_on():
    assert run(PROGRAM + OTHER_THREAD) == "True"


def test_an_ignored_signal_is_ignored():
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert run(PROGRAM + IGNORED, preexec_fn=ignore) == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_child_of_a_fork():
    assert run(PROGRAM + FORKED) == "0"
