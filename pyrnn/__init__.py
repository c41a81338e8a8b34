# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with fused kernels: LSTM, GRU, RNN, forward and backward, NumPy arrays in and out."""

from pyrnn import functional
from pyrnn._core import num_threads, set_num_threads
from pyrnn.attending import AttentionGradients
from pyrnn.cells import Cell, GRUCell, LSTMCell, RNNCell, cells
from pyrnn.functional import attention
from pyrnn.io.layers import load
from pyrnn.modules import GRU, LSTM, RNN, Recurrent
from pyrnn.stacking import Gradients
from pyrnn.streams import Stream
from pyrnn.windows import from_padding_mask

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AttentionGradients",
    "Cell",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "Stream",
    "__version__",
    "attention",
    "cells",
    "from_padding_mask",
    "functional",
    "load",
    "num_threads",
    "set_num_threads",
]
