# SPDX-License-Identifier: Apache-2.0
"""The operators under torch.func: vmap, grad, and what is made of them, nested in any way.

Under vmap samples become rows of the batch where the weights are shared, as in per-sample gradients: the
forward of all samples is one call. Gradients of weights, and calls whose weights differ, are one call for
each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrnn.torch.operators import LIBRARY, SEQUENCE, SEQUENCE_BACKWARD, plain_of, second_gradients

Operator = Callable[..., Sequence[Tensor]]


def rows(a: Tensor, sample: int | None, batch: int, n: int) -> Tensor:
    """The samples along axis `sample`, if any, side by side in axis `batch` of what is left."""
    a = (
        a.unsqueeze(batch).expand(*a.shape[:batch], n, *a.shape[batch:])
        if sample is None
        else a.movedim(sample, batch)
    )
    return a.flatten(batch, batch + 1)


def samples(a: Tensor, batch: int, n: int) -> Tensor:
    """The way back: (n, …) from n samples side by side in axis `batch`."""
    return a.unflatten(batch, (n, -1)).movedim(batch, 0)


def one_by_one(
    run: Operator, n: int, in_dims: Sequence[Any], arguments: Sequence[Any]
) -> list[Sequence[Tensor]]:
    """The results of the operator `run` for each sample."""

    def pick(argument: Any, dims: Any, k: int) -> Any:
        if isinstance(argument, list | tuple):
            one_each = dims if isinstance(dims, list | tuple) else [dims] * len(argument)
            return [pick(a, d, k) for a, d in zip(argument, one_each, strict=True)]
        return argument if dims is None else argument.select(dims, k)

    return [run(*(pick(a, d, k) for a, d in zip(arguments, in_dims, strict=True))) for k in range(n)]


def batched(run: Operator) -> Callable[..., tuple[list[Tensor], list[int | None]]]:
    """The rule of torch.vmap for an operator: a call for each sample.

    A handle of one sample is none of the others': the backward computes the forward again.
    """

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[list[Tensor], list[int | None]]:
        each = one_by_one(run, info.batch_size, in_dims, arguments)
        results = [torch.stack(a) for a in zip(*each, strict=True)]
        return results, [0] * len(results)

    return rule


def none_of(dims: Any) -> bool:
    """Whether nothing of an argument has a sample axis."""
    return dims is None or (isinstance(dims, list | tuple) and all(d is None for d in dims))


def batched_sequence(
    run: Operator, n: int, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[list[Tensor], list[int | None]]:
    """The operator `run`, `pyrnn::sequence` at a level below, on n samples."""
    x, state, weights, cell, directions, batch_first, lengths, mask, resets, to_initial, save = arguments
    x_dim, state_dims, weight_dims, *_, lengths_dim, mask_dim, resets_dim, _, _ = in_dims
    if not none_of(weight_dims):
        each = one_by_one(run, n, in_dims, arguments)
        # A handle of one sample is none of the others': the backward computes the forward again.
        stacked = [torch.stack(a) for a in list(zip(*each, strict=True))[:-1]]
        return [*stacked, each[0][-1].clone()], [*[0] * len(stacked), None]
    batch = 0 if batch_first else 1
    if none_of(state_dims):
        state_dims = [None] * len(state)
    y, *finals, handle = run(
        rows(x, x_dim, batch, n),
        [rows(s, d, 1, n) for s, d in zip(state, state_dims, strict=True)],
        weights,
        cell,
        directions,
        batch_first,
        None if lengths is None else rows(lengths, lengths_dim, 0, n),
        None if mask is None else rows(mask, mask_dim, 1, n),
        None if resets is None else rows(resets, resets_dim, 1, n),
        to_initial,
        save,
    )
    return (
        [samples(y, batch, n), *(samples(s, 1, n) for s in finals), handle],
        [*[0] * (1 + len(finals)), None],
    )


class Transformed(torch.autograd.Function):
    """`pyrnn::sequence` for torch.func, which does not look into the gradients that operators register.

    Its arguments are the leaves of the operator's, after how they were nested.
    """

    @staticmethod
    def forward(spec: Any, *leaves: Any) -> tuple[Tensor, ...]:
        """The operator."""
        return tuple(SEQUENCE(*tree_unflatten(leaves, spec)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the arguments."""
        keep(ctx, inputs)
        ctx.mark_non_differentiable(output[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """By `pyrnn::sequence_backward`, without a handle: it computes the forward again."""
        *arguments, _ = kept(ctx)
        handle = torch.empty(0, dtype=torch.uint8)
        results = backward_operator(list(grads[:-1]), handle, *arguments)
        return None, *results, *[None] * (len(ctx.leaves) - len(results))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], spec: Any, *leaves: Any) -> tuple[Any, Any]:
        """On samples."""
        dims, arguments = tree_unflatten(in_dims[1:], spec), tree_unflatten(leaves, spec)
        results, out_dims = batched_sequence(operator, info.batch_size, dims, arguments)
        return tuple(results), tuple(out_dims)


class TransformedBackward(torch.autograd.Function):
    """`pyrnn::sequence_backward` for torch.func; see `Transformed`."""

    @staticmethod
    def forward(spec: Any, *leaves: Any) -> tuple[Tensor, ...]:
        """The operator."""
        return tuple(SEQUENCE_BACKWARD(*tree_unflatten(leaves, spec)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the arguments."""
        keep(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor) -> tuple[Any, ...]:
        """By PyTorch, through the plain operations."""
        grads, _, x, state, weights, *rest = kept(ctx)
        results = second_gradients(plain_of(rest, len(state)), grads, (x, *state, *weights), seconds)
        G = len(grads)
        return None, *results[:G], None, *results[G:], *[None] * (len(ctx.leaves) - 1 - len(results))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], spec: Any, *leaves: Any) -> tuple[Any, Any]:
        """On samples."""
        dims, arguments = tree_unflatten(in_dims[1:], spec), tree_unflatten(leaves, spec)
        results, out_dims = batched(backward_operator)(info, dims, *arguments)
        return tuple(results), tuple(out_dims)


def keep(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """Save a function's arguments, tensors as PyTorch wants them saved."""
    ctx.spec, *leaves = inputs
    ctx.save_for_backward(*(a for a in leaves if isinstance(a, Tensor)))
    ctx.leaves = [Ellipsis if isinstance(a, Tensor) else a for a in leaves]


def kept(ctx: Any) -> Any:
    """The arguments as they were."""
    tensors = iter(ctx.saved_tensors)
    return tree_unflatten([next(tensors) if a is Ellipsis else a for a in ctx.leaves], ctx.spec)


def operator(*arguments: Any) -> tuple[Tensor, ...]:
    """`pyrnn::sequence` for torch.func."""
    leaves, spec = tree_flatten(arguments)
    results: tuple[Tensor, ...] = Transformed.apply(spec, *leaves)
    return results


def backward_operator(*arguments: Any) -> tuple[Tensor, ...]:
    """`pyrnn::sequence_backward` for torch.func."""
    leaves, spec = tree_flatten(arguments)
    results: tuple[Tensor, ...] = TransformedBackward.apply(spec, *leaves)
    return results


def operator_now() -> Operator:
    """`pyrnn::sequence`, in the form for torch.func where one of its transforms is active."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return operator
    return SEQUENCE


torch.library.register_vmap(
    "pyrnn::sequence",
    lambda info, in_dims, *arguments: batched_sequence(SEQUENCE, info.batch_size, in_dims, arguments),
    lib=LIBRARY,
)
torch.library.register_vmap("pyrnn::sequence_backward", batched(SEQUENCE_BACKWARD), lib=LIBRARY)
