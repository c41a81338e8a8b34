# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with fused kernels: LSTM, GRU, RNN, forward and backward, NumPy arrays in and out."""

from pyrnn import functional
from pyrnn._core import num_threads, set_num_threads
from pyrnn.cells import Cell, GRUCell, LSTMCell, RNNCell, cells
from pyrnn.io.layers import load
from pyrnn.modules import GRU, LSTM, RNN, Recurrent
from pyrnn.stacking import Gradients
from pyrnn.streams import Stream

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "Stream",
    "__version__",
    "cells",
    "functional",
    "load",
    "num_threads",
    "set_num_threads",
]
