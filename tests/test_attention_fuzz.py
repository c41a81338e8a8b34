# SPDX-License-Identifier: Apache-2.0
"""Attention and decoder, functions and objects, called with anything: a result, ValueError or TypeError."""

import numpy as np
import pytest
from aligner_kinds import KINDS, made
from attention_problems import CASES, AttentionProblem
from decoder_problems import SCORES, DecoderProblem, part
from hypothesis import given
from hypothesis import strategies as st
from problems import CELLS
from wrong_arguments import FUZZ, refused_or_done, spoiled, wrong

import pyrnn
from pyrnn import functional

SIZES = st.integers(0, 3)
OPTIONS = (
    "scale",
    "causal",
    "window",
    "local",
    "query_offset",
    "key_lengths",
    "mask",
    "previous",
    "coverage",
)


@FUZZ
@given(st.data(), st.sampled_from(CASES), st.tuples(SIZES, SIZES, SIZES), st.sampled_from(["f4", "f8"]))
def test_attention(data, case, sizes, dtype):
    B, Tq, Tk = sizes
    problem = AttentionProblem(*case, B=B, Tq=Tq, Tk=Tk, dtype=np.dtype(dtype))
    right = {"query": problem.query, "key": problem.key, "params": problem.params, **problem.options}
    right |= {} if problem.value is None else {"value": problem.value}
    arguments = spoiled(data.draw, right, OPTIONS)
    with refused_or_done():
        context, weights = pyrnn.attention(**arguments, return_weights=True)
        assert context.shape[:-1] == weights.shape[:-1]
    with refused_or_done():
        key = arguments.pop("key")
        memory = {"score": arguments.get("score", "dot"), "params": arguments.get("params")}
        memory |= {name: arguments.pop(name) for name in ("value", "key_lengths") if name in arguments}
        functional.attention(arguments.pop("query"), functional.precompute(key, **memory), **arguments)
    saved = problem.forward(functional)[2]
    gradients = {"dcontext": problem.dcontext, "dweights": problem.dweights}
    with refused_or_done():
        functional.attention_backward(saved, **spoiled(data.draw, gradients))
    functional.attention_backward(saved, **gradients)  # what is saved is still whole


def arguments_of(p):
    """What DecoderProblem.forward passes, by name."""
    states = tuple(p.inputs[f"state[{k}]"] for k in range(p.states)) if p.given else None
    return {
        "cell": p.cell,
        "x": p.inputs["x"],
        "memory": p.inputs["memory"],
        "params": part(p.inputs, "params."),
        "state": states[0] if states and len(states) == 1 else states,
        "attention": p.attention | {"params": part(p.inputs, "attention.")},
        **{name: p.inputs[name] for name in ("feed", "previous", "coverage") if name in p.inputs},
        **p.options,
    }


@FUZZ
@given(
    st.data(),
    st.tuples(st.sampled_from(sorted(SCORES)), st.sampled_from(CELLS)),
    st.tuples(SIZES, SIZES, SIZES),
    st.sampled_from(["current", "previous"]),
    st.sampled_from(["f4", "f8"]),
)
def test_decoder(data, kind, sizes, query, dtype):
    B, T, Tk = sizes
    more = {"mask": "bool", "query": query, "lengths": B > 0}
    p = DecoderProblem(*kind, B=B, T=T, Tk=max(Tk, 1), dtype=np.dtype(dtype), **more)
    right = arguments_of(p)
    arguments = spoiled(data.draw, right, ("memory_lengths", "mask", "feed", "previous", "coverage"))
    with refused_or_done():
        outputs, _, weights, _ = functional.decoder_forward(**arguments)
        assert outputs.shape[:2] == weights.shape[:2]
    saved = functional.decoder_forward(**right)[-1]
    states = tuple(p.incoming[f"state[{k}]"] for k in range(p.states))
    gradients = {"doutputs": p.incoming["outputs"], "dweights": p.incoming["weights"]}
    gradients["dstate"] = states[0] if len(states) == 1 else states
    with refused_or_done():
        functional.decoder_backward(saved, **spoiled(data.draw, gradients))
    functional.decoder_backward(saved, **gradients)


@FUZZ
@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_objects(data, kind):
    attention = made(kind, pyrnn)
    draw, T = data.draw, draw_size(data)
    rng = np.random.default_rng(T)
    query, key = rng.normal(size=(2, 3, attention.query_size)), rng.normal(size=(2, T, attention.key_size))
    lengths = np.array([T, T // 2])
    right = {"query": query, "key": key, "mask": np.ones((2, 3, T), bool), "key_lengths": lengths}
    with refused_or_done():
        attention(**spoiled(draw, right, ("value", "causal", "query_offset", "previous", "coverage")))
    with refused_or_done():
        attention.precompute(wrong(draw, key), draw(st.sampled_from([lengths, None, [9, 9], "x"])))
    context, weights, saved = attention.forward(**right)
    with refused_or_done():
        attention.backward(saved, wrong(draw, context), weights)
    decoder = pyrnn.AttentionDecoder(
        draw(st.sampled_from(CELLS)), 3, attention.query_size, attention, dtype="float64", seed=0
    )
    right = {"x": rng.normal(size=(2, 3, 3)), "memory": key, "memory_lengths": lengths}
    with refused_or_done():
        decoder(**spoiled(draw, right, ("state", "mask", "feed", "previous", "coverage")))
    outputs, _, _, saved = decoder.forward(**right)
    with refused_or_done():
        decoder.backward(saved, wrong(draw, outputs))
    ready = decoder.precompute(key, lengths)
    with refused_or_done():
        decoder.step(wrong(draw, right["x"][:, 0]), draw(st.sampled_from([ready, ready, key, None])))
    # A large number of steps or of beams is a right argument, and takes its time.
    counts = st.sampled_from([2, 2, 2, 0, -1, None, 1.5, "2", True, [2]])
    for search, more in ((decoder.greedy, {}), (decoder.beam_search, {"beam_size": draw(counts)})):
        given = {"embed": np.ones((4, 3)), "project": np.ones((4, decoder.output_size)), "end": 1}
        given |= {"start": 0, "memory": key}
        with refused_or_done():
            search(**spoiled(draw, given), **more, max_steps=draw(counts))
    assert np.isfinite(decoder(**right)[0]).all()  # whatever was refused, it still runs


def draw_size(data):
    return data.draw(st.integers(1, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fuzz_is_about_calls_that_work(kind):
    """Without anything wrong nothing is refused."""
    attention = made(kind, pyrnn)
    key = np.ones((2, 4, attention.key_size))
    context = attention(np.ones((2, 3, attention.query_size)), key, mask=np.ones((2, 3, 4), bool))
    assert context.shape == (2, 3, attention.key_size)
