# SPDX-License-Identifier: Apache-2.0
"""The short way from tensors to the kernels, for eager calls: no operator, one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pyrnn.layout import Array
from pyrnn.torch import arrays
from pyrnn.torch.arrays import Call
from pyrnn.torch.operators import SEQUENCE_BACKWARD

any_requires_grad: Callable[..., bool] = torch._C._any_requires_grad
is_grad_enabled = torch.is_grad_enabled
data_ptr = Tensor.data_ptr
from_numpy, view = torch.from_numpy, arrays.view
modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
tracing: Callable[[], Any] = torch._C._get_tracing_state
hooks: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks

#: Whether the backward that is running may be asked for again (retain_graph).
keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)


def unwatched() -> bool:
    """Whether nothing but autograd watches operators: no mode, transform, tracer, forward-mode derivative.

    Nor hooks on saved tensors, such as those of checkpointing: what the kernels keep is no tensor here.
    """
    return (
        not modes()
        and not transforms()
        and tracing() is None
        and forward_ad._current_level < 0
        and (not is_grad_enabled() or hooks(False) is None)
    )


def forward_mode() -> bool:
    """Whether derivatives may be taken along with the values, for which the operators have no rule."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


class Native(torch.autograd.Function):
    """One layer whose gradients the kernels compute from what they kept, without a tensor for it."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        x: Array,
        states: Sequence[Array] | None,
        weights: list[Any],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """`tensors`: x, the states if any, and the weights, of which the arrays before are views."""
        y, finals, saved = arrays.forward(call, x, states, weights, True)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.kept = call, saved, weights, 0 if states is None else len(states), [*map(data_ptr, tensors)]
        return tuple(map(from_numpy, finals if y is None else (y, *finals)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Gradients of `tensors`."""
        tensors = ctx.saved_tensors  # refuses what was changed in place since
        dy, dfinals = (None, grads) if tensors[0].dim() == 2 else (grads[0], grads[1:])
        call, saved, weights, S, places = ctx.kept
        x = tensors[0]
        needed = ctx.needs_input_grad[4:]
        # The kernels kept addresses; memory moves where a tensor is given to another process, for one.
        if is_grad_enabled() or places != [*map(data_ptr, tensors)]:
            given: Sequence[Tensor | None] = differentiable(
                call, dy, dfinals, x, tensors[1 : 1 + S], tensors[1 + S :]
            )
        else:
            if not keeps_graph():
                ctx.kept = (
                    None  # as the saved tensors, freed by the first backward unless it is to be repeated
                )
            dtype: Any = arrays.DTYPES[x.dtype]
            dx, dstates, dweights = arrays.backward(
                call,
                saved,
                tuple(x.shape),
                weights,
                None if dy is None else arrays.view(dy),
                [None if g is None else arrays.view(g) for g in dfinals],
                dtype,
                needed[0],
            )
            given = [None if a is None else torch.from_numpy(a) for a in (dx, *dstates[:S], *dweights)]
        return None, None, None, None, *(g if n else None for g, n in zip(given, needed, strict=True))


def differentiable(
    call: Call,
    dy: Tensor | None,
    dfinals: Sequence[Tensor | None],
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """The same gradients by the operator, which has gradients itself."""
    if x.dim() == 2:
        finals = [None if g is None else g[None] for g in dfinals]
        dx, *others = differentiable(call, None, finals, x[None], [s[None] for s in state], weights)
        return [dx[0], *(s[0] for s in others[: len(state)]), *others[len(state) :]]
    cell, D, batch_first, options = call
    B, H = x.shape[0 if batch_first else 1], weights[1].shape[1]
    S, sizes = len(dfinals), arrays.widths(cell, arrays.passes(weights, D)[0])
    given = state or [x.new_zeros((D, B, n)) for n in sizes]
    flags = [options.get(name) for name in ("lengths", "mask", "resets")]
    grads = [
        x.new_zeros((*x.shape[:2], D * H)) if dy is None else dy,
        *(x.new_zeros((D, B, n)) if g is None else g for g, n in zip(dfinals, sizes, strict=True)),
    ]
    dx, *others = SEQUENCE_BACKWARD(
        grads,
        x.new_empty(0, dtype=torch.uint8),
        x,
        given,
        weights,
        cell,
        D,
        batch_first,
        *(None if a is None else torch.from_numpy(a) for a in flags),
        options.get("reset_to_initial", False),
    )
    return [dx, *others[: len(state)], *others[S:]]


#: Function.apply without what it does for transforms, which `unwatched` excludes.
apply: Callable[..., tuple[Tensor, ...]] = super(torch.autograd.Function, Native).apply


def layer(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    views: list[Any],
) -> Sequence[Tensor]:
    """One layer on tensors that `arrays` can read: y, and the final states; of one step the states alone."""
    x_view = view(x)
    s_views = None if states is None else [*map(view, states)]
    if is_grad_enabled() and any_requires_grad(x, states, weights):
        return apply(call, x_view, s_views, views, x, *(states or ()), *weights)
    y, finals, _ = arrays.forward(call, x_view, s_views, views, False)
    return tuple(map(from_numpy, finals if y is None else (y, *finals)))
