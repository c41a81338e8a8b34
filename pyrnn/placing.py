# SPDX-License-Identifier: Apache-2.0
"""Attention and the decoder where their arrays are: NumPy's, or a CUDA device's by `pyrnn.backends`."""

from __future__ import annotations

from typing import Any

from pyrnn import attending, decoding
from pyrnn.attending import AttentionGradients, Backend


def device_of(a: Any) -> int | None:
    """The number of the CUDA device that an array of CuPy or a tensor is on; None for anything else."""
    module = type(a).__module__.split(".")[0]
    if module == "cupy":
        return int(a.device.id)
    if module == "torch" and getattr(a, "is_cuda", False):
        return int(a.device.index)
    return None


def forward(
    backend: Backend, query: Any, key: Any, value: Any, *, device: int | None = None, **options: Any
) -> tuple[Any, Any, Any]:
    """As `pyrnn.functional.attention_forward`, with `save`; on `device`, or where the query is."""
    number = device_of(query) if device is None else device
    if number is None:
        return attending.forward(backend, query, key, value, **options)
    from pyrnn.backends import attention

    return attention.forward(number, query, key, value, **options)


def backward(saved: Any, dcontext: Any, dweights: Any) -> AttentionGradients:
    """The way back of either."""
    if hasattr(saved, "backward"):
        grads: AttentionGradients = saved.backward(dcontext, dweights)
        return grads
    return attending.backward(saved, dcontext, dweights)


def decode(
    backend: decoding.Backend,
    cell: str,
    x: Any,
    memory: Any,
    params: Any,
    state: Any,
    *,
    device: int | None = None,
    **options: Any,
) -> tuple[Any, Any, Any, Any]:
    """As `pyrnn.functional.decoder_forward`, with `save`; on `device`, or where x is."""
    number = device_of(x) if device is None else device
    if number is None:
        return decoding.forward(backend, cell, x, memory, params, state, **options)
    from pyrnn.backends import decoder

    return decoder.forward(number, cell, x, memory, params, state, **options)


def decode_backward(saved: Any, doutputs: Any, dstate: Any, dweights: Any) -> decoding.DecoderGradients:
    """The way back of either."""
    if hasattr(saved, "backward"):
        grads: decoding.DecoderGradients = saved.backward(doutputs, dstate, dweights)
        return grads
    return decoding.backward(saved, doutputs, dstate, dweights)


def library_named(device: Any) -> tuple[int, Any]:
    """The number of the device that "cuda" or "cuda:1" names, and the library of new arrays on it.

    Raises
    ------
    RuntimeError
        The device, its driver or the CUDA library is missing.
    """
    if not isinstance(device, str):
        raise RuntimeError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    from pyrnn.backends.cuda import open_library
    from pyrnn.backends.device import installed_library

    number = open_library(device)
    return number, installed_library(number)


def number_named(dtype: Any) -> str:
    """The type of number that a dtype of NumPy or PyTorch names, for arrays of a device."""
    from pyrnn.backends.device import number_of

    return number_of("dtype", dtype)


def on_device(name: str, a: Any, device: int, dtype: Any) -> Any:
    """`a`, checked to be an array on that device and of that dtype."""
    from pyrnn.backends.device import library_of

    return library_of(name, a, device).plain(name, a, dtype)


def check_cell(cell: Any, device: int) -> None:
    """Refuse a cell that only the CPU computes."""
    from pyrnn.backends.decoder import cells_of

    cells_of(device).spec(cell)


def precompute(device: int, key: Any, lengths: Any, **options: Any) -> Any:
    """As `pyrnn.functional.precompute`, on a device."""
    from pyrnn.backends import decoder

    return decoder.precompute(device, key, lengths, **options)


def check_device(options: dict[str, Any], coverage: bool) -> None:
    """Refuse options of an attention that only the CPU computes."""
    from pyrnn.backends.attention import check_kind

    check_kind(options["score"], options["alignment"], options.get("local"), coverage=coverage)
