# SPDX-License-Identifier: Apache-2.0
"""The cells: `torch.nn.LSTMCell`, `GRUCell` and `RNNCell` on the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrnn.functional import KERNELS
from pyrnn.layout import Layout
from pyrnn.options import variation
from pyrnn.torch import eager, variants, varying
from pyrnn.torch.reading import PLAIN, Views, places, readable, states_fit, take_views
from pyrnn.torch.recurrent import cell_option
from pyrnn.torch.transforms import operator_now
from pyrnn.torch.varying import Call

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(torch.nn.RNNCellBase):
    """What the three cells share; as `pyrnn.torch.calling.Recurrent`."""

    _tuple: bool
    _views: Views | None = None
    _variant: tuple[Layout, str] | None = None  # what `torch.nn` does not have, and as the operators are told

    @property
    def cell(self) -> str:
        """Name of the cell in the kernels."""
        return self._cell if self._variant is None else self._variant[0].spec.name

    def _vary(self, cell: str | None) -> None:
        """Become another cell than PyTorch's, with other parameters."""
        if cell in (None, self._cell):
            return
        sizes = (KERNELS.specs[cell], self.input_size, self.hidden_size)
        layout = Layout(*sizes, bias=self.bias, suffixes=False)
        like = self.weight_ih
        self._parameters.clear()
        for name, shape in layout.shapes.items():
            self.register_parameter(name, torch.nn.Parameter(like.new_empty(shape)))
        text = varying.written(
            Layout(*sizes, bias=self.bias), [0.0] * layout.spec.states, 0.0, variation(layout.spec)
        )
        self._variant = (layout, text)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's initial values; ones, zeros and periods where the cell has such parameters."""
        if self._variant is None:
            super().reset_parameters()
        else:
            with torch.no_grad():
                variants.initialise(self, self._variant[0])

    def extra_repr(self) -> str:
        """PyTorch's words, and what is not PyTorch's."""
        return super().extra_repr() + ("" if self._variant is None else f", cell={self.cell!r}")

    def _varied(self, input: Any, hx: Any) -> Any:
        """One step of another cell than PyTorch's, as of a sequence of one."""
        layout, text = self._variant  # type: ignore[misc]
        weights = [getattr(self, name) for name in layout.shapes]
        S = layout.spec.states
        states = [] if hx is None else list(hx) if isinstance(hx, tuple | list) else [hx]
        variants.check(self.cell, (input, *states, *weights))
        if hx is not None and (len(states) != S or isinstance(hx, Tensor) != (S == 1)):
            raise ValueError(f"hx: expected {S} tensors, got {len(states)} in a {type(hx).__name__}")
        rest = (False, self.training, 0.0, None, None, None, None, False, False, False)

        def call(x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
            return variants.dispatched(Call(text, *rest), x, states, weights)[1:]

        given = [s[None] for s in states]
        finals = variants.without_autocast(input[None], given, weights[0].dtype, not self._tuple, call)
        found = tuple(s[0] for s in finals)
        return found if S > 1 else found[0]

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
        if self._variant is not None:
            return self._varied(input, hx)
        eagerly = not torch.compiler.is_compiling() and eager.unwatched()
        if eagerly and type(input) in PLAIN and not torch._C._is_any_autocast_enabled():
            finals = self._short_single(input, hx) if input.dim() == 1 else self._short(input, hx)
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
        try:
            weights: Any = [parameters[name] for name in (NAMES if self.bias else NAMES[:2])]
            where = places(weights)
        except (KeyError, TypeError):
            return None  # parametrised, or None
        if len(shape) != 2 or shape[1] != self.input_size or not x.is_cpu or x.layout is not torch.strided:
            return None
        views = self._views
        if views is None or views.places != where:
            views = take_views(weights, self._cell, 1, 1, False)
            self.__dict__["_views"] = views
        if views is None or views.dtype is not x.dtype:
            return None
        states = None
        if hx is not None:
            states = hx if self._tuple else (hx,)
            if not states_fit(states, x, views.states, (shape[0], self.hidden_size)):
                return None
        finals = eager.layer(views.call, x, states, weights, views.layers[0])
        return tuple(finals) if self._tuple else finals[0]

    def _short_single(self, x: Tensor, hx: Any) -> Any:
        """The same for one row without an axis of the batch."""
        states = list(hx) if isinstance(hx, tuple | list) else [] if hx is None else [hx]
        if any(type(s) not in PLAIN for s in states):
            return None
        rows = [s.unsqueeze(0) for s in states]
        given = None if hx is None else tuple(rows) if self._tuple else rows[0]
        finals = self._short(x.unsqueeze(0), given)
        if finals is None:
            return None
        return tuple(s.squeeze(0) for s in finals) if self._tuple else finals.squeeze(0)

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
    cell : str
        A name in `pyrnn.cells()` with states (h, c) or more: "lstm_peephole" and others. The new state is a
        tuple of as many tensors as the cell has states.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> h, c = pyrnn.torch.LSTMCell(3, 5)(torch.ones(2, 3))
    >>> h.shape
    torch.Size([2, 5])
    """

    _tuple = True

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(variants.cells_of("LSTM"), cell)
        super().__init__(*args, **kwargs)
        self._vary(cell)

    @property
    def _cell(self) -> str:
        return "lstm"


class GRUCell(Cell, torch.nn.GRUCell):
    """`torch.nn.GRUCell` on the kernels; see `LSTMCell`.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> pyrnn.torch.GRUCell(3, 5)(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    _tuple = False

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(variants.cells_of("GRU"), cell)
        super().__init__(*args, **kwargs)
        self._vary(cell)

    @property
    def _cell(self) -> str:
        return "gru"


class RNNCell(Cell, torch.nn.RNNCell):
    """`torch.nn.RNNCell` on the kernels; see `LSTMCell`. `cell` may stand for the nonlinearity.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> pyrnn.torch.RNNCell(3, 5)(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    _tuple = False

    def __init__(self, *args: Any, cell: str | None = None, **kwargs: Any) -> None:
        cell_option(variants.cells_of("RNN"), cell)
        if cell is not None and len(args) < 4:
            kwargs.setdefault("nonlinearity", cell.rpartition("_")[2])
        super().__init__(*args, **kwargs)
        if cell is not None and not cell.endswith(self._cell):
            raise ValueError(f"cell: expected {self._cell!r} for this nonlinearity, got {cell!r}")
        self._vary(cell)

    @property
    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _recognised(self, input: Any, hx: Any) -> bool:
        return self.nonlinearity in ("tanh", "relu") and super()._recognised(input, hx)

    def _short(self, x: Tensor, hx: Any) -> Any:
        if self.nonlinearity not in ("tanh", "relu"):
            return None
        if self._views is not None and self._views.call.cell != self._cell:
            self.__dict__["_views"] = None
        return super()._short(x, hx)
