# SPDX-License-Identifier: Apache-2.0
"""The layers by name: LSTM, GRU and RNN."""

from __future__ import annotations

from typing import Any, Unpack

from pyrnn import checks
from pyrnn.options import MoreOptions
from pyrnn.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]


class Options(MoreOptions, total=False):
    """The keyword arguments of every layer; see `Recurrent`."""

    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    reverse: bool
    proj_size: int
    layer_norm: bool
    zoneout: float | tuple[float, ...]
    recurrent_dropout: float
    compute_dtype: str | None
    dtype: Any
    device: str
    seed: int | None


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000); arguments as `Recurrent`.

    The state is a tuple (h, c). Gate order i f g o. Equivalent to `torch.nn.LSTM`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.LSTM(3, 5, bidirectional=True, seed=0)
    >>> y, (h, c) = layer(np.ones((7, 2, 3), np.float32), lengths=[7, 4])
    >>> y.shape, h.shape
    ((7, 2, 10), (2, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, num_layers, **options)


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014); arguments as `Recurrent`, and `reset_after`.

    The state is h. Gate order r z n. `reset_after=True` applies the reset gate after the product, as
    `torch.nn.GRU`, to which it is equivalent; False applies it before, as the original.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> y, h = pyrnn.GRU(3, 5, num_layers=2, seed=0)(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (2, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        **options: Unpack[Options],
    ) -> None:
        after = checks.flag("reset_after", reset_after)
        super().__init__(
            "gru" if after else "gru_reset_before", input_size, hidden_size, num_layers, **options
        )


class RNN(Recurrent):
    """Simple recurrent network (Elman 1990); arguments as `Recurrent`, and `nonlinearity`, "tanh" or "relu".

    The state is h. Equivalent to `torch.nn.RNN`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.RNN(3, 5, nonlinearity="relu", batch_first=True, seed=0)
    >>> y, h = layer(np.ones((2, 7, 3), np.float32))
    >>> y.shape, h.shape
    ((2, 7, 5), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        **options: Unpack[Options],
    ) -> None:
        checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__("rnn_" + nonlinearity, input_size, hidden_size, num_layers, **options)
