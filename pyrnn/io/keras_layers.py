# SPDX-License-Identifier: Apache-2.0
"""Layers from those of Keras 3 and back: kernels transposed, gates in the other order, biases summed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyrnn.io.gates import KERAS, layer_name, ours, theirs
from pyrnn.io.layers import recurrent
from pyrnn.io.refusing import refuse
from pyrnn.layout import Array
from pyrnn.options import curve
from pyrnn.parameters import Parameters

#: Our activations for Keras's, by their names in keras.activations.
ACTIVATIONS: dict[str, Any] = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "hard_sigmoid": ("hardsigmoid", 1 / 6, 0.5),
    "softsign": "softsign",
    "softplus": "softplus",
    "linear": ("affine", 1.0, 0.0),
    "elu": ("elu", 1.0),
    "leaky_relu": ("leakyrelu", 0.2),
}
#: Keras's class for each cell that it has.
CLASSES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU",
    "rnn_tanh": "SimpleRNN",
    "rnn_relu": "SimpleRNN",
}


def imported() -> Any:
    """Keras, on the back end that KERAS_BACKEND names, or else on one that is installed."""
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        there = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
        if there and there[0] != "tensorflow":  # which Keras takes by itself
            os.environ["KERAS_BACKEND"] = there[0]
    import keras

    return keras


def from_keras(layer: Any, name: str | None = None) -> Any:
    """A layer with the weights of one of Keras 3.

    Parameters
    ----------
    layer : keras.layers.LSTM, GRU, SimpleRNN, RNN of their cells, Bidirectional, a cell, or a keras.Model
        Built, in float32 or float64. Of a model its recurrent layer; of a Sequential with several in
        succession, Dropout layers between them or not, a stack.
    name : str, optional
        Which layer of a model.

    Returns
    -------
    pyrnn.LSTM, GRU, RNN or LSTMCell, GRUCell, RNNCell
        With `batch_first=True`. It returns all outputs and the last state, whatever `return_sequences` and
        `return_state` are, and zeros at masked steps. Keras's `dropout` on inputs is left away.

    Raises
    ------
    TypeError
        `layer` is none of these, or has weights of another dtype.
    ValueError
        It is not built, or does what no layer here does: other activations, `go_backwards`, `stateful`,
        other merge modes; or a model has no recurrent layer or several that are no stack.

    Examples
    --------
    >>> import keras, pyrnn  # doctest: +SKIP
    >>> layer = keras.layers.GRU(5, return_sequences=True)  # doctest: +SKIP
    >>> layer.build((None, None, 3))  # doctest: +SKIP
    >>> pyrnn.io.from_keras(layer)  # doctest: +SKIP
    GRU(3, 5, batch_first=True)
    """
    keras = imported()
    kinds = keras.layers
    dropout = 0.0
    if isinstance(layer, keras.Model):
        chosen, dropout = recurrent_layers(keras, layer, name)
    elif isinstance(layer, kinds.RNN | kinds.Bidirectional):
        chosen = [layer]
    elif isinstance(layer, kinds.LSTMCell | kinds.GRUCell | kinds.SimpleRNNCell):
        return single(keras, layer)
    else:
        raise TypeError(
            f"layer: expected a recurrent layer, a cell or a model of Keras, got {type(layer).__name__}"
        )
    levels = [level for part in chosen for level in levels_of(keras, part)]
    if len({len(level) for level in levels}) > 1:
        raise ValueError("layer: expected a stack in one direction or in both, got both kinds; give name=")
    merges = {getattr(part, "merge_mode", "concat") for part in chosen}
    if len(merges) > 1:
        raise ValueError(
            f"merge_mode: expected one for the stack, got {', '.join(sorted(merges))}; give name="
        )
    tensors: dict[str, Array] = {}
    cells, rates = set(), set()
    for k, level in enumerate(levels):
        for suffix, cell in zip((f"_l{k}", f"_l{k}_reverse"), level, strict=False):
            cells.add(cell_of(keras, cell))
            rates.add(cell.recurrent_dropout)
            tensors |= {kind + suffix: a for kind, a in arrays_of(keras, cell).items()}
    if len(cells) > 1 or len(rates) > 1:
        raise ValueError(
            "layer: expected a stack of one kind of cell and recurrent_dropout, "
            f"got {', '.join(sorted(map(str, cells)))} with {', '.join(map(str, sorted(rates)))}; give name="
        )
    cell, activations = cells.pop()
    config = {"cell": cell, "batch_first": True, "dropout": dropout, "recurrent_dropout": rates.pop()}
    config["merge"] = merges.pop()
    if activations is not None:
        config["activations"] = activations
    return recurrent(layer_name(cell), config, tensors)


def recurrent_layers(keras: Any, model: Any, name: str | None) -> tuple[list[Any], float]:
    """The layers of a model that make one of ours, and the dropout between them."""
    kinds = keras.layers.RNN | keras.layers.Bidirectional
    every = list(flattened(keras, model))
    found = [layer for layer in every if isinstance(layer, kinds)]
    names = ", ".join(repr(layer.name) for layer in found) or "none"
    if name is not None:
        chosen = [layer for layer in found if layer.name == name]
        if len(chosen) != 1:
            raise ValueError(f"name: expected one of the recurrent layers {names}, got {name!r}")
        return chosen, 0.0
    if len(found) == 1:
        return found, 0.0
    between = every[every.index(found[0]) : every.index(found[-1]) + 1] if found else []
    dropouts = [layer for layer in between if isinstance(layer, keras.layers.Dropout)]
    rates = {layer.rate for layer in dropouts}
    alternate = len(dropouts) in (0, len(found) - 1) and len(rates) < 2
    stacked = alternate and len(between) == len(found) + len(dropouts) and sequential(keras, model)
    if not found or not stacked:
        raise ValueError(f"layer: expected one recurrent layer or a stack, got {names}; choose one by name=")
    return found, rates.pop() if rates else 0.0


def flattened(keras: Any, model: Any) -> Any:
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flattened(keras, layer)
        else:
            yield layer


def sequential(keras: Any, model: Any) -> bool:
    """Whether each layer reads the one before alone."""
    return isinstance(model, keras.Sequential) and all(
        sequential(keras, layer) for layer in model.layers if isinstance(layer, keras.Model)
    )


def levels_of(keras: Any, layer: Any) -> list[list[Any]]:
    """Keras's cells of a layer: for each that is stacked, one or two directions."""
    if isinstance(layer, keras.layers.Bidirectional):
        if layer.merge_mode not in ("concat", "sum"):
            raise ValueError(f"merge_mode: expected 'concat' or 'sum', got {layer.merge_mode!r}")
        ways = [layer.forward_layer, layer.backward_layer]
        if [way.go_backwards for way in ways] != [False, True]:
            raise ValueError("layer: expected a forward and a backward layer in Bidirectional")
    else:
        ways = [layer]
        if layer.go_backwards:
            raise ValueError(
                "go_backwards: expected False, got True: its outputs stand in reversed order; "
                "set it to False and reverse the input"
            )
    if any(way.stateful for way in ways):
        raise ValueError("stateful: expected False, got True: layers here take the state in each call")
    stacks = [list(getattr(way.cell, "cells", [way.cell])) for way in ways]
    if len(stacks) == 2 and (len(stacks[0]) > 1 or len(stacks[1]) > 1):
        raise ValueError("layer: expected one cell in each direction, got stacked ones, which never meet")
    return [list(level) for level in zip(*stacks, strict=True)]


def cell_of(keras: Any, cell: Any) -> tuple[str, tuple[Any, ...] | None]:
    """Our name for a cell of Keras's, and its activations where they are not that cell's own."""
    kinds = keras.layers
    squash = activation_of(keras, cell, "activation")
    if isinstance(cell, kinds.SimpleRNNCell):
        if squash in ("tanh", "relu"):
            return f"rnn_{squash}", None
        return "rnn_tanh", (squash,)
    if not isinstance(cell, kinds.LSTMCell | kinds.GRUCell):
        raise TypeError(f"layer: expected LSTM, GRU or SimpleRNN cells, got {type(cell).__name__}")
    gate = activation_of(keras, cell, "recurrent_activation")
    usual = (gate, squash) == ("sigmoid", "tanh")
    if isinstance(cell, kinds.LSTMCell):
        return "lstm", None if usual else (gate, squash, squash)
    return "gru" if cell.reset_after else "gru_reset_before", None if usual else (gate, squash)


def activation_of(keras: Any, cell: Any, which: str) -> Any:
    """Our name for one of Keras's own functions, with its numbers; ValueError for any other."""
    function = getattr(cell, which)
    if function is None:
        return ACTIVATIONS["linear"]
    for theirs_name, name in ACTIVATIONS.items():
        if function is getattr(keras.activations, theirs_name):
            return name
    name = getattr(function, "__name__", type(function).__name__)
    raise ValueError(
        f"{which}: expected a function of keras.activations, {', '.join(ACTIVATIONS)}, got {name!r}"
    )


def arrays_of(keras: Any, cell: Any) -> dict[str, Array]:
    """The weights of a cell of Keras's by our names, without `_l0`."""
    if not cell.built:
        raise ValueError("layer: expected a built layer; call it once, or its build((None, None, I))")
    order = KERAS[cell_of(keras, cell)[0]]
    weights = {"weight_ih": cell.kernel, "weight_hh": cell.recurrent_kernel, "bias": cell.bias}
    arrays = {}
    for name, a in weights.items():
        if a is not None and a.dtype not in ("float32", "float64"):
            raise TypeError(f"{name}: expected float32 or float64, got {a.dtype}")
        if a is not None:
            arrays[name] = keras.ops.convert_to_numpy(a)
    params = {name: ours(a.T, order) for name, a in arrays.items() if name != "bias"}
    if "bias" in arrays:
        bias = arrays["bias"]
        # One row in most cells: their h has no bias of its own.
        rows = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        params |= {f"bias_{way}": ours(row, order) for way, row in zip(("ih", "hh"), rows, strict=True)}
    return params


def single(keras: Any, cell: Any) -> Any:
    """A cell of ours from one of Keras's."""
    import pyrnn

    params = arrays_of(keras, cell)
    name, activations = cell_of(keras, cell)
    if activations is not None:
        raise ValueError(f"layer: expected a cell with its usual activations, got {activations}")
    weight = params["weight_ih"]
    made = pyrnn.Cell(name, weight.shape[1], cell.units, "bias_ih" in params, dtype=weight.dtype)
    made.params = Parameters(params)
    return made


def to_keras(layer: Any) -> Any:
    """A layer of Keras 3 with a layer's weights.

    Parameters
    ----------
    layer : pyrnn.LSTM, GRU or RNN

    Returns
    -------
    keras.layers.LSTM, GRU, SimpleRNN or Bidirectional, or keras.Sequential of them for several layers
        Built, with `return_sequences=True`; its sequences are (B, T, I). `dropout` becomes Dropout layers.

    Raises
    ------
    TypeError
        `layer` is no recurrent layer.
    ValueError
        It has a cell or an option that Keras has not: projection, layer normalisation, zoneout.

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.io.to_keras(pyrnn.LSTM(3, 5)).units  # doctest: +SKIP
    5
    """
    import pyrnn

    if not isinstance(layer, pyrnn.Recurrent):
        raise TypeError(f"layer: expected a recurrent layer, got {type(layer).__name__}")
    if layer.cell not in CLASSES:
        raise ValueError(f"layer: expected one of the cells {', '.join(CLASSES)}, got {layer.cell!r}")
    refuse(layer, "Keras", ("merge", "hidden_size", "activations"))
    keras = imported()
    made = [keras_layer(keras, layer, k) for k in range(layer.num_layers)]
    if len(made) == 1:
        return made[0]
    stack = keras.Sequential([keras.Input((None, layer.input_size), dtype=str(layer.dtype))])
    for k, part in enumerate(made):
        if k and layer.dropout:
            stack.add(keras.layers.Dropout(layer.dropout))
        stack.add(part)
    return stack


def keras_layer(keras: Any, layer: Any, level: int) -> Any:
    """One layer of a stack."""
    options: dict[str, Any] = {
        "use_bias": layer.bias,
        "recurrent_dropout": layer.recurrent_dropout,
        "return_sequences": True,
        "dtype": str(layer.dtype),
    }
    if CLASSES[layer.cell] == "GRU":
        options["reset_after"] = layer.cell == "gru"
    gate, squash, output = (keras_name(curve) for curve in layer._variation.curves)
    if layer.cell == "lstm" and squash != output:
        raise ValueError(
            f"activations: expected the same for g and h, which Keras has, got {layer.activations}"
        )
    options["activation"] = squash
    if CLASSES[layer.cell] != "SimpleRNN":
        options["recurrent_activation"] = gate
    made = getattr(keras.layers, CLASSES[layer.cell])(layer._layout.units[level], **options)
    if layer.bidirectional:
        made = keras.layers.Bidirectional(made, merge_mode=layer.merge, dtype=str(layer.dtype))
    params = layer.state_dict()
    made.build((None, None, params[f"weight_ih_l{level}"].shape[1]))
    ways = [made.forward_layer, made.backward_layer] if layer.bidirectional else [made]
    for way, suffix in zip(ways, (f"_l{level}", f"_l{level}_reverse"), strict=False):
        way.cell.set_weights(weights_of(layer.cell, params, suffix))
    return made


def keras_name(activation: tuple[str, float, float]) -> str:
    """Keras's name for an activation of ours."""
    for name, known in ACTIVATIONS.items():
        if curve(name, known) == activation:
            return name
    raise ValueError(
        f"activations: expected those that Keras has, {', '.join(ACTIVATIONS)}, got {activation}"
    )


def weights_of(cell: str, params: dict[str, Array], suffix: str) -> Sequence[Array]:
    """Kernel, recurrent kernel and bias of Keras's cell."""
    order = KERAS[cell]
    weights = [theirs(params[kind + suffix], order).T for kind in ("weight_ih", "weight_hh")]
    if "bias_ih" + suffix in params:
        biases = [theirs(params[kind + suffix], order) for kind in ("bias_ih", "bias_hh")]
        weights.append(np.stack(biases) if cell == "gru" else biases[0] + biases[1])
    return weights
