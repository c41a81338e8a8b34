# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of eight bits in models of PyTorch."""

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyrnn.torch  # noqa: E402


def model_of():
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.below = torch.nn.LSTM(30, 50, num_layers=2, bidirectional=True, batch_first=True)
            self.above = pyrnn.torch.GRU(100, 20, batch_first=True, states_batch_first=True)
            self.normed = pyrnn.torch.GRU(20, 20, batch_first=True, layer_norm=True)

        def forward(self, x, **options):
            return self.normed(self.above(self.below(x)[0], **options)[0])

    return Model().eval()


def test_a_model():
    model = model_of()
    exact, x = copy.deepcopy(model), torch.randn(3, 9, 30)
    result = pyrnn.torch.quantize(model)
    assert result.model is model and result.swapped == {"below": "LSTM", "above": "GRU"}
    assert result.left == {"normed": "GRU left: quantize: expected a layer with layer_norm=False, got True"}
    assert isinstance(model.below, pyrnn.torch.Quantized)
    assert model.below.weight_hh_l1_reverse.dtype == torch.int8
    y, expected = model(x)[0], exact(x)[0]
    assert 0 < (y - expected).abs().max() < 0.02
    small = pyrnn.io.from_torch(exact.below).quantize("int8")(x.numpy())[0]
    assert np.array_equal(model.below(x)[0].numpy(), small)
    of_lengths = model.above(torch.randn(3, 9, 100), torch.randn(3, 1, 20), lengths=[9, 0, 4])
    assert of_lengths[1].shape == (3, 1, 20) and not of_lengths[0][1].any()


def test_a_layer_packed_saved_and_copied():
    layer = pyrnn.torch.LSTM(30, 50)
    small = layer.quantize("int8")
    alone = pyrnn.torch.quantize(torch.nn.LSTM(30, 50))
    assert alone.swapped == {"": "LSTM"} and isinstance(alone.model, pyrnn.torch.Quantized)
    rows = [torch.randn(n, 30) for n in (3, 7, 5)]
    packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    y, (h, _) = small(packed)
    expected, (h_padded, _) = small(torch.nn.utils.rnn.pad_sequence(rows), lengths=[3, 7, 5])
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(y)[0], expected) and torch.equal(h, h_padded)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = pyrnn.torch.LSTM(30, 50).quantize()
    assert not torch.equal(other(rows[0])[0], small(rows[0])[0])
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(twin(rows[0])[0], small(rows[0])[0])
    assert small(rows[0].bfloat16())[0].dtype == torch.bfloat16
    assert repr(small) == "Quantized(LSTM(30, 50).quantize('int8'))"


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_compiled_exported_and_checked():
    model, x = model_of(), torch.randn(3, 9, 30)
    pyrnn.torch.quantize(model)
    hx, lengths = torch.randn(3, 1, 20), torch.tensor([9, 0, 4])
    expected = model(x, hx=hx, lengths=lengths)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, hx=hx, lengths=lengths), expected, rtol=0, atol=0)
    small = model.below
    exported = torch.export.export(small, (x,), dynamic_shapes={"input": {1: torch.export.Dim("T", min=2)}})
    assert "pyrnn.quantized" in str(exported.graph)
    other = pyrnn.torch.quantize(torch.nn.LSTM(30, 50, 2, bidirectional=True, batch_first=True)).model
    module = exported.module()
    for layer in (small, other):
        module.load_state_dict(layer.state_dict())
        for T in (9, 4):
            torch.testing.assert_close(module(x[:, :T]), layer(x[:, :T]), rtol=0, atol=0)
    state = [torch.randn(4, 3, 50) for _ in range(2)]
    arguments = (x, state, list(small.buffers()), small._text, 2, lengths, None, None, False)
    found = torch.library.opcheck(torch.ops.pyrnn.quantized.default, arguments)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "dtype: expected 'int8', got 'int4'", lambda: pyrnn.torch.GRU(3, 4).quantize("int4")),
        (TypeError, "model: expected a torch.nn.Module, got int", lambda: pyrnn.torch.quantize(3)),
        (TypeError, "input: expected a tensor, got list", lambda: pyrnn.torch.GRU(3, 4).quantize()([1.0])),
        (
            RuntimeError,
            "input: expected a tensor on the CPU, got one on meta",
            lambda: pyrnn.torch.GRU(3, 4).quantize()(torch.empty(2, 1, 3, device="meta")),
        ),
    ],
)
def test_refused(error, message, call):
    with pytest.raises(error, match="^" + message):
        call()
