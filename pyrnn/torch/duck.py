# SPDX-License-Identifier: Apache-2.0
"""Tensors in NumPy's protocol, so that the text of the reference's cells is plain operations of PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrnn.reference.varied import Acting, Inside, VariedCell, origin_of


def tensor_of(a: Any) -> Any:
    """What is behind an array of here; anything else as it is."""
    return a.tensor if isinstance(a, Duck) else a


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """torch.where, of which one side may be a number."""
    return torch.where(condition, x, y)


#: NumPy's functions that are not of the same name and arguments in PyTorch, or whose first may be a number.
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.power: operator.pow,
    np.where: where,
    np.concatenate: lambda arrays, axis: torch.cat([tensor_of(a) for a in arrays], axis),
    np.split: lambda a, parts: [Duck(piece) for piece in torch.tensor_split(a, parts)],
}


class Duck(np.lib.mixins.NDArrayOperatorsMixin):
    """A tensor that NumPy's operators and functions compute on.

    Parameters
    ----------
    tensor : tensor
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def like(self, tensor: Any, origin: int = 0) -> Any:
        """What an operation returns; `origin` is for arrays with activations."""
        return Duck(tensor) if isinstance(tensor, Tensor) else tensor

    def computed(self, function: Any, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """The result of a function of NumPy."""
        call = FUNCTIONS.get(function) or getattr(torch, function.__name__)
        return self.like(call(*map(tensor_of, arguments), **keywords), origin_of(arguments))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        return self.computed(ufunc, inputs, keywords) if method == "__call__" else NotImplemented

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self.computed(function, args, kwargs)

    def __getitem__(self, index: Any) -> Any:
        return self.like(self.tensor[index], origin_of((self,)))

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def real(self) -> Any:
        """Itself."""
        return self

    @property
    def T(self) -> Any:
        """Axes turned round."""
        return self.like(self.tensor.t())

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.tensor.numel()

    def mean(self, axis: int, keepdims: bool) -> Any:
        """The mean along an axis."""
        return self.like(self.tensor.mean(axis, keepdim=keepdims))


class ActingDuck(Acting, Duck):
    """A tensor that brings activations of its own."""

    def __init__(self, tensor: Tensor, inside: Inside, origin: int) -> None:
        super().__init__(tensor)
        self.inside, self.origin = inside, origin

    def bare(self) -> Duck:
        """The array without them."""
        return Duck(self.tensor)

    def like(self, tensor: Any, origin: int = 0) -> Any:
        """Another array with them."""
        return ActingDuck(tensor_of(tensor), self.inside, origin)


def bare(a: Any) -> Duck:
    """An array without activations."""
    return Duck(tensor_of(a))


class Cell(VariedCell):
    """A registered cell with other activations, clips and normalisation of c, on tensors."""

    acting = staticmethod(lambda a, inside, origin: ActingDuck(tensor_of(a), inside, origin))
    bare = staticmethod(bare)
