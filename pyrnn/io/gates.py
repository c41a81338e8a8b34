# SPDX-License-Identifier: Apache-2.0
"""The order that other libraries keep gates in, and arrays brought into it and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyrnn.layout import Array

#: For each of Keras's gates in its order (i f c o, z r h), where it stands in ours (i f g o, r z n).
KERAS = {
    "lstm": (0, 1, 2, 3),
    "gru": (1, 0, 2),
    "gru_reset_before": (1, 0, 2),
    "rnn_tanh": (0,),
    "rnn_relu": (0,),
}
#: The same for ONNX: i o f c, z r h. The coupled LSTM's f is computed from i.
ONNX = {
    "lstm": (0, 3, 1, 2),
    "lstm_peephole": (0, 3, 1, 2),
    "lstm_coupled": (0, 2, 1),
    "lstm_no_input_activation": (0, 3, 1, 2),
    "lstm_no_output_activation": (0, 3, 1, 2),
    "gru": (1, 0, 2),
    "gru_reset_before": (1, 0, 2),
    "rnn_tanh": (0,),
    "rnn_relu": (0,),
}


def theirs(a: Array, order: Sequence[int]) -> Array:
    """An array whose first axis holds our gates, one block after another, in another library's order."""
    blocks = np.split(a, len(order))
    return np.concatenate([blocks[k] for k in order])


def ours(a: Array, order: Sequence[int]) -> Array:
    """The way back from `theirs`."""
    return theirs(a, [order.index(k) for k in range(len(order))])


def layer_name(cell: str) -> str:
    """The class of `pyrnn` that a cell's layers have."""
    if cell.startswith("rnn_"):
        return "RNN"
    return {"lstm": "LSTM", "gru": "GRU", "gru_reset_before": "GRU"}.get(cell, "Recurrent")
