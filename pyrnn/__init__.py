# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers and attention with fused kernels, forward and backward, NumPy arrays in and out."""

from pyrnn import functional
from pyrnn._core import num_threads, set_num_threads
from pyrnn.aligners import BahdanauAttention, LocationAttention, LuongAttention, MonotonicAttention
from pyrnn.attending import AttentionGradients
from pyrnn.cells import Cell, GRUCell, LSTMCell, RNNCell, cells
from pyrnn.decoders import AttentionDecoder, Carry
from pyrnn.decoding import DecoderGradients
from pyrnn.functional import attention
from pyrnn.io.layers import load
from pyrnn.modules import GRU, LSTM, RNN, Recurrent
from pyrnn.quantized import Quantized
from pyrnn.searching import Hypotheses
from pyrnn.stacking import Gradients
from pyrnn.streams import Stream
from pyrnn.windows import from_padding_mask

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AttentionDecoder",
    "AttentionGradients",
    "BahdanauAttention",
    "Carry",
    "Cell",
    "DecoderGradients",
    "GRUCell",
    "Gradients",
    "Hypotheses",
    "LSTMCell",
    "LocationAttention",
    "LuongAttention",
    "MonotonicAttention",
    "Quantized",
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
