# SPDX-License-Identifier: Apache-2.0
"""Cells and options that PyTorch does not have, as modules of PyTorch."""

import copy
import io
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyrnn.torch  # noqa: E402
from pyrnn.torch.variants import cells_of  # noqa: E402

EVERY = [
    (name, cell)
    for name in ("LSTM", "GRU", "RNN")
    for cell in cells_of(name)
    if cell not in ("lstm", "gru", "rnn_tanh", "rnn_relu")
]
OPTIONS = {
    "LSTM": {"layer_norm": True, "zoneout": (0.1, 0.3), "recurrent_dropout": 0.2},
    "GRU": {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.2},
    "RNN": {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.2},
}
MORE = {
    "LSTM": {"cell_norm": True, "cell_clip": 0.3, "learn_initial_state": True, "forget_bias": 1.0},
    "GRU": {"activations": ("softsign", ("elu", 0.7)), "bidirectional": True, "merge": "sum"},
    "RNN": {
        "heads": 5,
        "gate_clip": 0.4,
        "weight_dropout": 0.3,
        "recurrent_dropout": 0.3,
        "recurrent_dropout_kind": "step",
    },
}


def layer_of(name="LSTM", cell="lstm_peephole", **options):
    torch.manual_seed(0)
    return getattr(pyrnn.torch, name)(3, 5, dtype=torch.float64, cell=cell, **options)


def numpy_layer(layer):
    """The same layer without PyTorch."""
    v = layer._variant
    twin = pyrnn.Recurrent(
        layer.cell,
        3,
        5,
        layer.num_layers,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        layer_norm=v.layout.layer_norm,
        zoneout=v.zoneout,
        dtype="float64",
    )
    twin.load_state_dict({name: a.numpy() for name, a in layer.state_dict().items()})
    return twin


def test_every_cell_has_its_module():
    assert sorted(cell for name in ("LSTM", "GRU", "RNN") for cell in cells_of(name)) == sorted(pyrnn.cells())


@pytest.mark.parametrize(("name", "cell"), EVERY)
def test_same_as_the_layer_of_numpy(name, cell):
    layer = layer_of(name, cell, num_layers=2, bidirectional=True, batch_first=True)
    twin = numpy_layer(layer)
    assert list(layer.state_dict()) == list(twin.params)
    x = torch.randn(4, 7, 3, dtype=torch.float64, requires_grad=True)
    lengths = [7, 2, 0, 5]
    y, state = layer(x, lengths=lengths)
    expected, final, saved = twin.forward(x.detach().numpy(), lengths=lengths)
    assert np.array_equal(y.detach().numpy(), expected)
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    grads = twin.backward(saved, dy.numpy())
    assert np.array_equal(x.grad.numpy(), grads.x)
    for parameter, value in layer.named_parameters():
        assert np.array_equal(value.grad.numpy(), grads.params[parameter]), parameter
    for a, b in zip(
        state if name == "LSTM" else (state,), final if name == "LSTM" else (final,), strict=True
    ):
        assert np.array_equal(a.detach().numpy(), b)


@pytest.mark.parametrize("name", MORE)
def test_more_options(name):
    layer = layer_of(name, None, **MORE[name]).eval()
    twin = pyrnn.io.from_torch(layer)
    assert {k: getattr(twin, k) for k in MORE[name]} == MORE[name]
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    y, _ = layer(x)
    assert np.array_equal(y.detach().numpy(), twin(x.numpy())[0])
    assert set(layer.gates(x)) >= {"h"} and name in repr(layer)
    if name == "LSTM":
        assert (layer.bias_ih_l0[5:10] == 1).all() and not layer.bias_hh_l0[5:10].any()
        assert (layer.weight_ln_c_l0 == 1).all() and not layer.h0_l0.any()


@pytest.mark.parametrize(("name", "options"), [*OPTIONS.items(), *MORE.items()])
def test_gradcheck(name, options):
    """The masks are frozen by PyTorch's seed."""
    layer = layer_of(name, None, **options)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def loss(x, *weights):
        torch.manual_seed(3)
        y, _ = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(loss, (x, *weights))


def test_masks_are_pytorchs_to_draw():
    layer, x = layer_of(zoneout=0.5, recurrent_dropout=0.5), torch.randn(6, 2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first) and not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert np.array_equal(layer(x)[0].detach().numpy(), numpy_layer(layer)(x.numpy())[0])


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences(sort, batch_first):
    layer = layer_of("GRU", "gru_reset_before", bidirectional=True, batch_first=batch_first)
    rows = [torch.randn(n, 3, dtype=torch.float64) for n in ((7, 5, 2) if sort else (2, 7, 5))]
    packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=sort)
    y, h = layer(packed)
    assert (y.sorted_indices is None) == sort
    padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first)
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first)
    expected, state = layer(x, lengths=lengths)
    assert torch.equal(padded, expected) and torch.equal(h, state)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: layer])
def test_saved_and_trained(clone):
    layer = clone(layer_of(cell="lstm_coupled", layer_norm=True, zoneout=0.1))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = layer_of(cell="lstm_coupled", layer_norm=True, zoneout=0.1)
    twin.load_state_dict(torch.load(file, weights_only=True))
    x, optimiser = torch.randn(9, 4, 3, dtype=torch.float64), torch.optim.Adam(layer.parameters(), lr=0.02)
    assert torch.equal(twin.eval()(x)[0], layer.eval()(x)[0])
    layer.train()
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer(x)[0] - x.mean(2, keepdim=True)).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(twin(x)[0], layer.eval()(x)[0])  # the copies share nothing


def test_changed_in_place_before_the_backward():
    layer = layer_of()
    y, _ = layer(torch.randn(4, 2, 3, dtype=torch.float64))
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_words_and_gains():
    layer = pyrnn.torch.LSTM(3, 5, cell="lstm_coupled", layer_norm=True, zoneout=0.1)
    assert repr(layer) == "LSTM(3, 5, cell='lstm_coupled', layer_norm=True, zoneout=0.1)"
    assert layer.cell == "lstm_coupled" and layer.weight_ih_l0.shape == (15, 3)
    assert (layer.weight_ln_ih_l0 == 1).all()
    assert repr(pyrnn.torch.LSTM(3, 5, cell="lstm", zoneout=0.0)) == "LSTM(3, 5)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cell": "gru"}, ValueError, "cell: expected 'lstm' or"),
        ({"cell": "sru"}, NotImplementedError, "cell='sru' is not implemented"),
        ({"zoneout": 2}, ValueError, "zoneout: expected a number from 0 to 1, got 2"),
        ({"zoneout": (0.1,)}, ValueError, "zoneout: expected a number or 2 of them, got 1"),
        ({"recurrent_dropout": "much"}, TypeError, "recurrent_dropout: expected a number, got str"),
        ({"layer_norm": 1}, TypeError, "layer_norm: expected a bool, got int"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        pyrnn.torch.LSTM(3, 5, **options)


def test_other_tensors():
    layer = layer_of()
    with pytest.raises(TypeError, match=r"^lstm_peephole: expected tensors of floating-point numbers, got"):
        layer(torch.zeros(2, 1, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^x: expected"):
        layer(torch.zeros(2, 1, 3))
