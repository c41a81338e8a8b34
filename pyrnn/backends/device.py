# SPDX-License-Identifier: Apache-2.0
"""Arrays of a CUDA device: CuPy's and PyTorch's, on their current stream, in their memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from pyrnn import _core, checks
from pyrnn.layout import Layout

#: Pointer, shape, strides in elements, name of the numbers, and what owns the memory.
Described: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], str, Any]

#: What the device computes in, by name.
NUMBERS = ("float32", "float64", "bfloat16", "float16")


class DeviceArrays:
    """What `pyrnn.stacking` needs of a library of device arrays; dtypes are names.

    Parameters
    ----------
    device : int
        Number of the device that new memory is on.
    """

    name = "a device array"

    def __init__(self, device: int) -> None:
        self.device = device

    def describe(self, a: Any) -> Described:
        """An array as `_core` takes it."""
        raise NotImplementedError

    def on_device(self, a: Any) -> bool:
        """Whether `a` is this library's and on this device."""
        raise NotImplementedError

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Memory that nothing is in yet."""
        raise NotImplementedError

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        """Zeros."""
        raise NotImplementedError

    def made(self, a: Any, dtype: str) -> Any:
        """An array of this library from NumPy's."""
        raise NotImplementedError

    def numpy(self, a: Any) -> Any:
        """A copy as NumPy's, for which the device is waited for."""
        raise NotImplementedError

    def numbers(self, memory: Any, shape: Sequence[int], dtype: str) -> Any:
        """The first bytes of `memory` as an array."""
        raise NotImplementedError

    def joined(self, arrays: Sequence[Any]) -> Any:
        """Arrays side by side, along the last axis."""
        raise NotImplementedError

    def stacked(self, arrays: Sequence[Any]) -> Any:
        """Arrays one after the other, along a new first axis."""
        raise NotImplementedError

    def repeated(self, a: Any, count: int) -> Any:
        """Rows (count, n) that are all a."""
        raise NotImplementedError

    def stream(self) -> int:
        """Handle of the current stream."""
        raise NotImplementedError

    def contiguous(self, a: Any) -> Any:
        """`a` or a C-contiguous copy."""
        raise NotImplementedError

    def without_padding(self, a: Any, d: Any) -> Any:
        """Rows of a, zero where d is zero: there a may hold NaN, which times zero is NaN."""
        raise NotImplementedError

    def allocate(self, size: int) -> tuple[int, Any]:
        """Pointer to, and owner of, `size` bytes from the library's allocator."""
        memory = self.empty((size,), "uint8")
        return self.describe(memory)[0], memory

    def plain(self, name: str, a: Any, dtype: str) -> Any:
        """`a` checked to be an array of this device and of `dtype`."""
        if not self.on_device(a):
            what = getattr(a, "device", type(a).__name__)
            raise TypeError(f"{name}: expected {self.name} on device {self.device}, got {what}")
        number = self.describe(a)[3]
        if number != dtype:
            raise TypeError(f"{name}: expected dtype {dtype}, got {number}")
        return a

    def ready(self, a: Any, dtype: str) -> Any:
        """`a`, or a copy whose last axis is contiguous."""
        _, shape, strides, *_ = self.describe(a)
        return a if not math.prod(shape) or shape[-1] == 1 or strides[-1] == 1 else self.contiguous(a)

    def weights(self, layout: Layout, params: Any, dtype: str) -> list[list[Any]]:
        """The arrays of every pass in the engine's order, checked."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
        checks.check_names(layout, params)
        return [
            layout.in_order([self.weight(layout, params, name, dtype) for name, _ in expected])
            for expected in layout.passes
        ]

    def weight(self, layout: Layout, params: Mapping[str, Any], name: str, dtype: str) -> Any:
        """One parameter, checked."""
        arrays_of = library_of(name, params[name], self.device)
        a = arrays_of.plain(name, params[name], dtype)
        if tuple(a.shape) != layout.shapes[name]:
            raise checks.wrong_shape(name, layout.axes(name), layout.shapes[name], tuple(a.shape))
        return arrays_of.contiguous(a)

    def extras(self, layout: Layout, params: Mapping[str, Any], dtype: str) -> list[dict[str, Any]]:
        """What only some cells have, by argument of the kernels, of every pass; checked after `weights`."""
        return [
            {argument: self.weight(layout, params, name, dtype) for argument, (name, _) in more.items()}
            for more in layout.extras
        ]

    def states(
        self,
        name: str,
        state: Any,
        count: int,
        shape: tuple[int, ...],
        axes: str,
        dtype: str,
        proj_size: int = 0,
    ) -> tuple[Any, ...]:
        """The state as a tuple of `count` arrays of `shape`; the first's last axis is the projection's."""
        if count == 1:
            state = (state,)
        elif not isinstance(state, tuple | list):
            raise TypeError(f"{name}: expected a tuple of {count} arrays, got {type(state).__name__}")
        elif len(state) != count:
            raise ValueError(f"{name}: expected a tuple of {count} arrays, got {len(state)}")
        ready = []
        for k, a in enumerate(state):
            label = name if count == 1 else f"{name}[{k}]"
            a = self.plain(label, a, dtype)
            projected = proj_size > 0 and k == 0
            wanted = (*shape[:-1], proj_size) if projected else shape
            if tuple(a.shape) != wanted:
                symbols = axes.replace("H", "P") if projected else axes
                raise checks.wrong_shape(label, symbols, wanted, tuple(a.shape))
            ready.append(self.ready(a, dtype))
        return tuple(ready)

    def lengths(self, lengths: Any, T: int, B: int, unbatched: bool) -> Any:
        """Lengths as int64 (B,) on the device; those that are there already are not looked at."""
        if self.on_device(lengths):
            if self.describe(lengths)[3] != "int64" or tuple(lengths.shape) != (B,):
                raise ValueError(f"lengths: expected int64 of shape (B,) = ({B},) on the device")
            return self.contiguous(lengths)
        return self.made(checks.lengths_of(lengths, T, B, unbatched), "int64")

    def flags(self, name: str, flags: Any, T: int, B: int, batch_first: bool, unbatched: bool) -> Any:
        """A mask or resets as bool (T, B) on the device; given in the layout of x without its last axis."""
        if not self.on_device(flags):
            return self.made(checks.flags_of(name, flags, T, B, batch_first, unbatched), "bool")
        axes, shape = (
            ("(T,)", (T,)) if unbatched else ("(B, T)", (B, T)) if batch_first else ("(T, B)", (T, B))
        )
        if self.describe(flags)[3] != "bool":
            raise TypeError(f"{name}: expected dtype bool, got {self.describe(flags)[3]}")
        if tuple(flags.shape) != shape:
            raise checks.wrong_shape(name, axes, shape, tuple(flags.shape))
        return self.contiguous(
            flags[:, None] if unbatched else flags.swapaxes(0, 1) if batch_first else flags
        )

    def output(self, out: Any, shape: tuple[int, ...], axes: str, dtype: str, read: Sequence[Any]) -> None:
        """`out`, checked: of the right kind, and sharing no memory with what is read."""
        self.plain("out", out, dtype)
        if tuple(out.shape) != shape:
            raise checks.wrong_shape("out", axes, shape, tuple(out.shape))
        if any(self.share_memory(out, a) for a in read):
            raise ValueError(
                "out: expected memory of its own, got memory that an argument or a parameter occupies"
            )

    def share_memory(self, a: Any, b: Any) -> bool:
        """Whether the memory that two arrays span overlaps."""
        (a_first, a_last), (b_first, b_last) = span(a, self.device), span(b, self.device)
        return a_first < b_last and b_first < a_last


class TorchArrays(DeviceArrays):
    """PyTorch's tensors."""

    name = "a CUDA tensor of PyTorch"

    def __init__(self, device: int) -> None:
        super().__init__(device)
        import torch

        self.torch: Any = torch
        host = _core.cuda_host_memory()
        self.where: Any = torch.device("cpu") if host else torch.device("cuda", device)

    def describe(self, a: Any) -> Described:
        return a.data_ptr(), tuple(a.shape), tuple(a.stride()), str(a.dtype).removeprefix("torch."), a

    def on_device(self, a: Any) -> bool:
        return isinstance(a, self.torch.Tensor) and a.device == self.where

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self.torch.empty(tuple(shape), dtype=getattr(self.torch, dtype), device=self.where)

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        return self.torch.zeros(tuple(shape), dtype=getattr(self.torch, dtype), device=self.where)

    def made(self, a: Any, dtype: str) -> Any:
        return self.torch.tensor(a, dtype=getattr(self.torch, dtype), device=self.where)

    def numpy(self, a: Any) -> Any:
        wide = a.float() if a.dtype == self.torch.bfloat16 else a
        return np.array(wide.detach().cpu().numpy())

    def contiguous(self, a: Any) -> Any:
        return a.detach().contiguous()

    def numbers(self, memory: Any, shape: Sequence[int], dtype: str) -> Any:
        return memory.view(getattr(self.torch, dtype))[: math.prod(shape)].reshape(*shape)

    def joined(self, arrays: Sequence[Any]) -> Any:
        return self.torch.cat(list(arrays), -1)

    def stacked(self, arrays: Sequence[Any]) -> Any:
        return self.torch.stack(list(arrays))

    def repeated(self, a: Any, count: int) -> Any:
        return a.repeat(count, 1)

    def without_padding(self, a: Any, d: Any) -> Any:
        return self.torch.where((d != 0).any(-1, keepdim=True), a, 0)

    def stream(self) -> int:
        if self.where.type == "cpu":
            return 0
        return int(self.torch.cuda.current_stream(self.where).cuda_stream)


class CupyArrays(DeviceArrays):
    """CuPy's arrays."""

    name = "a CuPy array"

    def __init__(self, device: int) -> None:
        super().__init__(device)
        import cupy  # type: ignore[import-not-found, unused-ignore]

        self.cupy: Any = cupy

    def describe(self, a: Any) -> Described:
        interface = a.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        if strides is None:
            strides = [math.prod(shape[k + 1 :]) * dtype.itemsize for k in range(len(shape))]
        return interface["data"][0], shape, tuple(s // dtype.itemsize for s in strides), dtype.name, a

    def on_device(self, a: Any) -> bool:
        return isinstance(a, self.cupy.ndarray) and a.device.id == self.device

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        with self.cupy.cuda.Device(self.device):
            return self.cupy.empty(tuple(shape), self.known(dtype))

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        with self.cupy.cuda.Device(self.device):
            return self.cupy.zeros(tuple(shape), self.known(dtype))

    def made(self, a: Any, dtype: str) -> Any:
        with self.cupy.cuda.Device(self.device):
            return self.cupy.asarray(a, self.known(dtype))

    def numpy(self, a: Any) -> Any:
        return np.array(self.cupy.asnumpy(a))

    def contiguous(self, a: Any) -> Any:
        return self.cupy.ascontiguousarray(a).reshape(a.shape)

    def without_padding(self, a: Any, d: Any) -> Any:
        return self.cupy.where((d != 0).any(-1, keepdims=True), a, self.cupy.zeros_like(a))

    def numbers(self, memory: Any, shape: Sequence[int], dtype: str) -> Any:
        return memory.view(dtype)[: math.prod(shape)].reshape(*shape)

    def joined(self, arrays: Sequence[Any]) -> Any:
        return self.cupy.concatenate(list(arrays), -1)

    def stacked(self, arrays: Sequence[Any]) -> Any:
        return self.cupy.stack(list(arrays))

    def repeated(self, a: Any, count: int) -> Any:
        return self.cupy.repeat(a[None], count, 0)

    def stream(self) -> int:
        return int(self.cupy.cuda.get_current_stream().ptr)

    @staticmethod
    def known(dtype: str) -> str:
        """The dtype, unless CuPy has none of that name."""
        if dtype == "bfloat16":
            raise TypeError("dtype: expected one that CuPy has, got bfloat16; PyTorch has it")
        return dtype


def number_of(name: str, dtype: Any) -> str:
    """The name among `NUMBERS` of a dtype of NumPy or PyTorch."""
    number = str(dtype).removeprefix("torch.")
    if number not in NUMBERS:
        raise TypeError(f"{name}: expected dtype {' or '.join(NUMBERS)}, got {number}")
    return number


def library_of(name: str, a: Any, device: int) -> DeviceArrays:
    """The library that an array is of, or TypeError."""
    module = type(a).__module__.split(".")[0]
    # Subclasses of torch.Tensor (Parameter among them) live in modules of torch's as well.
    if module == "torch":
        return TorchArrays(device)
    if module == "cupy":
        return CupyArrays(device)
    raise TypeError(f"{name}: expected a CuPy array or a CUDA tensor of PyTorch, got {type(a).__name__}")


def installed_library(device: int) -> DeviceArrays:
    """The library that new parameters are made with: CuPy if there is one, else PyTorch."""
    for library in (CupyArrays, TorchArrays):
        try:
            return library(device)
        except ImportError:
            continue
    raise RuntimeError("device: 'cuda' needs CuPy or PyTorch for its arrays, got neither")


def span(a: Any, device: int) -> tuple[int, int]:
    """First address of an array and the one after its last."""
    pointer, shape, strides, number, _ = library_of("out", a, device).describe(a)
    if not math.prod(shape):
        return 0, 0
    size = 2 if number == "bfloat16" else np.dtype(number).itemsize
    return pointer, pointer + size * (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))
