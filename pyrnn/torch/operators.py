# SPDX-License-Identifier: Apache-2.0
"""The registered operators: one layer, forward and backward, for torch.compile, torch.export and torch.func.

`pyrnn::sequence` is differentiable through `pyrnn::sequence_backward`, and that through the plain operations
of `pyrnn.torch.formulas`, as often as wanted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrnn.torch import arrays, formulas
from pyrnn.torch.arrays import Call
from pyrnn.torch.engines import place

ARGUMENTS = (
    "Tensor x, Tensor[] state, Tensor[] weights, str cell, int directions, bool batch_first, "
    "Tensor? lengths, Tensor? mask, Tensor? resets, bool reset_to_initial"
)
LIBRARY = torch.library.Library("pyrnn", "FRAGMENT")
LIBRARY.define(f"sequence({ARGUMENTS}, bool save) -> Tensor[]")
LIBRARY.define(f"sequence_backward(Tensor[] grads, Tensor handle, {ARGUMENTS}) -> Tensor[]")
SEQUENCE = torch.ops.pyrnn.sequence.default
SEQUENCE_BACKWARD = torch.ops.pyrnn.sequence_backward.default


class Handle(np.ndarray[Any, np.dtype[np.uint8]]):
    """The memory of a tensor that stands for what a forward kept, and lives as long as the tensor's storage.

    An operator returns tensors only. Where the backward is given this tensor, it finds here what the forward
    kept; where it is given a copy, or other tensors than the forward read, it computes the forward again.

    Attributes
    ----------
    saved : list
        What the kernels keep, by direction.
    read : tuple
        Where x and the weights were.
    """

    saved: list[Any]
    read: tuple[Any, ...]


HANDLES: weakref.WeakValueDictionary[int, Handle] = weakref.WeakValueDictionary()


def keep(saved: list[Any], read: tuple[Any, ...]) -> Tensor:
    """A tensor (1,) that stands for `saved`."""
    handle = np.zeros(1, np.uint8).view(Handle)
    handle.saved, handle.read = saved, read
    HANDLES[handle.ctypes.data] = handle
    return torch.from_numpy(handle)


def options_of(
    lengths: Tensor | None,
    mask: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
) -> dict[str, Any]:
    """Options as the kernels take them; they check shapes and values, but know only (T, B)."""
    options: dict[str, Any] = {}
    if lengths is not None:
        options["lengths"] = np.ascontiguousarray(lengths.numpy(force=True), np.int64)
    for name, flags in (("mask", mask), ("resets", resets)):
        if flags is not None:
            options[name] = np.ascontiguousarray(flags.numpy(force=True))
    if reset_to_initial:
        options["reset_to_initial"] = True
    return options


def sequence(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    directions: int,
    batch_first: bool,
    lengths: Tensor | None,
    mask: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    save: bool,
) -> list[Tensor]:
    """One layer in `directions` directions.

    Parameters
    ----------
    x : tensor (T, B, I), or (B, T, I) with `batch_first`
    state : list of tensors (directions, B, H), one for each state of the cell
    weights : list of tensors
        weight_ih, weight_hh and, with biases, bias_ih and bias_hh of every direction.
    lengths : integer tensor (B,); mask, resets : bool tensors (T, B)
    save : bool
        Whether a backward may follow.

    Returns
    -------
    list of tensors
        y in the layout of x, the final states, and a handle: (1,) when `save`, else (0,).
    """
    call = Call(cell, directions, batch_first, options_of(lengths, mask, resets, reset_to_initial))
    read = arrays.view(x), [arrays.weight_view(w) for w in weights]
    y, finals, saved = arrays.forward(
        call, read[0], [arrays.view(s) for s in state], arrays.passes(read[1], directions), save
    )
    handle = torch.empty(0, dtype=torch.uint8)
    if save:
        handle = keep(saved, (place(read[0]), *map(place, read[1])))
    return [torch.from_numpy(a) for a in (y, *finals) if a is not None] + [handle]


def sequence_backward(
    grads: Sequence[Tensor],
    handle: Tensor,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    directions: int,
    batch_first: bool,
    lengths: Tensor | None,
    mask: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
) -> list[Tensor]:
    """Gradients of x, the state and the weights, from those of y and the final states."""
    call = Call(cell, directions, batch_first, options_of(lengths, mask, resets, reset_to_initial))
    x_read, w_read = arrays.view(x), [arrays.weight_view(w) for w in weights]
    by_pass = arrays.passes(w_read, directions)
    known = HANDLES.get(handle.data_ptr()) if handle.numel() else None
    if known is None or known.read != (place(x_read), *map(place, w_read)):
        saved = arrays.forward(call, x_read, [arrays.view(s) for s in state], by_pass, True)[2]
    else:
        saved = known.saved
    dx, dstate, dweights = arrays.backward(
        call,
        saved,
        x_read.shape,
        by_pass,
        arrays.view(grads[0]),
        [arrays.view(g) for g in grads[1:]],
        x_read.dtype,
        with_x=True,
    )
    return [torch.from_numpy(a) for a in (dx, *dstate, *dweights) if a is not None]


def sequence_fake(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    directions: int,
    batch_first: bool,
    *options: Any,
) -> list[Tensor]:
    """Shapes of the results of `sequence`."""
    H = weights[1].shape[1]
    return [
        x.new_empty((*x.shape[:2], directions * H)),
        *(x.new_empty(s.shape) for s in state),
        x.new_empty((int(options[-1]),), dtype=torch.uint8),
    ]


def split(rest: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
    """Tensors among the last arguments, and the arguments with a None in place of each, or True to say so."""
    return [a for a in rest if isinstance(a, Tensor)], [
        Ellipsis if isinstance(a, Tensor) else a for a in rest
    ]


def joined(flags: Sequence[Tensor], rest: Sequence[Any]) -> list[Any]:
    """What `split` parted."""
    left = iter(flags)
    return [next(left) if a is Ellipsis else a for a in rest]


def plain_of(rest: Sequence[Any], S: int) -> Callable[..., tuple[Tensor, ...]]:
    """The results of x, S states and the weights, by the plain operations."""

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(formulas.sequence(x, tensors[:S], tensors[S:], *rest))

    return run


def second_gradients(
    forward: Callable[..., tuple[Tensor, ...]],
    grads: Sequence[Tensor],
    read: Sequence[Tensor],
    seconds: Sequence[Tensor | None],
) -> Sequence[Tensor]:
    """Gradients of `grads`, those of the results of `forward`, and of what it read.

    From those of the gradients of what it read; by PyTorch, through the plain operations that `forward` is.
    """
    G = len(grads)

    def firsts(*inputs: Tensor) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = torch.func.vjp(forward, *inputs[G:])[1](tuple(inputs[:G]))
        return results

    given = tuple(torch.zeros_like(a) if s is None else s for a, s in zip(read, seconds, strict=True))
    results: Sequence[Tensor] = torch.func.vjp(firsts, *grads, *read)[1](given)
    return results


def register(
    name: str,
    forward: Callable[..., list[Tensor]],
    backward: Callable[..., list[Tensor]],
    fake: Callable[..., list[Tensor]],
    plain: Callable[[Sequence[Any], int], Callable[..., tuple[Tensor, ...]]],
    devices: Sequence[str],
) -> None:
    """Implement an operator of layers and its backward, and make both differentiable.

    Parameters
    ----------
    name : str
        Of the forward, whose arguments are x, the states, the weights, others and `save`, and whose last
        result is a handle. "_backward" behind it is the other's, which takes the gradients and the handle
        first.
    forward, backward, fake : callable
        The operators, and the forward's shapes.
    plain : callable
        From the other arguments and the number of states, the forward as a function of x, the states and the
        weights by plain operations.
    devices : sequence of str
        "CPU", "CUDA".
    """
    first, second = f"pyrnn::{name}", f"pyrnn::{name}_backward"
    packet: Any = getattr(torch.ops.pyrnn, f"{name}_backward")
    run_backward = packet.default

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        x, state, weights, *rest, save = inputs
        if not save:
            raise RuntimeError(f"{first}: expected save=True where gradients are wanted")
        flags, ctx.rest = split(rest)
        ctx.counts = len(state), len(weights)
        ctx.shapes = [a.shape for a in output[:-1]]
        ctx.save_for_backward(output[-1], x, *state, *weights, *flags)

    def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        handle, x, *saved = ctx.saved_tensors
        S, W = ctx.counts
        state, weights, rest = saved[:S], saved[S : S + W], joined(saved[S + W :], ctx.rest)
        given = [x.new_zeros(n) if g is None else g for g, n in zip(grads[:-1], ctx.shapes, strict=True)]
        dx, *others = run_backward(given, handle, x, state, weights, *rest)
        return dx, others[:S], others[S:], *[None] * (len(rest) + 1)

    def fake_backward(
        grads: Any, handle: Tensor, x: Tensor, state: Any, weights: Any, *rest: Any
    ) -> list[Tensor]:
        return [a.new_empty(a.shape) for a in (x, *state, *weights)]

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        grads, _, x, state, weights, *rest = inputs
        flags, ctx.rest = split(rest)
        ctx.counts = len(grads), len(state), len(weights)
        ctx.save_for_backward(*grads, x, *state, *weights, *flags)

    def differentiate_backward(ctx: Any, seconds: Sequence[Tensor | None]) -> tuple[Any, ...]:
        (G, S, W), saved = ctx.counts, ctx.saved_tensors
        read, rest = saved[G : G + 1 + S + W], joined(saved[G + 1 + S + W :], ctx.rest)
        results = second_gradients(plain(rest, S), saved[:G], read, seconds)
        others = results[G + 1 :]
        return list(results[:G]), None, results[G], list(others[:S]), list(others[S:]), *[None] * len(rest)

    for device in devices:
        torch.library.impl(first, device, forward, lib=LIBRARY)
        torch.library.impl(second, device, backward, lib=LIBRARY)
    torch.library.register_fake(first, fake, lib=LIBRARY)
    torch.library.register_fake(second, fake_backward, lib=LIBRARY)
    torch.library.register_autograd(first, differentiate, setup_context=setup, lib=LIBRARY)
    torch.library.register_autograd(second, differentiate_backward, setup_context=setup_backward, lib=LIBRARY)


register("sequence", sequence, sequence_backward, sequence_fake, plain_of, ["CPU"])
