# SPDX-License-Identifier: Apache-2.0
"""The layers: `torch.nn.LSTM`, `GRU` and `RNN` whose forward and backward are the kernels."""

from __future__ import annotations

from typing import Any

import torch

from pyrnn import checks
from pyrnn.functional import KERNELS
from pyrnn.torch import variants
from pyrnn.torch.calling import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]


def cell_option(cells: tuple[str, ...], cell: str | None) -> None:
    """Check the name of a cell that a module of PyTorch stands for."""
    if cell is not None and cell not in KERNELS.specs:
        raise NotImplementedError(f"cell={cell!r} is not implemented; only {', '.join(KERNELS.specs)} are")
    if cell is not None and cell not in cells:
        raise ValueError(f"cell: expected {' or '.join(map(repr, cells))} in this module, got {cell!r}")


class LSTM(Recurrent, torch.nn.LSTM):
    """`torch.nn.LSTM` on the kernels: the same arguments, parameters, state_dict and results.

    Parameters
    ----------
    *args, **kwargs
        Of `torch.nn.LSTM`. `hidden_size` may be a tuple of one for each layer; where they differ, each state
        is a tuple with a tensor (directions, B, H) for each layer.
    cell : str
        A name in `pyrnn.cells()` with states (h, c): "lstm_peephole" and the other variants.
    layer_norm, zoneout, recurrent_dropout
        As in `pyrnn.Recurrent`; masks are drawn in training, from PyTorch's generator.
    merge, heads, forget_bias, learn_initial_state, weight_dropout, recurrent_dropout_kind, cell_clip
    gate_clip, activations, cell_norm
        As in `pyrnn.Recurrent`: `pyrnn.options.MoreOptions`.
    reverse : bool
        As in `pyrnn.Recurrent`: the only direction is the reverse one.
    compute_dtype : {None, "bfloat16", "tf32"}
        How float32 products are computed, as in `pyrnn.Recurrent`: the first on the CPU, the second on CUDA
        devices; on the other kind of device they are float32's.
    states_batch_first : bool
        Whether states are (B, num_layers·directions, H), given and returned.
    checkpoint : bool
        Whether calls for gradients keep the states of some steps alone, and compute the others again in the
        backward; the attribute may be set at any time.

    Raises
    ------
    ValueError, TypeError
        An option is wrong.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> layer = pyrnn.torch.LSTM(3, 5, batch_first=True)
    >>> y, (h, c) = layer(torch.ones(2, 7, 3), lengths=[7, 4])
    >>> y.shape, h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))

    Notes
    -----
    Tensors on devices and of number types that the kernels lack run on PyTorch's own layer, and with options
    that it lacks through plain operations of PyTorch.
    """

    _tuple = True

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        states_batch_first: bool = False,
        checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("LSTM"), cell)
        args, more, units = variants.taken(args, kwargs)
        super().__init__(*args, **kwargs)
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout, more, units)
        self.states_batch_first = checks.flag("states_batch_first", states_batch_first)
        self.checkpoint = checks.flag("checkpoint", checkpoint)

    @property
    def _cell(self) -> str:
        return "lstm"


class GRU(Recurrent, torch.nn.GRU):
    """`torch.nn.GRU` on the kernels; see `LSTM` for the options beside PyTorch's, and what falls back.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> layer = pyrnn.torch.GRU(3, 5, num_layers=2)
    >>> y, h = layer(torch.ones(7, 2, 3))
    >>> y.square().sum().backward()
    >>> h.shape, layer.weight_hh_l1.grad.shape
    (torch.Size([2, 2, 5]), torch.Size([15, 5]))
    """

    _tuple = False

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        states_batch_first: bool = False,
        checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("GRU"), cell)
        args, more, units = variants.taken(args, kwargs)
        super().__init__(*args, **kwargs)
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout, more, units)
        self.states_batch_first = checks.flag("states_batch_first", states_batch_first)
        self.checkpoint = checks.flag("checkpoint", checkpoint)

    @property
    def _cell(self) -> str:
        return "gru"


class RNN(Recurrent, torch.nn.RNN):
    """`torch.nn.RNN` on the kernels; see `LSTM` for the options beside PyTorch's, and what falls back.

    `cell` may stand for the nonlinearity: "rnn_tanh" or "rnn_relu"; or be "indrnn_tanh" or "indrnn_relu".

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> y, h = pyrnn.torch.RNN(3, 5, nonlinearity="relu")(torch.ones(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    _tuple = False

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        states_batch_first: bool = False,
        checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("RNN"), cell)
        args, more, units = variants.taken(args, kwargs)
        if cell is not None and len(args) < 4:
            kwargs.setdefault("nonlinearity", cell.rpartition("_")[2])
        super().__init__(*args, **kwargs)
        if cell is not None and not cell.endswith(self._cell):
            raise ValueError(f"cell: expected {self._cell!r} for this nonlinearity, got {cell!r}")
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout, more, units)
        self.states_batch_first = checks.flag("states_batch_first", states_batch_first)
        self.checkpoint = checks.flag("checkpoint", checkpoint)

    @property
    def _cell(self) -> str:
        return self.mode.lower()
