# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.torch`: states as arguments and results, gates, and parameters whose memory changes place."""

import copy
import io

import numpy as np
import pytest
from tolerances import FLOAT64, TORCH, max_error

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import pyrnn.torch  # noqa: E402
from pyrnn.torch import calling, cells  # noqa: E402

LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")


def layer_of(name, *sizes, **options):
    torch.manual_seed(0)
    return getattr(pyrnn.torch, name)(*(sizes or (3, 4)), dtype=torch.float64, **options)


def draw(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


def listed(state):
    return list(state) if isinstance(state, tuple) else [state]


def state_of(name, *shape):
    h, c = draw(2, *shape)
    return (h, c) if name.startswith("LSTM") else h


def turned(state):
    return tuple(s.transpose(0, 1) for s in state) if isinstance(state, tuple) else state.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_states_batch_first(name, batch_first):
    """Every way of calling gives the same but for the states' axes."""
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    plain, ours = layer_of(name, **options), layer_of(name, **options, states_batch_first=True)
    ours.load_state_dict(plain.state_dict())
    assert "states_batch_first=True" in repr(ours) and "states" not in repr(plain)
    x, hx = draw(5, 5, 3), state_of(name, 4, 5, 4)
    packed = torch.nn.utils.rnn.pack_sequence([draw(n, 3) for n in (2, 5, 1, 4, 4)], enforce_sorted=False)
    mask = torch.rand(5, 5) > 0.3
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for module in (ours, copy.deepcopy(ours), torch.load(file, weights_only=False)):
        for given, more in ((x, {}), (packed, {}), (x, {"mask": mask})):
            for states in ((), (hx,)):
                y, final = plain(given, *states, **more)
                actual, turned_final = module(given, *map(turned, states), **more)
                data = (lambda a: a.data) if given is packed else (lambda a: a)
                assert torch.equal(data(actual), data(y))
                assert all(map(torch.equal, listed(turned(turned_final)), listed(final)))
    y, final = ours(x[0])  # one sequence has no axis of the batch
    assert all(s.shape == (4, 4) for s in listed(final))
    assert torch.equal(ours(x[0], final)[0], plain(x[0], final)[0])
    with pytest.raises(TypeError, match="states_batch_first: expected a bool"):
        getattr(pyrnn.torch, name)(3, 4, states_batch_first="yes")


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_states_batch_first_compiled():
    ours = layer_of("LSTM", states_batch_first=True)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    x, hx = draw(5, 2, 3), state_of("LSTM", 2, 1, 4)
    torch.testing.assert_close(compiled(x, hx), ours(x, hx))


@pytest.mark.parametrize("name", LAYERS)
def test_learnable_initial_states(name):
    """Parameters themselves, and views of them for a batch."""
    peer = getattr(torch.nn, name)(3, 4, dtype=torch.float64)
    ours = layer_of(name)
    ours.load_state_dict(peer.state_dict())
    initial = [torch.nn.Parameter(draw(1, 1, 4)) for _ in range(1 + (name == "LSTM"))]
    for B in (1, 3):
        states = [s if B == 1 else s.expand(1, B, 4) for s in initial]
        hx, x = tuple(states) if name == "LSTM" else states[0], draw(5, B, 3)
        grads = [
            torch.autograd.grad((y * y).sum() + sum(s.sum() for s in listed(final)), initial)
            for y, final in (ours(x, hx), peer(x, hx))
        ]
        torch.testing.assert_close(*grads, rtol=10 * TORCH, atol=10 * TORCH)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_in_eval_mode(name):
    ours, x = layer_of(name, dropout=0.5, num_layers=2).eval(), draw(5, 2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x)[0], (x,))


@pytest.mark.parametrize("name", LAYERS)
def test_gates(name):
    options = {"num_layers": 2, "batch_first": True, "bidirectional": True}
    ours, twin = layer_of(name, **options), getattr(pyrnn, name)(3, 4, **options, dtype="float64")
    twin.load_state_dict({n: a.numpy() for n, a in ours.state_dict().items()})
    x, hx = draw(3, 5, 3), state_of(name, 4, 3, 4)
    arrays = tuple(s.numpy() for s in hx) if name == "LSTM" else hx.numpy()
    for layer in (0, -1):
        found = ours.gates(x, hx, lengths=[5, 0, 3], layer=layer)
        expected = twin.gates(x.numpy(), arrays, lengths=[5, 0, 3], layer=layer)
        assert list(found) == list(
            dict.fromkeys([*expected, "h", "c"][: len(expected) + 1 + (name == "LSTM")])
        )
        for gate, value in expected.items():
            assert np.array_equal(found[gate].numpy(), value), gate
            assert not found[gate].requires_grad
    assert torch.equal(found["h"], ours(x, hx, lengths=[5, 0, 3])[0])
    with pytest.raises(ValueError, match="layer: expected -2 to 1, got 2"):
        ours.gates(x, layer=2)
    with pytest.raises(TypeError, match="input: expected a tensor"):
        ours.gates(x.numpy())


@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole", "lstm_coupled"])
def test_all_cell_states(cell):
    """Those of sequences that end after each step; and the equation between them and the gates."""
    ours = layer_of("LSTM", cell=cell)
    x, (h, c) = draw(6, 2, 3), state_of("LSTM", 1, 2, 4)
    found = ours.gates(x, (h, c))
    for t in range(6):
        _, (_, expected) = ours(x[: t + 1], (h, c))
        assert max_error(found["c"][t].numpy(), expected[0].detach().numpy()) <= FLOAT64
    if cell == "lstm":
        before = torch.cat([c, found["c"][:-1]])
        torch.testing.assert_close(found["c"], found["f"] * before + found["i"] * found["g"])
        torch.testing.assert_close(found["h"], found["o"] * found["c"].tanh())


@pytest.mark.parametrize("name", CELLS)
def test_eager_cells_need_no_operator(name, monkeypatch):
    """An operator's call costs four times a step."""
    ours, peer = layer_of(name), getattr(torch.nn, name)(3, 4, dtype=torch.float64)
    peer.load_state_dict(ours.state_dict())

    def refuse():
        raise AssertionError("an operator was called")

    monkeypatch.setattr(cells, "operator_now", refuse)
    for shape in ((2, 3), (3,)):
        x = draw(*shape, requires_grad=True)
        for given in ((x,), (x, state_of(name, *shape[:-1], 4))):
            for a, e in zip(listed(ours(*given)), listed(peer(*given)), strict=True):
                torch.testing.assert_close(a, e, rtol=TORCH, atol=TORCH)
            with torch.no_grad():
                assert listed(ours(*given))[0].shape == (*shape[:-1], 4)


@pytest.mark.parametrize("name", LAYERS)
def test_eager_layers_need_no_second_look(name, monkeypatch):
    monkeypatch.setattr(calling.Recurrent, "_long", None)
    ours = layer_of(name)
    hx = tuple(map(torch.nn.Parameter, listed(state_of(name, 1, 2, 4))))
    for x in (draw(5, 2, 3), torch.nn.Parameter(draw(5, 2, 3))):
        ours(x)
        ours(x, hx if name == "LSTM" else hx[0])


@pytest.mark.parametrize("name", ("RNN", "RNNCell"))
def test_a_parameter_laid_out_in_another_way(name):
    """The same memory, transposed."""
    ours, peer = layer_of(name, 4, 4), getattr(torch.nn, name)(4, 4, dtype=torch.float64)
    peer.load_state_dict(ours.state_dict())
    x = draw(*([5, 2, 4] if name == "RNN" else [2, 4]))
    ours(x)
    for module in (ours, peer):
        weight = module.weight_hh_l0 if name == "RNN" else module.weight_hh
        weight.data = weight.data.t()
    hx = draw(*([1, 2, 4] if name == "RNN" else [2, 4]))
    for a, e in zip(listed(ours(x, hx)), listed(peer(x, hx)), strict=True):
        torch.testing.assert_close(a, e, rtol=TORCH, atol=TORCH)


def test_another_nonlinearity():
    ours, x = layer_of("RNNCell"), draw(2, 3)
    for nonlinearity in ("tanh", "relu", "tanh"):
        ours.nonlinearity = nonlinearity
        peer = torch.nn.RNNCell(3, 4, nonlinearity=nonlinearity, dtype=torch.float64)
        peer.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), peer(x), rtol=TORCH, atol=TORCH)


@pytest.mark.parametrize("moved", ["x", "weights"])
def test_memory_that_moves_before_the_backward(moved):
    """Sharing a tensor with another process moves it and frees what it was in."""
    ours, x = layer_of("LSTM", 64, 64), draw(5, 2, 64)
    expected = torch.autograd.grad(ours(x)[0].sum(), list(ours.parameters()))
    y, _ = ours(x)
    if moved == "x":
        x.share_memory_()
    else:
        ours.share_memory()
    filler = [torch.full((5, 2, 64), torch.nan, dtype=torch.float64) for _ in range(20)]
    filler += [torch.full((256, 64), torch.nan, dtype=torch.float64) for _ in range(20)]
    actual = torch.autograd.grad(y.sum(), list(ours.parameters()))
    torch.testing.assert_close(actual, expected, rtol=TORCH, atol=TORCH)
    torch.testing.assert_close(ours(x)[0], y)
    assert len(filler) == 40
