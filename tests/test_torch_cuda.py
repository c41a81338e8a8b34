# SPDX-License-Identifier: Apache-2.0
"""Layers of PyTorch whose tensors lie on a device: the way to its kernels, through the emulated library."""

import functools

import pytest

torch = pytest.importorskip("torch")

import pyrnn.torch  # noqa: E402
from pyrnn import _core  # noqa: E402
from pyrnn.backends.cuda import CudaBackend  # noqa: E402
from pyrnn.torch import calling, engines  # noqa: E402

#: PyTorch's, about itself.
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def device(emulated_library, monkeypatch):
    """Tensors of the host are a device's, whose kernels are the emulated library; what these ran."""
    _core.cuda_close()
    monkeypatch.setenv("PYRNN_CUDA_LIBRARY", str(emulated_library))
    backend, ran = CudaBackend("cuda"), []
    forward = backend.forward

    def counted(cell, x, *arguments, **options):
        ran.append((cell, x.dtype))
        return forward(cell, x, *arguments, **options)

    backend.forward = counted
    engine = engines.on_device(backend)
    monkeypatch.setattr(engines, "engine_of", lambda *_: engine)
    monkeypatch.setattr(engines, "elsewhere", lambda *_: True)
    monkeypatch.setattr(calling.Recurrent, "_short", lambda *_: None)  # never of tensors on a device
    yield ran
    _core.cuda_close()


def gradients(call, layer, x, leaves=()):
    y, state = call(x)
    data = y.data if hasattr(y, "batch_sizes") else y
    states = state if isinstance(state, tuple) else (state,)
    loss = data.square().sum() + sum(s.sin().sum() for s in states)
    return [data, *states, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_as_pytorchs_own(device, kind):
    """Every layer of a stack by the kernels, in eager calls, compiled, packed and without a batch."""
    torch.manual_seed(0)
    peer = getattr(torch.nn, kind)(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    layer = getattr(pyrnn.torch, kind)(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    layer.load_state_dict(peer.state_dict())
    x = torch.randn(4, 7, 3, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(n, 3) for n in (2, 7, 5)], enforce_sorted=False)
    for given, leaves in ((x, [x]), (packed, []), (x.detach()[0], [])):
        device.clear()
        found = [gradients(call, call, given, leaves) for call in (peer, layer)]
        assert len(device) == 4  # layers and directions
        torch.testing.assert_close(*found)
    with torch.no_grad():
        state = layer(x)[1]
        torch.testing.assert_close(layer(x, state), peer(x, state))


@quiet
def test_compiled(device):
    layer = pyrnn.torch.GRU(3, 5)
    x = torch.randn(7, 2, 3, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, layer, x, [x]), gradients(layer, layer, x, [x]))
    assert len(device) == 2


@pytest.mark.parametrize("number", [torch.float64, torch.bfloat16, torch.float16])
def test_number_types_and_autocast(device, number):
    torch.manual_seed(0)
    layer, x = pyrnn.torch.LSTM(3, 5), torch.randn(7, 2, 3)
    expected = torch.func.functional_call(layer, dict(layer.named_parameters()), (x,))[0]
    y = layer.to(number)(x.to(number), lengths=[7, 7])[0]
    assert y.dtype == number and device[-1][1] == number
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)
    if number == torch.float64:
        return
    layer.float()
    with torch.autocast("cpu", dtype=number):
        y, (h, c) = layer(x)
    assert y.dtype == h.dtype == c.dtype == device[-1][1] == number
    y.float().sum().backward()
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_cells_and_options(device):
    """Those that the device's kernels have, with the masks of the CPU's; others by plain operations."""
    x = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(7, 2) < 0.2
    peephole = {"cell": "lstm_peephole", "zoneout": 0.2, "learn_initial_state": True, "reverse": True}
    for options, runs in ((peephole, 1), ({"layer_norm": True}, 0), ({"proj_size": 2}, 0)):
        torch.manual_seed(0)
        layer = pyrnn.torch.LSTM(3, 5, dtype=torch.float64, **options)
        found = []
        for cpu in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                if cpu:
                    patch.setattr(engines, "engine_of", lambda *_: engines.CPU)
                    patch.setattr(engines, "elsewhere", lambda *_: False)
                torch.manual_seed(1)
                found.append(gradients(functools.partial(layer, resets=resets), layer, x, [x]))
        assert len(device) == runs
        torch.testing.assert_close(*found)
        device.clear()


def test_derivatives_of_derivatives(device):
    layer = pyrnn.torch.GRU(3, 4, cell="janet", dtype=torch.float64)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x, fast_mode=True)
    assert device


def test_replaced(device):
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4).half(), "b": torch.nn.GRU(3, 4)})
    assert pyrnn.torch.replace(model).swapped == {"a": "LSTM", "b": "GRU"}


def test_without_a_library(monkeypatch):
    """A device whose library is missing has no engine, and its layers are PyTorch's."""
    engines.device_engine.cache_clear()
    monkeypatch.setattr("pyrnn.backends.cuda.library_path", lambda: None)
    assert engines.engine_of(torch.device("cuda", 0)) is None
    engines.device_engine.cache_clear()
    assert engines.engine_of(torch.device("meta")) is None
    assert engines.engine_of(torch.device("cpu")) is engines.CPU
    layer = pyrnn.torch.LSTM(3, 4, device="meta")
    assert layer(torch.empty(7, 2, 3, device="meta"))[0].device.type == "meta"
