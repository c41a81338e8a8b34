# SPDX-License-Identifier: Apache-2.0
"""Tensors as the kernels read them: one layer, forward and backward, on NumPy views of PyTorch's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrnn import _core, checks
from pyrnn.backends.layer import Calls, in_turn
from pyrnn.functional import KERNELS
from pyrnn.layout import Array
from pyrnn.stacking import AT_ONCE

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
#: One layer in one direction; its weights are spread from a list, which its stub cannot follow.
run: Callable[..., Any] = _core.forward
run_alone: Callable[..., Any] = _core.forward_alone
#: How many states a cell has.
STATES = {name: spec.states for name, spec in KERNELS.specs.items()}


class Call(NamedTuple):
    """What a layer's call is, beside its tensors.

    Attributes
    ----------
    cell : str
    directions : int
    batch_first : bool
        Whether x and y are (B, T, …).
    options : dict
        lengths int64 (B,), mask and resets bool (T, B), reset_to_initial, as `_core.forward` takes them.
    """

    cell: str
    directions: int
    batch_first: bool
    options: dict[str, Any]


def view(tensor: Tensor) -> Array:
    """The tensor's memory as an array that the kernels can read; a copy only where they cannot."""
    a: Array = tensor.numpy(force=True)
    return a if a.flags.c_contiguous else checks.kernel_ready(a, a.dtype)


def weight_view(tensor: Tensor) -> Array:
    """A parameter as an array, C-contiguous."""
    return np.ascontiguousarray(tensor.numpy(force=True))


def passes(weights: Sequence[Any], directions: int) -> list[Any]:
    """The weights of every direction: weight_ih, weight_hh, bias_ih, bias_hh, the biases may be None.

    With a projection there is one more, weight_hr, behind them.
    """
    count = len(weights) // directions
    projection = count % 2
    none = [None] * (4 + projection - count)
    return [
        [*one[: count - projection], *none, *one[count - projection :]]
        for one in (weights[d * count : d * count + count] for d in range(directions))
    ]


def projection(weights: Sequence[Any]) -> dict[str, Any]:
    """What is behind the first four of a pass, by argument of the kernels."""
    return {"weight_hr": weights[4]} if len(weights) > 4 else {}


def widths(cell: str, weights: Sequence[Any]) -> tuple[int, ...]:
    """Size of each state's last axis, from the weights of a pass."""
    h = weights[1].shape[1]
    return (h, *[weights[4].shape[1] if len(weights) > 4 else h] * (STATES[cell] - 1))


def forward(
    call: Call, x: Array, states: Sequence[Array] | None, weights: list[Any], save: bool
) -> tuple[Array | None, list[Array], list[Any]]:
    """One layer: y, one array (directions, B, H) for each state, and what the backward needs.

    x (B, I) with states (B, H) is one step: y is None then, for it is the first of the final states.
    """
    if x.ndim == 2:
        return None, *step(call.cell, x, states, weights[0], save)
    cell, D, batch_first, options = call
    if D == 1 and not options and len(weights[0]) == 4:
        y, finals, kept = run_alone(cell, x, states, *weights[0], batch_first, save)
        return y, finals, [kept]
    H, dtype = weights[0][1].shape[1], x.dtype
    if batch_first:
        x = x.swapaxes(0, 1)
    T, B, _ = x.shape
    y = np.empty((B, T, D * H) if batch_first else (T, B, D * H), dtype)
    out = y.swapaxes(0, 1) if batch_first else y
    sizes = widths(cell, weights[0])
    finals = [np.empty((D, B, n), dtype) for n in sizes]
    zeros = [np.zeros((B, n), dtype) for n in sizes] if states is None else []
    calls: Calls = [
        (
            (
                cell,
                x,
                zeros if states is None else [s[d] for s in states],
                *weights[d][:4],
                out[:, :, d * H : d * H + H],
                [s[d] for s in finals],
            ),
            {"reverse": d == 1, "save": save, **projection(weights[d]), **options},
        )
        for d in range(D)
    ]
    return y, finals, _core.forward_all(calls) if D == 2 else in_turn(run, calls)


def step(
    cell: str, x: Array, states: Sequence[Array] | None, weights: Any, save: bool
) -> tuple[list[Array], list[Any]]:
    """One step of a cell: the new states, and what the backward needs."""
    B, H, dtype = x.shape[0], weights[1].shape[1], x.dtype
    S = STATES[cell]
    finals = [np.empty((B, H), dtype) for _ in range(S)]
    kept = run(
        cell,
        x[None],
        [np.zeros((B, H), dtype)] * S if states is None else states,
        *weights,
        np.empty((1, B, H), dtype),
        finals,
        save,
    )
    return finals, [kept]


def backward(
    call: Call,
    saved: list[Any],
    x: tuple[int, ...],
    weights: list[Any],
    dy: Array | None,
    dfinals: Sequence[Array | None],
    dtype: np.dtype[Any],
    with_x: bool,
) -> tuple[Array | None, list[Array], list[Array]]:
    """Gradients of x, of the initial states (directions, B, H), and of the weights in their order."""
    _, D, batch_first, _ = call
    H = weights[0][1].shape[1]
    single, x = len(x) == 2, x if len(x) == 3 else (1, *x)
    B = x[0] if batch_first else x[1]
    if single:
        dfinals = [None if s is None else s[None] for s in dfinals]
    if dy is not None and batch_first:
        dy = dy.swapaxes(0, 1)
    dstates = None
    if any(s is not None for s in dfinals):
        dstates = [
            np.zeros((D, B, n), dtype) if s is None else s
            for s, n in zip(dfinals, widths(call.cell, weights[0]), strict=True)
        ]
    dx = np.empty(x, dtype) if with_x else None
    dx_out = dx.swapaxes(0, 1) if dx is not None and batch_first else dx
    dinitial = [np.empty((D, B, n), dtype) for n in widths(call.cell, weights[0])]
    dweights: list[Any] = [[None if w is None else np.empty(w.shape, dtype) for w in one] for one in weights]
    each = D == 2 and (dx is None or dx.size <= AT_ONCE)
    dxs = [dx_out, np.empty_like(dx_out) if each and dx_out is not None else dx_out]
    calls: Calls = [
        (
            (
                saved[d],
                dy if dy is None or D == 1 else dy[:, :, d * H : d * H + H],
                None if dstates is None else [s[d] for s in dstates],
                dxs[d],
                d == 1 and not each,
                [s[d] for s in dinitial],
                *dweights[d][:4],
            ),
            {f"d{name}": a for name, a in projection(dweights[d]).items()},
        )
        for d in range(D)
    ]
    if each:
        _core.backward_all(calls)
        if dx_out is not None:
            dx_out += dxs[1]
    else:
        in_turn(_core.backward, calls)
    if single:
        dx, dinitial = dx if dx is None else dx[0], [s[0] for s in dinitial]
    return dx, dinitial, [w for one in dweights for w in one if w is not None]
