# SPDX-License-Identifier: Apache-2.0
"""Cells as a user of NumPy, PyTorch or JAX writes them: one function each, on the arrays of any of the three.

A cell is compared with these where a library has no layer of it. A new one is a function and a line of STEPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pyrnn.functional import KERNELS

State = tuple[Any, ...]
Params = Mapping[str, Any]


class Ops(NamedTuple):
    """What cells and loops need of a library of arrays."""

    sigmoid: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    relu: Callable[[Any], Any]
    where: Callable[[Any, Any, Any], Any]
    zeros: Callable[[tuple[int, ...]], Any]
    stack: Callable[[list[Any]], Any]
    join: Callable[[list[Any]], Any]  # along the last axis


Product = Callable[[Any, Any], Any]


def times(a: Any, weight: Any) -> Any:
    """a·weightᵀ."""
    return a @ weight.T


def split(a: Any, count: int) -> list[Any]:
    """Equal parts of the last axis."""
    H = a.shape[-1] // count
    return [a[..., k * H : (k + 1) * H] for k in range(count)]


def lstm(ops: Ops, ax: Any, ah: Any, state: State, p: Params) -> State:
    """(h, c), slots i f g o, from what x and h add to the slots."""
    i, f, g, o = split(ax + ah, 4)
    c = ops.sigmoid(f) * state[1] + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def gru(ops: Ops, ax: Any, ah: Any, state: State, p: Params) -> State:
    """(h,), slots r z n, the reset gate after the product."""
    (xr, xz, xn), (hr, hz, hn) = split(ax, 3), split(ah, 3)
    z, n = ops.sigmoid(xz + hz), ops.tanh(xn + ops.sigmoid(xr + hr) * hn)
    return (n + z * (state[0] - n),)


def rnn_tanh(ops: Ops, ax: Any, ah: Any, state: State, p: Params) -> State:
    """(h,)."""
    return (ops.tanh(ax + ah),)


def rnn_relu(ops: Ops, ax: Any, ah: Any, state: State, p: Params) -> State:
    """(h,)."""
    return (ops.relu(ax + ah),)


Step = Callable[[Ops, Any, Any, State, Params], State]
STEPS: dict[str, Step] = {"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu}


def states_of(cell: str) -> int:
    """How many states the cell carries."""
    return KERNELS.spec(cell).states


def of_layer(params: Params, suffix: str) -> dict[str, Any]:
    """The parameters of a layer and direction by kind: `weight_ih` and the others."""
    return {name.removesuffix(suffix): p for name, p in params.items() if name.endswith(suffix)}


def one_step(
    ops: Ops, cell: str, layers: Sequence[Params], x: Any, states: Sequence[State], product: Product = times
) -> tuple[Any, list[State]]:
    """One step of stacked layers: x (B, I) and the state of every layer, to y and the new states."""
    after = []
    for p, state in zip(layers, states, strict=True):
        ax = product(x, p["weight_ih"]) + p["bias_ih"]
        ah = product(state[0], p["weight_hh"]) + p["bias_hh"]
        after.append(STEPS[cell](ops, ax, ah, state, p))
        x = after[-1][0]
    return x, after


def loop(ops: Ops, cell: str, p: Params, x: Any, mask: Any, reverse: bool) -> Any:
    """A layer in one direction over x (T, B, I): the input's product at once, then a step after the other."""
    ax = times(x, p["weight_ih"]) + p["bias_ih"]
    state: State = (ops.zeros((x.shape[1], p["weight_hh"].shape[1])),) * states_of(cell)
    outputs: list[Any] = [None] * len(ax)
    for t in reversed(range(len(ax))) if reverse else range(len(ax)):
        new = STEPS[cell](ops, ax[t], times(state[0], p["weight_hh"]) + p["bias_hh"], state, p)
        if mask is None:
            state, outputs[t] = new, new[0]
        else:
            state = tuple(ops.where(mask[t], a, b) for a, b in zip(new, state, strict=True))
            outputs[t] = new[0] * mask[t]
    return ops.stack(outputs)


Run = Callable[[Params, Any, bool], Any]


def stacked(ops: Ops, layers: int, directions: int, params: Params, x: Any, run: Run) -> Any:
    """All layers and directions, `run(p, x, reverse)` being one of them."""
    for layer in range(layers):
        suffixes = [f"_l{layer}" + "_reverse" * d for d in range(directions)]
        ways = [run(of_layer(params, suffix), x, bool(d)) for d, suffix in enumerate(suffixes)]
        x = ops.join(ways) if directions > 1 else ways[0]
    return x
