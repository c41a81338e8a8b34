# SPDX-License-Identifier: Apache-2.0
"""Any cell with any options in plain operations of PyTorch, and where these compute: second derivatives,
transforms, other number types."""

import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import pyrnn.torch  # noqa: E402
from pyrnn.torch import variants  # noqa: E402
from pyrnn.torch.variants import cells_of  # noqa: E402
from pyrnn.torch.varying import flat  # noqa: E402

#: PyTorch's, about itself.
quiet = pytest.mark.filterwarnings("ignore")

CASES = [(name, cell, {}) for name in ("LSTM", "GRU", "RNN") for cell in cells_of(name)]
CASES += [
    ("LSTM", "lstm", {"layer_norm": True, "zoneout": (0.2, 0.1), "recurrent_dropout": 0.2}),
    ("LSTM", "lstm", {"cell_norm": True, "cell_clip": 0.3, "learn_initial_state": True}),
    ("LSTM", "lstm", {"proj_size": 2, "bias": False, "dropout": 0.3}),
    (
        "LSTM",
        "lstm_coupled",
        {
            "recurrent_dropout": 0.3,
            "recurrent_dropout_kind": "candidate",
            "activations": ("hardsigmoid", ("elu", 0.7), "softplus"),
        },
    ),
    ("GRU", "gru_reset_before", {"activations": ("softsign", ("elu", 0.7)), "merge": "sum"}),
    (
        "RNN",
        "rnn_tanh",
        {
            "gate_clip": 0.4,
            "weight_dropout": 0.3,
            "recurrent_dropout": 0.3,
            "recurrent_dropout_kind": "step",
        },
    ),
    ("GRU", "mut3", {"layer_norm": True, "recurrent_dropout": 0.3, "zoneout": 0.1}),
    ("LSTM", "lstm_peephole", {"hidden_size": (5, 2), "zoneout": 0.3}),
]
FEW = {
    "regularised": ("LSTM", {"cell": "lstm_peephole", "zoneout": 0.2, "layer_norm": True}),
    "both ways": ("GRU", {"cell": "gru_reset_before", "bidirectional": True}),
    "sizes": ("LSTM", {"hidden_size": (4, 2), "num_layers": 2, "learn_initial_state": True}),
}


def layer_of(name, **options):
    torch.manual_seed(0)
    return getattr(pyrnn.torch, name)(3, **{"hidden_size": 4, "dtype": torch.float64} | options)


def drawn(*shape):
    return torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("name", "cell", "options"), CASES)
def test_the_kernels_values_and_gradients(name, cell, options, monkeypatch):
    """With their masks; every option of a call at once."""
    layer = layer_of(name, cell=cell, num_layers=2, bidirectional=True, batch_first=True, **options)
    x = drawn(4, 6)
    given = {"lengths": [6, 2, 0, 5], "mask": torch.rand(4, 6) > 0.2, "resets": torch.rand(4, 6) < 0.2}
    hx, leaves = None, [x, *layer.parameters()]
    if "learn_initial_state" not in options:
        states = [s.detach().abs().add(0.1).requires_grad_() for s in flat(layer(x)[1])]
        hx = variants.nested(variants.described(layer)[2], states)
        leaves += states
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(variants, "by_plain_operations", lambda *_: True)
        torch.manual_seed(7)
        results = flat(layer(x, hx, **given, return_states=True, reset_to="initial"))
        grads = torch.autograd.grad(
            sum(a.sin().sum() for a in results), leaves, allow_unused=True, materialize_grads=True
        )
        found.append([*results, *grads])
    for expected, a in zip(*found, strict=True):
        torch.testing.assert_close(a, expected, rtol=1e-11, atol=1e-12)


@quiet
@pytest.mark.parametrize("kind", FEW)
def test_derivatives_of_derivatives(kind):
    """And those taken along; the masks are frozen by PyTorch's seed."""
    name, options = FEW[kind]
    layer = layer_of(name, **options)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(x, *weights):
        torch.manual_seed(3)
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    read = (drawn(3, 2), *weights)
    assert torch.autograd.gradgradcheck(call, read, fast_mode=True)
    assert torch.autograd.gradcheck(
        call, read, check_forward_ad=True, check_backward_ad=False, fast_mode=True
    )


def test_derivatives_of_derivatives_of_an_operator():
    """Through checkpointing, which watches the call."""
    layer, found = layer_of("LSTM", cell="lstm_coupled", checkpoint=True), []
    x = drawn(5, 2)
    for call in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        (first,) = torch.autograd.grad(call(x)[0].sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *layer.parameters()]))
    for expected, a in zip(*found, strict=True):
        torch.testing.assert_close(a, expected)


@quiet
@pytest.mark.parametrize("kind", FEW)
def test_transforms(kind):
    name, options = FEW[kind]
    layer = layer_of(name, **options).eval()
    xs, params = drawn(4, 3, 2).detach(), dict(layer.named_parameters())
    y = torch.func.vmap(lambda x: layer(x)[0])(xs)
    torch.testing.assert_close(y, torch.stack([layer(x)[0] for x in xs]))

    def loss(params, x):
        return torch.func.functional_call(layer, params, (x,))[0].sin().sum()

    of_samples = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, xs)
    for k in (0, 3):
        expected = torch.autograd.grad(loss(params, xs[k]), list(params.values()))
        torch.testing.assert_close([a[k] for a in of_samples.values()], list(expected))
    if kind == "regularised":
        with pytest.raises(NotImplementedError, match=r"^vmap: expected randomness='same'"):
            torch.func.vmap(lambda x: layer.train()(x)[0], randomness="different")(xs)
        layer.eval()
    one = [
        jacobian(lambda x: layer(x)[0].sum(0))(xs[0]) for jacobian in (torch.func.jacrev, torch.func.jacfwd)
    ]
    torch.testing.assert_close(*one)


def test_autocast_and_other_number_types():
    layer = layer_of("GRU", cell="mgu", dtype=torch.float32)
    lstm = layer_of("LSTM", cell="lstm_coupled", dtype=torch.float32)
    x = drawn(5, 2).float().detach()
    with torch.autocast("cpu"):
        assert layer(x.bfloat16())[0].dtype == torch.bfloat16 and layer(x)[0].dtype == torch.float32
        y, (h, _) = lstm(x)
        assert y.dtype == h.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), lstm(x)[0], rtol=0.01, atol=0.01)
    expected = layer(x, lengths=[5, 3])[0]
    y = layer.bfloat16()(x.bfloat16(), lengths=[5, 3])[0]
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02)
    y.sum().backward()
    assert torch.isfinite(layer.weight_hh_l0.grad).all()


@pytest.mark.parametrize(
    ("x", "hx", "error", "message"),
    [
        (torch.zeros(2, 1, 3), None, TypeError, "x: expected dtype torch.bfloat16, got torch.float32"),
        (torch.zeros(2, 1, 4).bfloat16(), None, ValueError, r"x: expected shape \(T, B, I\) or \(T, I\)"),
        (
            torch.zeros(2, 2, 3).bfloat16(),
            torch.zeros(1, 1, 4).bfloat16(),
            ValueError,
            r"state\[0\]: expected shape .* \(1, 2, 4\), got \(1, 1, 4\)",
        ),
        (torch.zeros(2, 1, 3).int(), None, TypeError, "mgu: expected tensors of floating-point numbers"),
    ],
)
def test_refused(x, hx, error, message):
    with pytest.raises(error, match="^" + message):
        layer_of("GRU", cell="mgu", dtype=torch.bfloat16)(x, hx)
