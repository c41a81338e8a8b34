# SPDX-License-Identifier: Apache-2.0
"""Layers from those of Keras and back: the same numbers on both sides."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import KERAS, max_error

import pyrnn

# Keras reads its own variables so, where NumPy 2 warns.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras on PyTorch, as the other tests have it."""
    pytest.importorskip("torch", reason="Keras computes with PyTorch here, which is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    found = pytest.importorskip("keras", reason="Keras is not installed", minversion="3")
    found.utils.set_random_seed(0)
    return found


X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)  # (B, T, I)

LAYERS = {
    "lstm": lambda k: k.LSTM(5, recurrent_dropout=0.25, return_state=True, return_sequences=True),
    "gru": lambda k: k.GRU(5, return_state=True, return_sequences=True),
    "gru reset before": lambda k: k.GRU(5, reset_after=False, return_state=True, return_sequences=True),
    "hard": lambda k: k.LSTM(
        5,
        activation="softsign",
        recurrent_activation="hard_sigmoid",
        return_state=True,
        return_sequences=True,
    ),
    "linear": lambda k: k.GRU(
        5, activation=None, recurrent_activation="softplus", return_state=True, return_sequences=True
    ),
    "leaky": lambda k: k.SimpleRNN(5, activation="leaky_relu", return_state=True, return_sequences=True),
    "relu": lambda k: k.SimpleRNN(5, activation="relu", return_state=True, return_sequences=True),
    "no bias": lambda k: k.GRU(5, use_bias=False, return_state=True, return_sequences=True),
    "both": lambda k: k.Bidirectional(k.GRU(5, return_state=True, return_sequences=True)),
    "sum": lambda k: k.Bidirectional(
        k.LSTM(5, return_state=True, return_sequences=True), merge_mode="sum", name="summed"
    ),
    "stacked": lambda k: k.RNN([k.LSTMCell(5), k.LSTMCell(5)], return_state=True, return_sequences=True),
}


def drawn(layer: Any) -> Any:
    """A layer with biases that are not zero."""
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(rng.normal(scale=0.4, size=variable.shape).astype(np.float32))
    return layer


def numpy(keras: Any, a: Any) -> Any:
    return keras.ops.convert_to_numpy(a)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers(make: Any, keras: Any, tmp_path: Path) -> None:
    theirs = make(keras.layers)
    theirs(X)
    drawn(theirs)
    expected, *finals = theirs(X)
    layer = pyrnn.io.from_keras(theirs)
    assert layer.batch_first and layer.dtype == np.float32
    y, state = layer(X)
    assert max_error(y, numpy(keras, expected)) < KERAS
    # Keras returns the states of a layer or direction side by side, we those of a kind.
    states = state if isinstance(state, tuple) else (state,)
    flat = [finals] if not isinstance(finals[0], list | tuple) else finals
    ordered = [s for level in flat for s in level]
    found = [s[k] for k in range(len(states[0])) for s in states]
    for got, s in zip(found, ordered, strict=True):
        assert max_error(got, numpy(keras, s)) < KERAS

    layer.save(tmp_path / "x")
    again = pyrnn.load(tmp_path / "x")
    assert repr(again) == repr(layer)
    back = pyrnn.io.to_keras(again)
    assert type(back).__name__ == ("Sequential" if layer.num_layers > 1 else type(theirs).__name__)
    assert max_error(numpy(keras, back(X)), numpy(keras, expected)) < KERAS
    assert repr(pyrnn.io.from_keras(back)) == repr(layer)


def test_a_stack_goes_there_and_back(keras: Any, tmp_path: Path) -> None:
    layer = pyrnn.LSTM(3, (5, 4), 2, bidirectional=True, dropout=0.25, batch_first=True, seed=0)
    model = pyrnn.io.to_keras(layer)
    assert [type(part).__name__ for part in model.layers] == ["Bidirectional", "Dropout", "Bidirectional"]
    assert max_error(numpy(keras, model(X)), layer(X)[0]) < KERAS
    model.save(tmp_path / "model.keras")
    again = pyrnn.io.from_keras(keras.models.load_model(tmp_path / "model.keras"))
    assert repr(again) == repr(layer)
    assert max_error(again(X)[0], layer(X)[0]) < KERAS


def test_double_precision(keras: Any) -> None:
    layer = pyrnn.GRU(3, 5, dtype="float64", batch_first=True, seed=0)
    theirs = pyrnn.io.to_keras(layer)
    again = pyrnn.io.from_keras(theirs)
    for name, a in layer.params.items():
        np.testing.assert_array_equal(again.params[name], a, strict=True)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "SimpleRNNCell"])
def test_cells(kind: str, keras: Any) -> None:
    theirs = getattr(keras.layers, kind)(5)
    theirs.build((None, 3))
    cell = pyrnn.io.from_keras(drawn(theirs))
    zeros = [np.zeros((4, 5), np.float32)] * (2 if kind == "LSTMCell" else 1)
    _, states = theirs(X[:, 0], zeros)
    found = cell(X[:, 0])
    for got, s in zip(found if isinstance(found, tuple) else (found,), states, strict=True):
        assert max_error(got, numpy(keras, s)) < KERAS


def test_a_layer_of_a_model(keras: Any) -> None:
    k = keras.layers
    model = keras.Sequential([
        keras.Input((None, 3)),
        k.GRU(5, return_sequences=True, name="first"),
        k.Dense(4),
        k.LSTM(5, name="second"),
        k.Dense(1),
    ])  # fmt: skip
    assert repr(pyrnn.io.from_keras(model, "first")) == "GRU(3, 5, batch_first=True)"
    assert repr(pyrnn.io.from_keras(model, "second")) == "LSTM(4, 5, batch_first=True)"
    with pytest.raises(ValueError, match="expected one recurrent layer or a stack, got 'first', 'second'"):
        pyrnn.io.from_keras(model)
    with pytest.raises(
        ValueError, match=r"name: expected one of the recurrent layers 'first', .* got 'third'"
    ):
        pyrnn.io.from_keras(model, "third")
    with pytest.raises(ValueError, match="expected one recurrent layer or a stack, got none"):
        pyrnn.io.from_keras(keras.Sequential([keras.Input((3,)), k.Dense(1)]))


REFUSED = {
    "activation": (
        lambda k: k.LSTM(5, activation="gelu"),
        "activation: expected a function of .* got 'gelu'",
    ),
    "custom": (lambda k: k.SimpleRNN(5, activation=np.tanh), "activation: expected .* got 'tanh'"),
    "gates": (lambda k: k.GRU(5, recurrent_activation="silu"), "recurrent_activation: .* got 'silu'"),
    "backwards": (lambda k: k.LSTM(5, go_backwards=True), "go_backwards: expected False, got True"),
    "stateful": (lambda k: k.LSTM(5, stateful=True), "stateful: expected False, got True"),
    "merge": (
        lambda k: k.Bidirectional(k.LSTM(5), merge_mode="ave"),
        "expected 'concat' or 'sum', got 'ave'",
    ),
    "two stacks": (lambda k: k.Bidirectional(k.RNN([k.LSTMCell(5)] * 2)), "got stacked ones"),
    "two kinds": (lambda k: k.RNN([k.LSTMCell(5), k.GRUCell(5)]), "one kind of cell .* got .*gru.*lstm"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Any, message: str, keras: Any) -> None:
    layer = make(keras.layers)
    layer.build((4, 6, 3))
    with pytest.raises(ValueError, match=message):
        pyrnn.io.from_keras(layer)


def test_errors(keras: Any) -> None:
    with pytest.raises(ValueError, match="layer: expected a built layer"):
        pyrnn.io.from_keras(keras.layers.LSTM(5))
    with pytest.raises(TypeError, match=r"layer: expected a recurrent layer.* got Dense"):
        pyrnn.io.from_keras(keras.layers.Dense(5))
    half = keras.layers.LSTM(5, dtype="bfloat16", recurrent_initializer="zeros")
    half.build((4, 6, 3))
    with pytest.raises(TypeError, match="weight_ih: expected float32 or float64, got bfloat16"):
        pyrnn.io.from_keras(half)
    with pytest.raises(TypeError, match="layer: expected a recurrent layer, got LSTMCell"):
        pyrnn.io.to_keras(pyrnn.LSTMCell(3, 5))
    with pytest.raises(ValueError, match=r"layer: expected one of the cells .* got 'janet'"):
        pyrnn.io.to_keras(pyrnn.Recurrent("janet", 3, 5))
    with pytest.raises(ValueError, match="activations: expected the same for g and h"):
        pyrnn.io.to_keras(pyrnn.LSTM(3, 5, activations=("sigmoid", "tanh", "relu")))
    with pytest.raises(ValueError, match=r"activations: expected those that Keras has.*'elu', 0.5"):
        pyrnn.io.to_keras(pyrnn.GRU(3, 5, activations=("sigmoid", ("elu", 0.5))))
    with pytest.raises(ValueError, match="proj_size: expected 0, which Keras has, got 2"):
        pyrnn.io.to_keras(pyrnn.LSTM(3, 5, proj_size=2))
    with pytest.raises(ValueError, match="reverse: expected False, which Keras has, got True"):
        pyrnn.io.to_keras(pyrnn.LSTM(3, 5, reverse=True))
