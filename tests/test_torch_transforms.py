# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.torch` under what rewrites or watches programs: compilers, torch.func, checkpoints, checks."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.func as func  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import pyrnn.torch  # noqa: E402
from pyrnn.torch import formulas  # noqa: E402
from pyrnn.torch.operators import SEQUENCE  # noqa: E402

LAYERS = ("LSTM", "GRU", "RNN")
KERNELS = {"lstm": (4, 2), "gru": (3, 1), "rnn_tanh": (1, 1), "rnn_relu": (1, 1)}
NO_OPTIONS = (None, None, None, False)
#: PyTorch's, about itself.
quiet = pytest.mark.filterwarnings("ignore")


def problem(cell, directions=1, batch_first=False, bias=True, T=3, B=2, I=3, H=4):  # noqa: E741
    """Arguments of the operator but for options and save."""
    torch.manual_seed(0)
    slots, states = KERNELS[cell]

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    shapes = [(slots * H, I), (slots * H, H), *[(slots * H,)] * (2 * bias)] * directions
    x = draw(B, T, I) if batch_first else draw(T, B, I)
    state = [draw(directions, B, H) for _ in range(states)]
    return x, state, [draw(*shape) for shape in shapes], cell, directions, batch_first


def options():
    torch.manual_seed(1)
    return torch.tensor([3, 1]), torch.rand(3, 2) > 0.3, torch.rand(3, 2) > 0.5, True


def call(cell, directions, batch_first, given, states):
    """The operator as a function of its tensors alone."""

    def run(x, *tensors):
        rest = (cell, directions, batch_first, *given, True)
        return tuple(SEQUENCE(x, tensors[:states], tensors[states:], *rest)[:-1])

    return run


@pytest.mark.parametrize("with_options", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", KERNELS)
def test_operator(cell, directions, with_options):
    """Plain operations give the same; gradients and their gradients are those of finite differences."""
    x, state, weights, *rest = problem(cell, directions, batch_first=with_options)
    given = options() if with_options else NO_OPTIONS
    run = call(*rest, given, len(state))
    expected = formulas.sequence(x, state, weights, *rest, *given)
    for a, e in zip(run(x, *state, *weights), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(run, (x, *state, *weights))
    if directions == 1 and cell != "rnn_relu":  # a kink
        assert torch.autograd.gradgradcheck(run, (x, *state, *weights), fast_mode=True)


@quiet
@pytest.mark.parametrize("with_options", [False, True])
@pytest.mark.parametrize("cell", KERNELS)
def test_registration(cell, with_options):
    x, state, weights, *rest = problem(cell, 2, bias=with_options)
    given = options() if with_options else NO_OPTIONS
    checks = torch.library.opcheck(SEQUENCE, (x, state, weights, *rest, *given, True))
    assert set(checks.values()) == {"SUCCESS"} and len(checks) >= 4


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_gradients(name):
    """Through the modules' own short way, single steps included."""
    torch.manual_seed(0)
    layer = getattr(pyrnn.torch, name)(3, 4, 2, dtype=torch.float64)
    cell = getattr(pyrnn.torch, name + "Cell")(3, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))
    assert torch.autograd.gradgradcheck(cell, (x.detach()[0].requires_grad_(),))
    parameters = list(layer.parameters())
    y, _ = layer(x)
    first = torch.autograd.grad((y * y).sum(), parameters, create_graph=True)
    sum((g * g).sum() for g in first).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in parameters)


class Model(torch.nn.Module):
    """Layers of every kind, one on another."""

    def __init__(self):
        super().__init__()
        self.lstm = pyrnn.torch.LSTM(3, 4, 2, batch_first=True, bidirectional=True, dropout=0.1)
        self.gru, self.rnn = pyrnn.torch.GRU(8, 4), pyrnn.torch.RNN(4, 4, nonlinearity="relu")
        self.cell = pyrnn.torch.LSTMCell(4, 4)

    def forward(self, x, mask=None):
        y, (h, _) = self.lstm(x, mask=mask)
        y, _ = self.gru(y)
        y, _ = self.rnn(y[0])
        return self.cell(y)[0], h


@quiet
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_without_a_break(backend):
    torch.manual_seed(0)
    model = Model().eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for x, mask in ((torch.randn(2, 5, 3), None), (torch.randn(2, 5, 3), torch.rand(2, 5) > 0.3)):
        expected, actual = model(x, mask), compiled(x, mask)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e)
        both = [
            torch.autograd.grad(r[0].sum() + r[1].sum(), list(model.parameters())) for r in (actual, expected)
        ]
        for a, e in zip(*both, strict=True):
            torch.testing.assert_close(a, e)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, mask)[0], expected[0])


@quiet
def test_compilers_setting_is_left_alone():
    compiled = torch.compile(pyrnn.torch.LSTM(3, 4), fullgraph=True, backend="eager")
    compiled(torch.randn(5, 2, 3))
    assert torch._dynamo.config.allow_rnn is False
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(torch.nn.LSTM(3, 4), fullgraph=True, backend="eager")(torch.randn(5, 2, 3))


@quiet
def test_exported():
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 5, 3)
    shapes = {"x": {1: torch.export.Dim("T", min=2)}}
    exported = torch.export.export(model, (x,), dynamic_shapes=shapes)
    assert "pyrnn.sequence" in str(exported.graph)
    for T in (5, 9):
        x = torch.randn(2, T, 3)
        torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_every_sample(name):
    torch.manual_seed(0)
    layer = getattr(pyrnn.torch, name)(3, 4, 2, dtype=torch.float64)
    params = dict(layer.named_parameters())
    x = torch.randn(4, 5, 1, 3, dtype=torch.float64)  # (sample, T, B, I)

    def loss(params, x):
        y, state = func.functional_call(layer, params, (x,))
        return (y * y).sum() + (state[0] if name == "LSTM" else state).sum()

    grads = func.vmap(func.grad(loss), in_dims=(None, 0))(params, x)
    for k in range(len(x)):
        expected = torch.autograd.grad(loss(params, x[k]), list(params.values()))
        for g, e in zip(grads.values(), expected, strict=True):
            torch.testing.assert_close(g[k], e, rtol=1e-11, atol=1e-12)


def test_ensembles_and_samples():
    torch.manual_seed(0)
    layer = pyrnn.torch.LSTM(3, 4, dtype=torch.float64, batch_first=True)
    params = dict(layer.named_parameters())
    x = torch.randn(6, 2, 5, 3, dtype=torch.float64)
    h = torch.randn(1, 2, 4, dtype=torch.float64)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in params.items()}
    y = func.vmap(lambda p: func.functional_call(layer, p, (x[0],))[0])(stacked)
    torch.testing.assert_close(y[0], layer(x[0])[0])
    masks = torch.rand(6, 2, 5) > 0.3
    y = func.vmap(lambda x, m: layer(x, (h, h), mask=m)[0], in_dims=1, out_dims=1)(
        x.movedim(0, 1), masks.movedim(0, 1)
    )
    for k in range(6):
        torch.testing.assert_close(y[:, k], layer(x[k], (h, h), mask=masks[k])[0])


@quiet
def test_jacobians():
    torch.manual_seed(0)
    layer = pyrnn.torch.GRU(3, 4, dtype=torch.float64)
    x = torch.randn(2, 1, 3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)
    torch.testing.assert_close(func.jacrev(lambda x: layer(x)[0])(x), expected)
    torch.testing.assert_close(func.jacfwd(lambda x: layer(x)[0])(x), expected)
    expected = torch.autograd.functional.hessian(lambda x: layer(x)[0].sum(), x)
    torch.testing.assert_close(func.jacrev(func.grad(lambda x: layer(x)[0].sum()))(x), expected)
    torch.testing.assert_close(func.hessian(lambda x: layer(x)[0].sum())(x), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    torch.manual_seed(0)
    layer = pyrnn.torch.LSTM(3, 4, 2)
    x = torch.randn(5, 2, 3, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant).sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(layer.parameters(), expected, strict=True))


def test_saved_tensors_elsewhere():
    torch.manual_seed(0)
    layer, x = pyrnn.torch.GRU(3, 4, 2), torch.randn(5, 2, 3)
    expected = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    with torch.autograd.graph.save_on_cpu():
        y, _ = layer(x)
    actual = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        layer = pyrnn.torch.LSTM(3, 4, 2, batch_first=True)
        y, (h, c) = layer(torch.empty(2, 5, 3))
    assert y.shape == (2, 5, 4) and h.shape == c.shape == (2, 2, 4)


def test_symbolic_trace_of_operators():
    from torch.fx.experimental.proxy_tensor import make_fx

    layer, x = pyrnn.torch.LSTM(3, 4), torch.randn(5, 2, 3)
    graph = make_fx(lambda x: layer(x)[0])(x)
    assert "pyrnn.sequence" in graph.code
    torch.testing.assert_close(graph(x), layer(x)[0])
