# SPDX-License-Identifier: Apache-2.0
"""The decoder on a CUDA device: the kernels' own source, emulated, against the reference and the CPU."""

import numpy as np
import pytest
from decoder_problems import DecoderProblem
from test_cuda_layers import cupy, library  # noqa: F401
from tolerances import FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import functional, placing, reference

#: Every score, both queries, with and without feeding, layer, biases, lengths and masks, each several times;
#: sizes of one tile and of several.
CASES = [
    {"kind": "additive", "lengths": True, "cell": "lstm"},
    {
        "kind": "additive",
        "query": "previous",
        "layer": None,
        "B": 3,
        "Tk": 70,
        "A": 33,
        "H": 17,
        "lengths": True,
    },
    {"kind": "normalized", "mask": "bool", "layer": None, "cell": "lstm"},
    {"kind": "general", "query": "previous", "mask": "float", "H": 33, "M": 18, "B": 3, "T": 4},
    {"kind": "general", "layer": None, "T": 5, "bias": False, "given": False},
    {"kind": "dot", "cell": "lstm_peephole", "input_feed": False, "lengths": True},
    {"kind": "scaled dot", "cell": "gru_reset_before", "mask": "bool"},
    {"kind": "concat", "query": "previous", "input_feed": False, "layer": None},
    {"kind": "concat", "cell": "rnn_tanh", "bias": False, "T": 1, "Tk": 1, "B": 1, "I": 1},
    {"kind": "causal", "T": 4, "query": "previous"},
    {"kind": "window", "T": 6, "given": False},
    {"kind": "local m", "T": 5, "lengths": True},
]


class Device:
    """`decoder_forward` and `decoder_backward` of NumPy's arrays through those of CuPy."""

    def __init__(self, cupy):  # noqa: F811
        self.cupy = cupy

    def there(self, a):
        if isinstance(a, tuple):
            return tuple(map(self.there, a))
        if isinstance(a, dict):
            return {name: self.there(x) for name, x in a.items()}
        return self.cupy.asarray(a) if isinstance(a, np.ndarray) else a

    def here(self, a):
        if isinstance(a, tuple) and not hasattr(a, "_fields"):
            return tuple(map(self.here, a))
        if isinstance(a, dict):
            return {name: self.here(x) for name, x in a.items()}
        return np.array(a) if isinstance(a, np.ndarray) else a

    def decoder_forward(self, cell, *arrays, attention, **options):
        *found, saved = functional.decoder_forward(
            cell,
            *map(self.there, arrays),
            attention=self.there(attention),
            **{name: self.there(a) for name, a in options.items()},
        )
        return (*map(self.here, found), saved)

    def decoder_backward(self, saved, *arrays):
        grads = functional.decoder_backward(saved, *map(self.there, arrays))
        return grads._replace(**{name: self.here(a) for name, a in grads._asdict().items()})


@pytest.fixture
def device(cupy):  # noqa: F811
    """Every x is on the device."""
    cupy.where, cupy.zeros_like = np.where, np.zeros_like
    cupy.concatenate = lambda arrays, axis: np.concatenate(arrays, axis).view(cupy.ndarray)
    return Device(cupy)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_float64(device, case):
    problem = DecoderProblem(**case)
    expected, found = problem.run(reference), problem.run(device)
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        assert found[name].shape == a.shape, name
        assert max_error(found[name], a) <= FLOAT64, name


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: " ".join(map(str, case.values())))
def test_float32(device, case):
    case = case | {"cell": "gru"}
    expected = DecoderProblem(**case).run(reference)
    found = DecoderProblem(**case, dtype=np.float32).run(device)
    for name, a in expected.items():
        assert found[name].dtype == np.float32, name
        assert l2_error(found[name], a) <= 4 * float32_bound(case.get("T", 3)), name


@pytest.mark.parametrize("kind", ["additive", "general"])
def test_what_is_masked_has_no_influence(device, kind):
    """Rows past a length, of a memory of length zero too, and masked keys may hold anything."""
    problem = DecoderProblem(kind=kind, B=3, Tk=70, T=3, M=5)
    problem.options["memory_lengths"] = np.array([70, 0, 33])
    problem.options["mask"] = np.ones((3, 3, 70), bool)
    problem.options["mask"][:, :, 11] = False
    clean = problem.run(device)
    memory = problem.inputs["memory"]
    memory[1], memory[2, 33:], memory[:, 11] = np.nan, np.inf, np.nan
    problem.incoming["weights"] = np.where(clean["weights"] == 0, np.nan, problem.incoming["weights"])
    found = problem.run(device)
    for name, a in clean.items():
        assert np.array_equal(found[name], a), name
    assert not clean["weights"][1].any() and not clean["dmemory"][1].any()


@pytest.mark.parametrize("sizes", [{"T": 0}, {"Tk": 0}, {"B": 0}], ids=str)
def test_nothing_to_do(device, sizes):
    problem = DecoderProblem(kind="additive", **sizes)
    expected, found = problem.run(reference), problem.run(device)
    for name, a in expected.items():
        assert found[name].shape == a.shape and max_error(found[name], a) <= FLOAT64, name


# ---- layers and PyTorch


def decoders(number, **options):
    """The same decoder on the device and, in float64, on the CPU."""
    pair = []
    for more in ({"device": "cuda", "dtype": number}, {"dtype": "float64"}):
        attention = pyrnn.BahdanauAttention(6, 5, 7, normalize=True, bias=True, seed=0, **more)
        pair.append(pyrnn.AttentionDecoder("gru", 3, 6, attention, seed=1, **options, **more))
    there, exact = pair
    exact.load_state_dict({name: a.astype(np.float64) for name, a in there.state_dict().items()})
    there.load_state_dict(exact.state_dict())
    return there, exact


@pytest.mark.parametrize("number", ["float32", "bfloat16", "float16"])
def test_layers(library, number):  # noqa: F811
    """Against the same decoder on the CPU in float64; its steps one by one are the whole."""
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, number)
    there, exact = decoders(number, attention_layer=4)
    assert "device='cuda'" in repr(there) and "device" not in there.config()
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=s) for s in ((2, 4, 3), (2, 9, 5), (2, 4, 4))]
    x, memory, doutputs = (torch.tensor(a).to(dtype) for a in drawn)
    outputs, state, weights, saved = there.forward(x, memory, [9, 2])
    grads = there.backward(saved, doutputs)
    wide = [a.double().numpy() for a in (x, memory, doutputs)]
    known_outputs, known_state, known_weights, known_saved = exact.forward(*wide[:2], [9, 2])
    known_grads = exact.backward(known_saved, wide[2])
    found = {"outputs": outputs, "state": state, "weights": weights, "x": grads.x, "memory": grads.memory}
    found |= grads.params | grads.attention
    known = {"outputs": known_outputs, "state": known_state, "weights": known_weights}
    known |= {"x": known_grads.x, "memory": known_grads.memory} | known_grads.params | known_grads.attention
    for name, a in known.items():
        assert found[name].dtype == dtype
        assert l2_error(found[name].double().numpy(), a) <= 20 * torch.finfo(dtype).eps, name
    ready, carry = there.precompute(memory, [9, 2]), None
    for t in range(4):
        out, carry, w = there.step(x[:, t], ready, carry)
        assert torch.equal(out, outputs[:, t]) and torch.equal(w, weights[:, t])
    with pytest.raises(ValueError, match=r"^saved: expected what this decoder's forward returned"):
        decoders(number)[0].backward(saved, doutputs)


def test_torch_module(library, monkeypatch):  # noqa: F811
    """A module on the device: autograd, and no gradient."""
    torch = pytest.importorskip("torch")
    import pyrnn.torch

    torch.manual_seed(0)
    attention = pyrnn.torch.LuongAttention(4, 6, score="general", dtype="float64")
    module = pyrnn.torch.AttentionDecoder("lstm", 3, 4, attention, dtype="float64")
    shapes = ((2, 3, 3), (2, 5, 6), (2, 4), (2, 4))
    x, memory, *state = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    inputs = (x, memory, *state, *module.parameters())

    def gradients():
        outputs, (_, c), weights = module(x, memory, [5, 2], tuple(state))
        return outputs, torch.autograd.grad((outputs**2).sum() + (weights**3).sum() + (c * c).sum(), inputs)

    outputs, expected = gradients()
    monkeypatch.setattr(placing, "device_of", lambda a: 0)
    there, found = gradients()
    assert torch.allclose(there, outputs, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(module(x, memory, [5, 2], tuple(state))[0], there)


def test_what_only_the_cpu_has(device):
    for kind, message in [
        ("cosine", "^score: expected .* on a CUDA device, got 'cosine'"),
        ("local p", "^local: expected None or 'm' on a CUDA device, got 'p'"),
        ("monotonic", "^alignment: expected 'softmax' on a CUDA device"),
        ("coverage", "^coverage: expected none on a CUDA device"),
    ]:
        with pytest.raises(NotImplementedError, match=message):
            DecoderProblem(kind=kind).forward(device)
    attention = pyrnn.LuongAttention(4, 4)
    with pytest.raises(RuntimeError, match=r"^attention: expected one with device='cuda', got 'cpu'"):
        pyrnn.AttentionDecoder("gru", 3, 4, attention, device="cuda")


def test_wrong_arrays(device):
    def run(change, **more):
        problem = DecoderProblem(kind="general", given=False, dtype=np.float32)
        change(problem.inputs)
        problem.options |= more
        return problem.forward(device)

    def put(name, a):
        return lambda inputs: inputs.update({name: a})

    wrong = [
        (put("memory", np.ones((2, 5, 3))), TypeError, "^memory: expected dtype float32, got float64"),
        (put("memory", np.ones((3, 5, 3), np.float32)), ValueError, r"^memory: expected shape \(B, Tk, M\)"),
        (put("params.weight_hh", np.ones((12, 3), np.float32)), ValueError, "^weight_ih: expected shape"),
        (put("params.weight_ih", np.ones((12, 3), np.float32)), ValueError, "^weight_ih: expected shape"),
        (put("feed", np.ones((2, 4), np.float32)), ValueError, r"^feed: expected shape \(B, O\)"),
    ]
    for change, error, message in wrong:
        with pytest.raises(error, match=message):
            run(change)
    with pytest.raises(ValueError, match=r"^memory_lengths: expected 0 to Tk = 5, got 6 in row 0"):
        run(lambda inputs: None, memory_lengths=[6, 1])
    saved = run(lambda inputs: None)[-1]
    with pytest.raises(ValueError, match=r"^doutputs: expected shape \(B, Tq, O\)"):
        device.decoder_backward(saved, np.ones((2, 3, 4), np.float32))
