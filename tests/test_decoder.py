# SPDX-License-Identifier: Apache-2.0
"""The decoder as an object: what it computes, step by step, its searches, copies and files."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from aligner_kinds import ENGINES, made
from decoder_problems import SCORES, DecoderProblem
from problems import CELLS
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn import reference
from pyrnn.decoders import Carry

B, T, TK, I, H, M = 2, 3, 6, 3, 4, 5  # noqa: E741

EVERY_KIND = pytest.mark.parametrize(
    "kind", ["normalized", "coverage", "general", "predictive", "concat", "location", "monotonic"]
)
QUERIES = pytest.mark.parametrize("query", ["current", "previous"])
LAYERS = pytest.mark.parametrize("layer", [None, 7])


def decoder(kind="normalized", module=reference, cell="lstm", layer=7, **options):
    """A decoder with an attention of a kind, with parameters large enough to matter."""
    dec = module.AttentionDecoder(
        cell, I, H, made(kind, module), attention_layer=layer, dtype="float64", seed=1, **options
    )
    for a in (*dec.params.values(), *dec.attention.params.values()):
        a *= 2
    return dec


def problem(seed=5, batch=B):
    """x, memory and its lengths."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, T, I)), rng.normal(size=(batch, TK, M)), np.array([TK, 4, 1][:batch])


@pytest.mark.parametrize("kind", SCORES)
@QUERIES
def test_kernels_against_the_reference(kind, query):
    p = DecoderProblem(kind, "lstm", T=5, B=3, H=9, M=7, Tk=17, A=8, query=query, lengths=True)
    expected = p.run(reference)
    for name, a in p.run(pyrnn.functional).items():
        assert max_error(a, expected[name]) <= FLOAT64, name


@ENGINES
@EVERY_KIND
@QUERIES
def test_equals_the_functions(kind, query, module):
    dec = decoder(kind, module, query=query)
    x, memory, lengths = problem()
    rng = np.random.default_rng(0)
    state = tuple(rng.normal(size=(B, H)) for _ in range(2))
    outputs, final, weights, saved = dec.forward(x, memory, lengths, state)
    functions = pyrnn.functional if module is pyrnn else reference
    arguments = dec.attention._arguments(training=True) | {"params": dec.attention.params}
    expected = functions.decoder_forward(
        "lstm", x, memory, dec.params, state, attention=arguments, memory_lengths=lengths, query=query
    )
    for a, b in zip((outputs, *final, weights), (expected[0], *expected[1], expected[2]), strict=True):
        assert np.array_equal(a, b)
    douts, dws = rng.normal(size=outputs.shape), rng.normal(size=weights.shape)
    grads = dec.backward(saved, douts, final, dws)
    others = functions.decoder_backward(expected[3], douts, final, dws)
    for name in ("x", "memory"):
        assert np.array_equal(getattr(grads, name), getattr(others, name))
    assert list(grads.params) == list(dec.params)
    assert list(grads.attention) == list(dec.attention.params)
    for own, other in ((grads.params, others.params), (grads.attention, others.attention)):
        for name, a in own.items():
            assert np.array_equal(a, other[name]), name
            assert a.any(), name
    if kind != "monotonic":
        called = dec(x, memory, lengths, state)
        assert max_error(called[0], outputs) <= FLOAT64
        assert max_error(called[2], weights) <= FLOAT64


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("input_feed", [True, False])
@LAYERS
def test_sizes(cell, input_feed, layer):
    dec = decoder("normalized", cell=cell, layer=layer, input_feed=input_feed, bias=False)
    x, memory, lengths = problem()
    outputs, state, weights = dec(x, memory, lengths)
    assert dec.output_size == (layer or M + H)
    assert outputs.shape == (B, T, dec.output_size)
    assert weights.shape == (B, T, TK)
    assert not weights[1, :, 4:].any()
    assert (state[0] if isinstance(state, tuple) else state).shape == (B, H)
    assert [name for name in dec.params if name.startswith("bias")] == []
    fed = (layer or M) if input_feed else 0
    assert dec.params["weight_ih"].shape[1] == I + fed == I + dec.fed


@ENGINES
@EVERY_KIND
@QUERIES
@LAYERS
def test_step_by_step(kind, query, layer, module):
    dec = decoder(kind, module, query=query, layer=layer)
    x, memory, lengths = problem()
    expected = dec(x, memory, lengths)
    ready, carry = dec.precompute(memory, lengths), None
    for t in range(T):
        out, carry, weights = dec.step(x[:, t], ready, carry)
        assert max_error(out, expected[0][:, t]) <= FLOAT64
        assert max_error(weights, expected[2][:, t]) <= FLOAT64
    assert carry.position == T
    for a, b in zip(carry.state, expected[1], strict=True):
        assert max_error(a, b) <= FLOAT64
    whole = dec(x, ready)
    assert max_error(whole[0], expected[0]) <= FLOAT64
    begun = dec.step(x[:, 0], ready, Carry(expected[1]))[0]
    assert max_error(begun, dec(x[:, :1], memory, lengths, expected[1])[0][:, 0]) <= FLOAT64


@EVERY_KIND
def test_gradients_through_a_precomputed_memory(kind):
    dec = decoder(kind)
    x, memory, lengths = problem()
    results = []
    for given in ((memory, lengths), (dec.precompute(memory, lengths),)):
        outputs, _, weights, saved = dec.forward(x, *given)
        grads = dec.backward(saved, np.cos(outputs), None, weights)
        results.append([outputs, grads.x, grads.memory, *grads.params.values(), *grads.attention.values()])
    for a, b in zip(*results, strict=True):
        assert max_error(a, b) <= FLOAT64


@ENGINES
def test_arrays_of_every_layout(module):
    dec = decoder("location", module)
    x, memory, lengths = problem()
    state = tuple(np.random.default_rng(0).normal(size=(B, H)) for _ in range(2))
    previous, mask = np.full((B, TK), 0.1), np.random.default_rng(1).random((B, T, TK)) < 0.8
    expected = dec(x, memory, lengths, state, previous=previous, mask=mask)

    def strided(a):
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
        wide[..., ::2] = a
        return wide[..., ::2]

    def frozen(a):
        a = a.copy()
        a.flags.writeable = False
        return a

    for kind in (
        strided,
        frozen,
        np.asfortranarray,
        lambda a: a.astype(">f8"),
        lambda a: a[::-1].copy()[::-1],
    ):
        outputs, final, weights = dec(
            kind(x), kind(memory), lengths, tuple(map(kind, state)), previous=kind(previous), mask=mask
        )
        for a, b in zip((outputs, weights, *final), (expected[0], expected[2], *expected[1]), strict=True):
            assert np.array_equal(a, b)
    flipped = mask[:, ::-1].copy()[:, ::-1]
    assert np.array_equal(dec(x, memory, lengths, state, previous=previous, mask=flipped)[0], expected[0])


def test_noise_in_training_alone():
    dec, twin = (decoder("monotonic") for _ in range(2))
    for one in (dec, twin):
        one.attention.sigmoid_noise = 1.0
    x, memory, lengths = problem()
    first = dec.forward(x, memory, lengths)[2]
    assert np.array_equal(first, twin.forward(x, memory, lengths)[2])
    assert not np.array_equal(first, dec.forward(x, memory, lengths)[2])
    quiet = dec.forward(x, memory, lengths, training=False)[2]
    assert np.array_equal(quiet, dec.forward(x, memory, lengths, training=False)[2])
    assert set(np.unique(dec(x, memory, lengths)[2])) <= {0.0, 1.0}


def test_a_decoder_learns_where_to_look():
    """x asks for a place, the memory holds places and symbols in any order: the alignment must find it."""
    rng = np.random.default_rng(0)
    attention = reference.LuongAttention(8, 9, score="general", dtype="float64", seed=0)
    dec = reference.AttentionDecoder("gru", 5, 8, attention, attention_layer=4, dtype="float64", seed=0)
    arrays = [*dec.params.values(), *attention.params.values()]
    mean, square = ([np.zeros_like(a) for a in arrays] for _ in range(2))
    losses = []
    for step in range(1, 201):
        asked, places = (rng.permuted(np.tile(np.arange(5), (16, 1)), axis=1) for _ in range(2))
        symbols = rng.integers(0, 4, (16, 5))
        memory = np.concatenate([np.eye(5)[places], np.eye(4)[symbols]], axis=2)
        answers = (asked[:, :, None] == places[:, None]).argmax(2)
        target = np.eye(4)[np.take_along_axis(symbols, answers, axis=1)]
        outputs, _, weights, saved = dec.forward(np.eye(5)[asked], memory)
        losses.append(float(((outputs - target) ** 2).sum(2).mean()))
        grads = dec.backward(saved, outputs - target)
        for a, g, m, v in zip(
            arrays, [*grads.params.values(), *grads.attention.values()], mean, square, strict=True
        ):  # Adam
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            a -= 0.03 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
    assert losses[-1] < 0.1 * losses[0]
    assert (weights.argmax(2) == answers).mean() > 0.95


# Searches


def vocabulary(dec, size, seed=2):
    """A matrix that embeds, and one that projects, with differences that matter."""
    rng = np.random.default_rng(seed)
    return {"embed": rng.normal(size=(size, I)), "project": 2 * rng.normal(size=(size, dec.output_size))}


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def score_of(dec, tokens, start, memory, length, state, words):
    """Log-probability of a sequence, by one call over all of it, and its alignment."""
    read = words["embed"][[start, *tokens[:-1]]]
    states = None if state is None else tuple(s[None] for s in state)
    outputs, _, weights = dec(read[None], memory[None], [length], states)
    logs = log_softmax(outputs[0] @ words["project"].T)
    return logs[np.arange(len(tokens)), tokens].sum(), weights[0]


def every_sequence(size, steps, end):
    """All sequences that end with `end`, and all of `steps` tokens without it."""
    for n in range(1, steps + 1):
        for tokens in itertools.product(range(size), repeat=n):
            if end not in tokens[:-1] and (tokens[-1] == end or n == steps):
                yield list(tokens)


@pytest.mark.parametrize("length_penalty", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["normalized", "location", "coverage", "monotonic"])
def test_beam_search_against_exhaustive_search(kind, length_penalty):
    dec = decoder(kind)
    _, memory, lengths = problem()
    size, steps, end, starts = 3, 4, 2, [0, 1]
    words = vocabulary(dec, size)
    state = tuple(np.random.default_rng(9).normal(size=(B, H)) for _ in range(2))
    sequences = list(every_sequence(size, steps, end))
    found = dec.beam_search(
        starts,
        memory,
        **words,
        beam_size=size**steps,
        max_steps=steps,
        end=end,
        length_penalty=length_penalty,
        memory_lengths=lengths,
        state=state,
    )
    for b in range(B):
        scores, weights = zip(
            *(
                score_of(dec, s, starts[b], memory[b], lengths[b], [a[b] for a in state], words)
                for s in sequences
            ),
            strict=True,
        )
        scores = np.array(scores) / ((5 + np.array(list(map(len, sequences)))) / 6) ** length_penalty
        order = np.argsort(-scores)
        n = len(sequences)
        assert max_error(found.scores[b, :n], scores[order]) <= FLOAT64
        assert np.isneginf(found.scores[b, n:]).all()
        assert not found.lengths[b, n:].any()
        for k, best in enumerate(order):
            tokens = sequences[best]
            assert found.lengths[b, k] == len(tokens)
            assert found.tokens[b, k].tolist() == tokens + [end] * (steps - len(tokens))
            assert max_error(found.weights[b, k, : len(tokens)], weights[best]) <= FLOAT64
            assert not found.weights[b, k, len(tokens) :].any()


@ENGINES
@EVERY_KIND
def test_greedy_is_a_loop_and_a_beam_of_one(kind, module):
    dec = decoder(kind, module)
    _, memory, lengths = problem()
    words, steps, end = vocabulary(dec, 5), 6, 3
    found = dec.greedy([0, 1], memory, **words, max_steps=steps, end=end, memory_lengths=lengths)
    ready, carry = dec.precompute(memory, lengths), None
    token, logs, ended = np.array([0, 1]), np.zeros(B), np.zeros(B, bool)
    for t in range(found.tokens.shape[1]):
        out, carry, weights = dec.step(words["embed"][token], ready, carry)
        probabilities = log_softmax(out @ words["project"].T)
        token = np.where(ended, end, probabilities.argmax(1))
        logs += np.where(ended, 0, probabilities.max(1))
        assert np.array_equal(found.tokens[:, t], token)
        assert max_error(found.weights[:, t], np.where(ended[:, None], 0, weights)) <= FLOAT64
        assert np.array_equal(found.lengths > t, ~ended)
        ended |= token == end
    assert ended.all() or t == steps - 1
    assert max_error(found.scores, logs) <= FLOAT64
    beam = dec.beam_search(
        [0, 1], memory, **words, beam_size=1, max_steps=steps, end=end, memory_lengths=lengths
    )
    for a, b in zip(found, beam, strict=True):
        assert np.array_equal(a, b[:, 0])


def test_a_wider_beam_is_sorted_and_finds_at_least_as_much():
    dec = decoder("location")
    _, memory, lengths = problem(batch=3)
    words = vocabulary(dec, 7)
    best = np.full(3, -np.inf)
    for beam_size in (1, 2, 50):
        found = dec.beam_search(
            0, memory, **words, beam_size=beam_size, max_steps=5, end=6, memory_lengths=lengths
        )
        assert found.tokens.shape[:2] == found.scores.shape == found.lengths.shape == (3, beam_size)
        assert (np.diff(found.scores) <= 0).all()
        assert len({tuple(row) for row in found.tokens[0]}) == beam_size
        best = np.maximum(best, found.scores[:, 0])
    assert max_error(found.scores[:, 0], best) <= FLOAT64


def test_callables_matrices_and_a_precomputed_memory_agree():
    dec = decoder("normalized")
    _, memory, lengths = problem()
    words = vocabulary(dec, 5)
    expected = dec.beam_search(1, memory, **words, beam_size=3, max_steps=4, memory_lengths=lengths)
    assert expected.tokens.shape == (B, 3, 4)
    assert (expected.lengths == 4).all()
    called = dec.beam_search(
        np.array([1, 1]),
        dec.precompute(memory, lengths),
        embed=lambda tokens: words["embed"][tokens],
        project=lambda outputs: log_softmax(outputs @ words["project"].T),
        beam_size=3,
        max_steps=4,
    )
    assert np.array_equal(called.tokens, expected.tokens)
    assert max_error(called.scores, expected.scores) <= FLOAT64


def test_forbidden_tokens():
    dec = decoder("normalized")
    _, memory, _ = problem()
    words = vocabulary(dec, 4)

    def project(outputs):
        logits = outputs @ words["project"].T
        logits[:, [0, 3]] = -np.inf
        return logits

    found = dec.beam_search(0, memory, embed=words["embed"], project=project, beam_size=20, max_steps=2)
    alive = np.isfinite(found.scores)
    assert alive.sum(1).tolist() == [4, 4]
    assert set(np.unique(found.tokens[alive])) == {1, 2}
    assert not found.tokens[~alive].any()
    assert max_error(np.exp(found.scores).sum(1), np.ones(B)) <= FLOAT64


def test_no_rows():
    dec = decoder("normalized")
    found = dec.greedy(0, np.zeros((0, TK, M)), **vocabulary(dec, 4), max_steps=3)
    assert found.tokens.shape == (0, 1)
    assert found.weights.shape == (0, 1, TK)


# Parameters, copies, files


def test_parameters_are_seeded():
    first, same, other = (
        pyrnn.AttentionDecoder("gru", I, 16, pyrnn.BahdanauAttention(16, M, 8), attention_layer=5, seed=s)
        for s in (0, 0, 1)
    )
    for name, a in first.params.items():
        assert a.dtype == np.float32
        assert 0 < np.abs(a).max() <= 0.25
        assert np.array_equal(a, same.params[name])
        assert not np.array_equal(a, other.params[name])
    assert list(first.params) == [
        *("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_attention", "bias_attention")
    ]


REPRS = [
    "AttentionDecoder('lstm', 3, 4, BahdanauAttention(4, 5, 7))",
    "AttentionDecoder('gru', 3, 4, LuongAttention(4, 4), query='previous', attention_layer=6)",
    "AttentionDecoder('rnn_relu', 3, 4, LocationAttention(4, 5, 7, filters=2), input_feed=False, bias=False)",
    "AttentionDecoder('lstm', 3, 4, MonotonicAttention(4, 5, 7, dtype='float64'), dtype='float64')",
]


@pytest.mark.parametrize("text", REPRS)
def test_repr_is_the_call(text):
    assert repr(eval(text, vars(pyrnn))) == text


@pytest.mark.parametrize("text", REPRS)
def test_the_file_gives_the_decoder_back(text, tmp_path):
    dec = eval(text, vars(pyrnn))
    dec.save(tmp_path / "x")
    again = pyrnn.load(tmp_path / "x")
    assert type(again) is type(dec)
    assert repr(again) == text
    state = dec.state_dict()
    assert set(state) == set(again.state_dict())
    assert "attention.weight_score" in state or "LuongAttention" in text
    for name, a in again.state_dict().items():
        np.testing.assert_array_equal(a, state[name], strict=True)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda dec: pickle.loads(pickle.dumps(dec))])
def test_copies(clone):
    dec = decoder("location")
    twin = clone(dec)
    x, memory, lengths = problem()
    assert repr(twin) == repr(dec)
    assert np.array_equal(twin(x, memory, lengths)[0], dec(x, memory, lengths)[0])
    if clone is not copy.copy:
        twin.params["weight_ih"][...] = 0
        twin.attention.params["weight_key"][...] = 0
        assert dec.params["weight_ih"].any()
        assert dec.attention.params["weight_key"].any()


def test_state_dict_is_a_copy_and_loads_in_place():
    dec, other = decoder("normalized"), decoder("normalized", module=reference)
    state = dec.state_dict()
    assert set(state) == set(dec.params) | {"attention." + name for name in dec.attention.params}
    state["weight_ih"][...] = 0
    state["attention.gain"][...] = 9
    assert dec.params["weight_ih"].any()
    held = other.params["weight_ih"], other.attention.params["gain"]
    other.load_state_dict(state)
    assert other.params["weight_ih"] is held[0] and not held[0].any()
    assert other.attention.params["gain"] is held[1] and held[1] == 9
