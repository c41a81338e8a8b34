# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with weights of eight bits as modules of PyTorch, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pyrnn import checks, quantized
from pyrnn.torch.inspecting import turned
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
        self.layer, self.states_batch_first = layer, states_batch_first
        for name, a in layer.params.items():
            self.register_buffer(name, torch.tensor(a))

    @property
    def batch_first(self) -> bool:
        """Whether sequences are (B, T, …)."""
        return self.layer.batch_first

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
        if torch.compiler.is_compiling():  # a break in the graph: integers have no operator
            call: Any = torch._dynamo.disable(self.forward)
            found: tuple[Any, Any] = call(
                input, hx, lengths=lengths, mask=mask, resets=resets, reset_to=reset_to
            )
            return found
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

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        params = {name: a.numpy() for name, a in self.named_buffers()}
        self.layer = quantized.Quantized(self.layer.config(), params)

    def extra_repr(self) -> str:
        """The layer that it was."""
        return repr(self.layer)


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
