# SPDX-License-Identifier: Apache-2.0
"""Cells and options that `torch.nn` does not have, in its layers: peepholes, zoneout, layer normalisation …

One autograd function runs all layers and directions as `pyrnn.functional` does. First derivatives, eager: no
operator is registered for it, so `torch.compile` leaves the graph there, and `torch.func` refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyrnn import checks, options, stacking
from pyrnn.functional import KERNELS
from pyrnn.initial import forget_gates, periods
from pyrnn.layout import Layout
from pyrnn.torch import arrays
from pyrnn.torch.arrays import DTYPES


class Variant(NamedTuple):
    """What a layer is beside `torch.nn`'s: its parameters' names and shapes, and its options."""

    layout: Layout
    zoneout: float | tuple[float, ...]
    recurrent_dropout: float
    chosen: options.Chosen
    variation: options.Variation


def cells_of(name: str) -> tuple[str, ...]:
    """The cells that a layer of this name may have: of several states the LSTM, without gates the RNN."""

    def layer_of(cell: str, states: int) -> str:
        return "LSTM" if states > 1 else "RNN" if cell.startswith(("rnn_", "indrnn_")) else "GRU"

    return tuple(cell for cell, spec in KERNELS.specs.items() if layer_of(cell, spec.states) == name)


def taken(keywords: dict[str, Any]) -> dict[str, Any]:
    """The options of `pyrnn.options.MoreOptions` among the arguments of a layer; PyTorch gets the rest."""
    return {name: keywords.pop(name) for name in options.Chosen._fields if name in keywords}


def vary(
    layer: Any,
    cell: str | None,
    layer_norm: bool,
    zoneout: float | tuple[float, ...],
    recurrent_dropout: float,
    more: options.MoreOptions,
) -> None:
    """Give a layer of `torch.nn` another cell or options, where it asks for some; it gets new parameters."""
    plain = cell in (None, layer._cell) and layer_norm is False and zoneout == 0 and recurrent_dropout == 0
    chosen = options.chosen(more)
    if plain and not chosen.changed():
        return
    spec = KERNELS.specs[cell or layer._cell]
    checks.rates("zoneout", zoneout, spec.states)
    checks.probability("recurrent_dropout", recurrent_dropout)
    layout = Layout(
        spec,
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        1 + layer.bidirectional,
        layer.bias,
        layer_norm=checks.flag("layer_norm", layer_norm),
        proj_size=checks.projection(layer.proj_size, spec, layer.hidden_size),
        cell_norm=chosen.cell_norm,
        learned=chosen.learn_initial_state,
        merge=options.merged(chosen.merge, 1 + layer.bidirectional),
    )
    variation = options.variation(spec, **chosen.inside())
    if chosen.forget_bias is not None:
        forget_gates(layout)  # refuses cells that have none
    like = next(iter(layer._parameters.values()))
    layer._parameters.clear()
    layer._flat_weights_names, layer._flat_weights = list(layout.shapes), []
    for name, shape in layout.shapes.items():
        layer.register_parameter(name, torch.nn.Parameter(like.new_empty(shape)))
    layer._flat_weights = [getattr(layer, name) for name in layout.shapes]
    layer._all_weights = [
        [*(name for name, _ in names), *(name for name, _ in extras.values())]
        for names, extras in zip(layout.passes, layout.extras, strict=True)
    ]
    for weights, states in zip(layer._all_weights, layout.initial, strict=False):
        weights += [name for name, _ in states]
    layer._variant = Variant(layout, zoneout, recurrent_dropout, chosen, variation)
    layer.reset_parameters()


@torch.no_grad()
def reset(layer: Any) -> None:
    """What PyTorch's initial values leave to do: gains are ones, initial states zeros, and periods."""
    for name, parameter in layer.named_parameters(recurse=False):
        if name.startswith("weight_ln"):
            parameter.fill_(1.0)
        elif name.startswith("bias_ln") or name[0] not in "wb":
            parameter.fill_(0.0)
        elif name.startswith("weight_period"):
            parameter.copy_(torch.from_numpy(periods(layer.hidden_size)))
    variant = layer._variant
    if variant is None or variant.chosen.forget_bias is None:
        return
    H = layer.hidden_size
    for names in variant.layout.passes:
        gates = forget_gates(variant.layout)
        for (name, _), places, value in zip(names[2:], gates, (variant.chosen.forget_bias, 0.0), strict=True):
            for place in places:
                getattr(layer, name)[place * H : place * H + H] = value


def words(layer: Any, text: str) -> str:
    """PyTorch's words for a layer, and what is not PyTorch's."""
    variant = layer._variant
    more: dict[str, Any] = {"states_batch_first": layer.states_batch_first}
    if variant is not None:
        more |= {
            "cell": layer.cell if layer.cell != layer._cell else None,
            "layer_norm": variant.layout.layer_norm,
            "zoneout": variant.zoneout,
            "recurrent_dropout": variant.recurrent_dropout,
            **variant.chosen.changed(),
        }
    return ", ".join([text, *(f"{name}={value!r}" for name, value in more.items() if value)])


@torch.compiler.disable
def run(
    layer: Any, input: Any, hx: Any, lengths: Any, mask: Any, resets: Any, reset_to: str
) -> tuple[Any, Any]:
    """A call of a layer that was varied, with the arguments of its `forward`."""
    if isinstance(input, PackedSequence):
        if not (lengths is None and mask is None and resets is None and reset_to == "zero"):
            raise ValueError("lengths, mask, resets: expected None beside a PackedSequence, got some")
        x, steps = pad_packed_sequence(input, layer.batch_first)
        y, final = run(layer, x, hx, steps, None, None, "zero")
        packed = pack_padded_sequence(y, steps, layer.batch_first, enforce_sorted=False)
        if input.sorted_indices is not None:
            return packed, final
        return PackedSequence(packed.data, packed.batch_sizes), final
    variant, weights = layer._variant, [getattr(layer, name) for name in layer._flat_weights_names]
    states = [] if hx is None else list(hx) if layer._tuple else [hx]
    for a in (input, *states, *weights):
        if not isinstance(a, Tensor) or a.device.type != "cpu" or a.dtype not in DTYPES:
            what = f"{a.dtype} on {a.device}" if isinstance(a, Tensor) else type(a).__name__
            raise NotImplementedError(
                f"{layer.cell}: expected float32 or float64 tensors on the CPU, got {what}"
            )
    drawn = layer.dropout or variant.recurrent_dropout or np.any(variant.zoneout)
    drawn = drawn or variant.chosen.weight_dropout
    seed = int(torch.randint(2**63 - 1, ())) if layer.training and drawn else 0
    given = {
        "lengths": None if lengths is None else np.asarray(lengths),
        "mask": None if mask is None else np.asarray(mask),
        "resets": None if resets is None else np.asarray(resets),
        "reset_to": reset_to,
        "batch_first": layer.batch_first,
        "dropout": layer.dropout,
        "zoneout": variant.zoneout,
        "recurrent_dropout": variant.recurrent_dropout,
        "training": layer.training,
        "variation": variant.variation,
        "rng": np.random.Generator(np.random.Philox(seed)),
    }
    y, *finals = Varied.apply(variant.layout, given, input, len(states), *states, *weights)
    return y, tuple(finals) if layer._tuple else finals[0]


class Varied(torch.autograd.Function):
    """All layers and directions by the kernels."""

    @staticmethod
    def forward(
        ctx: Any, layout: Layout, options: dict[str, Any], x: Tensor, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """`tensors`: the states, if any, and the parameters in the order of the layout."""
        states = tuple(arrays.view(s) for s in tensors[:count])
        params = dict(zip(layout.shapes, map(arrays.weight_view, tensors[count:]), strict=True))
        state: Any = None if not states else states if layout.spec.states > 1 else states[0]
        save = any(ctx.needs_input_grad)
        y, final, saved = stacking.forward(
            KERNELS, layout, DTYPES[tensors[-1].dtype], arrays.view(x), state, params, save=save, **options
        )
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        ctx.kept = saved, count
        finals = final if isinstance(final, tuple) else (final,)
        return tuple(map(torch.from_numpy, (y, *finals)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Gradients of x, the states and the parameters."""
        tensors = ctx.saved_tensors  # refuses what was changed in place since
        saved, count = ctx.kept
        dy, *dfinals = grads
        dstate: Any = None
        if any(d is not None for d in dfinals):
            like = next(d for d in dfinals if d is not None)
            given: Sequence[Any] = [arrays.view(torch.zeros_like(like) if d is None else d) for d in dfinals]
            dstate = tuple(given) if len(given) > 1 else given[0]
        found = stacking.backward(saved, None if dy is None else arrays.view(dy), dstate)
        states = found.state if isinstance(found.state, tuple) else (found.state,)
        every = (found.x, *states[:count], *found.params.values())
        wanted = ctx.needs_input_grad[2:3] + ctx.needs_input_grad[4:]
        dx, *rest = (torch.from_numpy(a) if w else None for a, w in zip(every, wanted, strict=True))
        assert len(rest) == len(tensors) - 1
        return None, None, dx, None, *rest
