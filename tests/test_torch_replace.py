# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.torch.replace`: models that exist go on with other layers and nothing else changed."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import pyrnn.torch  # noqa: E402

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")


class Own(torch.nn.LSTM):
    """A layer whose forward somebody changed."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleDict({name: getattr(torch.nn, name)(4, 4) for name in NAMES})
        self.again = self.layers["LSTM"]
        self.own, self.projected = Own(4, 4), torch.nn.LSTM(4, 4, proj_size=2)
        self.half = torch.nn.GRU(4, 4, dtype=torch.bfloat16)

    def forward(self, x):
        for name in NAMES:
            if name.endswith("Cell"):
                x = torch.stack([s[0] if isinstance(s, tuple) else s for s in map(self.layers[name], x)])
            else:
                x, _ = self.layers[name](x)
        return self.own(x)[0]


def test_what_is_swapped_and_what_is_left():
    torch.manual_seed(0)
    model = Model()
    before, params = copy.deepcopy(model), list(model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    result = pyrnn.torch.replace(model)
    assert result.swapped == {f"layers.{name}": name for name in NAMES} | {"own": "Own", "projected": "LSTM"}
    assert set(result.left) == {"half"} and "bfloat16" in result.left["half"]
    assert str(result).count("swapped") == len(NAMES) + 2
    assert all(type(model.layers[name]) is getattr(pyrnn.torch, name) for name in NAMES)
    assert model.again is model.layers["LSTM"] and result.model is model
    assert all(a is b for a, b in zip(model.parameters(), params, strict=True))
    x = torch.randn(5, 2, 4)
    for module, steps in ((model, optimiser), (before, torch.optim.SGD(before.parameters(), lr=0.1))):
        module(x).square().sum().backward()
        steps.step()
    torch.testing.assert_close(model(x), before(x))
    assert list(model.state_dict()) == list(before.state_dict())


def test_again_changes_nothing():
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    assert pyrnn.torch.replace(model).swapped == {"0": "LSTM"}
    result = pyrnn.torch.replace(model)
    assert not result.swapped and not result.left and str(result) == "no recurrent module found"


def test_the_model_itself_with_its_hooks():
    layer, seen = torch.nn.GRU(3, 4), []
    layer.register_forward_hook(lambda *given: seen.append(type(given[0])))
    result = pyrnn.torch.replace(layer)
    assert result.swapped == {"": "GRU"} and type(layer) is pyrnn.torch.GRU
    layer(torch.ones(2, 3, 3))
    assert seen == [pyrnn.torch.GRU] and "the model itself" in str(result)


def test_parametrised_layers_are_left():
    model = torch.nn.ModuleList([torch.nn.LSTM(3, 4)])
    torch.nn.utils.parametrizations.weight_norm(model[0], "weight_hh_l0")
    result = pyrnn.torch.replace(model)
    assert list(result.left) == ["0"] and "parametrised" in result.left["0"]


def test_subclasses_reach_the_kernels_and_are_copied():
    layer = Own(3, 4)
    peer = copy.deepcopy(layer)
    pyrnn.torch.replace(layer)
    x = torch.randn(5, 2, 3)
    assert isinstance(layer, Own) and isinstance(layer, pyrnn.torch.LSTM) and repr(layer) == repr(peer)
    assert "SequenceBackward" not in str(layer(x)[0].grad_fn) and "Native" in str(layer(x)[0].grad_fn)
    torch.testing.assert_close(layer(x), peer(x))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        assert torch.equal(other(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about torch.jit
def test_scripted_layers_are_left():
    model = torch.nn.ModuleList([torch.jit.script(torch.nn.GRU(3, 4))])
    result = pyrnn.torch.replace(model)
    assert result.left == {"0": result.left["0"]} and "TorchScript" in result.left["0"]


def test_no_module():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn.Module, got dict"):
        pyrnn.torch.replace({})
