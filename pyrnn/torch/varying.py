# SPDX-License-Identifier: Apache-2.0
"""A whole stack of layers of any cell with any options: an autograd function, and operators for compilers.

The operators are `pyrnn::varied` and `pyrnn::varied_backward`; what the layers are travels as JSON. As with
`pyrnn::sequence`, the backward finds what the forward kept through a handle, or computes the forward again:
its masks come from a seed that is one of its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrnn import stacking
from pyrnn.functional import KERNELS
from pyrnn.layout import Array, Layout
from pyrnn.options import Variation
from pyrnn.states import built
from pyrnn.torch import arrays, eager
from pyrnn.torch.arrays import DTYPES
from pyrnn.torch.operators import HANDLES, LIBRARY, joined, keep, place, split

ARGUMENTS = (
    "Tensor x, Tensor[] state, Tensor[] weights, str layers, bool batch_first, bool training, float dropout, "
    "Tensor? seed, Tensor? lengths, Tensor? mask, Tensor? resets, bool reset_to_initial, "
    "bool return_states, bool checkpoint"
)
LIBRARY.define(f"varied({ARGUMENTS}, bool save) -> Tensor[]")
LIBRARY.define(f"varied_backward(Tensor[] grads, Tensor handle, {ARGUMENTS}) -> Tensor[]")
VARIED = torch.ops.pyrnn.varied.default
VARIED_BACKWARD = torch.ops.pyrnn.varied_backward.default


class Call(NamedTuple):
    """The operators' arguments behind the weights: what a call is beside its tensors.

    Attributes
    ----------
    layers : str
        What `written` makes of the layers.
    batch_first, training : bool
    dropout : float
    seed : tensor (), optional
        Of the masks, where some are drawn.
    lengths, mask, resets : tensor, optional
        In the layout of x.
    reset_to_initial, return_states : bool
    checkpoint : bool
        Whether to keep some states alone, as `pyrnn.Recurrent.forward`.
    """

    layers: str
    batch_first: bool
    training: bool
    dropout: float
    seed: Tensor | None
    lengths: Tensor | None
    mask: Tensor | None
    resets: Tensor | None
    reset_to_initial: bool
    return_states: bool
    checkpoint: bool


class Layers(NamedTuple):
    """What layers are beside their parameters' values."""

    layout: Layout
    zoneout: tuple[float, ...]
    recurrent_dropout: float
    variation: Variation


def written(layout: Layout, zoneout: Sequence[float], recurrent_dropout: float, variation: Variation) -> str:
    """Layers as JSON."""
    sizes = (layout.input_size, layout.hidden_size, layout.num_layers, layout.directions, layout.bias)
    return json.dumps(
        {
            "cell": layout.spec.name,
            "sizes": sizes,
            "layer_norm": layout.layer_norm,
            "proj_size": layout.proj_size,
            "cell_norm": layout.cell_norm,
            "learned": bool(layout.initial),
            "merge": layout.merge,
            "zoneout": tuple(zoneout),
            "recurrent_dropout": recurrent_dropout,
            "variation": variation._asdict(),
        },
        default=float,
    )


@lru_cache(maxsize=256)
def layers_of(text: str) -> Layers:
    """Layers from what `written` made of them."""
    found: dict[str, Any] = json.loads(text)
    zoneout, recurrent_dropout = tuple(found.pop("zoneout")), found.pop("recurrent_dropout")
    changes = found.pop("variation")
    changes["curves"] = tuple(map(tuple, changes["curves"]))
    cell, (inputs, units, *sizes) = found.pop("cell"), found.pop("sizes")
    units = tuple(units) if isinstance(units, list) else units
    layout = Layout(KERNELS.specs[cell], inputs, units, *sizes, **found)
    return Layers(layout, zoneout, recurrent_dropout, Variation(**changes))


def flat(state: Any) -> list[Any]:
    """What a state consists of, in order."""
    return [a for s in state for a in flat(s)] if isinstance(state, tuple | list) else [state]


def form_of(layout: Layout) -> tuple[int, int]:
    """How many states there are, and of how many arrays each is a tuple; 0 where it is one array."""
    return layout.spec.states, layout.num_layers if layout.ragged else 0


def nested(form: tuple[int, int], flat: Sequence[Any]) -> Any:
    """A state from what it consists of."""
    S, L = form
    whole = [tuple(flat[s * L : s * L + L]) for s in range(S)] if L else list(flat)
    return tuple(whole) if S > 1 else whole[0]


def forward(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], call: Call, save: bool
) -> tuple[list[Array], Any, tuple[Any, ...]]:
    """The results, what the backward needs, and where x and the weights were read.

    Results are y, the final states and, if asked for, those of every step.
    """
    layout, zoneout, recurrent_dropout, variation = layers_of(call.layers)
    read = [arrays.view(x), *map(arrays.weight_view, weights)]
    given = {name: getattr(call, name) for name in ("lengths", "mask", "resets")}
    flags: dict[str, Any] = {name: a if a is None else a.numpy(force=True) for name, a in given.items()}
    y, final, *states, saved = stacking.forward(
        KERNELS,
        layout,
        DTYPES[weights[0].dtype],
        read[0],
        nested(form_of(layout), [arrays.view(s) for s in state]) if state else None,
        dict(zip(layout.shapes, read[1:], strict=True)),
        **flags,
        reset_to="initial" if call.reset_to_initial else "zero",
        batch_first=call.batch_first,
        dropout=call.dropout,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
        training=call.training,
        rng=np.random.Generator(np.random.Philox(0 if call.seed is None else int(call.seed))),
        save=save,
        checkpoint=save and call.checkpoint,
        variation=variation,
        return_states=call.return_states,
    )
    return [np.ascontiguousarray(a) for a in flat((y, final, *states))], saved, tuple(map(place, read))


def backward(saved: Any, grads: Sequence[Array | None], shapes: Sequence[Any], given: bool) -> list[Array]:
    """Gradients of x, of the initial state if one was given, and of the weights."""
    form = form_of(saved.layout)
    P = 1 + form[0] * max(form[1], 1)
    whole: list[Any] = []
    for group in (slice(1, P), slice(P, None)):
        known = any(g is not None for g in grads[group])
        filled = [
            np.zeros(shape, saved.dtype) if g is None else g
            for g, shape in zip(grads[group], shapes[group], strict=True)
        ]
        whole.append(nested(form, filled) if known else None)
    found = stacking.backward(saved, grads[0], *whole)
    return [found.x, *(flat(found.state) if given else ()), *found.params.values()]


class Varied(torch.autograd.Function):
    """The layers in eager calls; the backward is given what the forward kept."""

    @staticmethod
    def forward(ctx: Any, call: Call, save: bool, S: int, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`tensors`: the state's, S of them, and the weights."""
        results, saved, _ = forward(x, tensors[:S], tensors[S:], call, save)
        if save:
            ctx.save_for_backward(x, *tensors)
            ctx.set_materialize_grads(False)
            ctx.kept = saved, [a.shape for a in results], S > 0
        return tuple(map(torch.from_numpy, results))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Gradients of x and `tensors`."""
        assert ctx.saved_tensors  # refuses what was changed in place since
        saved, shapes, given = ctx.kept
        if not eager.keeps_graph():
            ctx.kept = None  # as the saved tensors, freed by the first backward unless it is to be repeated
        every = backward(saved, [None if g is None else arrays.view(g) for g in grads], shapes, given)
        wanted = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(torch.from_numpy(a) if w else None for a, w in zip(every, wanted, strict=True)),
        )


def varied(x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    """y, the final states, those of every step if asked for, and a handle."""
    *call, save = rest
    results, saved, read = forward(x, state, weights, Call(*call), save)
    handle = keep([saved], read) if save else torch.empty(0, dtype=torch.uint8)
    return [*map(torch.from_numpy, results), handle]


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
    read = tuple(map(place, (arrays.view(x), *map(arrays.weight_view, weights))))
    if known is None or known.read != read:
        saved = forward(x, state, weights, Call(*call), True)[1]
    else:
        saved = known.saved[0]
    views = [arrays.view(g) for g in grads]
    every = backward(saved, views, [g.shape for g in views], len(state) > 0)
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in every]


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
    return [*results, x.new_empty((int(save),), dtype=torch.uint8)]


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


torch.library.impl("pyrnn::varied", "CPU", varied, lib=LIBRARY)
torch.library.impl("pyrnn::varied_backward", "CPU", varied_backward, lib=LIBRARY)
torch.library.register_fake("pyrnn::varied", varied_fake, lib=LIBRARY)
torch.library.register_fake("pyrnn::varied_backward", varied_backward_fake, lib=LIBRARY)
torch.library.register_autograd("pyrnn::varied", differentiate, setup_context=setup, lib=LIBRARY)
