# SPDX-License-Identifier: Apache-2.0
"""A whole stack of layers of any cell with any options on tensors, forward and backward, by the kernels.

What the layers are travels as JSON, and their masks come from a seed that is a tensor, so that a call can be
repeated by an operator.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrnn import stacking
from pyrnn.functional import KERNELS
from pyrnn.layout import Layout
from pyrnn.options import Variation
from pyrnn.torch import engines
from pyrnn.torch.engines import Engine


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
    compute_dtype: str | None


def written(
    layout: Layout,
    zoneout: Sequence[float],
    recurrent_dropout: float,
    variation: Variation,
    compute_dtype: str | None = None,
) -> str:
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
            "reverse": layout.reverse,
            "compute_dtype": compute_dtype,
            "heads": layout.heads,
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
    changes, compute_dtype = found.pop("variation"), found.pop("compute_dtype")
    changes["curves"] = tuple(map(tuple, changes["curves"]))
    cell, (inputs, units, *sizes) = found.pop("cell"), found.pop("sizes")
    units = tuple(units) if isinstance(units, list) else units
    layout = Layout(KERNELS.specs[cell], inputs, units, *sizes, **found)
    return Layers(layout, zoneout, recurrent_dropout, Variation(**changes), compute_dtype)


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


def engine_for(call: Call, device: torch.device, dtype: torch.dtype) -> Engine | None:
    """The engine that computes a call on tensors of this kind, or None where no kernels do."""
    layers = layers_of(call.layers)
    found = engines.engine_of(device, layers.compute_dtype)
    if found is None or dtype not in found.dtypes or layers.layout.spec.name not in found.backend.specs:
        return None
    return found if found.backend is KERNELS or not beyond(layers) else None


def beyond(layers: Layers) -> bool:
    """Whether layers have options that the kernels of a device lack."""
    layout, changes = layers.layout, layers.variation
    inside = changes.inside or layout.cell_norm or changes.dropout_kind == "candidate"
    return bool(inside or layout.layer_norm or layout.proj_size)


def forward(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], call: Call, save: bool
) -> tuple[list[Tensor], Any]:
    """The results, and what the backward needs.

    Results are y, the final states and, if asked for, those of every step.
    """
    layers = layers_of(call.layers)
    layout, engine = layers.layout, engine_for(call, x.device, weights[0].dtype)
    if engine is None:
        what = f"{weights[0].dtype} on {x.device}"
        raise NotImplementedError(f"{layout.spec.name}: expected tensors that kernels read, got {what}")
    on_cpu = engine.backend is KERNELS
    read = [engine.read(x), *map(engine.read_weight, weights)]
    given = {name: getattr(call, name) for name in ("lengths", "mask", "resets")}
    flags: dict[str, Any] = {
        name: a.numpy(force=True) if a is not None and (on_cpu or a.device.type == "cpu") else a
        for name, a in given.items()
    }
    y, final, *states, saved = stacking.forward(
        engine.backend,
        layout,
        engine.dtype(weights[0].dtype),
        read[0],
        nested(form_of(layout), [engine.read(s) for s in state]) if state else None,
        dict(zip(layout.shapes, read[1:], strict=True)),
        **flags,
        reset_to="initial" if call.reset_to_initial else "zero",
        batch_first=call.batch_first,
        dropout=call.dropout,
        zoneout=layers.zoneout,
        recurrent_dropout=layers.recurrent_dropout,
        training=call.training,
        rng=np.random.Generator(np.random.Philox(0 if call.seed is None else int(call.seed))),
        compute_dtype="bfloat16" if on_cpu and layers.compute_dtype == "bfloat16" else None,
        save=save,
        checkpoint=save and call.checkpoint and on_cpu,
        variation=layers.variation,
        return_states=call.return_states,
    )
    return [engine.made(a) for a in flat((y, final, *states))], saved


def backward(
    saved: Any, grads: Sequence[Tensor | None], shapes: Sequence[Any], given: bool, like: Tensor
) -> list[Tensor]:
    """Gradients of x, of the initial state if one was given, and of the weights; `like` is x."""
    form = form_of(saved.layout)
    P = 1 + form[0] * max(form[1], 1)
    engine = engines.CPU if saved.backend is KERNELS else engines.on_device(saved.backend)
    whole: list[Any] = []
    for group in (slice(1, P), slice(P, None)):
        known = any(g is not None for g in grads[group])
        filled = [
            engine.read(like.new_zeros(shape) if g is None else g)
            for g, shape in zip(grads[group], shapes[group], strict=True)
        ]
        whole.append(nested(form, filled) if known else None)
    dy = None if grads[0] is None else engine.read(grads[0])
    found = stacking.backward(saved, dy, *whole)
    every = [found.x, *(flat(found.state) if given else ()), *found.params.values()]
    return [engine.made(a) for a in every]
