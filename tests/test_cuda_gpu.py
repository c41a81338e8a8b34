# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels on a GPU, against the reference in float64; `benchmarks/gpu/run.sh` runs this."""

import numpy as np
import pytest
from problems import FUSED, ON_CUDA, OPTIONS, Problem
from test_cuda_layers import layer_of, solve
from tolerances import l2_error

import pyrnn
from pyrnn import _core, reference
from pyrnn.backends.cuda import library_path


def missing():
    """Why there is nothing to test on."""
    if library_path() is None:
        return "libpyrnn_cuda.so is not built"
    try:
        import torch
    except ImportError:
        return "no PyTorch"
    return None if torch.cuda.is_available() else "no CUDA device"


if missing():
    pytest.skip(missing(), allow_module_level=True)

EVERY_CELL = pytest.mark.parametrize("cell", ON_CUDA)
#: T, B, I, H, layers, directions
SMALL = [(5, 3, 4, 6, 2, 2), (3, 17, 33, 17, 1, 2), (4, 70, 8, 33, 1, 1)]
LARGE = [
    (64, 16, 96, 256, 1, 1),
    (40, 64, 128, 512, 1, 1),
    (32, 16, 768, 768, 1, 1),
    (20, 100, 70, 1000, 1, 2),
]
NUMBERS = ("float32", "tf32", "bfloat16", "float16")


def errors(cell, sizes, kind, number, tier):
    """Relative errors by name, and what one rounding of that number is."""
    import torch

    problem = Problem(cell, *sizes, kind=kind)
    dtype = torch.float32 if number == "tf32" else getattr(torch, number)
    eps = 2.0**-10 if number == "tf32" else torch.finfo(dtype).eps
    # The same numbers for both: what is measured is the arithmetic.
    for name in ("x", "dy"):
        setattr(problem, name, torch.tensor(getattr(problem, name)).to(dtype).double().numpy())
    problem.params = {n: torch.tensor(a).to(dtype).double().numpy() for n, a in problem.params.items()}
    option = {"compute_dtype": "tf32"} if number == "tf32" else {"dtype": number}
    layer = layer_of(problem, **option)
    layer._backend.tier = tier if cell in FUSED else "automatic"
    got = solve(
        layer,
        problem,
        lambda a: torch.tensor(a, dtype=dtype, device="cuda"),
        lambda a: a.double().cpu().numpy(),
    )
    return {name: l2_error(got[name], a) for name, a in problem.run(reference).items()}, eps


@EVERY_CELL
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("sizes", SMALL, ids=str)
def test_small(cell, sizes, kind, number, tier):
    found, eps = errors(cell, sizes, kind, number, tier)
    assert all(error <= 12 * eps * sizes[0] ** 0.5 for error in found.values()), found


@EVERY_CELL
@pytest.mark.parametrize("sizes", SMALL, ids=str)
def test_float64(cell, sizes):
    found, eps = errors(cell, sizes, "all", "float64", "stepwise")
    assert all(error <= 100 * eps for error in found.values()), found


@EVERY_CELL
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_large(cell, sizes, kind, number):
    found, eps = errors(cell, sizes, kind, number, "automatic")
    assert all(error <= 12 * eps * sizes[0] ** 0.5 for error in found.values()), found


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_bits_every_time(cell):
    import torch

    problem = Problem(cell, 50, 20, 64, 200, dtype=np.float32)
    layer = layer_of(problem)
    results = [
        solve(layer, problem, lambda a: torch.tensor(a, device="cuda"), lambda a: a.cpu().numpy())
        for _ in range(50)
    ]
    for other in results[1:]:
        assert all(np.array_equal(a, results[0][name]) for name, a in other.items())


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before"])
@pytest.mark.parametrize("tier", ["stepwise", "grid"])
def test_masks_of_training_are_those_of_the_cpu(cell, tier):
    import torch

    options = {"num_layers": 2, "zoneout": 0.2, "recurrent_dropout": 0.3, "seed": 4}
    host = pyrnn.Recurrent(cell, 64, 200, dtype="float64", **options)
    device = pyrnn.Recurrent(cell, 64, 200, device="cuda", **options)
    device._backend.tier = tier if cell in FUSED else "automatic"
    x = np.random.Generator(np.random.Philox(2)).normal(size=(20, 40, 64)).astype(np.float32)
    y, _, saved = host.forward(x.astype(float))
    found, _, kept = device.forward(torch.tensor(x, device="cuda"))
    grads, got = host.backward(saved, np.cos(y)), device.backward(kept, torch.cos(found))
    pairs = [(found, y), (got.x, grads.x), *((got.params[name], a) for name, a in grads.params.items())]
    for a, expected in pairs:
        assert l2_error(a.double().cpu().numpy(), expected) <= 12 * 2.0**-23 * 20**0.5


def test_captured_in_a_graph():
    import torch

    layer = pyrnn.LSTM(32, 64, device="cuda", seed=0)
    x = torch.randn(20, 8, 32, device="cuda")
    lengths = torch.randint(0, 21, (8,), device="cuda")
    state = (torch.zeros(1, 8, 64, device="cuda"), torch.zeros(1, 8, 64, device="cuda"))
    layer(x, state, lengths=lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = layer(x, state, lengths=lengths)
    x.normal_()
    lengths.fill_(13)
    graph.replay()
    expected, _ = layer(x, state, lengths=lengths)
    assert torch.equal(y, expected) and not y[13:].any()


def test_devices_are_named():
    assert all("sm_" in name for name in _core.cuda_devices())
