# SPDX-License-Identifier: Apache-2.0
"""The layers, the attentions and the decoder with the NumPy reference as their engine."""

from typing import Any

from pyrnn import aligners, decoders, modules
from pyrnn.cells import Cell as KernelCell
from pyrnn.cells import GRUCell as KernelGRUCell
from pyrnn.cells import LSTMCell as KernelLSTMCell
from pyrnn.cells import RNNCell as KernelRNNCell
from pyrnn.reference.functional import ATTENTION, DECODER, REFERENCE


class Recurrent(modules.Recurrent):
    """`pyrnn.Recurrent` in NumPy."""

    _backend = REFERENCE

    def stream(self, batch_size: int = 1) -> Any:
        """Refused: streams belong to the kernels."""
        raise NotImplementedError("stream: the reference runs whole sequences only")


class LSTM(Recurrent, modules.LSTM):
    """`pyrnn.LSTM` in NumPy."""


class GRU(Recurrent, modules.GRU):
    """`pyrnn.GRU` in NumPy."""


class RNN(Recurrent, modules.RNN):
    """`pyrnn.RNN` in NumPy."""


class Cell(KernelCell):
    """`pyrnn.Cell` in NumPy."""

    _backend = REFERENCE


class LSTMCell(Cell, KernelLSTMCell):
    """`pyrnn.LSTMCell` in NumPy."""


class GRUCell(Cell, KernelGRUCell):
    """`pyrnn.GRUCell` in NumPy."""


class RNNCell(Cell, KernelRNNCell):
    """`pyrnn.RNNCell` in NumPy."""


class BahdanauAttention(aligners.BahdanauAttention):
    """`pyrnn.BahdanauAttention` in NumPy."""

    _backend = ATTENTION


class LuongAttention(aligners.LuongAttention):
    """`pyrnn.LuongAttention` in NumPy."""

    _backend = ATTENTION


class LocationAttention(aligners.LocationAttention):
    """`pyrnn.LocationAttention` in NumPy."""

    _backend = ATTENTION


class MonotonicAttention(aligners.MonotonicAttention):
    """`pyrnn.MonotonicAttention` in NumPy."""

    _backend = ATTENTION


class AttentionDecoder(decoders.AttentionDecoder):
    """`pyrnn.AttentionDecoder` in NumPy."""

    _backend = DECODER
