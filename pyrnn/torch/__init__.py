# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers and cells of `torch.nn` on the kernels, by subclasses, and attention modules."""

from pyrnn.torch import compiling
from pyrnn.torch.attention import AttentionDecoder, BahdanauAttention, LuongAttention
from pyrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from pyrnn.torch.quantizing import Quantized, quantize
from pyrnn.torch.recurrent import GRU, LSTM, RNN
from pyrnn.torch.replacing import Replaced, replace

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AttentionDecoder",
    "BahdanauAttention",
    "GRUCell",
    "LSTMCell",
    "LuongAttention",
    "Quantized",
    "RNNCell",
    "Replaced",
    "quantize",
    "replace",
]

compiling.allow((LSTM, GRU, RNN))
