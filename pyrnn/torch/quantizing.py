# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with weights of eight bits as modules of PyTorch, for inference."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pyrnn import checks, quantized
from pyrnn.torch.inspecting import turned
from pyrnn.torch.operators import LIBRARY
from pyrnn.torch.replacing import Replaced
from pyrnn.torch.variants import on_rows

__all__ = ["Quantized", "quantize"]


class Quantized(torch.nn.Module):
    """A recurrent layer with int8 weights; `quantize(model)` and the layers' `quantize` make it.

    Weights and the x and h they meet are rounded row by row, as in `pyrnn.quantized.Quantized`; states and
    outputs are float32. On the CPU, without gradients.

    Parameters
    ----------
    layer : pyrnn.quantized.Quantized
    states_batch_first : bool
        Whether states are (B, num_layers·directions, H).

    Attributes
    ----------
    layer : pyrnn.quantized.Quantized
        Made of the buffers, which are a `state_dict` of integers, scales and biases.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> small = pyrnn.torch.LSTM(30, 50).quantize("int8")
    >>> small.weight_hh_l0.dtype, small(torch.ones(7, 2, 30))[0].shape
    (torch.int8, torch.Size([7, 2, 50]))
    """

    def __init__(self, layer: quantized.Quantized, states_batch_first: bool = False) -> None:
        super().__init__()
        self.states_batch_first = states_batch_first
        for name, a in layer.params.items():
            self.register_buffer(name, torch.tensor(a))
        self._take(layer)

    def _take(self, layer: quantized.Quantized) -> None:
        """Compute with this layer from now on."""
        self.layer, self.batch_first = layer, layer.batch_first
        layout = layer._layout
        self._directions, self._states = layout.directions, layout.spec.states
        self._rows, self._hidden_size = layout.num_layers * layout.directions, layout.units[0]
        self._text = json.dumps([layer.config(), list(layer.params)])

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
        """The layer's call, with its arguments and results; numbers of other types are converted.

        Parameters
        ----------
        input : tensor (T, B, I), (B, T, I) with `batch_first`, or (T, I); or PackedSequence
        hx : tensor (num_layers·directions, B, H), or a tuple of them, optional
        lengths, mask, resets, reset_to
            As in the layer's call.

        Returns
        -------
        output : tensor (T, B, H·directions) in the layout of the input, or PackedSequence
        hx : the state after each row's last valid step
        """
        if torch.compiler.is_compiling() and isinstance(input, Tensor):
            return self._traced(input, hx, (lengths, mask, resets), reset_to)
        if isinstance(input, PackedSequence):
            if not (lengths is None and mask is None and resets is None):
                raise ValueError("lengths, mask, resets: expected None beside a PackedSequence, got some")
            return on_rows(
                input,
                self.batch_first,
                lambda x, steps: self.forward(x, hx, lengths=steps, reset_to=reset_to),
            )
        given = turned(hx) if self.states_batch_first else hx
        options = {"lengths": lengths, "mask": mask, "resets": resets}
        y, state = self.layer(
            numbers("input", input),
            None if given is None else each(lambda s: numbers("hx", s), given),
            **{n: a if a is None else torch.as_tensor(a).numpy(force=True) for n, a in options.items()},
            reset_to=reset_to,
        )
        final = each(lambda s: torch.from_numpy(s).to(input.dtype), state)
        return torch.from_numpy(y).to(input.dtype), turned(final) if self.states_batch_first else final

    def _traced(self, input: Tensor, hx: Any, flags: tuple[Any, ...], reset_to: str) -> tuple[Tensor, Any]:
        """A call by the operator, of which a compiler makes a node."""
        checks.choice("reset_to", reset_to, ("zero", "initial"))
        given = turned(hx) if self.states_batch_first else hx
        x = input.detach().float()
        if given is None:
            batch = () if x.dim() < 3 else (x.shape[0 if self.batch_first else 1],)
            states = [x.new_zeros((self._rows, *batch, self._hidden_size))] * self._states
        else:
            states = [s.detach().float() for s in (given if isinstance(given, tuple | list) else (given,))]
        options = [a if a is None else torch.as_tensor(a) for a in flags]
        weights = list(self.buffers())
        y, *finals = QUANTIZED(
            x, states, weights, self._text, self._directions, *options, reset_to == "initial"
        )
        finals = [s.to(input.dtype) for s in finals]
        final = tuple(finals) if self._states > 1 else finals[0]
        return y.to(input.dtype), turned(final) if self.states_batch_first else final

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        params = {name: a.numpy() for name, a in self.named_buffers()}
        self._take(quantized.Quantized(self.layer.config(), params))

    def extra_repr(self) -> str:
        """The layer that it was."""
        return repr(self.layer)


class Packed(NamedTuple):
    """A layer that the operator made, and the tensors it was made of, whose memory nothing else can be in."""

    layer: quantized.Quantized
    weights: list[Tensor]
    versions: list[int]


#: The operator's layers by where their weights are, the last used last.
PACKED: OrderedDict[tuple[Any, ...], Packed] = OrderedDict()
MOST_PACKED = 64


def packed(text: str, weights: list[Tensor]) -> quantized.Quantized:
    """The layer of these weights, packed when they are first seen and when they have changed since."""
    key = text, *(w.data_ptr() for w in weights)
    versions = [0 if w.is_inference() else w._version for w in weights]
    found = PACKED.pop(key, None)
    if found is None or found.versions != versions:
        config, names = json.loads(text)
        params = {name: w.numpy(force=True) for name, w in zip(names, weights, strict=True)}
        found = Packed(quantized.Quantized(config, params), [w.detach() for w in weights], versions)
    PACKED[key] = found
    while len(PACKED) > MOST_PACKED:
        PACKED.popitem(last=False)
    return found.layer


def run(
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor],
    text: str,
    directions: int,
    lengths: Tensor | None,
    mask: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
) -> list[Tensor]:
    """The operator: y and the final states of a layer whose configuration and names of weights are `text`."""
    states = [s.numpy(force=True) for s in state]
    flags = {"lengths": lengths, "mask": mask, "resets": resets}
    y, final = packed(text, weights)(
        x.numpy(force=True),
        tuple(states) if len(states) > 1 else states[0],
        **{name: a if a is None else a.numpy(force=True) for name, a in flags.items()},
        reset_to="initial" if reset_to_initial else "zero",
    )
    finals = final if isinstance(final, tuple) else (final,)
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in (y, *finals)]


def run_fake(
    x: Tensor, state: list[Tensor], weights: list[Tensor], text: str, directions: int, *options: Any
) -> list[Tensor]:
    """Shapes of the results of `run`."""
    y = x.new_empty((*x.shape[:-1], directions * state[0].shape[-1]))
    return [y, *(x.new_empty(s.shape) for s in state)]


LIBRARY.define(
    "quantized(Tensor x, Tensor[] state, Tensor[] weights, str layer, int directions, Tensor? lengths, "
    "Tensor? mask, Tensor? resets, bool reset_to_initial) -> Tensor[]"
)
QUANTIZED = torch.ops.pyrnn.quantized.default
torch.library.impl("pyrnn::quantized", "CPU", run, lib=LIBRARY)
torch.library.register_fake("pyrnn::quantized", run_fake, lib=LIBRARY)


def each(function: Any, state: Any) -> Any:
    """A state with every array changed."""
    return tuple(each(function, s) for s in state) if isinstance(state, tuple | list) else function(state)


def numbers(name: str, a: Any) -> Any:
    """A tensor of the CPU as NumPy's float32."""
    if not isinstance(a, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(a).__name__}")
    if a.device.type != "cpu":
        raise RuntimeError(f"{name}: expected a tensor on the CPU, got one on {a.device}")
    return a.detach().float().numpy()


def quantize(model: torch.nn.Module, dtype: str = "int8") -> Replaced:
    """Put layers with weights of eight bits in the place of a model's recurrent layers, for inference.

    Parameters
    ----------
    model : torch.nn.Module
        Its layers, of `torch.nn` or of `pyrnn.torch`, are of float32 and on the CPU.
    dtype : {"int8"}

    Returns
    -------
    Replaced
        What was swapped, and what was left and why. `model` is the one that was given, or, where that is a
        layer itself, what takes its place.

    Raises
    ------
    TypeError
        `model` is no module.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> model = torch.nn.ModuleDict({"a": torch.nn.LSTM(30, 50), "b": torch.nn.GRU(30, 50).double()})
    >>> print(pyrnn.torch.quantize(model))
    a: LSTM swapped
    b: GRU left: quantize: expected a layer with dtype='float32', got 'float64'
    >>> y, (h, c) = model["a"](torch.ones(7, 2, 30))
    >>> y.shape
    torch.Size([7, 2, 50])
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    checks.choice("dtype", dtype, ("int8",))
    result, made = Replaced(model), {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.RNNBase):
            continue
        try:
            made[module] = small(module, dtype)
        except (TypeError, ValueError) as error:
            result.left[name] = f"{type(module).__name__} left: {error}"
        else:
            result.swapped[name] = type(module).__name__
    for parent in [*model.modules()]:
        for name, child in parent._modules.items():
            if child in made:
                parent._modules[name] = made[child]
    result.model = made.get(model, model)
    return result


def small(module: Any, dtype: str) -> Quantized:
    """A layer of PyTorch or of ours with weights of eight bits."""
    from pyrnn.io import from_torch

    turns = bool(getattr(module, "states_batch_first", False))
    return Quantized(from_torch(module).quantize(dtype), turns)
