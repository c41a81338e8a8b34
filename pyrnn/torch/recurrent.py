# SPDX-License-Identifier: Apache-2.0
"""The layers: `torch.nn.LSTM`, `GRU` and `RNN` whose forward and backward are the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.utils.rnn import PackedSequence

from pyrnn import checks
from pyrnn.functional import KERNELS
from pyrnn.torch import arrays, eager, formulas, variants
from pyrnn.torch.arrays import DTYPES, Call
from pyrnn.torch.operators import options_of
from pyrnn.torch.transforms import operator_now

__all__ = ["GRU", "LSTM", "RNN"]

#: Types of tensors that the operators read; others (DTensor, quantised …) are for PyTorch's own layers.
TENSORS = (Tensor, torch.nn.Parameter, torch.nn.Buffer, FakeTensor, FunctionalTensor)
NO_OPTIONS: dict[str, Any] = {}
is_autocast_enabled = torch._C._is_any_autocast_enabled


def cell_option(cells: tuple[str, ...], cell: str | None) -> None:
    """Check the name of a cell that a module of PyTorch stands for."""
    if cell is not None and cell not in KERNELS.specs:
        raise NotImplementedError(f"cell={cell!r} is not implemented; only {', '.join(KERNELS.specs)} are")
    if cell is not None and cell not in cells:
        raise ValueError(f"cell: expected {' or '.join(map(repr, cells))} in this module, got {cell!r}")


class Recurrent(torch.nn.RNNBase):
    """What the three layers share: which way a call takes.

    An eager call goes straight to the kernels; a call that something watches (torch.compile, torch.export,
    transforms of torch.func, modes, checkpointing) through the registered operator; whatever the kernels do
    not have (other devices and number types, projections, tracing) to PyTorch's own layer.
    """

    _tuple: bool  # whether the state is a tuple
    _views: tuple[Any, ...] = ()
    _variant: variants.Variant | None = None  # what `torch.nn` does not have

    @property
    def _cell(self) -> str:
        """Name of the cell in the kernels."""
        raise NotImplementedError

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reset_to: str = "zero",
    ) -> tuple[Any, Any]:
        """The arguments and results of the layer of `torch.nn`, and the kernels' own.

        Parameters
        ----------
        input : tensor (T, B, I), (B, T, I) with `batch_first`, or (T, I); or PackedSequence
        hx : tensor (num_layers·directions, B, H), or for the LSTM a tuple (h, c) of them, optional
        lengths : integers (B,), optional
            Valid steps of each row, as `pyrnn.functional.sequence_forward`; in the place of a PackedSequence.
        mask, resets : bool tensors (T, B), or (B, T) with `batch_first`, optional
            False in `mask` skips a step; True in `resets` restores the row's state before the step.
        reset_to : {"zero", "initial"}
            What a reset restores.

        Returns
        -------
        output : tensor (T, B, H·directions) in the layout of the input, or PackedSequence
        hx : the state after each row's last valid step
        """
        if self._variant is not None:
            return variants.run(self, input, hx, lengths, mask, resets, reset_to)
        plain = lengths is None and mask is None and resets is None and reset_to == "zero"
        if not torch.compiler.is_compiling():
            if plain and type(input) is Tensor and not is_autocast_enabled() and eager.unwatched():
                result = self._short(input, hx)
                if result is not None:
                    return result
            self._update_flat_weights()
        if isinstance(input, PackedSequence):
            if not plain:
                raise ValueError("lengths, mask, resets: expected None beside a PackedSequence, got some")
            return self._packed(input, hx)
        known = self._recognised(input, hx, self.batch_first)
        if plain and not known:
            return super().forward(input, hx)
        if self.proj_size:
            raise NotImplementedError("lengths, mask, resets are not implemented for proj_size > 0")
        checks.choice("reset_to", reset_to, ("zero", "initial"))
        options = (lengths, mask, resets, reset_to == "initial")
        return self._general(input, hx, options, self.batch_first, kernels=known)

    @property
    def cell(self) -> str:
        """Name of the cell in the kernels."""
        return self._cell if self._variant is None else self._variant.layout.spec.name

    def reset_parameters(self) -> None:
        """PyTorch's initial values, and ones for the gains of normalisation."""
        super().reset_parameters()
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("weight_ln"):
                torch.nn.init.ones_(parameter)

    def extra_repr(self) -> str:
        """PyTorch's words, and what is not PyTorch's."""
        return variants.words(self, super().extra_repr())

    def _short(self, x: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """The eager call without options, or None when anything is out of the ordinary."""
        parameters, shape = self._parameters, x.shape
        try:
            weights: Any = [parameters[name] for name in self._flat_weights_names]
        except KeyError:
            return None  # parametrised: the general way computes them
        if (
            len(shape) != 3
            or shape[2] != self.input_size
            or not x.is_cpu
            or x.layout is not torch.strided
            or self.proj_size
        ):
            return None
        views = self._views
        places = [(w.data_ptr(), w.numel()) for w in weights]
        if not views or views[0] != places or views[1] is not x.dtype or views[5][2] != self.batch_first:
            views = self._take_views(weights)
            if not views or views[1] is not x.dtype:
                return None
        states = None
        if hx is not None:
            states = hx if self._tuple else (hx,)
            expected = (views[3], shape[0 if self.batch_first else 1], self.hidden_size)
            if type(states) not in (tuple, list) or len(states) != views[4]:
                return None
            for s in states:
                if type(s) is not Tensor or s.shape != expected or s.dtype is not x.dtype or not s.is_cpu:
                    return None
        if self.num_layers == 1:
            y, *finals = eager.layer(views[5], x, states, weights, views[2][0])
            return (y, tuple(finals)) if self._tuple else (y, finals[0])
        y, finals = self._stacked(
            x, states, weights, lambda k, x, s, w: eager.layer(views[5], x, s, w, views[2][k])
        )
        return (y, tuple(finals)) if self._tuple else (y, finals[0])

    def _take_views(self, weights: list[Tensor]) -> tuple[Any, ...]:
        """The parameters' memory as arrays, for as long as it stays where it is; () when it is not for us."""
        dtype, D = weights[0].dtype, 1 + self.bidirectional
        self.__dict__["_views"] = ()
        for w in weights:
            if type(w) not in TENSORS[:3] or w.dtype is not dtype or not w.is_cpu or not w.is_contiguous():
                return ()
        if dtype not in DTYPES:
            return ()
        each = len(weights) // self.num_layers
        layers = [
            arrays.passes([arrays.weight_view(w) for w in weights[k : k + each]], D)
            for k in range(0, len(weights), each)
        ]
        call = Call(self._cell, D, self.batch_first, NO_OPTIONS)
        places = [(w.data_ptr(), w.numel()) for w in weights]
        views = (places, dtype, layers, D * self.num_layers, KERNELS.specs[self._cell].states, call)
        self.__dict__["_views"] = views
        return views

    def _stacked(
        self,
        x: Tensor,
        states: Sequence[Tensor] | None,
        weights: list[Tensor],
        run: Callable[..., Sequence[Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """Layer on layer: `run(k, x, states, weights)` gives y and the final states of layer k."""
        D, L = 1 + self.bidirectional, self.num_layers
        each = len(weights) // L
        finals: list[Any] = []
        for k in range(L):
            if k and self.dropout and self.training:
                x = torch.dropout(x, self.dropout, True)
            given = states if states is None or L == 1 else [s[k * D : k * D + D] for s in states]
            x, *final = run(k, x, given, weights[k * each : k * each + each])
            finals.append(final)
        if L == 1:
            return x, finals[0]
        return x, [torch.cat(s) for s in zip(*finals, strict=True)]

    def _recognised(self, input: Any, hx: Any, batch_first: bool) -> bool:
        """Whether the kernels can do it; what they cannot, or what is wrong, is for PyTorch."""
        weight = getattr(self, self._flat_weights_names[0])
        if torch.jit.is_tracing() or self.proj_size or not readable(weight):
            return False
        states = [] if hx is None else list(hx) if isinstance(hx, tuple | list) else [hx]
        if hx is not None and isinstance(hx, tuple | list) != self._tuple:
            return False
        cast = torch.is_autocast_enabled("cpu")
        for a in (input, *states):
            if not isinstance(a, Tensor) or not readable(a, cast) or (a.dtype != weight.dtype and not cast):
                return False
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            return False
        shape: tuple[Any, ...] = (self.num_layers * (1 + self.bidirectional), self.hidden_size)
        if input.dim() == 3:
            shape = (shape[0], input.shape[0 if batch_first else 1], shape[1])
        return hx is None or (
            len(states) == KERNELS.specs[self._cell].states and all(s.shape == shape for s in states)
        )

    def _general(
        self, input: Tensor, hx: Any, options: tuple[Any, ...], batch_first: bool, kernels: bool
    ) -> tuple[Tensor, Any]:
        """Any call on tensors: single sequences, options, autocast."""
        weights = [getattr(self, name) for name in self._flat_weights_names]
        x, batch = input, 0 if batch_first else 1
        states = None if hx is None else list(hx) if self._tuple else [hx]
        lengths, mask, resets, to_initial = options
        if x.dim() == 2:
            x = x.unsqueeze(batch)
            states = None if states is None else [s.unsqueeze(1) for s in states]
            mask, resets = (f if f is None else torch.as_tensor(f).unsqueeze(batch) for f in (mask, resets))
            lengths = None if lengths is None else torch.as_tensor(lengths).reshape(-1)
        flags = (
            lengths_of(lengths, x, batch),
            flags_of("mask", mask, x, batch),
            flags_of("resets", resets, x, batch),
            to_initial,
        )
        if kernels and torch.is_autocast_enabled("cpu"):
            # The kernels compute in the parameters' number type; the results get the one of PyTorch's layer.
            dtype = weights[0].dtype
            result = input.dtype if self._cell == "gru" else torch.get_autocast_dtype("cpu")
            with torch.autocast("cpu", enabled=False):
                states = None if states is None else [s.to(dtype) for s in states]
                y, finals = self._layers(x.to(dtype), states, weights, flags, batch_first, kernels)
                y, finals = y.to(result), [s.to(result) for s in finals]
        else:
            y, finals = self._layers(x, states, weights, flags, batch_first, kernels)
        if input.dim() == 2:
            y, finals = y.squeeze(batch), [s.squeeze(1) for s in finals]
        return y, tuple(finals) if self._tuple else finals[0]

    def _layers(
        self,
        x: Tensor,
        states: list[Tensor] | None,
        weights: list[Tensor],
        flags: Any,
        batch_first: bool,
        kernels: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Every layer on checked tensors, by the kernels, the operator or the plain operations."""
        D, cell = 1 + self.bidirectional, self._cell
        if states is None:
            zeros = x.new_zeros((D * self.num_layers, x.shape[0 if batch_first else 1], self.hidden_size))
            states = [zeros] * KERNELS.specs[cell].states
        run: Callable[..., Sequence[Tensor]]
        if not kernels or eager.forward_mode():
            run = lambda k, x, s, w: formulas.sequence(x, s, w, cell, D, batch_first, *flags)  # noqa: E731
        elif torch.compiler.is_compiling() or not eager.unwatched() or not concrete(x, states, weights):
            save = torch.is_grad_enabled()
            call_operator = operator_now()
            run = lambda k, x, s, w: call_operator(x, s, w, cell, D, batch_first, *flags, save)[:-1]  # noqa: E731
        else:
            call = Call(cell, D, batch_first, options_of(*flags))
            each = len(weights) // self.num_layers
            views = [arrays.weight_view(a) for a in weights]
            by_layer = [arrays.passes(views[k : k + each], D) for k in range(0, len(views), each)]
            run = lambda k, x, s, w: eager.layer(call, x, s, w, by_layer[k])  # noqa: E731
        return self._stacked(x, states, weights, run)

    def _packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Packed rows become steps of all rows, which is what the kernels read, with lengths, and back."""
        data, batch_sizes, sorted_indices, unsorted_indices = input
        B, T = int(batch_sizes[0]), len(batch_sizes)
        x, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, T)
        try:
            ordered = None if hx is None else self.permute_hidden(hx, sorted_indices)
        except (TypeError, IndexError, RuntimeError):
            ordered = self  # no state at all: PyTorch says what is wrong with it
        if data.dim() != 2 or not self._recognised(x, ordered, False):
            return super().forward(input, hx)
        options = (None if data.shape[0] == T * B else lengths, None, None, False)
        y, finals = self._general(x, ordered, options, batch_first=False, kernels=True)
        return (
            PackedSequence(
                torch._VF._pack_padded_sequence(y, lengths, False)[0],
                batch_sizes,
                sorted_indices,
                unsorted_indices,
            ),
            self.permute_hidden(finals, unsorted_indices),
        )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state.pop("_views", None)
        return state


def readable(a: Tensor, cast: bool = False) -> bool:
    """Whether a tensor is of a kind that the kernels read, after a cast of its number type if need be."""
    known = a.dtype in DTYPES or (cast and a.dtype.is_floating_point)
    return known and a.device.type == "cpu" and a.layout is torch.strided and type(a) in TENSORS


def concrete(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether all tensors have memory to read."""
    return all(type(a) in TENSORS[:3] for a in (x, *states, *weights))


def lengths_of(lengths: Any, x: Tensor, batch: int) -> Tensor | None:
    """Lengths as an int64 tensor (B,); the kernels check their values."""
    if lengths is None:
        return None
    a, B = torch.as_tensor(lengths), x.shape[batch]
    if a.is_floating_point() or a.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {a.dtype}")
    if a.shape != (B,):
        raise checks.wrong_shape("lengths", "(B,)", (B,), tuple(a.shape))
    return a.to(torch.int64)


def flags_of(name: str, flags: Any, x: Tensor, batch: int) -> Tensor | None:
    """A mask or resets as a bool tensor (T, B); given in the layout of x without its last axis."""
    if flags is None:
        return None
    a, shape = torch.as_tensor(flags), tuple(x.shape[:2])
    if a.dtype != torch.bool:
        raise TypeError(f"{name}: expected dtype bool, got {a.dtype}")
    if a.shape != shape:
        raise checks.wrong_shape(name, "(T, B)" if batch else "(B, T)", shape, tuple(a.shape))
    return a if batch else a.t()


class LSTM(Recurrent, torch.nn.LSTM):
    """`torch.nn.LSTM` on the kernels: the same arguments, parameters, state_dict and results.

    Parameters
    ----------
    *args, **kwargs
        Of `torch.nn.LSTM`.
    cell : str
        A name in `pyrnn.cells()` with states (h, c): "lstm_peephole" and the other variants.
    layer_norm, zoneout, recurrent_dropout
        As in `pyrnn.Recurrent`; masks are drawn in training, from PyTorch's generator.

    Raises
    ------
    ValueError, TypeError
        An option is wrong.
    NotImplementedError
        A layer with one of these options is called with other tensors than float32 or float64 on the CPU.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> layer = pyrnn.torch.LSTM(3, 5, batch_first=True)
    >>> y, (h, c) = layer(torch.ones(2, 7, 3), lengths=[7, 4])
    >>> y.shape, h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))

    Notes
    -----
    Other devices than the CPU, other number types than float32 and float64, and `proj_size` run on PyTorch's
    own layer.
    """

    _tuple = True

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("LSTM"), cell)
        super().__init__(*args, **kwargs)
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout)

    @property
    def _cell(self) -> str:
        return "lstm"


class GRU(Recurrent, torch.nn.GRU):
    """`torch.nn.GRU` on the kernels; see `LSTM` for the options beside PyTorch's, and what falls back."""

    _tuple = False

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("GRU"), cell)
        super().__init__(*args, **kwargs)
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout)

    @property
    def _cell(self) -> str:
        return "gru"


class RNN(Recurrent, torch.nn.RNN):
    """`torch.nn.RNN` on the kernels; see `LSTM` for the options beside PyTorch's, and what falls back.

    `cell` may stand for the nonlinearity: "rnn_tanh" or "rnn_relu".
    """

    _tuple = False

    def __init__(
        self,
        *args: Any,
        cell: str | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        cell_option(variants.cells_of("RNN"), cell)
        if cell is not None and len(args) < 4:
            kwargs.setdefault("nonlinearity", cell.removeprefix("rnn_"))
        super().__init__(*args, **kwargs)
        if cell is not None and cell != self._cell:
            raise ValueError(f"cell: expected {self._cell!r} for this nonlinearity, got {cell!r}")
        variants.vary(self, cell, layer_norm, zoneout, recurrent_dropout)

    @property
    def _cell(self) -> str:
        return "rnn_" + self.nonlinearity
