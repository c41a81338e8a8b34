# SPDX-License-Identifier: Apache-2.0
"""Layers from modules of PyTorch and back: the same numbers on both sides."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import TORCH, max_error

import pyrnn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import pyrnn.torch  # noqa: E402

LAYERS = {
    "lstm": lambda: torch.nn.LSTM(3, 5, 2, dropout=0.25, bidirectional=True, batch_first=True),
    "projected": lambda: torch.nn.LSTM(3, 5, 2, proj_size=4, bias=False),
    "gru": lambda: torch.nn.GRU(3, 5, 2, bidirectional=True),
    "relu": lambda: torch.nn.RNN(3, 5, nonlinearity="relu"),
    "peepholes": lambda: pyrnn.torch.LSTM(3, 5, cell="lstm_peephole", layer_norm=True, zoneout=(0.1, 0.2)),
    "reset before": lambda: pyrnn.torch.GRU(3, 5, cell="gru_reset_before", recurrent_dropout=0.5),
    "ours": lambda: pyrnn.torch.RNN(3, 5, batch_first=True),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def in_float64(make: Any) -> Any:
    """A module whose gains of a normalisation are something else than one."""
    module = make().double().eval()
    for name, parameter in module.named_parameters():
        if "_ln_" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers(make: Any, tmp_path: Path) -> None:
    module = in_float64(make)
    layer = pyrnn.io.from_torch(module)
    assert layer.dtype == np.float64 and layer.batch_first == module.batch_first
    assert layer.dropout == module.dropout
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    expected, final = module(x)
    states = final if isinstance(final, tuple) else (final,)
    layer.save(tmp_path / "x")
    back = pyrnn.io.to_torch(layer)
    assert type(back) is type(module) or not type(module).__module__.startswith("torch")
    for again in (layer, pyrnn.load(tmp_path / "x")):
        y, state = again(x.numpy())
        assert max_error(y, expected.detach().numpy()) < TORCH
        for got, s in zip(state if isinstance(state, tuple) else (state,), states, strict=True):
            assert max_error(got, s.detach().numpy()) < TORCH
    given = module.state_dict()
    assert list(back.state_dict()) == list(given)
    assert all(torch.equal(a, given[name]) for name, a in back.state_dict().items())
    assert max_error(back.eval()(x)[0].detach().numpy(), expected.detach().numpy()) < TORCH
    for name in ("batch_first", "dropout", "bidirectional", "proj_size", "bias", "mode"):
        assert getattr(back, name) == getattr(module, name)
    assert getattr(back, "_variant", None) == getattr(module, "_variant", None) or back._variant is not None


def test_options_of_variants_survive() -> None:
    layer = pyrnn.Recurrent("lstm_peephole", 3, 5, layer_norm=True, zoneout=(0.1, 0.2), seed=0)
    again = pyrnn.io.from_torch(pyrnn.io.to_torch(layer))
    assert repr(again) == repr(layer)
    layer = pyrnn.LSTM(
        3, 5, 2, bidirectional=True, merge="sum", learn_initial_state=True, cell_norm=True, forget_bias=1.0,
        activations=("hardsigmoid", "tanh", "softsign"), gate_clip=2.0, recurrent_dropout=0.5,
        recurrent_dropout_kind="step", weight_dropout=0.25, seed=0,
    )  # fmt: skip
    layer.params["h0_l0"][...] = 0.5
    module = pyrnn.io.to_torch(layer)
    again = pyrnn.io.from_torch(module)
    assert repr(again) == repr(layer)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    y = module.eval()(torch.from_numpy(x))[0].detach().numpy()
    for got in (again(x)[0], y):
        np.testing.assert_array_equal(got, layer(x)[0])


@pytest.mark.parametrize("cell", pyrnn.cells())
def test_every_cell_has_a_module(cell: str) -> None:
    layer = pyrnn.Recurrent(cell, 3, 5, bidirectional=True, seed=0)
    again = pyrnn.io.from_torch(pyrnn.io.to_torch(layer))
    assert again.cell == cell
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(x)[0], layer(x)[0])


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(kind: str) -> None:
    options = {"nonlinearity": "relu"} if kind == "RNNCell" else {"bias": kind == "GRUCell"}
    module = getattr(torch.nn, kind)(3, 5, dtype=torch.float64, **options)
    cell = pyrnn.io.from_torch(module)
    assert type(cell) is getattr(pyrnn, kind) and cell.dtype == np.float64
    x = torch.randn(2, 3, dtype=torch.float64)
    states, expected = cell(x.numpy()), module(x)
    states, expected = (a if isinstance(a, tuple) else (a,) for a in (states, expected))
    for got, s in zip(states, expected, strict=True):
        assert max_error(got, s.detach().numpy()) < TORCH
    back = pyrnn.io.to_torch(cell)
    assert type(back) is type(module) and getattr(back, "nonlinearity", "") == options.get("nonlinearity", "")
    assert all(torch.equal(a, back.state_dict()[name]) for name, a in module.state_dict().items())


def test_what_only_pyrnn_torch_has() -> None:
    """Other cells, a single reverse direction, products in bfloat16: there and back."""
    cell = pyrnn.Cell("lstm_peephole", 3, 5, dtype="float64", seed=0)
    module = pyrnn.io.to_torch(cell)
    assert repr(module) == "LSTMCell(3, 5, cell='lstm_peephole')"
    x = torch.randn(2, 3, dtype=torch.float64)
    for got, a in zip(module(x), cell(x.numpy()), strict=True):
        assert np.array_equal(got.detach().numpy(), a)
    again = pyrnn.io.from_torch(module)
    assert again.name == "lstm_peephole" and list(again.params) == list(cell.params)
    layer = pyrnn.GRU(3, 5, reverse=True, compute_dtype="bfloat16", seed=0)
    module = pyrnn.io.to_torch(layer)
    assert repr(module) == "GRU(3, 5, reverse=True, compute_dtype='bfloat16')"
    x = torch.randn(4, 2, 3)
    assert np.array_equal(module(x)[0].detach().numpy(), layer(x.numpy())[0])
    assert repr(pyrnn.io.from_torch(module)) == repr(layer)


def test_attention_and_decoder() -> None:
    attention = pyrnn.torch.BahdanauAttention(5, 6, 8, normalize=True, coverage=True, dtype="float64")
    query, key = (torch.randn(2, n, d, dtype=torch.float64) for n, d in ((3, 5), (7, 6)))
    layer = pyrnn.io.from_torch(attention)
    assert isinstance(layer, pyrnn.BahdanauAttention)
    expected = attention(query, key).detach().numpy()
    assert max_error(layer(query.numpy(), key.numpy()), expected) < TORCH
    assert max_error(pyrnn.io.to_torch(layer)(query, key).detach().numpy(), expected) < TORCH
    decoder = pyrnn.torch.AttentionDecoder(
        "gru", 3, 5, pyrnn.torch.LuongAttention(5, 6, score="general", dtype="float64"),
        attention_layer=7, dtype="float64",
    )  # fmt: skip
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = decoder(x, key)[0].detach().numpy()
    layer = pyrnn.io.from_torch(decoder)
    assert max_error(layer(x.numpy(), key.numpy())[0], expected) < TORCH
    assert max_error(pyrnn.io.to_torch(layer)(x, key)[0].detach().numpy(), expected) < TORCH


def test_a_parametrised_module_is_read_as_it_computes() -> None:
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(3, 5), "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
    layer = pyrnn.io.from_torch(module)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], module.weight_hh_l0.detach().numpy())


def test_memory_is_not_shared_and_the_generator_is_left_alone() -> None:
    module = torch.nn.GRU(3, 5)
    layer = pyrnn.io.from_torch(module)
    before = torch.get_rng_state()
    back = pyrnn.io.to_torch(layer)
    assert torch.equal(torch.get_rng_state(), before)
    cell = torch.nn.GRUCell(3, 5)
    single = pyrnn.io.from_torch(cell)
    kept = cell.weight_hh.detach().clone()
    layer.params["weight_hh_l0"][...] = single.params["weight_hh"][...] = 0
    assert torch.equal(back.weight_hh_l0, module.weight_hh_l0) and torch.equal(cell.weight_hh, kept)


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"module: expected a recurrent layer or cell .* got Linear"):
        pyrnn.io.from_torch(torch.nn.Linear(3, 5))
    with pytest.raises(TypeError, match="got ModuleList"):
        pyrnn.io.from_torch(torch.nn.ModuleList([torch.nn.LSTM(3, 5)]))
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected torch.float32 or .* got torch.bfloat16"):
        pyrnn.io.from_torch(torch.nn.LSTM(3, 5).bfloat16())
    with pytest.raises(TypeError, match="layer: expected a layer, a cell or an attention, got dict"):
        pyrnn.io.to_torch({})
    with pytest.raises(ValueError, match=r"layer: expected an attention that .* has, got Location"):
        pyrnn.io.to_torch(pyrnn.LocationAttention(3, 5, 7))


def test_torch_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, pyrnn.io; sys.exit(any(m in sys.modules for m in ('torch', 'keras', 'onnx')))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
