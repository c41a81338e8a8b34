# SPDX-License-Identifier: Apache-2.0
"""Layers of PyTorch with the states of every step, layers of different sizes, and varied ones compiled."""

import copy
import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import pyrnn.torch  # noqa: E402
from pyrnn.torch.inspecting import turned  # noqa: E402
from pyrnn.torch.varied_operators import VARIED  # noqa: E402
from pyrnn.torch.varying import flat  # noqa: E402

#: PyTorch's, about itself.
quiet = pytest.mark.filterwarnings("ignore")

LAYERS = {
    "plain": ("LSTM", {"bidirectional": True, "num_layers": 2}),
    "projected": ("LSTM", {"proj_size": 2, "batch_first": True}),
    "regularised": ("LSTM", {"layer_norm": True, "zoneout": (0.2, 0.1), "recurrent_dropout": 0.2}),
    "cell": ("GRU", {"cell": "gru_reset_before", "batch_first": True, "states_batch_first": True}),
    "sizes": ("LSTM", {"hidden_size": (5, 2), "num_layers": 2, "bidirectional": True, "dropout": 0.3}),
    "merged": (
        "GRU",
        {"hidden_size": [2, 5], "num_layers": 2, "bidirectional": True, "merge": "sum", "batch_first": True},
    ),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    """TorchDynamo limits how often it compiles a function anew, which all layers share."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def layer_of(kind, dtype=torch.float64):
    torch.manual_seed(0)
    name, options = LAYERS[kind]
    return getattr(pyrnn.torch, name)(3, dtype=dtype, **({"hidden_size": 4} | options))


def drawn(layer, T=5):
    shape = (2, T, 3) if layer.batch_first else (T, 2, 3)
    return torch.randn(shape, dtype=layer.weight_ih_l0.dtype, requires_grad=True)


def mapped(function, state):
    return tuple(mapped(function, s) for s in state) if isinstance(state, tuple) else function(state)


def numpy_of(state):
    return mapped(lambda a: a.detach().numpy(), state)


@pytest.mark.parametrize("kind", LAYERS)
def test_states_of_every_step(kind):
    """Values and gradients are those of the layer of NumPy."""
    layer = layer_of(kind).eval()
    twin = pyrnn.io.from_torch(layer)
    assert list(twin.params) == list(layer.state_dict()) and twin.hidden_size == layer.hidden_size
    turn = turned if layer.states_batch_first else lambda state: state
    x, lengths = drawn(layer), [5, 3]
    hx = mapped(lambda s: s.detach().sin().requires_grad_(), layer(x)[1])
    y, final, states = layer(x, hx, lengths=lengths, return_states=True)
    *expected, saved = twin.forward(
        numpy_of(x), numpy_of(turn(hx)), lengths=lengths, training=False, return_states=True
    )
    for a, e in zip(flat((y, turn(final), states)), flat(tuple(expected)), strict=True):
        assert np.array_equal(numpy_of(a), e)
    dy, dstates = torch.randn_like(y), mapped(torch.randn_like, states)
    leaves = [x, *flat(hx), *layer.parameters()]
    dx, *rest = torch.autograd.grad([y, *flat(states)], leaves, [dy, *flat(dstates)])
    grads = twin.backward(saved, numpy_of(dy), None, numpy_of(dstates))
    dinitial, dparams = rest[: len(flat(hx))], rest[len(flat(hx)) :]
    found = [dx, *map(turn, dinitial), *dparams]
    for a, e in zip(found, [grads.x, *flat(grads.state), *grads.params.values()], strict=True):
        assert np.array_equal(numpy_of(a), e)


@pytest.mark.parametrize("kind", ["projected", "regularised", "sizes"])
def test_gradcheck(kind):
    """The masks are frozen by PyTorch's seed."""
    layer = layer_of(kind)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(x, *weights):
        torch.manual_seed(3)
        params = dict(zip(names, weights, strict=True))
        (y, final, states) = torch.func.functional_call(layer, params, (x,), {"return_states": True})
        return y, flat(final)[0], *flat(states)

    assert torch.autograd.gradcheck(call, (drawn(layer, 3), *weights), fast_mode=True)


def test_states_of_a_single_sequence():
    layer = layer_of("plain")
    x = drawn(layer)
    _, (h, c), (every_h, every_c) = layer(x[:, 0], return_states=True)
    assert every_h.shape == every_c.shape == (4, 5, 4)
    for final, every in ((h, every_h), (c, every_c)):
        assert torch.equal(final[::2], every[::2, -1]) and torch.equal(final[1::2], every[1::2, 0])
    _, _, (of_all, _) = layer(x, return_states=True)
    torch.testing.assert_close(of_all[:, :, 0], every_h)


def test_layers_of_different_sizes():
    layer = layer_of("sizes")
    shapes = {name: tuple(a.shape) for name, a in layer.state_dict().items()}
    peer = pyrnn.Recurrent("lstm", 3, (5, 2), 2, bidirectional=True)
    assert shapes == {name: a.shape for name, a in peer.params.items()}
    assert repr(layer) == "LSTM(3, (5, 2), num_layers=2, dropout=0.3, bidirectional=True)"
    for name, a in layer.named_parameters():
        bound = (2 if "_l1" in name else 5) ** -0.5
        assert bound / 2 < a.abs().max() <= bound
    twin = pyrnn.io.to_torch(pyrnn.io.from_torch(layer))
    x = drawn(layer)
    assert repr(twin) == repr(layer) and torch.equal(twin.eval()(x)[0], layer.eval()(x)[0])
    gates = layer.gates(x, layer(x)[1], layer=0)
    assert gates["i"].shape == (5, 2, 10)
    biased = pyrnn.torch.LSTM(3, hidden_size=(4, 2), num_layers=2, forget_bias=1.0)
    assert (biased.bias_ih_l1[2:4] == 1).all() and not biased.bias_hh_l1[2:4].any()
    assert repr(pyrnn.torch.LSTM(3, (4, 4), 2)) == "LSTM(3, 4, num_layers=2)"


@quiet
@pytest.mark.parametrize("kind", ["regularised", "cell", "sizes", "plain"])
def test_compiled_without_a_break(kind):
    """In training, with the masks of the eager call."""
    layer = layer_of(kind)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, grads = drawn(layer), []
    mask = torch.tensor([[True] * 5, [True, False, True, True, True]])
    given = {"mask": mask if layer.batch_first else mask.T, "return_states": kind in ("plain", "sizes")}
    results = []
    for call in (layer, compiled):
        torch.manual_seed(4)
        results.append(flat(call(x, **given)))
        loss = sum(a.sin().sum() for a in results[-1])
        grads.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
    for a, e in zip((*results[1], *grads[1]), (*results[0], *grads[0]), strict=True):
        torch.testing.assert_close(a, e)


@quiet
def test_exported():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.below = layer_of("regularised")
            self.above = pyrnn.torch.GRU(4, (3, 2), 2, cell="mgu", dtype=torch.float64)

        def forward(self, x):
            y, _, (_, c) = self.below(x, return_states=True)
            return self.above(y)[0], c

    model = Model().eval()
    shapes = {"x": {0: torch.export.Dim("T", min=2)}}
    exported = torch.export.export(model, (drawn(model.below),), dynamic_shapes=shapes)
    assert "pyrnn.varied" in str(exported.graph)
    x = drawn(model.below, 9)
    torch.testing.assert_close(exported.module()(x), model(x))


@quiet
@pytest.mark.parametrize("kind", ["regularised", "merged"])
def test_registration(kind):
    layer = layer_of(kind)
    x, state = drawn(layer), [s.detach().clone() for s in flat(layer(drawn(layer))[1])]
    rest = [layer._variant.text, layer.batch_first, True, 0.0, torch.tensor(7), torch.tensor([5, 3])]
    arguments = (x, state, list(layer.parameters()), *rest, None, None, True, True, False, True)
    checks = torch.library.opcheck(VARIED, arguments)
    assert set(checks.values()) == {"SUCCESS"} and len(checks) >= 4


def test_what_was_kept_is_computed_again():
    """Where the backward gets a copy of the handle, or none, its masks are the same."""
    layer = layer_of("regularised")
    x = drawn(layer)

    def grads(call):
        torch.manual_seed(5)
        return torch.autograd.grad(call(x).sin().sum(), [x, *layer.parameters()])

    def elsewhere(x):
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda a: a):
            return layer(x)[0]

    expected = grads(lambda x: layer(x)[0])
    again = grads(lambda x: checkpoint(lambda x: layer(x)[0], x, use_reentrant=False))
    for actual in (again, grads(elsewhere)):
        assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("kind", LAYERS)
def test_checkpoint_option(kind):
    """The same values and gradients bit by bit, masks included."""
    layer = layer_of(kind)
    x, lengths, grads = drawn(layer, 9), [9, 4], []
    for layer.checkpoint in (True, False):
        torch.manual_seed(6)
        y, _ = layer(x, lengths=lengths)
        grads.append((y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])))
    assert all(map(torch.equal, *grads))
    layer.checkpoint = True
    assert "checkpoint=True" in repr(layer)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x, return_states=True)[0], layer(x)[0])


@quiet
def test_checkpoint_option_of_any_call():
    """What PyTorch's layers take, they take with the option; less is kept."""
    torch.manual_seed(0)
    plain, kept = (
        pyrnn.torch.GRU(3, 16, batch_first=True),
        pyrnn.torch.GRU(3, 16, batch_first=True, checkpoint=True),
    )
    kept.load_state_dict(plain.state_dict())
    rows = [torch.randn(n, 3) for n in (40, 100)]
    packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    x, mask = torch.randn(2, 100, 3), torch.rand(2, 100) > 0.3
    compiled = torch.compile(kept, fullgraph=True, backend="aot_eager")
    for given, options in (
        (packed, {}),
        (rows[0], {}),
        (x, {"mask": mask, "resets": ~mask}),
        (x, {"mask": mask}),
    ):
        grads = []
        for call in (plain, compiled if len(options) == 1 else kept):
            y = call(given, **options)[0]
            loss = (y.data if given is packed else y).square().sum()
            grads.append(torch.autograd.grad(loss, list((plain if call is plain else kept).parameters())))
        assert all(map(torch.equal, *grads))
    saved = kept(x)[0].grad_fn.kept[0].passes[0]
    kept.checkpoint = False
    every = kept(x, return_states=True)[0].grad_fn.kept[0].passes[0]
    assert saved.nbytes < every.nbytes / 3
    kept.checkpoint = True
    with torch.autocast("cpu"):
        assert kept(x)[0].dtype == plain(x)[0].dtype
    per_sample = torch.func.grad(lambda x: kept(x)[0].sum())(x)
    torch.testing.assert_close(per_sample, torch.func.grad(lambda x: plain(x)[0].sum())(x))
    assert kept.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16


@quiet
def test_replaced():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": layer_of("sizes", torch.float32)})
    assert pyrnn.torch.replace(model).swapped == {"a": "LSTM"}
    x = torch.randn(5, 2, 3)
    y, (h, c), (every_h, every_c) = copy.deepcopy(model["a"])(x, return_states=True)
    assert torch.equal(every_h[0], y) and torch.equal(every_c[:, -1], c) and torch.equal(h[0], y[-1])
    model["a"].checkpoint = True
    torch.testing.assert_close(model["a"](x)[0], y)
    model["a"].checkpoint = False
    compiled = torch.compile(model["a"], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, return_states=True), (y, (h, c), (every_h, every_c)))


def test_refused():
    layer, x = layer_of("sizes"), torch.zeros(5, 2, 3, dtype=torch.float64)
    sparing = pyrnn.torch.GRU(3, 4, dtype=torch.float64, checkpoint=True)
    packed = torch.nn.utils.rnn.pack_sequence([x[:, 0]])
    h = torch.zeros(4, 2, 5, dtype=torch.float64)
    for error, message, call in (
        (ValueError, "return_states: expected False beside a P", lambda: layer(packed, return_states=True)),
        (ValueError, "return_states: expected False with che", lambda: sparing(x, return_states=True)),
        (TypeError, "return_states: expected a bool, got int", lambda: layer_of("plain")(x, return_states=1)),
        (ValueError, "hx: expected 4 tensors, got 2 in a tuple", lambda: layer(x, (h, h))),
        (ValueError, "hidden_size: expected num_layers = 1", lambda: pyrnn.torch.GRU(3, (4, 5))),
    ):  # fmt: skip
        with pytest.raises(error, match="^" + re.escape(message)):
            call()
