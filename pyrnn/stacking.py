# SPDX-License-Identifier: Apache-2.0
"""Layers, directions, memory layout and dropout over any back end that runs one layer in one direction.

The kernels, the NumPy reference and the CUDA kernels are such; what is here is written once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pyrnn import checks
from pyrnn.backends.layer import Backend, Calls, in_turn
from pyrnn.layout import Array, Layout, layout_from
from pyrnn.masks import dropout_mask, redrawn, regularized
from pyrnn.options import PLAIN, Variation, merged, variation
from pyrnn.states import (
    State,
    by_pass,
    empty_states,
    every_state,
    learned_gradients,
    learned_states,
    memory_of,
    read_every_state,
    read_state,
    result,
    zero_states,
)

#: Up to so many numbers, memory is taken for calls that run at the same time: gradients of x of each
#: direction's own, and outputs of all layers.
AT_ONCE = 1 << 20


class Gradients(NamedTuple):
    """Gradients in the structure of what they belong to.

    Attributes
    ----------
    x : array, shape and layout of x
    state : array or tuple of arrays, as the state; gradient of the initial state
    params : dict of arrays, every parameter by name
    """

    x: Array
    state: State
    params: dict[str, Array]


class Saved:
    """What a forward keeps for its backward: opaque, tied to the x and the weights of that call."""

    __slots__ = (
        "arrays",
        "backend",
        "batch_first",
        "dropped",
        "dtype",
        "factors",
        "layout",
        "learned",
        "owner",
        "passes",
        "sizes",
        "unbatched",
    )

    def __init__(
        self,
        backend: Backend,
        arrays: Any,
        layout: Layout,
        sizes: tuple[int, int],
        dtype: Any,
        batch_first: bool,
        unbatched: bool,
    ) -> None:
        self.backend, self.arrays, self.layout, self.sizes = backend, arrays, layout, sizes
        self.dtype, self.batch_first, self.unbatched = dtype, batch_first, unbatched
        self.passes: list[Any] = []  # what the back end saved, by layer and direction
        #: dropout mask on the input of every layer, or what makes it again
        self.dropped: list[Array | Callable[[], Array] | None] = []
        self.factors: list[Array | None] = []  # of weight_hh, by layer and direction
        self.learned = False  # whether it started from the states that are parameters
        self.owner: Any = None


def from_names(
    backend: Backend,
    cell: str,
    x: Array,
    state: State | None,
    params: Any,
    training: bool,
    *,
    merge: str = "concat",
    heads: int = 1,
    weight_dropout: float = 0.0,
    recurrent_dropout_kind: str = "sequence",
    cell_clip: float | None = None,
    gate_clip: float | None = None,
    activations: Any = None,
    **options: Any,
) -> Any:
    """`forward` on a stack whose extent is read off the names of its parameters."""
    checks.choice("merge", merge, ("concat", "sum"))
    layout = layout_from(backend.spec(cell), params, merge, checks.size("heads", heads))
    checks.heads(heads, layout.spec, layout.units, layout.proj_size)
    checks.warn_of_float32(options.get("compute_dtype"), layout)
    merged(merge, layout.directions)
    dtype = backend.dtype("weight_ih_l0", params["weight_ih_l0"].dtype)
    changes = variation(
        layout.spec,
        weight_dropout=weight_dropout,
        recurrent_dropout_kind=recurrent_dropout_kind,
        cell_clip=cell_clip,
        gate_clip=gate_clip,
        activations=activations,
        compute_dtype=options.get("compute_dtype"),
        cell_norm=layout.cell_norm,
    )
    return forward(backend, layout, dtype, x, state, params, training=training, variation=changes, **options)


def forward(
    backend: Backend,
    layout: Layout,
    dtype: Any,
    x: Array,
    state: State | None,
    params: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_to: str = "zero",
    batch_first: bool = False,
    dropout: float = 0.0,
    zoneout: float | tuple[float, ...] = 0.0,
    recurrent_dropout: float = 0.0,
    training: bool = False,
    rng: np.random.Generator | None = None,
    out: Array | None = None,
    compute_dtype: str | None = None,
    save: bool = False,
    checkpoint: bool = False,
    variation: Variation = PLAIN,
    return_states: bool = False,
) -> Any:
    """Run every layer and direction, with the arguments of `pyrnn.functional.sequence_forward`.

    Returns y, the state, the states if `return_states`, and a Saved when `save`, else None.
    """
    training, batch_first = checks.flag("training", training), checks.flag("batch_first", batch_first)
    arrays = backend.arrays_of("x", x)
    weights = arrays.weights(layout, params, dtype)
    extras = arrays.extras(layout, params, dtype) if any(layout.extras) else layout.extras
    inputs, _, N = layout.sizes
    x = arrays.plain("x", x, dtype)
    unbatched = x.ndim == 2
    if x.ndim not in (2, 3) or x.shape[-1] != inputs:
        axes = "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"x: expected shape {axes} or (T, I) with I = {inputs}, got {tuple(x.shape)}")
    view = arrays.ready(time_major(x, batch_first, unbatched), dtype)
    T, B, _ = view.shape
    S, L, D = layout.spec.states, layout.num_layers, layout.directions

    learned = state is None and bool(layout.initial)
    if state is not None:
        states = by_pass(layout, read_state(arrays, "state", state, layout, B, unbatched, dtype))
    elif learned:
        states = learned_states(arrays, layout, params, B, dtype)
    else:
        states = zero_states(arrays, layout, B, dtype)
    options: dict[str, Any] = {}
    if lengths is not None:
        options["lengths"] = arrays.lengths(lengths, T, B, unbatched)
    if mask is not None:
        options["mask"] = arrays.flags("mask", mask, T, B, batch_first, unbatched)
    if resets is not None:
        options["resets"] = arrays.flags("resets", resets, T, B, batch_first, unbatched)
    if reset_to != "zero":
        options["reset_to_initial"] = checks.choice("reset_to", reset_to, ("zero", "initial")) == "initial"
    if compute_dtype is not None:
        options["compute_dtype"] = checks.compute_dtype(compute_dtype, dtype)
    if layout.heads > 1:
        options["heads"] = layout.heads
    if return_states:
        options |= backend.every
    if checks.checkpointed(checkpoint, return_states):
        options["checkpoint"] = True
    checks.probability("dropout", dropout)  # also where it is not used
    checks.probability("recurrent_dropout", recurrent_dropout)
    weight_dropout = variation.weight_dropout if training else 0.0
    rates = checks.rates("zoneout", zoneout, S)
    if not training:
        dropout = recurrent_dropout = 0.0
    draws = recurrent_dropout > 0 or (training and any(rates))
    if draws or weight_dropout or (dropout and L > 1):
        checks.generator("rng", rng)
    seed = int(rng.integers(2**64, dtype=np.uint64)) if draws and rng is not None else 0
    if out is not None:
        read = [
            x,
            *(a for whole in states for a in memory_of(whole)),
            *(a for pass_arrays in weights for a in pass_arrays if a is not None),
        ]
        read += [a for more in extras for a in more.values()]
        arrays.output(out, *sequence_shape(T, B, N, batch_first, unbatched), dtype, read)

    keeps = save or return_states
    saved = Saved(backend, arrays, layout, (T, B), dtype, batch_first, unbatched) if keeps else None
    whole = empty_states(arrays, layout, B, dtype)
    finals = by_pass(layout, whole)
    cell = layout.spec.name
    changes = variation.argument(recurrent_dropout, layout.cell_norm)
    # Layers that read each other's steps while they are made need all outputs at once.
    small = T * B * sum(layout.features) <= AT_ONCE and not dropout
    chain = backend.forward_chain if D == 1 and L > 1 and small else None
    waiting: Calls = []
    passes: list[Any] = []
    for layer in range(L):
        H, N = layout.widths[layer][0], layout.features[layer + 1]
        dropped: Array | Callable[[], Array] | None = None
        if layer and dropout and rng:
            again = redrawn(arrays, rng, view.shape, dropout, dtype) if checkpoint else None
            dropped = arrays.made(dropout_mask(rng, view.shape, dropout), dtype)
            view *= dropped
            dropped = again or dropped
        y = (
            sequence_empty(arrays, T, B, N, dtype, batch_first)
            if layer < L - 1 or out is None
            else arrays.ready(time_major(out, batch_first, unbatched), dtype)
        )
        calls: Calls = []
        adds = D == 2 and layout.merge == "sum"
        targets = [y, sequence_empty(arrays, T, B, N, dtype, batch_first)] if adds else [y]
        for d in range(D):
            k = layer * D + d
            factor = None
            if weight_dropout and rng is not None and weights[k][1] is not None:
                factor = arrays.made(dropout_mask(rng, weights[k][1].shape, weight_dropout), dtype)
                weights[k][1] = weights[k][1] * factor
            arguments = (
                cell,
                view,
                [s[k] for s in states],
                *weights[k],
                targets[d] if D == 1 or adds else y[:, :, d * H : d * H + H],
                [s[k] for s in finals],
            )
            keywords = {
                "reverse": d == 1 or layout.reverse,
                "save": keeps,
                **regularized(rates, recurrent_dropout, training, seed, k),
                **extras[k],
                **changes,
                **options,
            }
            calls.append((arguments, keywords))
            if saved is not None:
                saved.factors.append(factor)
        if chain:
            waiting += calls
        elif D == 2 and backend.forward_all:
            passes += backend.forward_all(calls)
        else:
            passes += in_turn(backend.forward, calls)
        if adds:
            y += targets[1]
        if saved is not None:
            saved.dropped.append(dropped)
        view = y
    if chain:
        passes = chain(waiting)
    y = original(view, batch_first, unbatched)
    if out is not None:
        if not arrays.share_memory(y, out):
            out[...] = y
        y = out
    final = result(whole, unbatched)
    if saved is not None:
        saved.passes, saved.learned = passes, learned
    every = (every_state(saved),) if return_states else ()
    return y, final, *every, saved if save else None


def backward(
    saved: Saved, dy: Array | None, dstate: State | None = None, dstates: State | None = None
) -> Gradients:
    """The reverse sweep through every layer and direction; see `pyrnn.functional.sequence_backward`."""
    if not isinstance(saved, Saved):
        raise TypeError(f"saved: expected what forward returned, got {type(saved).__name__}")
    arrays, layout, dtype, (T, B) = saved.arrays, saved.layout, saved.dtype, saved.sizes
    batch_first, unbatched = saved.batch_first, saved.unbatched
    N, L, D = layout.sizes[2], layout.num_layers, layout.directions
    if dy is not None:
        dy = arrays.plain("dy", dy, dtype)
        shape, axes = sequence_shape(T, B, N, batch_first, unbatched)
        if tuple(dy.shape) != shape:
            raise checks.wrong_shape("dy", axes, shape, tuple(dy.shape))
        dy = arrays.ready(time_major(dy, batch_first, unbatched), dtype)
    last: Any = None
    if dstate is not None:
        last = by_pass(layout, read_state(arrays, "dstate", dstate, layout, B, unbatched, dtype))
    every = None if dstates is None else read_every_state(saved, dstates)

    whole = empty_states(arrays, layout, B, dtype)
    dinitial = by_pass(layout, whole)
    grads = {name: arrays.empty(shape, dtype) for name, shape in layout.shapes.items()}
    backend = saved.backend
    for layer in reversed(range(L)):
        N, H = layout.features[layer], layout.widths[layer][0]
        each = backend.backward_all is not None and D == 2 and T * B * N <= AT_ONCE
        dxs = [sequence_empty(arrays, T, B, N, dtype, batch_first) for _ in range(2 if each else 1)]
        calls: Calls = []
        for d in range(D):
            k = layer * D + d
            arguments = (
                saved.passes[k],
                dy if dy is None or D == 1 or layout.merge == "sum" else dy[:, :, d * H : d * H + H],
                None if last is None else [s[k] for s in last],
                dxs[d if each else 0],
                d == 1 and not each,
                [s[k] for s in dinitial],
                *layout.in_order([grads[name] for name, _ in layout.passes[k]]),
            )
            keywords = {f"d{argument}": grads[name] for argument, (name, _) in layout.extras[k].items()}
            if every is not None:
                keywords["dstates"] = [s[k] for s in every]
            calls.append((arguments, keywords))
        if each and backend.backward_all:
            backend.backward_all(calls)
            dxs[0] += dxs[1]
        else:
            in_turn(backend.backward, calls)
        for k in range(layer * D, layer * D + D):
            factor = saved.factors[k]
            if factor is not None:
                grads[layout.passes[k][1][0]] *= factor
        dx = dxs[0]
        dropped = saved.dropped[layer]
        if dropped is not None:
            dx *= dropped() if callable(dropped) else dropped
        dy = dx
    learned_gradients(layout, dinitial if saved.learned else None, grads)
    return Gradients(original(dx, batch_first, unbatched), result(whole, unbatched), grads)


def gates(saved: Saved, layer: int, names: tuple[str, ...]) -> dict[str, Array]:
    """What one layer's cells saved first, by name, directions side by side, in the caller's layout."""
    return by_name(saved, [kept.saved() for kept in passes_of(saved, layer)], names)


def states(saved: Saved, layer: int, names: tuple[str, ...]) -> dict[str, Array]:
    """The states after every step of one layer of the kernels, in the form of `gates`."""
    kept = [kept.states() for kept in passes_of(saved, layer)]
    found = by_name(saved, kept, names[1:], 1)
    return by_name(saved, [a[..., : saved.layout.widths[layer][0]] for a in kept], names[:1]) | found


def passes_of(saved: Saved, layer: int) -> list[Any]:
    """What the back end saved of one layer, by direction."""
    D = saved.layout.directions
    return saved.passes[layer * D : layer * D + D]


def by_name(saved: Saved, kept: list[Array], names: tuple[str, ...], first: int = 0) -> dict[str, Array]:
    """Parts of arrays (T, B, parts, H), one for each direction, by name from the first on."""
    return {
        name: original(saved.arrays.joined([a[:, :, k] for a in kept]), saved.batch_first, saved.unbatched)
        for k, name in enumerate(names, first)
    }


def time_major(a: Array, batch_first: bool, unbatched: bool) -> Array:
    """A view (T, B, …) of a sequence in the caller's layout."""
    return a[:, None] if unbatched else a.swapaxes(0, 1) if batch_first else a


def original(a: Array, batch_first: bool, unbatched: bool) -> Array:
    """A view in the caller's layout of a sequence (T, B, …)."""
    return a[:, 0] if unbatched else a.swapaxes(0, 1) if batch_first else a


def sequence_shape(T: int, B: int, N: int, batch_first: bool, unbatched: bool) -> tuple[tuple[int, ...], str]:
    """Shape of a sequence in the caller's layout, and its axes in symbols."""
    if unbatched:
        return (T, N), "(T, H*directions)"
    return ((B, T, N), "(B, T, H*directions)") if batch_first else ((T, B, N), "(T, B, H*directions)")


def sequence_empty(arrays: Any, T: int, B: int, N: int, dtype: Any, batch_first: bool) -> Array:
    """Memory for a sequence (T, B, N) that is contiguous in the caller's layout."""
    empty: Array = arrays.empty((B, T, N) if batch_first else (T, B, N), dtype)
    return empty.swapaxes(0, 1) if batch_first else empty
