# SPDX-License-Identifier: Apache-2.0
"""Layers in files: what is saved comes back, and a forged configuration is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrnn
from pyrnn.io import load, load_safetensors, save_layer, save_safetensors

LAYERS = {
    "lstm": lambda: pyrnn.LSTM(3, 5, 2, dropout=0.25, seed=1),
    "bidirectional": lambda: pyrnn.LSTM(3, 5, bidirectional=True, batch_first=True, seed=1),
    "gru": lambda: pyrnn.GRU(3, 5, bias=False, dtype="float64", seed=1),
    "reverse": lambda: pyrnn.LSTM(3, 5, reverse=True, seed=1),
    "rnn": lambda: pyrnn.RNN(3, 5, nonlinearity="relu", seed=1),
    "recurrent": lambda: pyrnn.Recurrent("gru", 3, 5, seed=1),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layer_round_trip(tmp_path: Path, make: Any) -> None:
    layer = make()
    save_layer(layer, tmp_path / "y")
    layer.save(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert repr(load(tmp_path / "x")) == repr(layer)
    again = pyrnn.load(tmp_path / "x")
    assert type(again) is type(layer) and repr(again) == repr(layer) and again.dtype == layer.dtype
    for name, a in layer.state_dict().items():
        np.testing.assert_array_equal(again.params[name], a, strict=True)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(layer.dtype)
    np.testing.assert_array_equal(again(x)[0], layer(x)[0], strict=True)


def changed(path: Path, **values: Any) -> Path:
    """The saved layer at `path` with other words in its configuration, or other tensors (None: without)."""
    tensors, metadata = load_safetensors(path)
    config = json.loads(metadata["pyrnn"])
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            tensors[name] = value
        elif name in tensors:
            del tensors[name]
        else:
            config[name] = value
    save_safetensors(path, tensors, {"pyrnn": json.dumps(config)})
    return path


@pytest.mark.parametrize(
    "values",
    [
        {"cell": "transformer"},
        {"cell": ["lstm"]},
        {"cell": None},
        {"cell": "gru"},
        {"batch_first": "yes"},
        {"reverse": "yes"},
        {"dropout": 2},
        {"dropout": "0.5"},
        {"weight_hh_l0": None},
        {"bias_ih_l0": None},
        {"weight_hh_l0": np.zeros((20, 4), np.float32)},
        {"weight_hh_l0": np.zeros((20, 5), np.float64)},
        {"weight_ih_l0": np.zeros(60, np.float32)},
        {"weight_ih_l0": np.zeros((20, 0), np.float32)},
        {"weight_ih_l0": np.zeros((20, 3), np.int32)},
        {"weight_ih_l9999": np.zeros((20, 5), np.float32)},
        {"extra": np.zeros(1, np.float32)},
    ],
    ids=lambda values: " ".join(values),
)
def test_forged_layer(tmp_path: Path, values: dict[str, Any]) -> None:
    pyrnn.LSTM(3, 5).save(tmp_path / "x")
    with pytest.raises(ValueError, match="x: "):
        load(changed(tmp_path / "x", **values))


@pytest.mark.parametrize(
    "metadata", [{}, {"pyrnn": ""}, {"pyrnn": "[]"}, {"pyrnn": "{}"}, {"pyrnn": "3"}], ids=str
)
def test_file_without_a_layer(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_safetensors(tmp_path / "x", {"weight_ih_l0": np.zeros((20, 3), np.float32)}, metadata)
    with pytest.raises(ValueError, match="save"):
        load(tmp_path / "x")
