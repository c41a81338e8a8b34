# SPDX-License-Identifier: Apache-2.0
"""Layers on device="cuda": arrays of PyTorch and CuPy through the emulated library, and what is missing."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cuda_library import OTHERWISE, build_stub
from problems import DISTINCT, FUSED, OPTIONS, Problem
from tolerances import FLOAT64, float32_bound, l2_error

import pyrnn
from pyrnn import _core, reference
from pyrnn.backends import cuda

EVERY_CELL = pytest.mark.parametrize("cell", [cell for cell in DISTINCT if cell in FUSED])


@pytest.fixture
def library(emulated_library, monkeypatch):
    """device="cuda" is the emulated library."""
    _core.cuda_close()
    monkeypatch.setenv("PYRNN_CUDA_LIBRARY", str(emulated_library))
    yield emulated_library
    _core.cuda_close()


@pytest.fixture
def no_library(monkeypatch):
    _core.cuda_close()
    monkeypatch.delenv("PYRNN_CUDA_LIBRARY", raising=False)
    yield
    _core.cuda_close()


class FakeArray(np.ndarray):
    """NumPy's array that says it is on a device."""

    device = SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self):
        return {**self.__array_interface__, "version": 3}


FakeArray.__module__ = "cupy"


@pytest.fixture
def cupy(monkeypatch, library):
    """As much of CuPy as the back end asks for, on the host."""
    fake = ModuleType("cupy")
    fake.ndarray = FakeArray

    class Device:
        def __init__(self, number):
            assert number == 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    def on_device(make):
        return lambda *arguments: make(*arguments).view(FakeArray)

    fake.empty, fake.zeros = on_device(np.empty), on_device(np.zeros)
    fake.asarray, fake.ascontiguousarray = on_device(np.array), on_device(np.ascontiguousarray)
    fake.stack = on_device(np.stack)
    fake.asnumpy = lambda a: np.array(a).view(np.ndarray)
    fake.cuda = SimpleNamespace(Device=Device, get_current_stream=lambda: SimpleNamespace(ptr=0))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def layer_of(problem, **more):
    layer = pyrnn.Recurrent(
        problem.cell,
        problem.I,
        problem.H,
        problem.num_layers,
        bidirectional=problem.directions == 2,
        device="cuda",
        seed=0,
        **more,
    )
    layer.load_state_dict(problem.params)
    return layer


def solve(layer, problem, made, numpy):
    """Outputs and gradients by name."""
    several = isinstance(problem.state, tuple)

    def state_of(state):
        return tuple(map(made, state)) if several else made(state)

    y, state, saved = layer.forward(made(problem.x), state_of(problem.state), **problem.options)
    grads = layer.backward(saved, made(problem.dy), state_of(problem.dstate))
    found = {"y": y, "dx": grads.x, **{f"d{name}": a for name, a in grads.params.items()}}
    for label, states in (("state", state), ("dstate", grads.state)):
        for k, s in enumerate(states if several else (states,)):
            found[f"{label}[{k}]"] = s
    return {name: numpy(a) for name, a in found.items()}


@EVERY_CELL
@pytest.mark.parametrize("kind", OPTIONS)
def test_cupy(cupy, cell, kind):
    problem = Problem(cell, 5, 4, 6, 9, 2, 2, kind=kind, dtype=np.float32)
    expected = problem.run(reference)
    got = solve(layer_of(problem), problem, cupy.asarray, cupy.asnumpy)
    for name, a in expected.items():
        assert l2_error(got[name], a) <= 2 * float32_bound(5), name


@pytest.mark.parametrize("cell", OTHERWISE)
@pytest.mark.parametrize("number", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_torch(library, cell, kind, number):
    """Every type of number; 16-bit gradients against a bound of their own precision."""
    torch = pytest.importorskip("torch")
    problem = Problem(cell, 5, 4, 6, 9, 2, 2, kind=kind)
    dtype = getattr(torch, number)
    layer = layer_of(problem, dtype=number)
    got = solve(layer, problem, lambda a: torch.tensor(a, dtype=dtype), lambda a: a.double().numpy())
    assert all(a.dtype == dtype for a in layer.params.values())
    eps = torch.finfo(dtype).eps
    for name, a in problem.run(reference).items():
        assert l2_error(got[name], a) <= (20 if number == "float64" else 8) * eps, name


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_stages_in_sixteen_bits(library, number):
    """Layers whose steps are kernels that meet in memory, in the precision of what they keep there."""
    torch = pytest.importorskip("torch")
    problem = Problem("lstm", 5, 4, 6, 9, 2, 2, kind="all", layer_norm=True, proj_size=4)
    dtype = getattr(torch, number)
    layer = layer_of(problem, dtype=number, layer_norm=True, proj_size=4, gate_clip=9.0)
    got = solve(layer, problem, lambda a: torch.tensor(a, dtype=dtype), lambda a: a.double().numpy())
    for name, a in problem.run(reference).items():
        assert l2_error(got[name], a) <= 8 * torch.finfo(dtype).eps, name


def test_batch_first_out_and_lengths_on_the_device(library):
    torch = pytest.importorskip("torch")
    layer = pyrnn.LSTM(3, 5, batch_first=True, device="cuda", seed=0)
    x = torch.randn(4, 7, 3)
    y, _ = layer(x, lengths=[7, 0, 3, 5])
    out = torch.full((4, 7, 5), torch.nan)
    again, _ = layer(x, lengths=torch.tensor([7, 0, 3, 5]), out=out)
    assert again is out and torch.equal(out, y) and not y[1].any()
    mask = torch.arange(7) < torch.tensor([7, 0, 3, 5])[:, None]
    assert torch.equal(layer(x, mask=mask)[0], y)


OPTIONAL = [
    ("lstm", {"zoneout": (0.2, 0.1), "recurrent_dropout": 0.3, "merge": "sum"}),
    ("gru", {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "step", "dropout": 0.3}),
    ("gru_reset_before", {"zoneout": 0.2}),
    ("lstm_peephole", {"weight_dropout": 0.4, "hidden_size": (5, 9)}),
    ("lstm", {"learn_initial_state": True, "forget_bias": 1.0}),
    ("lstm", {"layer_norm": True, "proj_size": 3, "cell_norm": True, "cell_clip": 0.5}),
    ("gru_reset_before", {"heads": 2, "layer_norm": True, "activations": ("hardsigmoid", "softsign")}),
]


@pytest.mark.parametrize(("cell", "more"), OPTIONAL, ids=lambda value: str(value))
def test_options_are_those_of_the_cpu(library, cell, more):
    """The same seed draws the same parameters and masks on both."""
    torch = pytest.importorskip("torch")
    rng = np.random.Generator(np.random.Philox(1))
    options = {"hidden_size": 6, "num_layers": 2, "bidirectional": True, "dtype": "float64", "seed": 3} | more
    x, resets = rng.normal(size=(5, 4, 3)), rng.random((5, 4)) < 0.3

    def results(made, **device):
        layer = pyrnn.Recurrent(cell, 3, **options, **device)
        for name, a in layer.params.items():
            if "0_l" in name:
                a[...] = made(np.full(a.shape, 0.5))
        y, _, saved = layer.forward(made(x), resets=resets, reset_to="initial")
        grads = layer.backward(saved, made(np.cos(np.arange(y.shape[-1]) + x[..., :1])))
        return [np.asarray(a) for a in (y, grads.x, *grads.params.values())]

    for a, expected in zip(results(torch.tensor, device="cuda"), results(np.array), strict=True):
        assert l2_error(a, expected) <= FLOAT64


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates(library, cell):
    torch = pytest.importorskip("torch")
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True, "dtype": "float64", "seed": 0}
    x, mask = np.sin(np.arange(60.0)).reshape(4, 5, 3), np.arange(20).reshape(4, 5) % 3 > 0
    expected = pyrnn.Recurrent(cell, 3, 6, **options).gates(x, mask=mask)
    found = pyrnn.Recurrent(cell, 3, 6, device="cuda", **options).gates(torch.tensor(x), mask=mask)
    assert found.keys() == expected.keys()
    for name, a in found.items():
        assert l2_error(a.numpy(), expected[name]) <= FLOAT64, name


def test_what_only_the_cpu_has(library):
    pytest.importorskip("torch")
    option = {"recurrent_dropout_kind": "candidate"}
    with pytest.raises(NotImplementedError, match=r"^recurrent_dropout_kind='candidate' .* on device 'cuda'"):
        pyrnn.LSTM(3, 4, device="cuda", **option)
    layer = pyrnn.LSTM(3, 4, device="cuda", seed=0)
    with pytest.raises(ValueError, match=r"^checkpoint: expected False on device 'cuda'"):
        layer.forward(layer.params["weight_ih_l0"][None], checkpoint=True)


def test_cells_that_only_the_cpu_has(cupy):
    with pytest.raises(NotImplementedError, match=r"^cell='clockwork' is not implemented on CUDA"):
        pyrnn.Recurrent("clockwork", 3, 4, device="cuda")


@pytest.mark.parametrize("library_of", ["torch", "cupy"])
def test_states_of_every_step(library, request, library_of):
    """Those of the CPU, and gradients that come in through them, of layers of several sizes too."""
    made = request.getfixturevalue("cupy").asarray if library_of == "cupy" else None
    made = made or pytest.importorskip("torch").tensor
    x = np.sin(np.arange(60.0)).reshape(4, 5, 3)
    found = []
    for more, of in (({}, np.array), ({"device": "cuda"}, made)):
        for size in (6, (4, 7)):
            layer = pyrnn.LSTM(3, size, 2, batch_first=True, layer_norm=True, dtype="float64", seed=0, **more)
            y, _, states, saved = layer.forward(of(x), return_states=True)
            dx = layer.backward(saved, y, None, states).x
            assert type(y) is type(layer(of(x), return_states=True)[2][0][0])
            each = [a for s in states for a in (s if isinstance(s, tuple) else (s,))]
            found.append([np.asarray(a) for a in (y, dx, *each)])
    for k in range(2):
        for a, expected in zip(found[2 + k], found[k], strict=True):
            assert a.shape == expected.shape and l2_error(a, expected) <= FLOAT64


def test_dropout_is_drawn(library):
    torch = pytest.importorskip("torch")
    layer = pyrnn.GRU(3, 5, num_layers=2, dropout=0.5, device="cuda", seed=0)
    x = torch.randn(4, 7, 3)
    assert not torch.equal(layer.forward(x)[0], layer.forward(x)[0])
    assert torch.equal(layer.forward(x, training=False)[0], layer(x)[0])


def test_wrong_arrays(library):
    torch = pytest.importorskip("torch")
    layer = pyrnn.LSTM(3, 5, device="cuda", seed=0)
    with pytest.raises(
        TypeError, match=r"^x: expected a CuPy array or a CUDA tensor of PyTorch, got ndarray"
    ):
        layer(np.ones((2, 2, 3), np.float32))
    with pytest.raises(TypeError, match=r"^x: expected dtype float32, got float64"):
        layer(torch.ones(2, 2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^x: expected shape .* got \(2, 2, 4\)"):
        layer(torch.ones(2, 2, 4))
    with pytest.raises(TypeError, match=r"^h|state: expected a tuple of 2 arrays"):
        layer(torch.ones(2, 2, 3), torch.ones(1, 2, 5))
    layer.params["weight_hh_l0"] = torch.ones(5, 20)
    with pytest.raises(
        ValueError, match=r"^weight_hh_l0: expected shape \(4\*H, H\) = \(20, 5\), got \(5, 20\)"
    ):
        layer(torch.ones(2, 2, 3))
    with pytest.raises(RuntimeError, match="device"):
        layer.stream()


def test_repr_and_state_dict(library):
    pytest.importorskip("torch")
    layer = pyrnn.RNN(3, 5, device="cuda", dtype="float64", seed=0)
    assert repr(layer) == "RNN(3, 5, dtype='float64', device='cuda')"
    same = pyrnn.RNN(3, 5, dtype="float64", seed=0)
    assert all(np.array_equal(a, same.params[name]) for name, a in layer.state_dict().items())


# ---- what is missing


def test_no_library(no_library, monkeypatch):
    monkeypatch.setattr(cuda, "library_path", lambda: None)
    with pytest.raises(
        RuntimeError, match=r"^device: expected 'cpu', got 'cuda', for which libpyrnn_cuda.so"
    ):
        pyrnn.LSTM(3, 4, device="cuda")
    assert cuda.status() == "not installed"


def test_missing_file(no_library, monkeypatch, tmp_path):
    monkeypatch.setenv("PYRNN_CUDA_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(RuntimeError, match=r"^device: the CUDA library cannot be loaded: .*none.so"):
        pyrnn.LSTM(3, 4, device="cuda")
    assert "cannot be used" in cuda.status()


@pytest.mark.parametrize(
    ("defines", "message"),
    [
        ({"VERSION": 99}, r"expected version \d+ of the interface, got version 99"),
        ({"GROWN": 8}, r"expected version \d+ of the interface, got a table of \d+ bytes"),
        ({"NOTHING": 1}, r"expected version \d+ of the interface, got a library of another version"),
        ({"STATUS": 1}, "cudaGetDeviceCount: no CUDA-capable device is detected"),
        ({}, "expected one of 0 CUDA devices, got 'cuda'"),
    ],
    ids=["version", "size", "no table", "no driver", "no device"],
)
def test_wrong_library(no_library, monkeypatch, tmp_path, defines, message):
    monkeypatch.setenv("PYRNN_CUDA_LIBRARY", str(build_stub(tmp_path, **defines)))
    with pytest.raises(RuntimeError, match="^device: .*" + message):
        pyrnn.LSTM(3, 4, device="cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", 0, None])
def test_wrong_device(device):
    with pytest.raises(RuntimeError, match=r"^device: expected 'cpu'"):
        pyrnn.LSTM(3, 4, device=device)


def test_nothing_of_cuda_is_loaded_unless_asked():
    code = "import pyrnn, sys; pyrnn.LSTM(3, 4); print([m for m in ('cupy', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
