# SPDX-License-Identifier: Apache-2.0
"""Attention and decoder on threads: bitwise the same on any number of them, run after run."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from attention_problems import AttentionProblem
from decoder_problems import DecoderProblem
from problems import varied

from pyrnn import functional

ALIGNMENTS = ("softmax", "sparsemax", "monotonic")
SCORES = ("dot", "cosine", "general", "additive", "concat", "location")

#: Many pieces of keys and queries, few sequences; many sequences; one query.
SHAPES = {
    "long": {"B": 2, "Tq": 70, "Tk": 131, "Dq": 65, "Dk": 65, "Dv": 33, "A": 67},
    "rows": {"B": 37, "Tq": 9, "Tk": 17, "Dq": 48, "Dk": 48, "Dv": 129, "A": 40},
    "query": {"B": 3, "Tq": 1, "Tk": 400, "Dq": 129, "Dk": 129, "Dv": 65, "A": 130},
}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name


def assert_threads_change_nothing(problem, threads):
    threads(1)
    expected = problem.run(functional)
    assert all(np.isfinite(a).all() for a in expected.values())
    for n in (2, 3, 4, 7):
        threads(n)
        assert_same(problem.run(functional), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("score", SCORES)
def test_any_number_of_threads(score, alignment, dtype, shape, threads):
    problem = AttentionProblem(score, alignment, "lengths", dtype=dtype, **SHAPES[shape])
    assert_threads_change_nothing(problem, threads)


@pytest.mark.parametrize("kind", ["mask", "bias", "causal", "window", "local_p", "heads", "history", "all"])
@pytest.mark.parametrize("score", ["dot", "additive"])
def test_any_number_of_threads_and_options(score, kind, threads):
    assert_threads_change_nothing(AttentionProblem(score, kind=kind, **SHAPES["long"]), threads)


#: Fewer sequences than threads, and more; enough work for threads to be woken.
DECODERS = {
    "few": {"B": 2, "T": 6, "Tk": 60, "H": 130, "I": 40},
    "many": {"B": 19, "T": 4, "Tk": 31, "H": 64},
}


#: Each with sums and threads of its own.
KINDS = ("dot", "cosine", "additive", "location", "coverage", "monotonic", "sparsemax", "local p")


@pytest.mark.parametrize(
    ("cell", "kind", "query", "shape"), varied(KINDS, ("current", "previous"), tuple(DECODERS))
)
def test_decoders_on_any_number_of_threads(kind, cell, query, shape, threads):
    sizes = {"M": 65, "A": 33, "layer": 70, "lengths": True, "dtype": np.float32} | DECODERS[shape]
    assert_threads_change_nothing(DecoderProblem(kind, cell, query=query, **sizes), threads)


REPEATED = {
    "softmax": AttentionProblem("additive", "softmax", "all", **SHAPES["long"]),
    "sparsemax": AttentionProblem("general", "sparsemax", "lengths", **SHAPES["long"]),
    "monotonic": AttentionProblem("dot", "monotonic", "mask", **SHAPES["rows"]),
    "history": AttentionProblem("location", "softmax", "history", **SHAPES["rows"]),
    "decoder": DecoderProblem("additive", "lstm", H=130, B=5, Tk=40, T=5, A=65, layer=33),
    "decoder history": DecoderProblem("location", "gru", H=130, B=5, Tk=40, T=5, A=65, layer=33),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_repeats(kind, threads):
    threads(1)
    expected = REPEATED[kind].run(functional)
    for repeat in range(50):
        threads((2, 3, 4)[repeat % 3])
        assert_same(REPEATED[kind].run(functional), expected)


def test_many_callers(threads):
    """Callers share one pool: who finds it taken computes alone, with the same result."""
    threads(3)
    expected = {name: problem.run(functional) for name, problem in REPEATED.items()}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for name, actual in zip(
                REPEATED, pool.map(lambda p: p.run(functional), REPEATED.values()), strict=True
            ):
                assert_same(actual, expected[name])


#: Each call on memory of its own, so that what is written beyond its end is beyond the end of a block.
SMALL_CALLS = """
import numpy as np
from pyrnn import _core, functional
v = np.ones(129)
for threads in (2, 3, 8):
    _core.set_num_threads(threads)
    for Tq, Tk in ((1, 129), (129, 1), (17, 33), (33, 17), (40, 40)):
        for score, params in (("dot", {}), ("cosine", {}), ("additive", {"weight_score": v})):
            query, key = np.ones((1, Tq, 129)), np.ones((1, Tk, 129))
            _core.release_memory()
            context, _, saved = functional.attention_forward(query, key, score=score, params=params)
            functional.attention_backward(saved, context)
            del saved
            _core.release_memory()
"""


def test_small_calls_with_threads_that_they_do_not_use():
    """One thread takes larger pieces than several: the workspace must hold them."""
    process = subprocess.run(
        [sys.executable, "-P", "-c", SMALL_CALLS], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
