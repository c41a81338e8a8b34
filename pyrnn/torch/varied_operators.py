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
from pyrnn.torch.operators import HANDLES, LIBRARY, keep, register
from pyrnn.torch.transforms import batched
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


def plain_of(call: Sequence[Any], S: int) -> Any:
    """The results of x, S tensors of the state and the weights, by the plain operations."""

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(plain.layers(x, tensors[:S], tensors[S:], Call(*call)))

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


register("varied", varied, varied_backward, varied_fake, plain_of, ["CPU", "CUDA"])
torch.library.register_vmap("pyrnn::varied", batched(VARIED), lib=LIBRARY)
torch.library.register_vmap("pyrnn::varied_backward", batched(VARIED_BACKWARD), lib=LIBRARY)
