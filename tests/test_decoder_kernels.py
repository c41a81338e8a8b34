# SPDX-License-Identifier: Apache-2.0
"""Links 3 and 4 of the chain of trust for the decoder: kernels against the reference, at awkward sizes."""

import itertools
from zlib import crc32

import numpy as np
import pytest
from decoder_problems import SCORES, DecoderProblem
from problems import CELLS, DISTINCT, FUSED, varied
from test_attention_kernels import AWKWARD, Guarded, assert_float32, assert_float64

from pyrnn import _core, functional, reference

#: One cell in everything, one of each interface with every kind of each option, the others once: an interface
#: is all that a decoder knows of it.
CHOICES = (tuple(SCORES), ("current", "previous"), (True, False), (None, 5))
CASES = [(kind, "gru", *more) for kind, *more in itertools.product(*CHOICES)]
CASES += [(kind, cell, *more) for cell, kind, *more in varied(*CHOICES, cells=DISTINCT) if cell != "gru"]
CASES += [(next(iter(SCORES)), cell, "current", True, 5) for cell in CELLS if cell not in DISTINCT]
SIZES = ("I", "H", "M", "Tk", "A", "layer")


def name_of(case):
    return "-".join(str(part).replace(" ", "_") for part in case)


def problem_of_sizes(case, draw, **more):
    """Sizes, lengths, masks and what is given at the start drawn anew for every case."""
    kind, cell, query, input_feed, layer = case
    rng = np.random.Generator(np.random.Philox([crc32(name_of(case).encode()), draw]))
    sizes = {name: int(rng.choice(AWKWARD[:-1])) for name in SIZES}
    sizes[rng.choice(SIZES[:-1])] = AWKWARD[-1]
    sizes |= {"T": int(rng.choice((1, 2, 7))), "B": int(rng.choice((1, 3, 8)))}
    if kind in ("monotonic", "local p"):  # see problem_of_sizes of attention
        sizes["Tk"] = min(sizes["Tk"], {"monotonic": 33, "local p": 9}[kind])
    sizes["layer"] = layer and sizes["layer"]
    options = {name: bool(rng.random() < 0.5) for name in ("lengths", "given", "bias")}
    options["mask"] = str(rng.choice(["bool", "float", "none"])).replace("none", "") or None
    problem = DecoderProblem(
        kind, cell, query=query, input_feed=input_feed, seed=draw, **(sizes | options | more)
    )
    # Sums of many features as large as those of a few: where one weight is all but one, the gradients that
    # are left are those of rounding.
    for name, a in problem.inputs.items():
        part, _, parameter = name.rpartition(".")
        if name == "attention.weight" and problem.attention["score"] == "general":
            a *= 3 * a.size**-0.5
        elif parameter in ("weight_score", "weight_position_score"):
            a *= min(1, 2 * a.size**-0.5)
        elif part and a.ndim == 2:
            a *= min(1, 2 * a.shape[1] ** -0.5)
    if "dot" in kind:
        problem.inputs["memory"] *= 2 * problem.M**-0.5
    return problem


def exact(problem, case, draw):
    """The problem with the same numbers in float64."""
    twin = problem_of_sizes(case, draw)
    twin.inputs, twin.incoming = (
        {name: a.astype(np.float64) for name, a in arrays.items()}
        for arrays in (problem.inputs, problem.incoming)
    )
    if problem.options.get("mask") is not None and problem.options["mask"].dtype != bool:
        twin.options["mask"] = problem.options["mask"].astype(np.float64)
    return twin


EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=name_of)


@EVERY_CASE
def test_float64(case):
    problem = problem_of_sizes(case, 0)
    assert_float64(beside_weights(problem.run(functional)), beside_weights(problem.run(reference)))


def beside_weights(results):
    """The bias of a score's features as one more column of their weights.

    It moves all scores of a query nearly alike, and gradients of scores sum to zero: of a single feature what
    is left may be a thousandth of its terms, which one bit of the inputs changes by 2e-12. Its weights have
    the same terms.
    """
    bias = results.get("dattention.bias")
    name = next((n for n in ("dattention.weight", "dattention.weight_key") if n in results), None)
    if bias is None or name is None:
        return results
    return results | {name: np.append(results[name], bias), "dattention.bias": np.zeros(0)}


@EVERY_CASE
def test_float32(case):
    problem = problem_of_sizes(case, 7, dtype=np.float32)
    actual, expected = problem.run(functional), exact(problem, case, 7).run(reference)
    outputs = {name for name in actual if not name.startswith("d")}
    assert_float32(actual, expected, problem.T, outputs)


@EVERY_CASE
def test_every_element_is_written_and_nothing_beside(case, monkeypatch):
    guarded = Guarded()
    problem = problem_of_sizes(case, 2)
    expected = problem.run(functional)
    monkeypatch.setattr(_core, "empty", guarded)
    actual = problem.run(functional)
    guarded.check()
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("query", ["current", "previous"])
@pytest.mark.parametrize("magnitude", [20, 43, 60, 176, 353, 400, 1e4])
def test_both_forms_of_the_additive_score(magnitude, query, dtype):
    """Some keys so far from zero that only the direct form holds, and queries that bring them back."""
    case = ("normalized", "gru", query, True, 5)
    problem = problem_of_sizes(case, 3, dtype=dtype, H=16, A=9, M=7, Tk=17, T=3, B=3, mask=None)
    inputs = problem.inputs
    inputs["attention.weight_query"][...] = 0
    inputs["attention.weight_key"] = np.round(8 * inputs["attention.weight_key"]) / 8
    inputs["memory"] = np.round(8 * inputs["memory"]) / 8
    sign = np.where(np.arange(9) % 2 == 0, 1, -1)
    inputs["attention.bias"] = (sign * magnitude).astype(dtype)
    inputs["memory"][:, ::3, 0] = 1
    inputs["memory"][:, 1::3, 0] = inputs["memory"][:, 2::3, 0] = 0
    inputs["attention.weight_key"][:, 0] = -sign * magnitude
    twin = exact(problem, case, 3) if dtype == np.float32 else problem
    twin.options = problem.options
    actual, expected = problem.run(functional), twin.run(reference)
    assert np.abs(expected["dmemory"][:, ::3]).max() > 1e-4
    if dtype == np.float64:
        assert_float64(actual, expected)
    else:
        assert_float32(actual, expected, problem.T, {name for name in actual if not name.startswith("d")})


@pytest.mark.parametrize("module", [functional, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize(
    ("cell", "kind", "query", "poison"),
    varied(
        tuple(SCORES),
        ("current", "previous"),
        (np.nan, np.inf),
        cells=[cell for cell in DISTINCT if cell in FUSED],
    ),
)
def test_what_is_not_attended_to_has_no_influence(kind, module, cell, query, poison):
    """Memory behind the lengths, masked by all steps, and of a row without any; gradients of its weights."""
    problem = DecoderProblem(kind, cell, B=4, T=3, Tk=9, H=9, M=7, A=8, layer=None, query=query, mask="bool")
    mask, lengths = problem.options["mask"], np.array([9, 0, 1, 6])
    mask[:, :, 4] = False
    mask[3, 1] = False  # a step without any key in the midst of others
    problem.options["memory_lengths"] = lengths
    clean = problem.run(module)
    idle = (np.arange(9) >= lengths[:, None]) | ~mask.any(1)
    pairs = ~mask | (np.arange(9) >= lengths[:, None, None])
    assert idle[1].all() and not idle[0].all()
    problem.inputs["memory"][idle] = poison
    problem.incoming["weights"][pairs] = poison
    poisoned = problem.run(module)
    for name, value in clean.items():
        assert np.array_equal(poisoned[name], value), name
    assert not poisoned["weights"][pairs].any()
    assert not poisoned["dmemory"][idle].any()
    contexts = poisoned["outputs"][:, :, : problem.M]
    assert not contexts[1].any() and not contexts[3, 1].any()
    assert all(np.isfinite(a).all() for a in poisoned.values())


@pytest.mark.parametrize("query", ["current", "previous"])
@pytest.mark.parametrize("layer", [None, 5])
@pytest.mark.parametrize("kind", SCORES)
def test_a_memory_of_no_length_is_that_of_zeros(kind, layer, query):
    """The cell goes on with contexts of zeros; the score's parameters have no gradient."""
    problem = DecoderProblem(kind, "gru", T=4, layer=layer, query=query)
    problem.options["memory_lengths"] = np.zeros(problem.B, int)
    problem.inputs["memory"][...] = np.nan
    empty = problem.run(functional)
    none = DecoderProblem(kind, "gru", T=4, layer=layer, query=query, Tk=0)
    for name in ("x", "state[0]", "feed", *(n for n in problem.inputs if n.startswith("params."))):
        if name in problem.inputs:
            none.inputs[name] = problem.inputs[name]
    none.incoming["outputs"], none.incoming["state[0]"] = (
        problem.incoming[n] for n in ("outputs", "state[0]")
    )
    expected = none.run(functional)
    for name, value in empty.items():
        if name.startswith("dattention.") or name in ("weights", "dmemory"):
            assert not value.any(), name
        elif name not in ("dprevious", "dcoverage"):
            assert np.array_equal(value, expected[name]), name
