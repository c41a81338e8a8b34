# SPDX-License-Identifier: Apache-2.0
"""The layers and cells of `torch.nn` on the kernels, by subclasses that take their place."""

from pyrnn.torch import compiling
from pyrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from pyrnn.torch.recurrent import GRU, LSTM, RNN
from pyrnn.torch.replacing import Replaced, replace

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Replaced", "replace"]

compiling.allow((LSTM, GRU, RNN))
