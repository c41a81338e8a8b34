# SPDX-License-Identifier: Apache-2.0
"""Which kernels read a tensor: those of the CPU, or of a CUDA device where their library is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrnn.backends.layer import Backend
from pyrnn.functional import KERNELS
from pyrnn.torch import arrays
from pyrnn.torch.arrays import DTYPES


class Engine(NamedTuple):
    """A back end, and the way from tensors to its arrays and back.

    Attributes
    ----------
    backend : Backend
    dtypes : tuple of torch.dtype
        What it computes in.
    read, read_weight : callable
        A tensor, or a parameter, as an array.
    made : callable
        An array of a result as a tensor.
    dtype : callable
        PyTorch's number type as the back end's.
    """

    backend: Backend
    dtypes: tuple[torch.dtype, ...]
    read: Callable[[Tensor], Any]
    read_weight: Callable[[Tensor], Any]
    made: Callable[[Any], Tensor]
    dtype: Callable[[torch.dtype], Any]

    def places(self, x: Tensor, weights: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
        """Where the numbers that are read of x and the weights are."""
        return tuple(map(place, (self.read(x), *map(self.read_weight, weights))))


def place(a: Any) -> tuple[int, ...]:
    """Where an array's elements are."""
    return (a.data_ptr(), *a.stride()) if isinstance(a, Tensor) else (a.ctypes.data, *a.strides)


CPU = Engine(
    KERNELS,
    tuple(DTYPES),
    arrays.view,
    arrays.weight_view,
    lambda a: torch.from_numpy(np.ascontiguousarray(a)),
    DTYPES.__getitem__,
)


def name_of(dtype: torch.dtype) -> str:
    """A number type as the back ends of devices call it."""
    return str(dtype).removeprefix("torch.")


def on_device(backend: Backend) -> Engine:
    """The engine of a back end whose arrays are tensors."""
    numbers = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return Engine(backend, numbers, Tensor.detach, Tensor.detach, Tensor.contiguous, name_of)


@lru_cache(maxsize=64)
def device_engine(device: str, precision: str) -> Engine | None:
    """The engine of a CUDA device, or None without its library."""
    from pyrnn.backends import cuda

    if cuda.library_path() is None:
        return None
    return on_device(cuda.CudaBackend(device, precision))


def elsewhere(device: torch.device) -> bool:
    """Whether tensors of a device are no memory that the CPU's kernels read."""
    return device.type != "cpu"


def engine_of(device: torch.device, compute_dtype: str | None = None) -> Engine | None:
    """The engine for tensors of a device, or None where there are no kernels."""
    if device.type == "cpu":
        return CPU
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return device_engine(f"cuda:{index}", "tf32" if compute_dtype == "tf32" else "exact")
