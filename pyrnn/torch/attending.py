# SPDX-License-Identifier: Apache-2.0
"""The registered operators of attention and of the decoder, forward and backward.

Both are functions of named arrays with options; the names and options travel as JSON. As with
`pyrnn::sequence`, the backward finds what the forward kept through a handle, or computes the forward again;
gradients of gradients, and transforms of torch.func, are those of the plain operations of
`pyrnn.torch.plain_attention`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrnn import functional
from pyrnn.functional import KERNELS
from pyrnn.layout import Array
from pyrnn.torch import arrays, plain_attention
from pyrnn.torch.engines import place
from pyrnn.torch.operators import HANDLES, LIBRARY, keep, second_gradients
from pyrnn.torch.transforms import batched

ARGUMENTS = "str[] names, str options, bool causal, int query_offset"
LIBRARY.define(f"attend(Tensor[] inputs, {ARGUMENTS}, bool save) -> Tensor[]")
LIBRARY.define(
    "attend_backward(Tensor[] grads, Tensor handle, Tensor[] inputs, Tensor[] outputs, "
    f"{ARGUMENTS}) -> Tensor[]"
)
ATTEND = torch.ops.pyrnn.attend.default
ATTEND_BACKWARD = torch.ops.pyrnn.attend_backward.default

#: Inputs without a gradient.
CONSTANT = ("mask", "key_lengths", "memory_lengths")
PARAM, SCORE = "param.", "score."


class Spec(NamedTuple):
    """What is computed.

    Attributes
    ----------
    names : tuple of str
        Of the inputs. Those of parameters begin with "param.", those of a decoder's score with "score.".
    options : dict
        Of `attention_forward`, or of `decoder_forward`, which has "attention" among them.
    """

    names: tuple[str, ...]
    options: dict[str, Any]

    @property
    def decoder(self) -> bool:
        """Whether it is the decoder."""
        return "attention" in self.options


@lru_cache(maxsize=256)
def options_of(text: str) -> dict[str, Any]:
    """Options from JSON; windows are pairs, not lists."""
    options: dict[str, Any] = json.loads(text)
    for held in (options, options.get("attention", {})):
        if isinstance(held.get("window"), list):
            held["window"] = tuple(held["window"])
    return options


def spec_of(names: Sequence[str], options: str, causal: bool, query_offset: int) -> Spec:
    """From the operators' arguments; a decoder's steps are neither causal nor anywhere else."""
    known = options_of(options)
    if "attention" not in known:
        known = known | {"causal": causal, "query_offset": query_offset}
    return Spec(tuple(names), known)


class Parted(NamedTuple):
    """Inputs by name, by what they are."""

    params: dict[str, Any]
    score: dict[str, Any]  # of a decoder
    state: tuple[Any, ...]  # of a decoder
    rest: dict[str, Any]


def parted(spec: Spec, given: Mapping[str, Any]) -> Parted:
    """Inputs by name, whose names tell what they are."""
    params = {n.removeprefix(PARAM): a for n, a in given.items() if n.startswith(PARAM)}
    score = {n.removeprefix(SCORE): a for n, a in given.items() if n.startswith(SCORE)}
    rest = {n: a for n, a in given.items() if not n.startswith((PARAM, SCORE))}
    names = KERNELS.specs[spec.options["cell"]].state_names if spec.decoder else ()
    return Parted(params, score, tuple(rest.pop(n) for n in names if n in rest), rest)


def run(spec: Spec, given: Mapping[str, Array]) -> tuple[list[Array], Any]:
    """The results and what the backward needs, by `pyrnn.functional`."""
    params, score, state, rest = parted(spec, given)
    options = dict(spec.options)
    if not spec.decoder:
        context, weights, saved = functional.attention_forward(
            rest.pop("query"), rest.pop("key"), rest.pop("value", None), params=params, **rest, **options
        )
        return [context, weights], saved
    options["attention"] = options["attention"] | {"params": score}
    outputs, final, weights, saved_decoder = functional.decoder_forward(
        options.pop("cell"),
        rest.pop("x"),
        rest.pop("memory"),
        params,
        (state if len(state) > 1 else state[0]) if state else None,
        **options,
        **rest,
    )
    return [outputs, weights, *(final if isinstance(final, tuple) else (final,))], saved_decoder


def plain_of(spec: Spec, constants: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The results of the inputs that have a gradient, by the plain operations."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        left, fixed = iter(tensors), iter(constants)
        given = {n: next(fixed) if n in CONSTANT else next(left) for n in spec.names}
        params, score, state, rest = parted(spec, given)
        if spec.decoder:
            return plain_attention.decoder(rest, params, score, state, spec.options)
        return plain_attention.attention(rest, params, spec.options)

    return run


def differentiable(names: Sequence[str], inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs with a gradient, and those without."""
    sorts: tuple[list[Tensor], list[Tensor]] = [], []
    for name, a in zip(names, inputs, strict=True):
        sorts[name in CONSTANT].append(a)
    return sorts


def run_backward(spec: Spec, saved: Any, grads: Sequence[Array]) -> dict[str, Array]:
    """Gradients of the inputs by name."""
    result: Any
    if not spec.decoder:
        result = functional.attention_backward(saved, grads[0], grads[1])
        named = {"query": result.query, "key": result.key, "value": result.value}
    else:
        state = tuple(grads[2:])
        result = functional.decoder_backward(saved, grads[0], state if len(state) > 1 else state[0], grads[1])
        first = result.state if isinstance(result.state, tuple) else (result.state,)
        named = {"x": result.x, "memory": result.memory, "feed": result.feed}
        named |= dict(zip(KERNELS.specs[spec.options["cell"]].state_names, first, strict=False))
        named |= {SCORE + n: a for n, a in result.attention.items()}
    named |= {"previous": result.previous, "coverage": result.coverage}
    return named | {PARAM + n: a for n, a in result.params.items()}


def attend(
    inputs: Sequence[Tensor], names: Sequence[str], options: str, causal: bool, query_offset: int, save: bool
) -> list[Tensor]:
    """Attention: context, weights and a handle; a decoder: outputs, weights, final states and a handle."""
    known = spec_of(names, options, causal, query_offset)
    given = [arrays.view(a) for a in inputs]
    outputs, saved = run(known, dict(zip(known.names, given, strict=True)))
    outputs = [np.ascontiguousarray(a) if not save else a for a in outputs]
    handle = (
        keep([saved], tuple(map(place, (*given, *outputs)))) if save else torch.empty(0, dtype=torch.uint8)
    )
    return [*map(torch.from_numpy, outputs), handle]


def attend_backward(
    grads: Sequence[Tensor],
    handle: Tensor,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    names: Sequence[str],
    options: str,
    causal: bool,
    query_offset: int,
) -> list[Tensor]:
    """Gradients of the inputs that have one, in their order."""
    known = spec_of(names, options, causal, query_offset)
    given = [arrays.view(a) for a in inputs]
    read = tuple(map(place, (*given, *map(arrays.view, outputs))))
    kept = HANDLES.get(handle.data_ptr()) if handle.numel() else None
    if kept is None or kept.read != read:
        saved = run(known, dict(zip(known.names, given, strict=True)))[1]
    else:
        saved = kept.saved[0]
    named = run_backward(known, saved, [np.ascontiguousarray(arrays.view(g)) for g in grads])
    return [torch.from_numpy(np.asarray(named[n], order="C")) for n in known.names if n not in CONSTANT]


def attend_fake(
    inputs: Sequence[Tensor], names: Sequence[str], options: str, causal: bool, query_offset: int, save: bool
) -> list[Tensor]:
    """Shapes of the results of `attend`."""
    known = spec_of(names, options, causal, query_offset)
    given = dict(zip(known.names, inputs, strict=True))
    if known.decoder:
        x, memory = given["x"], given["memory"]
        B, T, H = x.shape[0], x.shape[1], given[PARAM + "weight_hh"].shape[1]
        layer = given.get(PARAM + "weight_attention")
        O = memory.shape[2] + H if layer is None else layer.shape[0]  # noqa: E741
        states = [x.new_empty((B, H)) for _ in range(KERNELS.specs[known.options["cell"]].states)]
        results = [x.new_empty((B, T, O)), x.new_empty((B, T, memory.shape[1])), *states]
    else:
        query, key = given["query"], given["key"]
        value = given.get("value", key)
        results = [query.new_empty((*query.shape[:-1], n)) for n in (value.shape[-1], key.shape[-2])]
    return [*results, results[0].new_empty((int(save),), dtype=torch.uint8)]


def attend_backward_fake(
    grads: Sequence[Tensor],
    handle: Tensor,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    names: Sequence[str],
    *options: Any,
) -> list[Tensor]:
    """Shapes of the results of `attend_backward`."""
    return [a.new_empty(a.shape) for n, a in zip(names, inputs, strict=True) if n not in CONSTANT]


def setup_attend(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """Keep what the backward needs; the results are among it, and PyTorch notices if they change."""
    tensors, *ctx.rest, _ = inputs
    ctx.count = len(tensors)
    ctx.save_for_backward(output[-1], *tensors, *output[:-1])


def differentiate_attend(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The backward of `attend`."""
    handle, *saved = ctx.saved_tensors
    inputs, outputs = saved[: ctx.count], saved[ctx.count :]
    given = [torch.zeros_like(a) if g is None else g for g, a in zip(grads[:-1], outputs, strict=True)]
    results = iter(ATTEND_BACKWARD(given, handle, inputs, outputs, *ctx.rest))
    gradients = [None if n in CONSTANT else next(results) for n in ctx.rest[0]]
    return gradients, None, None, None, None, None


def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """Keep what the backward read."""
    grads, _, tensors, outputs, *ctx.rest = inputs
    ctx.counts = len(grads), len(outputs)
    ctx.save_for_backward(*grads, *tensors)


def differentiate_backward(ctx: Any, seconds: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The backward of `attend_backward`, by PyTorch through the plain operations."""
    (G, outputs), names = ctx.counts, ctx.rest[0]
    grads, (read, constants) = ctx.saved_tensors[:G], differentiable(names, ctx.saved_tensors[G:])
    found = iter(second_gradients(plain_of(spec_of(*ctx.rest), constants), grads, read, seconds))
    firsts = [next(found) for _ in grads]
    inputs = [None if n in CONSTANT else next(found) for n in names]
    return firsts, None, inputs, [None] * outputs, *[None] * len(ctx.rest)


torch.library.impl("pyrnn::attend", "CPU", attend, lib=LIBRARY)
torch.library.impl("pyrnn::attend_backward", "CPU", attend_backward, lib=LIBRARY)
torch.library.register_fake("pyrnn::attend", attend_fake, lib=LIBRARY)
torch.library.register_fake("pyrnn::attend_backward", attend_backward_fake, lib=LIBRARY)
torch.library.register_vmap("pyrnn::attend", batched(ATTEND), lib=LIBRARY)
torch.library.register_vmap("pyrnn::attend_backward", batched(ATTEND_BACKWARD), lib=LIBRARY)
torch.library.register_autograd(
    "pyrnn::attend", differentiate_attend, setup_context=setup_attend, lib=LIBRARY
)
torch.library.register_autograd(
    "pyrnn::attend_backward", differentiate_backward, setup_context=setup_backward, lib=LIBRARY
)
