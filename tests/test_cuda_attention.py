# SPDX-License-Identifier: Apache-2.0
"""Attention on a CUDA device: the kernels' own source, emulated, against the reference; arrays and errors."""

import numpy as np
import pytest
from attention_problems import AttentionProblem, named_gradients
from test_cuda_layers import cupy, library  # noqa: F401
from tolerances import FLOAT64, attention_float32_bound, l2_error, max_error

import pyrnn
from pyrnn import functional, placing, reference

#: Tq, Tk, D, Dv: one tile and a part of one, several tiles each way, a single query, single numbers.
SIZES = [(4, 5, 3, 2), (17, 65, 33, 66), (3, 130, 70, 5), (1, 66, 40, 65), (33, 9, 5, 17), (1, 1, 1, 1)]
#: Every score, every option and every size, each several times.
OPTIONS = (
    *(
        "plain",
        "lengths",
        "mask",
        "bias",
        "causal",
        "window",
        "heads",
        "shared",
        "scale",
        "local_m",
        "single",
    ),
    *("mask", "lengths", "bare", "heads", "causal", "plain", "bias", "single", "window"),
)
SCORES = ("additive", "dot", "general", "concat", "scaled_dot")
CASES = [(SCORES[i % len(SCORES)], kind, SIZES[(i + i // 6) % len(SIZES)]) for i, kind in enumerate(OPTIONS)]


class Device:
    """`attention_forward` and `attention_backward` of NumPy's arrays through those of CuPy."""

    def __init__(self, cupy):  # noqa: F811
        self.cupy = cupy

    def there(self, a):
        return self.cupy.asarray(a) if isinstance(a, np.ndarray) else a

    def attention_forward(self, *arrays, params, **options):
        params = {name: self.there(a) for name, a in params.items()}
        options = {name: self.there(a) for name, a in options.items()}
        context, weights, saved = functional.attention_forward(
            *map(self.there, arrays), params=params, **options
        )
        return np.asarray(context), np.asarray(weights), saved

    def attention_backward(self, saved, dcontext, dweights):
        grads = functional.attention_backward(saved, self.there(dcontext), self.there(dweights))
        return grads._replace(
            query=np.asarray(grads.query),
            key=np.asarray(grads.key),
            value=None if grads.value is None else np.asarray(grads.value),
            params={name: np.asarray(a) for name, a in grads.params.items()},
        )


@pytest.fixture
def device(cupy):  # noqa: F811
    """Every query is on the device."""
    cupy.where = np.where
    cupy.zeros_like = np.zeros_like
    return Device(cupy)


def problem_of(score, kind, sizes, dtype, **more):
    Tq, Tk, D, Dv = sizes
    return AttentionProblem(score, "softmax", kind, Tq=Tq, Tk=Tk, Dq=D, Dk=D, Dv=Dv, A=D, dtype=dtype, **more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_float64(device, case):
    problem = problem_of(*case, np.float64)
    expected, found = problem.run(reference), problem.run(device)
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        assert found[name].shape == a.shape, name
        assert max_error(found[name], a) <= FLOAT64, name


@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_float32(device, case):
    problem = problem_of(*case, np.float32)
    expected, found = problem.exact().run(reference), problem.run(device)
    outputs = {"context", "weights"}
    for group in (outputs, expected.keys() - outputs):
        a, e = (np.concatenate([np.ravel(r[name]) for name in sorted(group)]) for r in (found, expected))
        assert a.dtype == np.float32
        assert l2_error(a, e) <= attention_float32_bound(case[2][0]), group


@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 60), (np.float64, 500)])
def test_both_forms_of_a_score(device, dtype, far):
    """Pairs beyond the limit of the exponential form take the direct one, those beside them do not."""
    problem = problem_of("additive", "bare", (6, 70, 40, 3), dtype)
    problem.query[:, 1::2] *= far
    problem.key[:, ::7] *= far
    problem.query[0, 1, 0] = np.inf  # of a size beyond everything, and still a score
    expected, found = problem.exact().run(reference), problem.run(device)
    bound = attention_float32_bound(6) if dtype is np.float32 else FLOAT64
    for name, a in expected.items():
        assert np.isfinite(found[name]).all(), name
        assert l2_error(found[name], a) <= bound, name


@pytest.mark.parametrize("score", ["additive", "general"])
def test_what_is_masked_has_no_influence(device, score):
    problem = problem_of(score, "lengths", (18, 70, 33, 66), np.float32)
    lengths = problem.options["key_lengths"]
    problem.options["mask"] = np.arange(70) % 9 != np.arange(18)[:, None] % 9
    problem.options["mask"][:, 11] = False
    clean = problem.run(device)
    for b, n in enumerate(lengths):
        problem.key[b, n:] = np.nan
        problem.value[b, n:] = np.inf
    problem.key[:, 11] = problem.value[:, 11] = np.nan
    problem.dweights[:] = np.where(clean["weights"] == 0, np.nan, problem.dweights)
    found = problem.run(device)
    for name, a in clean.items():
        assert np.array_equal(found[name], a), name
    assert not clean["context"][1].any() and not clean["dquery"][1].any()


def test_a_value_that_one_query_sees(device):
    """NaN reaches the query that attends to it, and no other of its tile."""
    problem = problem_of("dot", "causal", (9, 9, 4, 5), np.float64)
    problem.options["query_offset"] = 0
    problem.value[:, 5] = np.nan
    context, *_ = problem.forward(device)
    assert np.isfinite(context[:, :5]).all() and np.isnan(context[:, 5:]).all()


@pytest.mark.parametrize("score", ["additive", "dot"])
@pytest.mark.parametrize("sizes", [(0, 5), (4, 0), (0, 0)], ids=str)
def test_nothing_to_do(device, score, sizes):
    problem = problem_of(score, "bare", (*sizes, 4, 3), np.float64)
    expected, found = problem.run(reference), problem.run(device)
    for name, a in expected.items():
        assert found[name].shape == a.shape and max_error(found[name], a) <= FLOAT64, name


def test_many_parts_of_a_sum(device):
    """The gradient of weight_score is summed in two stages; without one coming in for the context."""
    problem = problem_of("additive", "bare", (2, 65, 3, 2), np.float64, B=37)
    expected = reference.attention_backward(problem.forward(reference)[2], None, problem.dweights)
    saved = problem.forward(device)[2]
    found = device.attention_backward(saved, None, problem.dweights)
    again = device.attention_backward(saved, None, problem.dweights)
    for name, a in named_gradients(expected).items():
        assert max_error(named_gradients(found)[name], a) <= FLOAT64, name
        assert np.array_equal(named_gradients(found)[name], named_gradients(again)[name])


# ---- layers and PyTorch


KINDS = [
    lambda **more: pyrnn.BahdanauAttention(5, 6, 37, bias=True, normalize=True, seed=0, **more),
    lambda **more: pyrnn.LuongAttention(5, 6, score="general", window=(3, 20), seed=0, **more),
    lambda **more: pyrnn.LuongAttention(5, 5, score="scaled_dot", seed=0, **more),
]


@pytest.mark.parametrize("number", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS, ids=["additive", "general", "scaled_dot"])
def test_layers(library, kind, number):  # noqa: F811
    """Against the same layer on the CPU in float64, with the numbers that the device has."""
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, number)
    layer, exact = kind(device="cuda", dtype=number), kind(dtype="float64")
    assert repr(layer).endswith("device='cuda')") and "device" not in layer.config()
    exact.load_state_dict({name: a.astype(np.float64) for name, a in layer.state_dict().items()})
    layer.load_state_dict(exact.state_dict())
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=s) for s in ((3, 17, 5), (3, 70, layer.key_size), (3, 17, layer.key_size))]
    query, key, dcontext = (torch.tensor(a).to(dtype) for a in drawn)
    lengths = [70, 0, 33]
    context, weights, saved = layer.forward(query, key, key_lengths=lengths)
    grads = layer.backward(saved, dcontext)
    wide = [a.double().numpy() for a in (query, key, dcontext)]
    expected, exact_weights, exact_saved = exact.forward(*wide[:2], key_lengths=lengths)
    exact_grads = exact.backward(exact_saved, wide[2])
    found = {"context": context, "weights": weights, "query": grads.query, "key": grads.key, **grads.params}
    known = {"query": exact_grads.query, "key": exact_grads.key, **exact_grads.params}
    known |= {"context": expected, "weights": exact_weights}
    for name, a in known.items():
        assert found[name].dtype == dtype
        assert l2_error(found[name].double().numpy(), a) <= 20 * torch.finfo(dtype).eps, name
    out = torch.full((3, 17, layer.key_size), torch.nan, dtype=dtype)
    assert layer(query, key, key_lengths=torch.tensor(lengths), out=out) is out and torch.equal(out, context)


def test_torch_modules(library, monkeypatch):  # noqa: F811
    """A module on the device: autograd, and no gradient."""
    torch = pytest.importorskip("torch")
    import pyrnn.torch

    torch.manual_seed(0)
    module = pyrnn.torch.BahdanauAttention(4, 6, 8, normalize=True, dtype="float64")
    query, key = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (2, 5, 6)))
    lengths = torch.tensor([5, 2])
    inputs = (query, key, *module.parameters())

    def gradients():
        context, weights = module(query, key, key_lengths=lengths, return_weights=True)
        return context, torch.autograd.grad((context**2).sum() + (weights**3).sum(), inputs)

    context, expected = gradients()
    monkeypatch.setattr(placing, "device_of", lambda a: 0)
    there, found = gradients()
    assert torch.allclose(there, context, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(module(query, key, key_lengths=lengths), there)


def test_what_only_the_cpu_has(device, library):  # noqa: F811
    query = device.there(np.ones((2, 3, 4), np.float32))
    for options, message in [
        ({"score": "cosine"}, "^score: expected .* on a CUDA device, got 'cosine'"),
        ({"alignment": "sparsemax"}, "^alignment: expected 'softmax' on a CUDA device, got 'sparsemax'"),
        ({"local": "p", "window": 2}, "^local: expected None or 'm' on a CUDA device, got 'p'"),
        ({"previous": query}, "^previous: expected none on a CUDA device"),
    ]:
        with pytest.raises(NotImplementedError, match=message):
            pyrnn.attention(query, query, **options)
    with pytest.raises(NotImplementedError, match=r"^alignment: expected 'softmax' on a CUDA device"):
        pyrnn.BahdanauAttention(3, 4, 5, alignment="sparsemax", device="cuda")
    with pytest.raises(NotImplementedError, match=r"^coverage: expected none on a CUDA device"):
        pyrnn.BahdanauAttention(3, 4, 5, coverage=True, device="cuda")
    attention = pyrnn.LuongAttention(4, 4, device="cuda")
    with pytest.raises(NotImplementedError, match=r"^value: expected None with device='cuda', got one"):
        attention.precompute(query, value=query)
    with pytest.raises(RuntimeError, match=r"^attention: expected one with device='cpu', got 'cuda'"):
        pyrnn.AttentionDecoder("gru", 3, 4, attention)


def test_wrong_arrays(device):
    query, key = (device.there(np.ones(s, np.float32)) for s in ((2, 3, 4), (2, 5, 4)))
    wrong = [
        ({"key": np.ones((2, 5, 4), np.float32)}, TypeError, "^key: expected a CuPy array"),
        ({"key": device.there(np.ones((2, 5, 4)))}, TypeError, "^key: expected dtype float32, got float64"),
        ({"key": key[:, :, :3]}, ValueError, "^key: expected as many features as the query"),
        ({"key": key[:1]}, ValueError, r"^key: expected shape \(B, Tk, Dk\)"),
        ({"value": key[:, :4]}, ValueError, r"^value: expected shape \(B, Tk, Dv\)"),
        ({"mask": np.ones((3, 4), bool)}, ValueError, r"^mask: expected a shape that broadcasts"),
        ({"mask": np.ones((3, 5))}, TypeError, "^mask: expected dtype bool or float32, got float64"),
        ({"key_lengths": [6, 1]}, ValueError, "^key_lengths: expected 0 to Tk = 5, got 6 in row 0"),
        ({"out": key}, ValueError, r"^out: expected shape \(B, Tq, Dv\)"),
        ({"score": "general", "params": {}}, ValueError, "^params: expected 'weight'"),
        ({"score": "additive", "params": {"weight_score": query[0]}}, ValueError, "^weight_score: expected"),
    ]
    for given, error, message in wrong:
        with pytest.raises(error, match=message):
            pyrnn.attention(query, given.pop("key", key), **given)
    _, _, saved = functional.attention_forward(query, key)
    with pytest.raises(ValueError, match=r"^dcontext: expected shape \(B, Tq, Dv\) = \(2, 3, 4\)"):
        functional.attention_backward(saved, key)
