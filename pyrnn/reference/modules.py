# SPDX-License-Identifier: Apache-2.0
"""The layers of `pyrnn.modules` with the NumPy reference as their engine."""

from typing import Any

from pyrnn import modules
from pyrnn.reference.functional import REFERENCE


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
