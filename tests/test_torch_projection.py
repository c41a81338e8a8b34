# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.torch.LSTM` with `proj_size`, against PyTorch's."""

import numpy as np
import pytest
from test_torch_layers import flat, pair, same
from tolerances import TORCH

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import pyrnn  # noqa: E402
import pyrnn.torch  # noqa: E402
from pyrnn.torch import calling  # noqa: E402

STACKS = ({}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False})
#: PyTorch's, about itself, where it computes.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


def states(rows, batch, **options):
    return tuple(torch.randn(rows, batch, n, dtype=torch.float64, **options) for n in (3, 6))


@pytest.fixture
def no_peer(monkeypatch):
    """Calls that would go to PyTorch's layer fail."""

    def refuse(*_):
        raise AssertionError("PyTorch's layer was called")

    def arm():
        monkeypatch.setattr(torch.nn.LSTM, "forward", refuse)

    return arm


@pytest.mark.parametrize("options", STACKS, ids=str)
def test_outputs_and_gradients(options, no_peer):
    peer, ours = pair("LSTM", 4, 6, proj_size=3, **options)
    x = torch.randn(5, 7, 4, dtype=torch.float64, requires_grad=True)
    hx = states(4 if "num_layers" in options else 1, 5 if "batch_first" in options else 7, requires_grad=True)
    given = [(x,), (x, hx)]
    expected = [peer(*arguments) for arguments in given]
    wanted = [
        torch.autograd.grad(
            sum((a * a).sum() for a in flat(e)), [x, *hx, *peer.parameters()], allow_unused=True
        )
        for e in expected
    ]
    no_peer()
    for arguments, e, grads in zip(given, expected, wanted, strict=True):
        actual = ours(*arguments)
        same(actual, e)
        found = torch.autograd.grad(
            sum((a * a).sum() for a in flat(actual)), [x, *hx, *ours.parameters()], allow_unused=True
        )
        for a, w in zip(found, grads, strict=True):
            assert (a is None) == (w is None)
            if a is not None:
                torch.testing.assert_close(a, w, rtol=10 * TORCH, atol=10 * TORCH)
        with torch.no_grad():
            same(ours(*arguments), e)


def test_short_way(monkeypatch):
    monkeypatch.setattr(calling.Recurrent, "_long", None)
    _, ours = pair("LSTM", 4, 6, proj_size=3)
    x = torch.randn(5, 7, 4, dtype=torch.float64)
    ours(x, ours(x)[1])


def test_packed_and_lengths(no_peer):
    peer, ours = pair("LSTM", 4, 6, proj_size=3, bidirectional=True)
    lengths = (2, 5, 1, 5)
    rows = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in lengths]
    packed, hx = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False), states(2, 4)
    expected = peer(packed, hx)
    wanted = torch.autograd.grad(sum(a.sum() for a in flat(expected)), rows, retain_graph=True)
    no_peer()
    actual = ours(packed, hx)
    same(actual, expected)
    same(torch.autograd.grad(sum(a.sum() for a in flat(actual)), rows, retain_graph=True), wanted, 10 * TORCH)
    y, final = ours(torch.nn.utils.rnn.pad_sequence(rows), hx, lengths=lengths)
    same(final, expected[1])
    same(y, torch.nn.utils.rnn.pad_packed_sequence(expected[0])[0])


def test_single_sequence_and_empty_batch():
    peer, ours = pair("LSTM", 4, 6, proj_size=3)
    for shape in ((5, 4), (5, 0, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        same(ours(x), peer(x))


def test_second_derivatives():
    _, ours = pair("LSTM", 2, 3, proj_size=2)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(flat(ours(x))), (x,))
    assert torch.autograd.gradgradcheck(lambda x: ours(x)[0], (x,))


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_compiled():
    peer, ours = pair("LSTM", 4, 6, 2, proj_size=3, bidirectional=True)
    x = torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(x), peer(x)
    same(actual, expected)
    grads = [
        torch.autograd.grad(sum(a.sum() for a in flat(r)), [x, *m.parameters()])
        for r, m in ((actual, ours), (expected, peer))
    ]
    same(*grads, 10 * TORCH)


def test_gradients_of_every_sample():
    _, ours = pair("LSTM", 4, 6, proj_size=3)
    params = {n: p.detach() for n, p in ours.named_parameters()}
    x = torch.randn(3, 5, 4, dtype=torch.float64)

    def loss(params, x):
        return torch.func.functional_call(ours, params, (x[:, None],))[0].square().sum()

    every = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for k in range(3):
        one = torch.func.grad(loss)(params, x[k])
        for name, grad in one.items():
            torch.testing.assert_close(every[name][k], grad, rtol=TORCH, atol=TORCH)


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"cell": "lstm_peephole"}], ids=str)
def test_with_other_options(options):
    """As the layer of arrays."""
    torch.manual_seed(0)
    ours = pyrnn.torch.LSTM(4, 6, 2, proj_size=3, **options)
    cell = options.get("cell", "lstm")
    twin = pyrnn.Recurrent(cell, 4, 6, 2, proj_size=3, layer_norm=options.get("layer_norm", False))
    twin.load_state_dict({name: a.detach().numpy() for name, a in ours.state_dict().items()})
    x = torch.randn(5, 2, 4)
    y, (h, c) = twin(x.numpy())
    for a, e in zip(flat(ours(x)), (y, h, c), strict=True):
        assert np.array_equal(a.detach().numpy(), e)
    found = ours.gates(x)
    assert found["h"].shape == (5, 2, 3) and found["c"].shape == (5, 2, 6)
    assert np.array_equal(found["h"].numpy(), y)


def test_wrong_state():
    _, ours = pair("LSTM", 4, 6, proj_size=3)
    x, (h, c) = torch.randn(5, 2, 4, dtype=torch.float64), states(1, 2)
    for wrong in ((c, c), (h, h), (c, h)):
        with pytest.raises(RuntimeError, match="Expected hidden"):
            ours(x, wrong)
