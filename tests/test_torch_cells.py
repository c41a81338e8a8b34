# SPDX-License-Identifier: Apache-2.0
"""Single steps of every registered cell as modules of PyTorch, and layers' `reverse` and `compute_dtype`."""

import copy
import io
import pickle

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


def cell_of(name, cell, **options):
    torch.manual_seed(0)
    return getattr(pyrnn.torch, name + "Cell")(3, 5, cell=cell, dtype=torch.float64, **options)


@pytest.mark.parametrize(("name", "cell"), EVERY)
def test_every_cell(name, cell):
    module = cell_of(name, cell)
    twin = pyrnn.Cell(cell, 3, 5, dtype="float64")
    assert list(module.state_dict()) == list(twin.params) and module.cell == cell
    twin.load_state_dict({name: a.numpy() for name, a in module.state_dict().items()})
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    state, expected = None, None
    for _ in range(2):
        state, before = module(x, state), expected
        expected, saved = twin.forward(x.detach().numpy(), before)
    many = isinstance(state, tuple)
    for s, e in zip(state if many else (state,), expected if many else (expected,), strict=True):
        assert np.array_equal(s.detach().numpy(), e)
    if many:
        return  # h alone is differentiated below, of the last step
    dh = torch.randn_like(state)
    (dx,) = torch.autograd.grad(module(x, torch.from_numpy(before)), x, dh)
    assert np.array_equal(dx.numpy(), twin.backward(saved, dh.numpy()).x)


@pytest.mark.filterwarnings("ignore")
def test_what_modules_of_pytorch_do():
    module = cell_of("LSTM", "lstm_peephole")
    x, state = torch.randn(3, dtype=torch.float64), (torch.randn(5, dtype=torch.float64),) * 2
    h, c = module(x, state)
    of_one = module(x[None], tuple(s[None] for s in state))
    assert torch.equal(h, of_one[0][0]) and torch.equal(c, of_one[1][0])
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x, state)[0], h) and repr(twin) == repr(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = pyrnn.torch.LSTMCell(3, 5, cell="lstm_peephole", dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, state)[1], c)
    rows = torch.randn(4, 3, dtype=torch.float64)
    assert torch.func.vmap(lambda x: module(x, state)[0])(rows).shape == (4, 5)
    with torch.autocast("cpu"):
        assert module(x, state)[0].dtype == torch.bfloat16
    assert torch.autograd.gradgradcheck(lambda x: module(x, state), x.requires_grad_(), fast_mode=True)
    with pytest.raises(ValueError, match=r"^hx: expected 2 tensors, got 1 in a Tensor"):
        module(x, h)
    with pytest.raises(ValueError, match=r"^x: expected shape"):
        module(x[:2], state)


@pytest.mark.filterwarnings("ignore")
def test_reverse():
    torch.manual_seed(0)
    layer = pyrnn.torch.GRU(3, 5, num_layers=2, reverse=True)
    peer = pyrnn.torch.GRU(3, 5, num_layers=2)
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(7, 2, 3)
    torch.testing.assert_close(layer(x)[0], peer(x.flip(0))[0].flip(0))
    tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(
        tangent, torch.func.jvp(lambda x: peer(x.flip(0))[0].flip(0), (x,), (torch.ones_like(x),))[1]
    )
    with pytest.raises(ValueError, match=r"^reverse: expected False with bidirectional=True, got True"):
        pyrnn.torch.LSTM(3, 5, reverse=True, bidirectional=True)


def test_compute_dtype():
    torch.manual_seed(0)
    layer = pyrnn.torch.LSTM(64, 64, compute_dtype="bfloat16")
    x = torch.randn(9, 4, 64)
    twin = pyrnn.io.from_torch(layer)
    assert twin.compute_dtype == "bfloat16"
    y = layer(x)[0]
    assert np.array_equal(y.detach().numpy(), twin(x.numpy())[0])
    exact = pyrnn.torch.LSTM(64, 64)
    exact.load_state_dict(layer.state_dict())
    assert 0 < (y - exact(x)[0]).abs().max() < 0.02
    with pytest.raises(TypeError, match=r"^compute_dtype: expected None with dtype torch.float64"):
        pyrnn.torch.LSTM(3, 5, compute_dtype="bfloat16", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^compute_dtype: expected 'bfloat16' or 'tf32', got 'int8'"):
        pyrnn.torch.LSTM(3, 5, compute_dtype="int8")
