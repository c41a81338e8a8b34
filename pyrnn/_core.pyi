# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: strict, arrays are used exactly as they are or refused."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyrnn.layout import Array

class Call:
    """A layer in one direction that waits to be computed."""

class Saved:
    """What forward keeps for backward."""

    def saved(self) -> Array:
        """The saved values of every step, (T, B, saved, H), zero where a step was not computed."""
    def states(self) -> Array:
        """The states after every step, (T, B, states, H), zero where a step was not computed."""

    @property
    def nbytes(self) -> int:
        """Bytes that are kept beside x and the weights."""

class CudaAttentionSaved:
    """What cuda_attention_forward keeps for cuda_attention_backward."""

class CudaDecoderSaved:
    """What cuda_decoder_forward keeps for cuda_decoder_backward."""

class CudaSaved:
    """What cuda_forward keeps for cuda_backward."""

    def saved(self) -> tuple[Any, tuple[int, int, int, int], int, str]: ...
    def states(self) -> tuple[Any, tuple[int, int, int, int], int, str]: ...

class AttentionSaved:
    """What attention_forward keeps for attention_backward."""

class DecoderSaved:
    """What decoder_forward keeps for decoder_backward."""

class Quantized:
    """One layer in one direction with weights of eight bits."""

    def __init__(
        self,
        cell: str,
        weight_ih: Array,
        scale_ih: Array,
        weight_hh: Array,
        scale_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        params: Array | None = None,
    ) -> None: ...
    def forward(
        self,
        x: Array,
        state: Sequence[Array],
        y: Array,
        state_out: Sequence[Array],
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_to_initial: bool = False,
        reverse: bool = False,
        regularization: Regularization | None = None,
    ) -> None: ...

class Stream:
    """Stacked layers of one direction that advance one step a call."""

    def __init__(
        self,
        cell: str,
        layers: list[tuple[Array | None, ...]] | list[Quantized],
        batch_size: int,
        dtype: np.dtype[Any],
        compute_dtype: str | None = None,
        zoneout: Sequence[float] | None = None,
    ) -> None: ...
    def step(self, x: Array, out: Array | None = None) -> Array: ...
    def run(self, block: Array, out: Array | None = None) -> Array: ...
    def get_state(self) -> list[Array]: ...
    def set_state(self, states: list[Array]) -> None: ...
    def reset(self, rows: Sequence[int] | None = None) -> None: ...
    def reload(self, layers: list[tuple[Array | None, ...]] | list[Quantized]) -> None: ...

# Zoneout of each state, dropout of h, training, seed, stream.
Regularization = tuple[Sequence[float], float, bool, int, int]

# The curves of gates, candidate and output, with alpha and beta; gate_clip, cell_clip; where dropout acts.
Variation = tuple[Sequence[tuple[str, float, float]], float, float, str]

def cells() -> dict[str, dict[str, Any]]: ...
def forward(
    cell: str,
    x: Array,
    state: Sequence[Array],
    weight_ih: Array,
    weight_hh: Array | None,
    bias_ih: Array | None,
    bias_hh: Array | None,
    y: Array,
    state_out: Sequence[Array],
    save: bool = False,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    compute_dtype: str | None = None,
    params: Array | None = None,
    regularization: Regularization | None = None,
    norm_ih: Array | None = None,
    norm_hh: Array | None = None,
    weight_hr: Array | None = None,
    variation: Variation | None = None,
    norm_c: Array | None = None,
    bias_c: Array | None = None,
    checkpoint: bool = False,
    heads: int = 1,
) -> Saved | None: ...
def forward_alone(
    cell: str,
    x: Array,
    state: Sequence[Array] | None,
    weight_ih: Array,
    weight_hh: Array | None,
    bias_ih: Array | None,
    bias_hh: Array | None,
    batch_first: bool,
    save: bool,
) -> tuple[Array, list[Array], Saved | None]: ...
def backward(
    saved: Saved,
    dy: Array | None,
    dstate: Sequence[Array] | None,
    dx: Array | None,
    dx_accumulate: bool,
    dstate_out: Sequence[Array],
    dweight_ih: Array,
    dweight_hh: Array | None,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
    dparams: Array | None = None,
    dnorm_ih: Array | None = None,
    dnorm_hh: Array | None = None,
    dweight_hr: Array | None = None,
    dnorm_c: Array | None = None,
    dbias_c: Array | None = None,
    dstates: Sequence[Array] | None = None,
) -> None: ...
def forward_all(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Saved | None]: ...
def forward_chain(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Saved | None]: ...
def backward_all(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None: ...
def cell_jvp(
    cell: str,
    a: Sequence[float],
    s: Sequence[float],
    p: Sequence[float],
    ta: Sequence[float],
    ts: Sequence[float],
    tp: Sequence[float],
) -> tuple[list[float], list[float]]: ...
def cell_vjp(
    cell: str,
    a: Sequence[float],
    s: Sequence[float],
    p: Sequence[float],
    ds_new: Sequence[float],
) -> tuple[list[float], list[float], list[float]]: ...
def scores() -> dict[str, dict[str, Any]]: ...
def score_jvp(
    score: str,
    fallback: bool,
    q: Sequence[float],
    k: Sequence[float],
    w: Sequence[float],
    tq: Sequence[float],
    tk: Sequence[float],
    tw: Sequence[float],
) -> tuple[float, float]: ...
def score_vjp(
    score: str,
    fallback: bool,
    q: Sequence[float],
    k: Sequence[float],
    w: Sequence[float],
    ds: float,
) -> tuple[list[float], list[float], list[float]]: ...
def activation(name: str, x: Array) -> Array: ...
def fma_peak(threads: int, seconds: float, dtype: str = "float32") -> float: ...
def read_bandwidth(threads: int, bytes: int, seconds: float) -> float: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def available_cpus() -> int: ...
def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Array: ...
def shared() -> object: ...
def release_memory() -> None: ...
def attention_forward(
    score: str,
    alignment: str,
    query: Array,
    key: Array,
    value: Array,
    weight_score: Array | None,
    bounds: Array,
    context: Array,
    weights: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float = 1.0,
    center: Array | None = None,
    sigma: float = 1.0,
    previous: Array | None = None,
    coverage: Array | None = None,
    weight_filter: Array | None = None,
    weight_location: Array | None = None,
    weight_coverage: Array | None = None,
    phi: Array | None = None,
    save: bool = False,
) -> AttentionSaved | None: ...
def attention_backward(
    saved: AttentionSaved,
    dcontext: Array,
    dweights: Array | None,
    dquery: Array,
    dkey: Array,
    dvalue: Array,
    dweight_score: Array | None,
    dbias: Array,
    dcenter: Array | None,
    dprevious: Array | None,
    dcoverage: Array | None,
    dweight_filter: Array | None,
    dweight_location: Array | None,
    dweight_coverage: Array | None,
) -> None: ...
def decoder_forward(
    cell: str,
    x: Array,
    key: Array,
    value: Array,
    state: Sequence[Array],
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    weight_attention: Array | None,
    bias_attention: Array | None,
    weight_query: Array | None,
    bias_query: Array | None,
    score: str,
    alignment: str,
    weight_score: Array | None,
    bounds: Array,
    outputs: Array,
    weights: Array,
    state_out: Sequence[Array],
    *,
    query_previous: bool = False,
    input_feed: bool = True,
    feed: Array | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float = 1.0,
    previous: Array | None = None,
    coverage: Array | None = None,
    weight_filter: Array | None = None,
    weight_location: Array | None = None,
    weight_coverage: Array | None = None,
    save: bool = False,
) -> DecoderSaved | None: ...
def decoder_backward(
    saved: DecoderSaved,
    doutputs: Array | None,
    dstate: Sequence[Array] | None,
    dweights: Array | None,
    dx: Array,
    dkey: Array,
    dvalue: Array,
    dstate_out: Sequence[Array],
    dfeed: Array | None,
    dweight_ih: Array,
    dweight_hh: Array,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
    dweight_attention: Array | None,
    dbias_attention: Array | None,
    dweight_query: Array | None,
    dbias_query: Array | None,
    dbias: Array,
    dweight_score: Array | None,
    dprevious: Array | None,
    dcoverage: Array | None,
    dweight_filter: Array | None,
    dweight_location: Array | None,
    dweight_coverage: Array | None,
    dparams: Array | None = None,
) -> None: ...
def multiply(
    a: Array, b: Array, out: Array, *, a_transposed: bool = False, b_transposed: bool = False
) -> None: ...

# Arrays of a device: pointer, shape, strides in elements, name of the numbers, and whatever owns the memory.
DeviceArray = tuple[int, tuple[int, ...], tuple[int, ...], str, Any]

def cuda_open(path: str) -> str: ...
def cuda_close() -> None: ...
def cuda_devices() -> list[str]: ...
def cuda_host_memory() -> bool: ...
def cuda_forward(
    cell: str,
    x: DeviceArray,
    state: Sequence[DeviceArray] | None,
    weight_ih: DeviceArray,
    weight_hh: DeviceArray,
    bias_ih: DeviceArray | None,
    bias_hh: DeviceArray | None,
    y: DeviceArray,
    state_out: Sequence[DeviceArray],
    *,
    allocate: Callable[[int], tuple[int, Any]],
    device: int,
    stream: int,
    lengths: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    resets: DeviceArray | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    save: bool = False,
    precision: str = "exact",
    tier: str = "automatic",
    params: DeviceArray | None = None,
    regularization: Regularization | None = None,
    dropout_kind: str = "sequence",
    heads: int = 1,
    every: bool = False,
    variation: Variation | None = None,
    norm_ih: DeviceArray | None = None,
    norm_hh: DeviceArray | None = None,
    weight_hr: DeviceArray | None = None,
    norm_c: DeviceArray | None = None,
    bias_c: DeviceArray | None = None,
) -> CudaSaved | None: ...
def cuda_backward(
    saved: CudaSaved,
    dy: DeviceArray | None,
    dstate: Sequence[DeviceArray] | None,
    dx: DeviceArray | None,
    dx_accumulate: bool,
    dstate_out: Sequence[DeviceArray],
    dweight_ih: DeviceArray,
    dweight_hh: DeviceArray,
    dbias_ih: DeviceArray | None,
    dbias_hh: DeviceArray | None,
    *,
    allocate: Callable[[int], tuple[int, Any]],
    stream: int,
    dparams: DeviceArray | None = None,
    dstates: Sequence[DeviceArray] | None = None,
    dnorm_ih: DeviceArray | None = None,
    dnorm_hh: DeviceArray | None = None,
    dweight_hr: DeviceArray | None = None,
    dnorm_c: DeviceArray | None = None,
    dbias_c: DeviceArray | None = None,
) -> None: ...
def cuda_attention_forward(
    score: str,
    query: DeviceArray,
    key: DeviceArray,
    value: DeviceArray,
    weight_score: DeviceArray | None,
    context: DeviceArray,
    weights: DeviceArray,
    *,
    allocate: Callable[[int], tuple[int, Any]],
    device: int,
    stream: int,
    heads: int = 1,
    lengths: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    bias: DeviceArray | None = None,
    scale: float = 1.0,
    causal: bool = False,
    left: int = -1,
    right: int = 0,
    offset: int = 0,
    save: bool = False,
) -> CudaAttentionSaved | None: ...
def cuda_attention_backward(
    saved: CudaAttentionSaved,
    dcontext: DeviceArray | None,
    dweights: DeviceArray | None,
    dquery: DeviceArray,
    dkey: DeviceArray,
    dvalue: DeviceArray,
    dweight_score: DeviceArray | None,
    *,
    allocate: Callable[[int], tuple[int, Any]],
    stream: int,
) -> None: ...
def cuda_decoder_forward(
    cell: str,
    score: str,
    arrays: dict[str, DeviceArray],
    state: Sequence[DeviceArray],
    state_out: Sequence[DeviceArray],
    *,
    allocate: Callable[[int], tuple[int, Any]],
    device: int,
    stream: int,
    fed: int,
    query_previous: bool = False,
    scale: float = 1.0,
    causal: bool = False,
    left: int = -1,
    right: int = 0,
    offset: int = 0,
    save: bool = False,
) -> CudaDecoderSaved | None: ...
def cuda_decoder_backward(
    saved: CudaDecoderSaved,
    arrays: dict[str, DeviceArray],
    dstate: Sequence[DeviceArray] | None,
    dstate_out: Sequence[DeviceArray],
    *,
    allocate: Callable[[int], tuple[int, Any]],
    stream: int,
) -> None: ...
