# SPDX-License-Identifier: Apache-2.0
"""One layer in one direction as a function of JAX: the handlers' calls, gradient and batching rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from pyrnn import _jax
from pyrnn.functional import KERNELS

#: A jax.Array, or a tracer.
Array: TypeAlias = Any


class Options(NamedTuple):
    """What of a call is no array."""

    cell: str
    reverse: bool
    batch_first: bool
    reset_to_initial: bool


class Inputs(NamedTuple):
    """The arrays that both handlers begin with; None where there is none.

    Attributes
    ----------
    x : (T, B, I), or (B, T, I) with `batch_first`
    lengths : int32 (B,)
    mask, resets : bool (T, B)
    weights : weight_ih, weight_hh, bias_ih, bias_hh, params, norm_ih, norm_hh, weight_hr
    """

    x: Array
    lengths: Array | None
    mask: Array | None
    resets: Array | None
    weights: tuple[Array | None, ...]


#: numbers of the cells in the tables of kernels, as the handlers know them
NUMBERS = {name: k for k, name in enumerate(KERNELS.specs)}


def call(
    name: str, options: Options, results: Any, operands: list[Array | None], dtype: Any, save: bool
) -> Any:
    """Call a handler; None is an array without elements."""
    flags = options.reverse + 2 * options.batch_first + 4 * options.reset_to_initial + 8 * save
    arrays = [jnp.zeros((0,), dtype) if a is None else a for a in operands]
    target = jax.ffi.ffi_call(name, results, vmap_method="sequential")
    return target(*arrays, cell=np.int32(NUMBERS[options.cell]), flags=np.int32(flags))


def shape_of(a: Array | None, dtype: Any) -> jax.ShapeDtypeStruct:
    """What a result of an array's shape is; without elements for None."""
    return jax.ShapeDtypeStruct((0,) if a is None else a.shape, dtype)


def forward(options: Options, inputs: Inputs, state: tuple[Array, ...] | None, save: bool) -> Any:
    """y, the new state and, with `save`, what `backward` needs."""
    x, weights = inputs.x, inputs.weights
    T, B = x.shape[1::-1] if options.batch_first else x.shape[:2]
    spec = KERNELS.specs[options.cell]
    states = spec.states
    # A cell without a product of h has no weight_hh.
    P: Any = weights[0].shape[0] // spec.from_x if weights[1] is None else weights[1].shape[1]  # type: ignore[union-attr]
    projection = weights[7]
    H = P if projection is None else projection.shape[1]
    results = [jax.ShapeDtypeStruct((*x.shape[:2], P), x.dtype)]
    results += [jax.ShapeDtypeStruct((B, H if s else P), x.dtype) for s in range(states)]
    if save:
        projected, norm = 0 if projection is None else P, weights[5] is not None
        wide = x.dtype == jnp.float64
        sizes = _jax.saved_bytes(NUMBERS[options.cell], wide, T, B, x.shape[2], H, projected, norm)
        results += [jax.ShapeDtypeStruct((size,), jnp.uint8) for size in sizes]
    operands = [*inputs[:4], *weights, *((None,) * states if state is None else state)]
    y, *rest = call("pyrnn_forward", options, results, operands, x.dtype, save)
    return y, tuple(rest[:states]), tuple(rest[states:])


def backward(
    options: Options, inputs: Inputs, saved: tuple[Array, Array], dy: Array, dstate: tuple[Array, ...]
) -> tuple[Array, tuple[Array, ...], tuple[Array | None, ...]]:
    """Gradients of x, of the first state and of the weights."""
    x, weights = inputs.x, inputs.weights
    results = [shape_of(a, x.dtype) for a in (x, *dstate, *weights)]
    operands = [*inputs[:4], *weights, *saved, dy, *dstate]
    dx, *rest = call("pyrnn_backward", options, results, operands, x.dtype, True)
    states = len(dstate)
    dweights = tuple(None if w is None else dw for w, dw in zip(weights, rest[states:], strict=True))
    return dx, tuple(rest[:states]), dweights


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer(options: Options, inputs: Inputs, state: tuple[Array, ...] | None) -> Any:
    """y (T, B, H), or (B, T, H) with `batch_first`, and the new state, a tuple of (B, H)."""
    return inference(options)(inputs, state)


def layer_forward(options: Options, inputs: Inputs, state: tuple[Array, ...] | None) -> Any:
    """The same, and what the gradient needs."""
    y, new, saved = forward(options, inputs, state, True)
    return (y, new), (inputs, saved, state is None)


def layer_backward(options: Options, kept: Any, cotangents: Any) -> Any:
    """Gradients in the structure of the inputs and the state."""
    inputs, saved, stateless = kept
    dx, dstate, dweights = backward(options, inputs, saved, *cotangents)
    return Inputs(dx, None, None, None, dweights), None if stateless else dstate


layer.defvjp(layer_forward, layer_backward)


@lru_cache(maxsize=256)
def inference(options: Options) -> Callable[[Inputs, Any], Any]:
    """`forward` without saving; under `vmap` examples that share the weights become rows of the batch."""

    def run(inputs: Inputs, state: Any) -> Any:
        return forward(options, inputs, state, False)[:2]

    rows_of = jax.custom_batching.custom_vmap(run)

    @rows_of.def_vmap
    def rule(size: int, batched: Any, inputs: Inputs, state: Any) -> Any:
        batched_inputs, batched_state = batched
        if any(jax.tree.leaves(batched_inputs.weights)):
            axes = jax.tree.map(lambda b: 0 if b else None, (batched_inputs, batched_state))
            found = jax.vmap(jax.custom_batching.sequential_vmap(run), axes, axis_size=size)(inputs, state)
            return found, jax.tree.map(lambda a: True, found)

        def fold(a: Array, b: bool, axis: int) -> Array:
            """The examples (V, …), or the one of all, in the axis of the batch."""
            wide = a if b else jnp.broadcast_to(a, (size, *a.shape))
            moved = jnp.moveaxis(wide, 0, axis)
            return moved.reshape(*moved.shape[:axis], size * moved.shape[axis + 1], *moved.shape[axis + 2 :])

        def unfold(a: Array, axis: int) -> Array:
            parts = a.reshape(*a.shape[:axis], size, a.shape[axis] // size, *a.shape[axis + 1 :])
            return jnp.moveaxis(parts, axis, 0)

        axes = Inputs(0 if options.batch_first else 1, 0, 1, 1, inputs.weights)
        arrays = [
            None if a is None else fold(a, b, axis)
            for a, b, axis in zip(inputs[:4], batched_inputs[:4], axes[:4], strict=True)
        ]
        rows = None if state is None else tuple(map(partial(fold, axis=0), state, batched_state))
        x, lengths, mask, resets = arrays
        y, new = rows_of(Inputs(x, lengths, mask, resets, inputs.weights), rows)
        found = unfold(y, axes.x), tuple(unfold(s, 0) for s in new)
        return found, jax.tree.map(lambda a: True, found)

    return rows_of
