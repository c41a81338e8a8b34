# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: strict, arrays are used exactly as they are or refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyrnn.layout import Array

class Saved:
    """What forward keeps for backward."""

    def saved(self) -> Array:
        """The saved values of every step, (T, B, saved, H), zero where a step was not computed."""

class Stream:
    """Stacked layers of one direction that advance one step a call."""

    def __init__(
        self,
        cell: str,
        layers: list[tuple[Array | None, ...]],
        batch_size: int,
        dtype: np.dtype[Any],
    ) -> None: ...
    def step(self, x: Array, out: Array | None = None) -> Array: ...
    def run(self, block: Array) -> Array: ...
    def get_state(self) -> list[Array]: ...
    def set_state(self, states: list[Array]) -> None: ...
    def reset(self, rows: Sequence[int] | None = None) -> None: ...
    def reload(self, layers: list[tuple[Array | None, ...]]) -> None: ...

def cells() -> dict[str, dict[str, Any]]: ...
def forward(
    cell: str,
    x: Array,
    state: Sequence[Array],
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    y: Array,
    state_out: Sequence[Array],
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    save: bool = False,
) -> Saved | None: ...
def backward(
    saved: Saved,
    dy: Array | None,
    dstate: Sequence[Array] | None,
    dx: Array | None,
    dx_accumulate: bool,
    dstate_out: Sequence[Array],
    dweight_ih: Array,
    dweight_hh: Array,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
) -> None: ...
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
def activation(name: str, x: Array) -> Array: ...
def fma_peak(threads: int, seconds: float, dtype: str = "float32") -> float: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def available_cpus() -> int: ...
def release_memory() -> None: ...
