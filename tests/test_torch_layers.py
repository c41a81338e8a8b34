# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.torch`: what a module of `torch.nn` does besides computing, and the options of the kernels."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys

import pytest
from tolerances import TORCH

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn.utils import prune  # noqa: E402

import pyrnn.torch  # noqa: E402

LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")
STACKS = ({}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False})


def pair(name, *sizes, dtype=torch.float64, **options):
    """PyTorch's module and ours with the same parameters."""
    torch.manual_seed(0)
    peer = getattr(torch.nn, name)(*sizes, dtype=dtype, **options)
    ours = getattr(pyrnn.torch, name)(*sizes, dtype=dtype, **options)
    ours.load_state_dict(peer.state_dict())
    return peer, ours


def flat(value):
    """The tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [a for part in value for a in flat(part)]


def same(actual, expected, tolerance=TORCH):
    for a, e in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


def state_of(name, *shape, dtype=torch.float64):
    h, c = torch.randn(2, *shape, dtype=dtype)
    return (h, c) if name.startswith("LSTM") else h


def test_importing_pyrnn_imports_no_torch():
    code = "import sys, pyrnn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0


@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients(name, options):
    peer, ours = pair(name, 3, 4, **options)
    rows = 4 if "num_layers" in options else 1
    x = torch.randn(5, 6, 3, dtype=torch.float64, requires_grad=True)
    hx = state_of(name, rows, 5 if options.get("batch_first") else 6, 4)
    for given in ((x,), (x, hx)):
        expected, actual = peer(*given), ours(*given)
        same(actual, expected)
        losses = [sum((a * a).sum() for a in flat(r)) for r in (actual, expected)]
        ours_grads = torch.autograd.grad(losses[0], [x, *ours.parameters()])
        same(ours_grads, torch.autograd.grad(losses[1], [x, *peer.parameters()]), 10 * TORCH)
        with torch.no_grad():
            same(ours(*given), expected)
        with torch.inference_mode():
            same([a.clone() for a in flat(ours(*given))], flat(expected))


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_packed(name, options, enforce_sorted):
    peer, ours = pair(name, 3, 4, **options)
    lengths = (5, 5, 2, 1) if enforce_sorted else (2, 5, 1, 5)
    rows = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    x = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted)
    hx = state_of(name, 4 if "num_layers" in options else 1, 4, 4)
    for given in ((x,), (x, hx)):
        expected, actual = peer(*given), ours(*given)
        assert actual[0][1:] == expected[0][1:] or all(
            a is b or torch.equal(a, b) for a, b in zip(actual[0][1:], expected[0][1:], strict=True)
        )
        same(actual, expected)
        losses = [sum(a.sum() for a in flat(r)) for r in (actual, expected)]
        grads = [torch.autograd.grad(loss, rows, retain_graph=True) for loss in losses]
        same(*grads, 10 * TORCH)


@pytest.mark.parametrize("name", LAYERS)
def test_empty_batch_and_no_steps(name):
    _, ours = pair(name, 3, 4)
    y, state = ours(torch.ones(5, 0, 3, dtype=torch.float64))
    assert y.shape == (5, 0, 4) and flat(state)[0].shape == (1, 0, 4)
    y, state = ours(torch.ones(0, 2, 3, dtype=torch.float64))
    assert y.shape == (0, 2, 4) and not flat(state)[0].any()


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    peer, ours = pair(name, 3, 4)
    for shape in ((2, 3), (3,), (0, 3)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for given in ((x,), (x, state_of(name, *shape[:-1], 4))):
            expected, actual = peer(*given), ours(*given)
            same(actual, expected)
            grads = [
                torch.autograd.grad(sum(a.sum() for a in flat(r)), [x, *m.parameters()])
                for r, m in ((actual, ours), (expected, peer))
            ]
            same(*grads, 10 * TORCH)


@pytest.mark.parametrize("name", LAYERS)
def test_tensors_as_they_come(name):
    """Strides, expanded tensors, views of a parameter: read as they are."""
    peer, ours = pair(name, 3, 4)
    base = torch.randn(6, 5, 8, dtype=torch.float64)
    first = base[:, :, :3]
    for x in (base[::2, :, 1:4], base[:, :, ::3], first.transpose(0, 1), first[:1].expand(4, 5, 3)):
        same(ours(x), peer(x))
        same(ours(x[:, 0]), peer(x[:, 0]))
    y = ours(first)[0]
    x = torch.nn.Parameter(first.clone())
    same(ours(x)[0], y)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_options_of_the_kernels(name, batch_first):
    """lengths, mask and resets mean what they mean in `pyrnn`, and through the operator the same."""
    _, ours = pair(name, 3, 4, 2, batch_first=batch_first, bidirectional=True)
    layer = getattr(pyrnn, name)(3, 4, 2, batch_first=batch_first, bidirectional=True, dtype="float64")
    layer.load_state_dict({n: a.numpy() for n, a in ours.state_dict().items()})
    x = torch.randn(5, 5, 3, dtype=torch.float64)
    mask, resets = torch.rand(5, 5) > 0.3, torch.rand(5, 5) > 0.6
    options = {"lengths": [5, 0, 3, 4, 2], "mask": mask, "resets": resets, "reset_to": "initial"}
    hx = state_of(name, 4, 5, 4)
    arrays = tuple(s.numpy() for s in hx) if isinstance(hx, tuple) else hx.numpy()
    given = {n: a.numpy() if isinstance(a, torch.Tensor) else a for n, a in options.items()}
    expected = layer(x.numpy(), arrays, **given)
    for a, e in zip(flat(ours(x, hx, **options)), flat_arrays(expected), strict=True):
        assert (a.detach().numpy() == e).all()
    results = []
    for hooks in (False, True):
        leaf = x.clone().requires_grad_()
        copies = torch.autograd.graph.saved_tensors_hooks(lambda a: a.clone(), lambda a: a)
        with copies if hooks else contextlib.nullcontext():
            y, state = ours(leaf, hx, **options)
        results.append(torch.autograd.grad(y.sum() + flat(state)[0].sum(), [leaf, *ours.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def flat_arrays(value):
    return [a for part in value for a in flat_arrays(part)] if isinstance(value, tuple) else [value]


def test_single_sequence_with_options():
    _, ours = pair("GRU", 3, 4)
    x, mask = torch.randn(5, 3, dtype=torch.float64), torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    y, h = ours(x, mask=mask, lengths=4)
    expected, _ = ours(x[[0, 2, 3]])
    assert torch.equal(y[[0, 2, 3]], expected) and not y[[1, 4]].any()
    assert torch.equal(h[0], expected[-1])


def test_wrong_options():
    _, ours = pair("LSTM", 3, 4)
    x = torch.ones(5, 2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(B,\) = \(2,\), got \(3,\)"):
        ours(x, lengths=[1, 2, 3])
    with pytest.raises(ValueError, match="lengths: expected numbers from 0 to T = 5, got 6"):
        ours(x, lengths=[1, 6])
    with pytest.raises(TypeError, match="lengths: expected integers"):
        ours(x, lengths=[1.0, 2.0])
    with pytest.raises(TypeError, match="mask: expected dtype bool"):
        ours(x, mask=torch.ones(5, 2))
    with pytest.raises(ValueError, match=r"resets: expected shape \(T, B\) = \(5, 2\), got \(2, 5\)"):
        ours(x, resets=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="reset_to"):
        ours(x, reset_to="one")
    packed = torch.nn.utils.rnn.pack_sequence([x[:, 0]])
    with pytest.raises(ValueError, match="PackedSequence"):
        ours(packed, lengths=[5])


@pytest.mark.parametrize("name", LAYERS)
def test_cells_that_do_not_fit(name):
    with pytest.raises(NotImplementedError, match="cell"):
        getattr(pyrnn.torch, name)(3, 4, cell="sru")
    with pytest.raises(ValueError, match="cell"):
        getattr(pyrnn.torch, name)(3, 4, cell="gru" if name != "GRU" else "lstm")


def test_cell_by_name():
    assert pyrnn.torch.RNN(3, 4, cell="rnn_relu").nonlinearity == "relu"
    assert pyrnn.torch.RNNCell(3, 4, cell="rnn_relu").nonlinearity == "relu"
    assert pyrnn.torch.LSTM(3, 4, cell="lstm").hidden_size == 4
    with pytest.raises(ValueError, match="nonlinearity"):
        pyrnn.torch.RNN(3, 4, cell="rnn_relu", nonlinearity="tanh")


def test_what_falls_back():
    peer, ours = pair("LSTM", 3, 4, dtype=torch.bfloat16)
    x = torch.randn(5, 2, 3, dtype=ours.weight_ih_l0.dtype)
    for a, e in zip(flat(ours(x)), flat(peer(x)), strict=True):
        assert torch.equal(a, e)


def test_other_devices_are_for_torch():
    y, _ = pyrnn.torch.GRU(3, 4, device="meta")(torch.ones(5, 2, 3, device="meta"))
    assert y.shape == (5, 2, 4) and y.device.type == "meta"


def test_dropout():
    peer, ours = pair("LSTM", 3, 64, 2, dropout=0.4, dtype=torch.float32)
    x = torch.randn(20, 8, 3)
    torch.manual_seed(1)
    first = ours(x)[0]
    torch.manual_seed(1)
    assert torch.equal(ours(x)[0], first) and not torch.equal(ours(x)[0], first)
    assert torch.allclose(ours.eval()(x)[0], peer.eval()(x)[0], atol=1e-6)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_copies_and_files(name, tmp_path):
    peer, ours = pair(name, 3, 4)
    x = torch.randn(*([2, 2] if name in LAYERS else [2]), 3, dtype=torch.float64)
    expected = ours(x)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    others = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(buffer, weights_only=False)]
    for other in others:
        assert type(other) is type(ours) and "_views" not in ours.__getstate__()
        assert all(torch.equal(a, e) for a, e in zip(flat(other(x)), flat(expected), strict=True))
        with torch.no_grad():
            other.weight_ih_l0.zero_() if name in LAYERS else other.weight_ih.zero_()
        assert not torch.equal(flat(other(x))[0], flat(expected)[0])
        assert all(torch.equal(a, e) for a, e in zip(flat(ours(x)), flat(expected), strict=True))
    torch.save(ours.state_dict(), tmp_path / "weights.pt")
    peer.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    same(peer(x), expected)


def update_in_place(layer):
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.5)


def update_behind_autograd(layer):
    layer.weight_hh_l0.data.mul_(0.5)


def update_through_numpy(layer):
    layer.weight_hh_l0.detach().numpy()[...] *= 0.5


def replace_data(layer):
    layer.weight_hh_l0.data = layer.weight_hh_l0.data * 0.5


def replace_parameter(layer):
    layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach() * 0.5)


def load_state(layer):
    state = layer.state_dict()
    layer.load_state_dict(state | {"weight_hh_l0": state["weight_hh_l0"] * 0.5})


def load_assigned(layer):
    state = {n: a.clone() for n, a in layer.state_dict().items()}
    layer.load_state_dict(state | {"weight_hh_l0": state["weight_hh_l0"] * 0.5}, assign=True)


UPDATES = (
    *(update_in_place, update_behind_autograd, update_through_numpy, replace_data, replace_parameter),
    *(load_state, load_assigned),
)


@pytest.mark.parametrize("update", UPDATES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("grad", [True, False])
def test_no_update_is_missed(update, grad):
    peer, ours = pair("LSTM", 3, 4)
    x = torch.randn(1, 1, 3, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        hx = ours(x)[1]
        update(ours)
        with torch.no_grad():
            peer.weight_hh_l0.mul_(0.5)
        same(ours(x, hx), peer(x, hx))


def test_attributes_that_change():
    peer, ours = pair("GRU", 3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for module in (peer, ours):
        module(x)
        module.batch_first = True
    same(ours(x), peer(x))
    _, ours = pair("GRU", 3, 4, bias=False)
    ours(x)
    with torch.no_grad():  # the first two units alone, where they lie
        first = [ours.weight_ih_l0.view(3, 4, 3)[:, :2].reshape(6, 3), ours.weight_hh_l0.view(3, 4, 4)]
        first[1] = first[1][:, :2, :2].reshape(6, 2)
        for parameter, a in zip(ours.parameters(), first, strict=True):
            parameter.view(-1)[: a.numel()] = a.flatten()
            parameter.data = parameter.data.view(-1)[: a.numel()].view(a.shape)
    ours.hidden_size = 2
    peer = torch.nn.GRU(3, 2, bias=False, dtype=torch.float64)
    peer.load_state_dict(ours.state_dict())
    same(ours(x), peer(x))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "LBFGS"])
def test_optimisers(kind):
    peer, ours = pair("GRU", 3, 4)
    x, target = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(6, 2, 4, dtype=torch.float64)
    for module in (peer, ours):
        optimiser = getattr(torch.optim, kind)(module.parameters(), lr=0.05)
        for _ in range(3):

            def closure(module=module, optimiser=optimiser):
                optimiser.zero_grad()
                loss = ((module(x)[0] - target) ** 2).mean()
                loss.backward()
                return loss

            optimiser.step(closure)
    same(list(ours.parameters()), list(peer.parameters()), 1e-7)  # quotients of small gradients


def test_changed_in_place_before_the_backward():
    _, ours = pair("LSTM", 3, 4)
    y, _ = ours(torch.randn(5, 2, 3, dtype=torch.float64))
    with torch.no_grad():
        ours.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_again():
    _, ours = pair("LSTM", 3, 4)
    y, _ = ours(torch.randn(5, 2, 3, dtype=torch.float64))
    first = torch.autograd.grad(y.sum(), list(ours.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), list(ours.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_frozen_parameters():
    peer, ours = pair("LSTM", 3, 4)
    for module in (peer, ours):
        module.weight_ih_l0.requires_grad_(False)
        module(torch.ones(5, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert ours.weight_ih_l0.grad is None
    same(ours.bias_hh_l0.grad, peer.bias_hh_l0.grad)


def test_hooks():
    _, ours = pair("LSTM", 3, 4)
    seen = []
    ours.register_forward_pre_hook(lambda module, given: seen.append("before"))
    ours.register_forward_hook(lambda module, given, result: (result[0] * 2, result[1]))
    ours.register_full_backward_hook(lambda module, dx, dy: seen.append("back"))
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    y, _ = ours(x)
    assert torch.equal(y, 2 * ours.forward(x)[0])
    y.sum().backward()
    assert seen == ["before", "back"]


@pytest.mark.parametrize("name", ("LSTM", "GRUCell"))
def test_parametrised_weights(name):
    peer, ours = pair(name, 3, 4)
    weight = "weight_hh_l0" if name == "LSTM" else "weight_hh"
    x = torch.randn(*([2, 2] if name == "LSTM" else [2]), 3, dtype=torch.float64)
    for module in (peer, ours):
        torch.nn.utils.parametrizations.weight_norm(module, weight)
        sum(a.sum() for a in flat(module(x, state_of_ones(name)))).backward()
    same(ours(x), peer(x))
    assert isinstance(ours, getattr(pyrnn.torch, name))
    same([p.grad for p in ours.parameters()], [p.grad for p in peer.parameters()], 10 * TORCH)
    torch.nn.utils.parametrize.remove_parametrizations(ours, weight)
    same(ours(x), peer(x))


def state_of_ones(name):
    h = torch.ones((1, 2, 4) if name == "LSTM" else (2, 4), dtype=torch.float64)
    return (h, h) if name == "LSTM" else h


def test_pruned_weights():
    peer, ours = pair("LSTM", 3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for module in (peer, ours):
        prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
    same(ours(x), peer(x))
    assert not torch.equal(ours(x)[0], pair("LSTM", 3, 4)[1](x)[0])


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_autocast(name):
    """The number types of the results are PyTorch's; the kernels compute in the parameters' type."""
    peer, ours = pair(name, 3, 4, dtype=torch.float32)
    x = torch.randn(*([5, 2] if name in LAYERS else [2]), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = ours(x), peer(x)
    for a, e in zip(flat(actual), flat(expected), strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a.float(), e.float(), atol=2e-2, rtol=2e-2)
    sum(a.sum() for a in flat(actual)).backward()
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())


def test_double_and_float():
    _, ours = pair("LSTM", 3, 4, dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    expected = ours(x)[0]
    same(ours.double()(x.double())[0].float(), expected, 1e-6)
    with pytest.raises(ValueError, match="does not match weight dtype"):
        ours(x)
    assert torch.equal(ours.float()(x)[0], expected)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_traced():
    _, ours = pair("LSTM", 3, 4, dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    traced = torch.jit.trace(ours, (x,))
    torch.testing.assert_close(traced(x), ours(x))
    assert "lstm" in str(traced.inlined_graph)
