# SPDX-License-Identifier: Apache-2.0
"""Cells and options that `torch.nn` does not have, in its layers: peepholes, zoneout, layer normalisation …

`pyrnn.torch.varying` runs all layers and directions as `pyrnn.functional` does, eager and through
`torch.compile` and `torch.export`. Where there are no kernels (transforms of `torch.func`, derivatives of
derivatives, other devices and number types) the plain operations of `pyrnn.torch.plain` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyrnn import checks, options
from pyrnn.functional import KERNELS
from pyrnn.initial import forget_gates, own_past, periods
from pyrnn.layout import Layout
from pyrnn.torch import eager, plain, varying
from pyrnn.torch.reading import concrete
from pyrnn.torch.varied_operators import VARIED, Varied
from pyrnn.torch.varying import Call, engine_for, flat, form_of, nested


def constant(function: Any) -> Any:
    """As `torch.compiler.assume_constant_result`, which would import TorchDynamo, a second, for a mark."""
    function._dynamo_marked_constant = True
    return function


class Variant(NamedTuple):
    """What a layer is beside `torch.nn`'s: its parameters' names and shapes, and its options.

    Attributes
    ----------
    layout, zoneout, recurrent_dropout, chosen, variation, compute_dtype
        As in `pyrnn.Recurrent`.
    text : str
        All of it as the operators are told.
    draws : bool
        Whether masks are drawn in training, beside those of `dropout`.
    form : tuple of int
        Of the state, as `varying.form_of` has it.
    """

    layout: Layout
    zoneout: float | tuple[float, ...]
    recurrent_dropout: float
    chosen: options.Chosen
    variation: options.Variation
    compute_dtype: str | None
    text: str
    draws: bool
    form: tuple[int, int]


def cells_of(name: str) -> tuple[str, ...]:
    """The cells that a layer of this name may have: of several states the LSTM, without gates the RNN."""

    def layer_of(cell: str, states: int) -> str:
        return "LSTM" if states > 1 else "RNN" if cell.startswith(("rnn_", "indrnn_")) else "GRU"

    return tuple(cell for cell, spec in KERNELS.specs.items() if layer_of(cell, spec.states) == name)


def taken(
    args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], options.MoreOptions, int | tuple[int, ...] | None]:
    """Arguments for PyTorch, the options of `pyrnn.options.MoreOptions` and sizes of layers of a constructor.

    Of layers of different sizes PyTorch is told the largest.
    """
    names = (*options.Chosen._fields, "compute_dtype", "reverse")
    more: Any = {name: keywords.pop(name) for name in names if name in keywords}
    sizes = args[1] if len(args) > 1 else keywords.get("hidden_size")
    if not isinstance(sizes, tuple | list):
        return args, more, None
    units: Any = options.units(sizes, args[2] if len(args) > 2 else keywords.get("num_layers", 1))
    if len(args) > 1:
        return (args[0], max(units), *args[2:]), more, units
    keywords["hidden_size"] = max(units)
    return args, more, units


def vary(
    layer: Any,
    cell: str | None,
    layer_norm: bool,
    zoneout: float | tuple[float, ...],
    recurrent_dropout: float,
    more: Any,
    units: Any,
) -> None:
    """Give a layer of `torch.nn` another cell or options, where it asks for some; it gets new parameters."""
    compute_dtype, reverse = (
        more.pop("compute_dtype", None),
        checks.flag("reverse", more.pop("reverse", False)),
    )
    plain = cell in (None, layer._cell) and layer_norm is False and zoneout == 0 and recurrent_dropout == 0
    chosen = options.chosen(more)
    if units is not None and len(set(units)) > 1:
        layer.hidden_size, plain = units, False
    if plain and not (chosen.changed() or compute_dtype is not None or reverse):
        return
    like = next(iter(layer._parameters.values()))
    if compute_dtype is not None:
        checks.choice("compute_dtype", compute_dtype, ("bfloat16", "tf32"))
        if like.dtype != torch.float32:
            raise TypeError(f"compute_dtype: expected None with dtype {like.dtype}, got {compute_dtype!r}")
    if reverse and layer.bidirectional:
        raise ValueError("reverse: expected False with bidirectional=True, got True")
    spec = KERNELS.specs[cell or layer._cell]
    rates = checks.rates("zoneout", zoneout, spec.states)
    checks.probability("recurrent_dropout", recurrent_dropout)
    sizes = units or (layer.hidden_size,)
    layout = Layout(
        spec,
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        1 + layer.bidirectional,
        layer.bias,
        layer_norm=checks.flag("layer_norm", layer_norm),
        proj_size=checks.projection(layer.proj_size, spec, min(sizes)),
        cell_norm=chosen.cell_norm,
        learned=chosen.learn_initial_state,
        merge=options.merged(chosen.merge, 1 + layer.bidirectional),
        heads=checks.heads(chosen.heads, spec, sizes, layer.proj_size),
        reverse=reverse,
    )
    variation = options.variation(spec, **chosen.inside(), compute_dtype=compute_dtype)
    if compute_dtype == "bfloat16":
        checks.warn_of_float32(compute_dtype, layout)
    if chosen.forget_bias is not None:
        forget_gates(layout)  # refuses cells that have none
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
    text = varying.written(layout, rates, recurrent_dropout, variation, compute_dtype)
    draws = bool(recurrent_dropout or any(rates) or chosen.weight_dropout)
    layer._variant = Variant(
        layout, zoneout, recurrent_dropout, chosen, variation, compute_dtype, text, draws, form_of(layout)
    )
    layer.reset_parameters()


@torch.no_grad()
def reset(layer: Any) -> None:
    """Initial values: PyTorch's, but those of `pyrnn.initial.initial_params` for what PyTorch lacks."""
    initialise(layer, layer._variant.layout, layer._variant.chosen.forget_bias)


def initialise(module: Any, layout: Layout, forget_bias: float | None = None) -> None:
    """Initial values of a module's parameters, which are those of the layout."""
    each = zip(layout.passes, layout.extras, np.repeat(layout.units, layout.directions), strict=True)
    units = {name: int(H) for names, more, H in each for name, _ in (*names, *more.values())}
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("weight_ln"):
            parameter.fill_(1.0)
        elif name.startswith("bias_ln") or name[0] not in "wb":
            parameter.fill_(0.0)
        elif name.startswith("weight_period"):
            parameter.copy_(torch.from_numpy(periods(units[name])))
        elif own_past(layout, name):
            parameter.uniform_(0.0, 1.0)
        else:
            parameter.uniform_(-(units[name] ** -0.5), units[name] ** -0.5)
    if forget_bias is None:
        return
    gates = forget_gates(layout)
    for names in layout.passes:
        for (name, _), places, value in zip(names[2:], gates, (forget_bias, 0.0), strict=True):
            H = units[name]
            for place in places:
                getattr(module, name)[place * H : place * H + H] = value


def words(layer: Any, text: str) -> str:
    """PyTorch's words for a layer, and what is not PyTorch's."""
    variant = layer._variant
    more: dict[str, Any] = {"states_batch_first": layer.states_batch_first, "checkpoint": layer.checkpoint}
    if variant is not None:
        more |= {
            "cell": layer.cell if layer.cell != layer._cell else None,
            "layer_norm": variant.layout.layer_norm,
            "zoneout": variant.zoneout,
            "recurrent_dropout": variant.recurrent_dropout,
            "reverse": variant.layout.reverse,
            "compute_dtype": variant.compute_dtype,
            **variant.chosen.changed(),
        }
    return ", ".join([text, *(f"{name}={value!r}" for name, value in more.items() if value)])


@constant
def plain_text(cell: str, I: int, H: int, L: int, D: int, bias: bool, proj_size: int) -> str:  # noqa: E741
    """A layer of `torch.nn` as the operators are told of it."""
    layout = Layout(KERNELS.specs[cell], I, H, L, D, bias, proj_size=proj_size)
    return varying.written(layout, [0.0] * layout.spec.states, 0.0, options.PLAIN)


def described(layer: Any) -> tuple[str, bool, tuple[int, int]]:
    """What the operators are told of a layer, whether it draws masks, and the form of its state."""
    variant = layer._variant
    if variant is not None:
        return variant.text, variant.draws, variant.form
    text = plain_text(
        layer._cell,
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        1 + layer.bidirectional,
        layer.bias,
        layer.proj_size,
    )
    return text, False, (1 + layer._tuple, 0)


def run(
    layer: Any,
    input: Any,
    hx: Any,
    lengths: Any,
    mask: Any,
    resets: Any,
    reset_to: str,
    return_states: bool = False,
) -> tuple[Any, ...]:
    """A call of a layer that was varied, or is asked for its states, with the arguments of its `forward`."""
    checks.choice("reset_to", reset_to, ("zero", "initial"))
    if isinstance(input, PackedSequence):
        if not (lengths is None and mask is None and resets is None and reset_to == "zero"):
            raise ValueError("lengths, mask, resets: expected None beside a PackedSequence, got some")
        if return_states:
            raise ValueError("return_states: expected False beside a PackedSequence, got True")
        return on_rows(
            input, layer.batch_first, lambda x, steps: run(layer, x, hx, steps, None, None, "zero")
        )
    form = described(layer)[2]
    weights = [getattr(layer, name) for name in layer._flat_weights_names]
    states, expected = [] if hx is None else flat(hx), form[0] * max(form[1], 1)
    check(layer.cell, (input, *states, *weights))
    if hx is not None and (len(states) != expected or isinstance(hx, Tensor) != (form == (1, 0))):
        raise ValueError(f"hx: expected {expected} tensors, got {len(states)} in a {type(hx).__name__}")
    flags = (lengths, mask, resets)

    def call(x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        return computed(layer, x, states, weights, flags, reset_to == "initial", return_states)

    y, *rest = without_autocast(input, states, weights[0].dtype, layer.mode == "GRU", call)
    groups = [rest[:expected], rest[expected:]] if return_states else [rest]
    return y, *(nested(form, group) for group in groups)


def on_rows(packed: PackedSequence, batch_first: bool, call: Any) -> tuple[PackedSequence, Any]:
    """The results of `call(x, lengths)` on packed rows, the output packed as they are."""
    x, steps = pad_packed_sequence(packed, batch_first)
    y, final = call(x, steps)
    again = pack_padded_sequence(y, steps, batch_first, enforce_sorted=False)
    return again if packed.sorted_indices is not None else PackedSequence(
        again.data, again.batch_sizes
    ), final


def without_autocast(
    x: Tensor, states: Sequence[Tensor], dtype: torch.dtype, keeps: bool, call: Any
) -> Sequence[Tensor]:
    """The results of `call(x, states)`, under autocast in the parameters' `dtype`.

    Results get the number type that PyTorch's own layers give: of autocast, or of x if it `keeps` it.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        results: Sequence[Tensor] = call(x, states)
        return results
    result = x.dtype if keeps else torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        return [a.to(result) for a in call(x.to(dtype), [s.to(dtype) for s in states])]


def computed(
    layer: Any,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    flags: Sequence[Any],
    reset_to_initial: bool,
    return_states: bool = False,
    batch_first: bool | None = None,
) -> Sequence[Tensor]:
    """y, the final states and, if asked for, those of every step, from lengths, mask and resets as x lies."""
    text, draws, _ = described(layer)
    checkpoint = layer.checkpoint and torch.is_grad_enabled()
    if checkpoint and return_states:
        raise ValueError("return_states: expected False with checkpoint, which keeps some states alone")
    lengths, mask, resets = flags
    call = Call(
        text,
        layer.batch_first if batch_first is None else batch_first,
        layer.training,
        float(layer.dropout),
        torch.randint(2**63 - 1, ()) if layer.training and (draws or layer.dropout) else None,
        None if lengths is None else torch.as_tensor(lengths),
        None if mask is None else torch.as_tensor(mask),
        None if resets is None else torch.as_tensor(resets),
        reset_to_initial,
        return_states,
        checkpoint,
    )
    return dispatched(call, x, states, weights)


def single(
    layer: Any,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    flags: Sequence[Any],
    batch_first: bool,
) -> Sequence[Tensor]:
    """y and the final states of one layer of a stack of PyTorch's, from lengths and flags (T, B)."""
    D, H = 1 + layer.bidirectional, layer.hidden_size
    text = plain_text(layer._cell, x.shape[2], H, 1, D, layer.bias, layer.proj_size)
    lengths, *columns, to_initial = flags
    mask, resets = (f.t() if batch_first and f is not None else f for f in columns)
    call = Call(
        text,
        batch_first,
        False,
        0.0,
        None,
        lengths,
        mask,
        resets,
        to_initial,
        return_states=False,
        checkpoint=False,
    )
    return dispatched(call, x, states, weights)


def dispatched(
    call: Call, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor]:
    """A call by the plain operations, the operator or the kernels."""
    if by_plain_operations(call, x, weights):
        if torch.compiler.is_compiling():  # a break in the graph: masks and cells are the reference's
            return torch._dynamo.disable(plain.layers)(x, states, weights, call)
        return plain.layers(x, states, weights, call)
    if torch.compiler.is_compiling() or not eager.unwatched() or not concrete(x, states, weights):
        # What is traced serves calls with and without gradients.
        save = torch.is_grad_enabled() or torch.jit.is_tracing()
        results: Sequence[Tensor] = VARIED(x, states, weights, *call, save)[:-1]
        return results
    save = torch.is_grad_enabled() and eager.any_requires_grad(x, states, weights)
    results = Varied.apply(call, save, len(states), x, *states, *weights)
    return results


def by_plain_operations(call: Call, x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether no kernels compute a call."""
    if torch.compiler.is_compiling():
        return not known(call.layers, call.return_states, x.device, weights[0].dtype)
    watched = eager.transforms() or eager.forward_mode()
    return watched or engine_for(call, x.device, weights[0].dtype) is None


@constant
def known(layers: str, return_states: bool, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels compute calls of these layers."""
    call = Call(layers, False, False, 0.0, None, None, None, None, False, return_states, False)
    return engine_for(call, device, dtype) is not None


def check(cell: str, tensors: Sequence[Any]) -> None:
    """TypeError for what no layer takes."""
    for a in tensors:
        if not isinstance(a, Tensor):
            raise TypeError(f"{cell}: expected tensors, got {type(a).__name__}")
        if not a.is_floating_point():
            raise TypeError(f"{cell}: expected tensors of floating-point numbers, got {a.dtype}")
