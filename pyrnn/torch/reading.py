# SPDX-License-Identifier: Apache-2.0
"""Which tensors the kernels read, and the views of a module's parameters that its calls share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from pyrnn import checks
from pyrnn.functional import KERNELS
from pyrnn.torch import arrays, engines
from pyrnn.torch.arrays import DTYPES, Call

#: Types of tensors with memory of their own.
PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
#: Types of tensors that the operators read; others (DTensor, quantised …) are for PyTorch's own layers.
TENSORS = (*PLAIN, FakeTensor, FunctionalTensor)
NO_OPTIONS: dict[str, Any] = {}
data_ptr, numel, stride = Tensor.data_ptr, Tensor.numel, Tensor.stride


class Views(NamedTuple):
    """The parameters' memory as arrays, for as long as it stays where it is.

    Attributes
    ----------
    places : list
        Where the parameters are.
    dtype : torch.dtype
    layers : list
        By layer, what `arrays.passes` makes of its weights.
    rows, states : int
        First axis of a state, and how many states there are.
    call : Call
    """

    places: list[Any]
    dtype: torch.dtype
    layers: list[Any]
    rows: int
    states: int
    call: Call


def places(weights: Sequence[Tensor]) -> list[Any]:
    """Where parameters are; the list is another as soon as one is elsewhere, or laid out in another way."""
    return [*map(data_ptr, weights), *map(numel, weights), *map(stride, weights)]


def take_views(
    weights: Sequence[Any], cell: str, num_layers: int, directions: int, batch_first: bool
) -> Views | None:
    """Views of a module's parameters, or None when the kernels cannot read one of them where it is."""
    dtype = None if weights[0] is None else weights[0].dtype
    for w in weights:
        if type(w) not in PLAIN or w.dtype is not dtype or not readable(w) or not w.is_contiguous():
            return None
    each = len(weights) // num_layers
    layers = [
        arrays.passes([arrays.weight_view(w) for w in weights[k : k + each]], directions)
        for k in range(0, len(weights), each)
    ]
    call = Call(cell, directions, batch_first, NO_OPTIONS)
    states = KERNELS.specs[cell].states
    return Views(places(weights), dtype, layers, directions * num_layers, states, call)


def states_fit(states: Any, x: Tensor, count: int, shape: tuple[int, ...], proj_size: int = 0) -> bool:
    """Whether the states of an eager call are what the kernels read beside x."""
    if type(states) not in (tuple, list) or len(states) != count:
        return False
    dtype, expected = x.dtype, (*shape[:-1], proj_size) if proj_size else shape
    for s in states:
        if type(s) not in PLAIN or s.shape != expected or s.dtype is not dtype or not s.is_cpu:
            return False
        expected = shape  # of those behind h
    return True


def readable(a: Tensor, cast: bool = False) -> bool:
    """Whether a tensor is of a kind that the kernels read, after a cast of its number type if need be."""
    known = a.dtype in DTYPES or (cast and a.dtype.is_floating_point)
    return known and a.device.type == "cpu" and a.layout is torch.strided and type(a) in TENSORS


def readable_elsewhere(a: Tensor, cast: bool = False) -> bool:
    """The same of a device's kernels, where there are some for the device that the tensor is on."""
    if not engines.elsewhere(a.device) or a.layout is not torch.strided or type(a) not in TENSORS:
        return False
    engine = engines.engine_of(a.device)
    return engine is not None and (a.dtype in engine.dtypes or (cast and a.dtype.is_floating_point))


def concrete(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether all tensors have memory to read."""
    return all(type(a) in PLAIN for a in (x, *states, *weights))


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
