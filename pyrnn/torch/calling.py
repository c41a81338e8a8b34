# SPDX-License-Identifier: Apache-2.0
"""What the layers share: which way a call takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pyrnn import checks
from pyrnn.functional import KERNELS
from pyrnn.torch import arrays, eager, engines, formulas, inspecting, variants
from pyrnn.torch.arrays import Call
from pyrnn.torch.inspecting import turned
from pyrnn.torch.operators import options_of
from pyrnn.torch.reading import (
    PLAIN,
    Views,
    concrete,
    flags_of,
    lengths_of,
    places,
    readable,
    readable_elsewhere,
    states_fit,
    take_views,
)
from pyrnn.torch.transforms import operator_now

is_autocast_enabled = torch._C._is_any_autocast_enabled
strided = torch.strided


class Recurrent(torch.nn.RNNBase):
    """What the three layers share: which way a call takes.

    An eager call goes straight to the kernels; a call that something watches (torch.compile, torch.export,
    transforms of torch.func, modes, checkpointing) through the registered operator; CUDA tensors to the
    kernels of their device, if its library is there; whatever the kernels do not have (other devices and
    number types, tracing) to PyTorch's own layer.
    """

    _tuple: bool  # whether the state is a tuple
    _views: Views | None = None
    _variant: variants.Variant | None = None  # what `torch.nn` does not have
    states_batch_first = False
    checkpoint = False

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
        return_states: bool = False,
    ) -> tuple[Any, ...]:
        """The arguments and results of the layer of `torch.nn`, and the kernels' own.

        Parameters
        ----------
        input : tensor (T, B, I), (B, T, I) with `batch_first`, or (T, I); or PackedSequence
        hx : tensor (num_layers·directions, B, H), or for the LSTM a tuple (h, c) of them, optional
            With `states_batch_first` (B, num_layers·directions, H), and so is the result's.
        lengths : integers (B,), optional
            Valid steps of each row, as `pyrnn.functional.sequence_forward`; in the place of a PackedSequence.
        mask, resets : bool tensors (T, B), or (B, T) with `batch_first`, optional
            False in `mask` skips a step; True in `resets` restores the row's state before the step.
        reset_to : {"zero", "initial"}
            What a reset restores.
        return_states : bool
            Whether to return the states of every step, differentiable as the output is. With tensors of
            float32 or float64 on the CPU.

        Returns
        -------
        output : tensor (T, B, H·directions) in the layout of the input, or PackedSequence
        hx : the state after each row's last valid step
        states : with `return_states`
            As hx without `states_batch_first`, the steps behind the first axis: (num_layers·directions, T, B,
            H), or (num_layers·directions, B, T, H) with `batch_first`. Zero at skipped steps.
        """
        plain = lengths is None and mask is None and resets is None and reset_to == "zero"
        turn = self.states_batch_first
        if turn:
            hx = turned(hx)
        result: Any = None
        if (
            plain
            and not (return_states or self.checkpoint)
            and self._variant is None
            and type(input) in PLAIN
            and not torch.compiler.is_compiling()
            and not is_autocast_enabled()
            and eager.unwatched()
        ):
            result = self._short(input, hx)
        if result is None:
            result = self._long(input, hx, plain, lengths, mask, resets, reset_to, return_states)
        return (result[0], turned(result[1]), *result[2:]) if turn else result

    def _long(
        self,
        input: Any,
        hx: Any,
        plain: bool,
        lengths: Any,
        mask: Any,
        resets: Any,
        reset_to: str,
        return_states: bool,
    ) -> tuple[Any, ...]:
        """Any call."""
        if self._variant is not None or checks.flag("return_states", return_states):
            return variants.run(self, input, hx, lengths, mask, resets, reset_to, return_states)
        if not torch.compiler.is_compiling():
            self._update_flat_weights()
        if isinstance(input, PackedSequence):
            if not plain:
                raise ValueError("lengths, mask, resets: expected None beside a PackedSequence, got some")
            return self._packed(input, hx)
        known = self._recognised(input, hx, self.batch_first)
        if plain and not known:
            return super().forward(input, hx)
        checks.choice("reset_to", reset_to, ("zero", "initial"))
        options = (lengths, mask, resets, reset_to == "initial")
        return self._general(input, hx, options, self.batch_first, kernels=known)

    def gates(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reset_to: str = "zero",
        layer: int = -1,
    ) -> dict[str, Tensor]:
        """Activations of every gate and the states at every step of one layer, without gradients or dropout.

        Parameters
        ----------
        input, hx, lengths, mask, resets, reset_to
            As in a call; `input` is a tensor.
        layer : int
            Which layer; negative counts from the top.

        Returns
        -------
        dict of tensors (T, B, H·directions), in the layout of the input
            `i f g o` for the LSTM, `r z n` for the GRU; then the states after the step, `h` and for the LSTM
            `c`. Zero at skipped steps.
        """
        options = {"lengths": lengths, "mask": mask, "resets": resets, "reset_to": reset_to}
        given = turned(hx) if self.states_batch_first else hx
        return inspecting.gates(self, input, given, layer, options)

    def quantize(self, dtype: str = "int8") -> torch.nn.Module:
        """The layer with weights of eight bits, for inference: see `pyrnn.torch.Quantized`."""
        from pyrnn.torch.quantizing import small

        return small(self, checks.choice("dtype", dtype, ("int8",)))

    @property
    def cell(self) -> str:
        """Name of the cell in the kernels."""
        return self._cell if self._variant is None else self._variant.layout.spec.name

    def reset_parameters(self) -> None:
        """PyTorch's initial values; ones for gains, zeros for initial states, and the forget gate's bias."""
        if self._variant is None:
            super().reset_parameters()
        else:
            variants.reset(self)

    def extra_repr(self) -> str:
        """PyTorch's words, and what is not PyTorch's."""
        return variants.words(self, super().extra_repr())

    def _short(self, x: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """The eager call without options, or None when anything is out of the ordinary."""
        shape, dtype = x.shape, x.dtype
        try:
            weights: Any = [*map(self._parameters.__getitem__, self._flat_weights_names)]
            where = places(weights)
        except (KeyError, TypeError):
            return None  # parametrised, or None: the general way knows
        views, batch_first = self._views, self.batch_first
        if views is None or views.places != where or views.call.batch_first != batch_first:
            layers, directions = self.num_layers, 1 + self.bidirectional
            views = take_views(weights, self._cell, layers, directions, batch_first)
            self.__dict__["_views"] = views
        if views is None or views.dtype is not dtype:
            return None
        if len(shape) != 3 or shape[2] != self.input_size or not x.is_cpu or x.layout is not strided:
            return None
        states = None
        if hx is not None:
            states = hx if self._tuple else (hx,)
            expected = (views.rows, shape[0 if batch_first else 1], self.hidden_size)
            if not states_fit(states, x, views.states, expected, self.proj_size):
                return None
        call, by_layer = views.call, views.layers
        if len(by_layer) == 1:
            y, *finals = eager.layer(call, x, states, weights, by_layer[0])
        else:
            y, finals = self._stacked(
                x, states, weights, lambda k, x, s, w: eager.layer(call, x, s, w, by_layer[k])
            )
        return y, tuple(finals) if self._tuple else finals[0]

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
        away = engines.elsewhere(weight.device)
        reads = readable_elsewhere if away else readable
        if torch.jit.is_tracing() or not reads(weight) or (away and self.proj_size):
            return False
        states = [] if hx is None else list(hx) if isinstance(hx, tuple | list) else [hx]
        if hx is not None and isinstance(hx, tuple | list) != self._tuple:
            return False
        cast = torch.is_autocast_enabled(weight.device.type)
        for a in (input, *states):
            if not isinstance(a, Tensor) or not reads(a, cast) or (a.dtype != weight.dtype and not cast):
                return False
            if a.device != weight.device:
                return False
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            return False
        shape: tuple[Any, ...] = (self.num_layers * (1 + self.bidirectional), self.hidden_size)
        if input.dim() == 3:
            shape = (shape[0], input.shape[0 if batch_first else 1], shape[1])
        return hx is None or (
            len(states) == KERNELS.specs[self._cell].states
            and all(s.shape == (*shape[:-1], n) for s, n in zip(states, self._widths(), strict=True))
        )

    def _widths(self) -> tuple[int, ...]:
        """Size of each state's last axis."""
        H = self.hidden_size
        return (self.proj_size or H, *[H] * (KERNELS.specs[self._cell].states - 1))

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
        device = input.device.type
        if kernels and torch.is_autocast_enabled(device):
            # The CPU's kernels compute in the parameters' number type, those of a device in that of autocast;
            # the results get the one of PyTorch's layer.
            dtype, result = weights[0].dtype, torch.get_autocast_dtype(device)
            if engines.elsewhere(input.device):
                dtype, weights = result, [w.to(result) for w in weights]
            elif self._cell == "gru":
                result = input.dtype
            with torch.autocast(device, enabled=False):
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
            B = x.shape[0 if batch_first else 1]
            states = [x.new_zeros((D * self.num_layers, B, n)) for n in self._widths()]
        watched = eager.forward_mode() or (not torch.compiler.is_compiling() and eager.transforms())
        if kernels and self.checkpoint and torch.is_grad_enabled() and not watched:
            *given, to_initial = flags
            given[1:] = [f.t() if batch_first and f is not None else f for f in given[1:]]
            y, *finals = variants.computed(
                self, x, states, weights, given, to_initial, batch_first=batch_first
            )
            return y, finals
        run: Callable[..., Sequence[Tensor]]
        if not kernels or eager.forward_mode():
            run = lambda k, x, s, w: formulas.sequence(x, s, w, cell, D, batch_first, *flags)  # noqa: E731
        elif engines.elsewhere(x.device):
            run = lambda k, x, s, w: variants.single(self, x, s, w, flags, batch_first)  # noqa: E731
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
