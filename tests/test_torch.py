# SPDX-License-Identifier: Apache-2.0
"""Link 6 of the chain of trust: PyTorch's layers, outputs, states and gradients; an extra, not the oracle."""

from functools import partial

import numpy as np
import pytest
from problems import Problem, named, named_gradients
from tolerances import TORCH, max_error

import pyrnn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

PEERS = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "rnn_tanh": torch.nn.RNN,
    "rnn_relu": partial(torch.nn.RNN, nonlinearity="relu"),
}


def tensors(state):
    return tuple(
        torch.tensor(s, requires_grad=True) for s in (state if isinstance(state, tuple) else (state,))
    )


def packed(x, lengths, batch_first):
    return torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False
    )


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_layers", "directions"), [(1, 1), (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("cell", PEERS)
def test_layers(cell, num_layers, directions, bias, batch_first, with_lengths):
    p = Problem(cell, 7, 4, 5, 9, num_layers, directions, bias)
    lengths = [3, 7, 1, 7] if with_lengths else None
    turn = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)

    options = {"bias": bias, "batch_first": batch_first, "bidirectional": directions == 2}
    peer = PEERS[cell](p.I, p.H, num_layers, **options).double()
    peer.load_state_dict({name: torch.tensor(a) for name, a in p.params.items()})
    x, states = torch.tensor(turn(p.x), requires_grad=True), tensors(p.state)
    given = packed(x, lengths, batch_first) if lengths else x
    y, final = peer(given, states if len(states) > 1 else states[0])
    if lengths:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=batch_first)
    finals = final if isinstance(final, tuple) else (final,)
    loss = (y * torch.tensor(turn(p.dy))).sum()
    for a, d in zip(finals, tensors(p.dstate), strict=True):
        loss = loss + (a * d).sum()
    loss.backward()
    expected = {"y": y, "dx": x.grad}
    expected |= {f"state[{k}]": s for k, s in enumerate(finals)}
    expected |= {f"dstate[{k}]": s.grad for k, s in enumerate(states)}
    expected |= {f"d{name}": parameter.grad for name, parameter in peer.named_parameters()}

    layer = pyrnn.Recurrent(cell, p.I, p.H, num_layers, dtype="float64", seed=0, **options)
    layer.load_state_dict(peer.state_dict())
    assert list(layer.params) == list(peer.state_dict())
    y, state, saved = layer.forward(turn(p.x), p.state, lengths=lengths)
    result = {"y": y, **named("state", state), **named_gradients(layer.backward(saved, turn(p.dy), p.dstate))}
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert max_error(result[name], value.detach().numpy()) <= TORCH, name


@pytest.mark.parametrize("cell", PEERS)
def test_cells(cell):
    p = Problem(cell, T=1)
    kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}.get(cell, torch.nn.RNNCell)
    peer = kind(p.I, p.H, **({"nonlinearity": "relu"} if cell == "rnn_relu" else {})).double()
    ours = pyrnn.Cell(cell, p.I, p.H, dtype="float64", seed=0)
    for name, a in peer.state_dict().items():
        ours.params[name][...] = a.numpy()
    state = tuple(s[0] for s in p.state) if isinstance(p.state, tuple) else p.state[0]
    expected = peer(torch.tensor(p.x[0]), tensors(state) if isinstance(state, tuple) else tensors(state)[0])
    finals = expected if isinstance(expected, tuple) else (expected,)
    for a, e in zip(named("", ours(p.x[0], state)).values(), finals, strict=True):
        assert max_error(a, e.detach().numpy()) <= TORCH


@pytest.mark.parametrize("cell", PEERS)
def test_default_parameters_have_the_range_of_the_peer(cell):
    peer = PEERS[cell](30, 64, 2)
    ours = pyrnn.Recurrent(cell, 30, 64, 2, seed=0)
    for name, a in peer.state_dict().items():
        assert ours.params[name].shape == tuple(a.shape)
        assert np.isclose(np.abs(ours.params[name]).max(), float(a.abs().max()), rtol=0.2)
