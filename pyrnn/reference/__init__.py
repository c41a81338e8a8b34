# SPDX-License-Identifier: Apache-2.0
"""The implementation in NumPy that the kernels are checked against: same names, same arguments."""

from pyrnn.reference.cells import cells
from pyrnn.reference.functional import (
    attention,
    attention_backward,
    attention_forward,
    decoder_backward,
    decoder_forward,
    precompute,
    sequence,
    sequence_backward,
    sequence_forward,
)
from pyrnn.reference.gradcheck import gradcheck
from pyrnn.reference.modules import (
    GRU,
    LSTM,
    RNN,
    AttentionDecoder,
    BahdanauAttention,
    Cell,
    GRUCell,
    LocationAttention,
    LSTMCell,
    LuongAttention,
    MonotonicAttention,
    Recurrent,
    RNNCell,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AttentionDecoder",
    "BahdanauAttention",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "LocationAttention",
    "LuongAttention",
    "MonotonicAttention",
    "RNNCell",
    "Recurrent",
    "attention",
    "attention_backward",
    "attention_forward",
    "cells",
    "decoder_backward",
    "decoder_forward",
    "gradcheck",
    "precompute",
    "sequence",
    "sequence_backward",
    "sequence_forward",
]
