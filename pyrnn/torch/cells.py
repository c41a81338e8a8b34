# SPDX-License-Identifier: Apache-2.0
"""The cells: `torch.nn.LSTMCell`, `GRUCell` and `RNNCell` on the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrnn.functional import KERNELS
from pyrnn.torch import arrays, eager
from pyrnn.torch.arrays import Call
from pyrnn.torch.recurrent import NO_OPTIONS, cell_option, readable
from pyrnn.torch.transforms import operator_now

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(torch.nn.RNNCellBase):
    """What the three cells share; as `pyrnn.torch.recurrent.Recurrent`."""

    _tuple: bool
    _views: tuple[Any, ...] = ()

    @property
    def _cell(self) -> str:
        """Name of the cell in the kernels."""
        raise NotImplementedError

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """One step, with the arguments and results of PyTorch's cell.

        Parameters
        ----------
        input : tensor (B, I) or (I,)
        hx : tensor (B, H) or (H,), or for the LSTM a tuple (h, c) of them, optional

        Returns
        -------
        hx : the new state
        """
        eagerly = not torch.compiler.is_compiling() and eager.unwatched()
        if eagerly and type(input) is Tensor and not torch._C._is_any_autocast_enabled():
            finals = self._short(input, hx)
            if finals is not None:
                return finals
        if not self._recognised(input, hx):
            return super().forward(input, hx)
        weights = [w for w in (getattr(self, name) for name in NAMES) if w is not None]
        states = hx if self._tuple or hx is None else (hx,)
        single = input.dim() == 1
        x = input[None] if single else input
        if states is None:
            states = [x.new_zeros((x.shape[0], self.hidden_size))] * KERNELS.specs[self._cell].states
        elif single:
            states = [s[None] for s in states]
        results = operator_now()(
            x[None],
            [s[None] for s in states],
            weights,
            self._cell,
            1,
            False,
            None,
            None,
            None,
            False,
            torch.is_grad_enabled(),
        )
        finals = tuple(s[0, 0] if single else s[0] for s in results[1:-1])
        return finals if self._tuple else finals[0]

    def _short(self, x: Tensor, hx: Any) -> Any:
        """The eager call, or None when anything is out of the ordinary."""
        parameters, shape = self._parameters, x.shape
        weights: Any = [parameters.get(name) for name in NAMES]
        if not self.bias:
            weights = weights[:2]
        if len(shape) != 2 or shape[1] != self.input_size or not x.is_cpu or x.layout is not torch.strided:
            return None
        views = self._views
        if None in weights or not views or views[0] != [(w.data_ptr(), w.numel()) for w in weights]:
            views = self._take_views(weights)
        if not views or views[1] is not x.dtype:
            return None
        states = None
        if hx is not None:
            states = hx if self._tuple else (hx,)
            expected = (shape[0], self.hidden_size)
            if type(states) not in (tuple, list) or len(states) != views[4]:
                return None
            for s in states:
                if type(s) is not Tensor or s.shape != expected or s.dtype is not x.dtype or not s.is_cpu:
                    return None
        finals = eager.layer(views[3], x, states, weights, views[2])
        return tuple(finals) if self._tuple else finals[0]

    def _take_views(self, weights: list[Any]) -> tuple[Any, ...]:
        """The parameters' memory as arrays, for as long as it stays where it is; () when it is not for us."""
        self.__dict__["_views"] = ()
        if any(w is None or not readable(w) or w.dtype is not weights[0].dtype for w in weights):
            return ()
        if not all(w.is_contiguous() for w in weights):
            return ()
        views = (
            [(w.data_ptr(), w.numel()) for w in weights],
            weights[0].dtype,
            arrays.passes([arrays.weight_view(w) for w in weights], 1),
            Call(self._cell, 1, False, NO_OPTIONS),
            KERNELS.specs[self._cell].states,
        )
        self.__dict__["_views"] = views
        return views

    def _recognised(self, input: Any, hx: Any) -> bool:
        """Whether the kernels can do it; what they cannot, or what is wrong, is for PyTorch."""
        weight = self.weight_ih
        if torch.jit.is_tracing() or eager.forward_mode() or torch.is_autocast_enabled("cpu"):
            return False
        if not readable(weight):
            return False
        if hx is not None and isinstance(hx, tuple | list) != self._tuple:
            return False
        states = [] if hx is None else list(hx) if self._tuple else [hx]
        for a in (input, *states):
            if not isinstance(a, Tensor) or not readable(a) or a.dtype != weight.dtype:
                return False
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            return False
        shape = (*input.shape[:-1], self.hidden_size)
        count = KERNELS.specs[self._cell].states
        return hx is None or (len(states) == count and all(s.shape == shape for s in states))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_views", None)
        return state


class LSTMCell(Cell, torch.nn.LSTMCell):
    """`torch.nn.LSTMCell` on the kernels: the same arguments, parameters, state_dict and results.

    Parameters
    ----------
    *args, **kwargs
        Of `torch.nn.LSTMCell`.
    cell : {"lstm"}

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> h, c = pyrnn.torch.LSTMCell(3, 5)(torch.ones(2, 3))
    >>> h.shape
    torch.Size([2, 5])
    """

    _tuple = True

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(("lstm",), cell)
        super().__init__(*args, **kwargs)

    @property
    def _cell(self) -> str:
        return "lstm"


class GRUCell(Cell, torch.nn.GRUCell):
    """`torch.nn.GRUCell` on the kernels; see `LSTMCell`."""

    _tuple = False

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(("gru",), cell)
        super().__init__(*args, **kwargs)

    @property
    def _cell(self) -> str:
        return "gru"


class RNNCell(Cell, torch.nn.RNNCell):
    """`torch.nn.RNNCell` on the kernels; see `LSTMCell`. `cell` may stand for the nonlinearity."""

    _tuple = False

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(("rnn_tanh", "rnn_relu"), cell)
        if cell is not None and len(args) < 4:
            kwargs.setdefault("nonlinearity", cell.removeprefix("rnn_"))
        super().__init__(*args, **kwargs)
        if cell is not None and cell != self._cell:
            raise ValueError(f"cell: expected {self._cell!r} for this nonlinearity, got {cell!r}")

    @property
    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _recognised(self, input: Any, hx: Any) -> bool:
        return self.nonlinearity in ("tanh", "relu") and super()._recognised(input, hx)

    def _short(self, x: Tensor, hx: Any) -> Any:
        return super()._short(x, hx) if self.nonlinearity in ("tanh", "relu") else None
