# SPDX-License-Identifier: Apache-2.0
"""Threads and processes: bitwise the same results on any number of threads, callers, forks and repeats."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from problems import CELLS, Problem, varied

import pyrnn
from pyrnn import _core, functional

#: The library must be used before and after the fork; printing is how a child says that it lived.
PROGRAM = """
import numpy as np, pyrnn
pyrnn.set_num_threads(3)
layer = pyrnn.GRU(48, 160, num_layers=2, bidirectional=True, seed=0)
x = np.random.default_rng(0).normal(size=(20, 24, 48)).astype("float32")
def work(_=None):
    y, state, saved = layer.forward(x)
    grads = layer.backward(saved, np.ones_like(y))
    return b"".join(a.tobytes() for a in (y, state, grads.x, *grads.params.values()))
"""

FORK = """
import os, sys
def threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 3
expected = work()
assert threads() >= 3
for _ in range(5):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        same = work() == expected and work() == expected and threads() >= 3
        if grandchild == 0:
            os._exit(0 if same else 3)
        os._exit(0 if same and os.waitpid(grandchild, 0)[1] == 0 else 3)
    same = work() == expected
    assert os.waitpid(child, 0)[1] == 0
    assert same
"""

FORK_WHILE_BUSY = """
import os, threading
expected = work()
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert work() == expected
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(8):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == expected else 3)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
"""

POOL = """
import multiprocessing
if __name__ == "__main__":
    expected = work()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        results = pool.map(work, range(4))
        assert work() == expected
    assert results == [expected] * 4
"""

#: The threads of the pool exist before the main thread blocks the signal; none of them may take it.
SIGNALS = """
import os, signal
work()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
for _ in range(20):
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
    work()
"""


def run_program(text, tmp_path, **environment):
    """Standard output of a program of its own; a hang is an error."""
    path = tmp_path / "program.py"
    path.write_text(text, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("program", [FORK, FORK_WHILE_BUSY], ids=["alone", "while_busy"])
def test_fork(program, tmp_path):
    run_program(PROGRAM + program, tmp_path)


@pytest.mark.skipif(not hasattr(signal, "sigwait"), reason="the system has no sigwait")
def test_signals_are_for_the_program(tmp_path):
    run_program(PROGRAM + SIGNALS, tmp_path)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_process_pools(method, tmp_path):
    run_program(PROGRAM + POOL.format(method=method), tmp_path)


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("3", 3), ("256", 256), ("99999", 256)])
def test_variable_sets_the_threads(value, expected, tmp_path):
    program = "import pyrnn; print(pyrnn.num_threads())"
    assert run_program(program, tmp_path, PYRNN_NUM_THREADS=value) == str(expected)


@pytest.mark.parametrize("value", ["", "0", "-2", "two", "3 threads", "1e9", "0x4", "2.5", "9" * 40])
def test_variable_without_meaning_is_ignored(value, tmp_path):
    program = "import pyrnn; from pyrnn import _core; print(pyrnn.num_threads() == _core.available_cpus())"
    if value == "9" * 40:  # a number, though beyond the largest: as many threads as there can be
        program = "import pyrnn; print(pyrnn.num_threads() == 256)"
    assert run_program(program, tmp_path, PYRNN_NUM_THREADS=value) == "True"


def test_available_cpus():
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= _core.available_cpus() <= cpus


@pytest.mark.parametrize("n", [0, -1, 257, 2**31 - 1])
def test_wrong_number_of_threads(n):
    before = pyrnn.num_threads()
    with pytest.raises(ValueError, match="threads"):
        pyrnn.set_num_threads(n)
    assert pyrnn.num_threads() == before


@pytest.mark.parametrize("n", [None, "2", 2.5, [2], 2**80])
def test_wrong_kind_of_number_of_threads(n):
    before = pyrnn.num_threads()
    with pytest.raises(TypeError):
        pyrnn.set_num_threads(n)
    assert pyrnn.num_threads() == before


#: One row and many, few units and many, several chunks of the backward, ends that differ; blocks of units
#: that two threads share by rows, and rows that come and go there.
SHAPES = {
    "one_row": {"T": 30, "B": 1, "I": 20, "H": 200},
    "few_rows": {"T": 30, "B": 3, "I": 33, "H": 160, "kind": "all"},
    "many_rows": {"T": 12, "B": 70, "I": 17, "H": 65},
    "lengths": {"T": 15, "B": 37, "I": 200, "H": 200, "kind": "lengths"},
    "resets": {"T": 12, "B": 37, "I": 40, "H": 200, "kind": "initial"},
    "stack": {"T": 9, "B": 12, "I": 30, "H": 70, "num_layers": 3, "directions": 2, "kind": "mask"},
}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name


@pytest.mark.parametrize(("cell", "shape", "dtype"), varied(tuple(SHAPES), (np.float32, np.float64)))
def test_any_number_of_threads(cell, dtype, shape, threads):
    problem = Problem(cell, dtype=dtype, **SHAPES[shape])
    threads(1)
    expected = problem.run(functional)
    for n in (2, 3, 5):
        threads(n)
        assert_same(problem.run(functional), expected)


@pytest.mark.parametrize("shape", ["one_row", "lengths"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_repeats(cell, shape, threads):
    problem = Problem(cell, dtype=np.float32, **SHAPES[shape])
    threads(1)
    expected = problem.run(functional)
    for repeat in range(50):
        threads((2, 3)[repeat % 2])
        assert_same(problem.run(functional), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_streams_on_any_number_of_threads(cell, threads):
    layer = pyrnn.Recurrent(cell, 300, 400, seed=0)
    x = np.random.default_rng(0).normal(size=(6, 5, 300)).astype(np.float32)
    threads(1)
    expected = layer.stream(batch_size=5).run(x)
    for n in (2, 3, 5):
        threads(n)
        assert np.array_equal(layer.stream(batch_size=5).run(x), expected)


def test_many_callers(threads):
    """Callers share one pool: who finds it taken computes alone, with the same result."""
    threads(3)
    problems = [Problem(cell, 15, 20, 30, 90, kind="all", seed=k) for k, cell in enumerate(CELLS)]
    expected = [problem.run(functional) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for actual, wanted in zip(pool.map(lambda p: p.run(functional), problems), expected, strict=True):
                assert_same(actual, wanted)


def test_threads_are_set_while_others_compute(threads):
    problem = Problem("lstm", 15, 20, 30, 90)
    expected = problem.run(functional)
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(problem.run, functional) for _ in range(30)]
        for k in range(200):
            threads(1 + k % 5)
        for run in runs:
            assert_same(run.result(), expected)


def makes_denormals():
    tiny = np.full(64, 1e-38, np.float32) * np.float32(0.1)
    smallest = np.full(64, 1e-308) * 0.1
    return bool((tiny != 0).all() and (smallest != 0).all())


def work_near_zero():
    """Inputs so small that every product is a denormal number, on every entry into the kernels."""
    layer = pyrnn.LSTM(40, 120, seed=0)
    x = np.full((6, 20, 40), 1e-39, np.float32)
    y, _, saved = layer.forward(x)
    layer.backward(saved, np.full_like(y, 1e-39))
    layer.stream(batch_size=20).run(x)
    return makes_denormals()


def test_the_caller_keeps_its_denormals(threads):
    threads(2)
    assert makes_denormals()
    assert work_near_zero()
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: work_near_zero(), range(4)))
    with pytest.raises(ValueError):
        pyrnn.LSTM(3, 4)(np.zeros((2, 2, 5), np.float32))
    assert makes_denormals()


def test_denormals_are_zero_to_a_layer(threads):
    """They are flushed within the kernels, where they would be some twenty times slower."""
    threads(1)
    layer = pyrnn.RNN(8, 16, bias=False, seed=0)
    y, _ = layer(np.full((4, 2, 8), 1e-40, np.float32))
    assert not y.any()
