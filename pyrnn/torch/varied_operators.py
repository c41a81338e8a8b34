# SPDX-License-Identifier: Apache-2.0
"""Gradients of a whole stack of layers: an autograd function, and operators for compilers.

The operators are `pyrnn::varied` and `pyrnn::varied_backward`. As with `pyrnn::sequence`, the backward finds
what the forward kept through a handle, or computes the forward again; gradients of gradients are those of the
plain operations of `pyrnn.torch.plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrnn.states import built
from pyrnn.torch import eager, plain
from pyrnn.torch.operators import HANDLES, LIBRARY, joined, keep, second_gradients, split
from pyrnn.torch.transforms import one_by_one
from pyrnn.torch.varying import Call, backward, engine_for, flat, forward, layers_of

ARGUMENTS = (
    "Tensor x, Tensor[] state, Tensor[] weights, str layers, bool batch_first, bool training, float dropout, "
    "Tensor? seed, Tensor? lengths, Tensor? mask, Tensor? resets, bool reset_to_initial, "
    "bool return_states, bool checkpoint"
)
LIBRARY.define(f"varied({ARGUMENTS}, bool save) -> Tensor[]")
LIBRARY.define(f"varied_backward(Tensor[] grads, Tensor handle, {ARGUMENTS}) -> Tensor[]")
VARIED = torch.ops.pyrnn.varied.default
VARIED_BACKWARD = torch.ops.pyrnn.varied_backward.default


class Varied(torch.autograd.Function):
    """The layers in eager calls; the backward is given what the forward kept."""

    @staticmethod
    def forward(ctx: Any, call: Call, save: bool, S: int, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`tensors`: the state's, S of them, and the weights."""
        results, saved = forward(x, tensors[:S], tensors[S:], call, save)
        if save:
            ctx.save_for_backward(x, *tensors)
            ctx.set_materialize_grads(False)
            ctx.kept = saved, [a.shape for a in results], S, call, [*map(eager.data_ptr, (x, *tensors))]
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Gradients of x and `tensors`."""
        x, *tensors = ctx.saved_tensors  # refuses what was changed in place since
        saved, shapes, S, call, places = ctx.kept
        if torch.is_grad_enabled():
            given = [x.new_zeros(n) if g is None else g for g, n in zip(grads, shapes, strict=True)]
            every = firsts(call, given, x, tensors[:S], tensors[S:])
        else:
            if not eager.keeps_graph():
                ctx.kept = None  # as the saved tensors, freed by the first backward, unless it is repeated
            if places != [*map(eager.data_ptr, (x, *tensors))]:  # what the kernels kept are addresses
                saved = forward(x, tensors[:S], tensors[S:], call, True)[1]
            every = backward(saved, grads, shapes, S > 0, x)
        wanted = ctx.needs_input_grad[3:]
        return None, None, None, *(a if w else None for a, w in zip(every, wanted, strict=True))


def firsts(
    call: Call,
    grads: Sequence[Tensor],
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Sequence[Tensor]:
    """Gradients of x, the state and the weights by the plain operations, differentiable again."""
    results: Sequence[Tensor] = torch.func.vjp(plain_of(call, len(state)), x, *state, *weights)[1](
        tuple(grads)
    )
    return results


def plain_of(call: Call, S: int) -> Any:
    """The results of x, S tensors of the state and the weights, by the plain operations."""

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(plain.layers(x, tensors[:S], tensors[S:], call))

    return run


def varied(x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    """y, the final states, those of every step if asked for, and a handle."""
    *call, save = rest
    results, saved = forward(x, state, weights, Call(*call), save)
    if not save:
        return [*results, torch.empty(0, dtype=torch.uint8)]
    return [*results, keep([saved], engine_at(Call(*call), x, weights).places(x, weights))]


def engine_at(call: Call, x: Tensor, weights: Sequence[Tensor]) -> Any:
    """The engine of a call."""
    return engine_for(call, x.device, weights[0].dtype)


def varied_backward(
    grads: Sequence[Tensor],
    handle: Tensor,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *call: Any,
) -> list[Tensor]:
    """Gradients of x, the state and the weights, from those of the results."""
    known = HANDLES.get(handle.data_ptr()) if handle.numel() else None
    if known is None or known.read != engine_at(Call(*call), x, weights).places(x, weights):
        saved = forward(x, state, weights, Call(*call), True)[1]
    else:
        saved = known.saved[0]
    return backward(saved, grads, [g.shape for g in grads], len(state) > 0, x)


def varied_fake(x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    """Shapes of the results of `varied`."""
    *given, save = rest
    call = Call(*given)
    layout = layers_of(call.layers).layout
    steps = x.shape[:-1]
    batch = () if x.dim() < 3 else (x.shape[0 if call.batch_first else 1],)
    finals = flat(built(layout, lambda rows, width: x.new_empty((rows, *batch, width))))
    states = flat(built(layout, lambda rows, width: x.new_empty((rows, *steps, width))))
    results = [x.new_empty((*steps, layout.sizes[2])), *finals, *(states if call.return_states else ())]
    return [*results, x.new_empty((int(save),), dtype=torch.uint8, device="cpu")]


def varied_backward_fake(
    grads: Sequence[Tensor],
    handle: Tensor,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *call: Any,
) -> list[Tensor]:
    """Shapes of the results of `varied_backward`."""
    return [a.new_empty(a.shape) for a in (x, *state, *weights)]


def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """Keep the handle and what the forward read."""
    x, state, weights, *rest, save = inputs
    if not save:
        raise RuntimeError("pyrnn::varied: expected save=True where gradients are wanted")
    flags, ctx.rest = split(rest)
    ctx.counts = len(state), len(weights)
    ctx.shapes = [a.shape for a in output[:-1]]
    ctx.save_for_backward(output[-1], x, *state, *weights, *flags)


def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The backward of `varied`."""
    handle, x, *saved = ctx.saved_tensors
    S, W = ctx.counts
    state, weights = saved[:S], saved[S : S + W]
    rest = joined(saved[S + W :], ctx.rest)
    given = [x.new_zeros(s) if g is None else g for g, s in zip(grads[:-1], ctx.shapes, strict=True)]
    dx, *others = VARIED_BACKWARD(given, handle, x, state, weights, *rest)
    return dx, others[:S], others[S:], *[None] * (len(rest) + 1)


def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """Keep what the backward read."""
    grads, _, x, state, weights, *rest = inputs
    flags, ctx.rest = split(rest)
    ctx.counts = len(grads), len(state), len(weights)
    ctx.save_for_backward(*grads, x, *state, *weights, *flags)


def differentiate_backward(ctx: Any, seconds: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The backward of `varied_backward`."""
    (G, S, W), saved = ctx.counts, ctx.saved_tensors
    rest = joined(saved[G + 1 + S + W :], ctx.rest)
    read = saved[G : G + 1 + S + W]
    results = second_gradients(plain_of(Call(*rest), S), saved[:G], read, seconds)
    others = results[G + 1 :]
    return list(results[:G]), None, results[G], list(others[:S]), list(others[S:]), *[None] * len(rest)


def batched(operator: Any) -> Any:
    """The operator on samples: one call for each."""

    def run(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[list[Tensor], list[int | None]]:
        each = one_by_one(operator, info.batch_size, in_dims, arguments)
        if operator is VARIED:  # a handle of one sample is none of the others'
            each = [[*results[:-1], results[-1].clone()] for results in each]
        results = [torch.stack(a) for a in zip(*each, strict=True)]
        return results, [0] * len(results)

    return run


for device in ("CPU", "CUDA"):
    torch.library.impl("pyrnn::varied", device, varied, lib=LIBRARY)
    torch.library.impl("pyrnn::varied_backward", device, varied_backward, lib=LIBRARY)
torch.library.register_fake("pyrnn::varied", varied_fake, lib=LIBRARY)
torch.library.register_fake("pyrnn::varied_backward", varied_backward_fake, lib=LIBRARY)
torch.library.register_autograd("pyrnn::varied", differentiate, setup_context=setup, lib=LIBRARY)
torch.library.register_autograd(
    "pyrnn::varied_backward", differentiate_backward, setup_context=setup_backward, lib=LIBRARY
)
torch.library.register_vmap("pyrnn::varied", batched(VARIED), lib=LIBRARY)
torch.library.register_vmap("pyrnn::varied_backward", batched(VARIED_BACKWARD), lib=LIBRARY)
