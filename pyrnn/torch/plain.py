# SPDX-License-Identifier: Apache-2.0
"""Layers of any cell with any options in plain operations of PyTorch, step by step.

Differentiable any number of times and in either mode, under any transform, on any device. The cells are the
text of the reference on tensors; masks are those of the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrnn import checks
from pyrnn.layout import Layout
from pyrnn.masks import dropout_mask, regularized
from pyrnn.reference.cells import registry
from pyrnn.reference.products import Product
from pyrnn.reference.regularization import dropout_masks, zoneout_shares
from pyrnn.reference.sequence import ordered
from pyrnn.states import built, by_pass
from pyrnn.torch.duck import Cell, Duck
from pyrnn.torch.reading import flags_of, lengths_of
from pyrnn.torch.varying import Call, flat, form_of, layers_of, nested

#: NumPy's functions and the reference's know arrays; the ones here are `Duck`.
where: Any = np.where
duck: Any = Duck


class Steps(NamedTuple):
    """What holds at every step, for all layers.

    Attributes
    ----------
    active, restart : bool tensor (T, B, 1), or None for all, for none
    to_initial : bool
        What a restart restores.
    """

    active: Tensor | None
    restart: Tensor | None
    to_initial: bool


def layers(x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], call: Call) -> list[Tensor]:
    """The results of `varying.forward`: y, the final states and, if asked for, those of every step."""
    layout, zoneout, recurrent_dropout, variation, _ = layers_of(call.layers)
    L, D, S = layout.num_layers, layout.directions, layout.spec.states
    params = dict(zip(layout.shapes, weights, strict=True))
    unbatched = x.dim() == 2
    batch = 0 if call.batch_first and not unbatched else 1
    view, whole = x.unsqueeze(1) if unbatched else x, list(state)
    if unbatched:
        whole = [s.unsqueeze(1) for s in state]
    B = view.shape[batch]
    check(layout, view, whole, params, B)
    steps = steps_of(call, view, batch, unbatched)
    view = view if batch else view.transpose(0, 1)
    learned = not whole and layout.initial
    if whole:
        given = nested(form_of(layout), whole)
        initial = by_pass(layout, given if S > 1 else [given])
    elif learned:
        initial = [[params[names[s][0]].expand(B, -1) for names in learned] for s in range(S)]
    else:
        zeros = built(layout, lambda rows, width: x.new_zeros((rows, B, width)))
        initial = by_pass(layout, zeros)

    if call.seed is not None and torch._C._functorch.is_batchedtensor(call.seed):
        raise NotImplementedError("vmap: expected randomness='same' where a layer draws masks in training")
    training = call.training
    rng = np.random.Generator(np.random.Philox(0 if call.seed is None else int(call.seed)))
    recurrent_dropout = recurrent_dropout if training else 0.0
    draws = recurrent_dropout > 0 or (training and any(zoneout))
    seed = int(rng.integers(2**64, dtype=np.uint64)) if draws else 0
    changes = variation.argument(recurrent_dropout, layout.cell_norm).get("variation")
    every: list[list[Tensor]] = []  # of every pass: the states after each step, (T, B, width)
    final: list[list[Tensor]] = []
    for layer in range(L):
        if layer and call.dropout and training:
            view = view * placed(dropout_mask(rng, tuple(view.shape), call.dropout), x)
        outputs = []
        for d in range(D):
            k = layer * D + d
            w_ih, w_hh, b_ih, b_hh = layout.in_order([params[name] for name, _ in layout.passes[k]])
            if training and variation.weight_dropout and w_hh is not None:
                w_hh = w_hh * placed(dropout_mask(rng, tuple(w_hh.shape), variation.weight_dropout), x)
            if layout.heads > 1:
                w_hh = diagonal(w_hh, layout.heads)
            after, last = one(
                layout.spec.name,
                view,
                [s[k] for s in initial],
                (w_ih, w_hh, b_ih, b_hh),
                {argument: params[name] for argument, (name, _) in layout.extras[k].items()},
                steps,
                regularized(zoneout, recurrent_dropout, training, seed, k).get("regularization"),
                changes,
                reverse=d == 1 or layout.reverse,
            )
            every.append(after)
            final.append(last)
            outputs.append(after[0])
        view = outputs[0] if D == 1 else outputs[0] + outputs[1]
        if D == 2 and layout.merge == "concat":
            view = torch.cat(outputs, 2)

    def original(a: Tensor, axis: int) -> Tensor:
        """In the layout of x; the steps are at `axis`."""
        return a.squeeze(axis + 1) if unbatched else a if batch else a.transpose(axis, axis + 1)

    def result(passes: list[list[Tensor]]) -> list[Tensor]:
        rows = range(0, L * D, D) if layout.ragged else (0,)
        n = D if layout.ragged else L * D
        return [torch.stack([states[s] for states in passes[k : k + n]]) for s in range(S) for k in rows]

    finals = [s.squeeze(1) if unbatched else s for s in result(final)]
    states = [original(s, 1) for s in result(every)] if call.return_states else []
    return [original(view, 0), *finals, *states]


def check(layout: Layout, x: Tensor, states: Sequence[Tensor], params: dict[str, Tensor], batch: int) -> None:
    """ValueError and TypeError for what broadcasting or the products would not refuse, or in other words."""
    first = next(iter(params.values()))
    if x.dim() != 3 or x.shape[2] != layout.input_size:
        shape = tuple(x.shape)
        raise ValueError(f"x: expected shape (T, B, I) or (T, I) with I = {layout.input_size}, got {shape}")
    expected = flat(built(layout, lambda rows, width: torch.empty((rows, batch, width), device="meta")))
    if not isinstance(first, Tensor):
        raise TypeError(f"params: expected tensors, got {type(first).__name__}")
    for k, a in enumerate((x, *states)):
        name = f"state[{k - 1}]" if k else "x"
        if a.dtype != first.dtype:
            raise TypeError(f"{name}: expected dtype {first.dtype}, got {a.dtype}")
        if k and a.shape != expected[k - 1].shape:
            shape = tuple(expected[k - 1].shape)
            raise checks.wrong_shape(name, "(num_layers*directions, B, H)", shape, tuple(a.shape))


def steps_of(call: Call, x: Tensor, batch: int, unbatched: bool) -> Steps:
    """What a call says of its steps; x has three axes."""
    mask, resets, lengths = call.mask, call.resets, call.lengths
    if unbatched:
        mask, resets = (f if f is None else f.unsqueeze(1) for f in (mask, resets))
        lengths = None if lengths is None else lengths.reshape(-1)
    active = flags_of("mask", mask, x, batch)
    lengths = lengths_of(lengths, x, batch)
    if lengths is not None:
        T = x.shape[1 - batch]
        within = torch.arange(T, device=x.device)[:, None] < lengths.to(x.device)
        active = within if active is None else within & active.to(x.device)
    restart = flags_of("resets", resets, x, batch)
    active, restart = (f if f is None else f.to(x.device).unsqueeze(2) for f in (active, restart))
    return Steps(active, restart, call.reset_to_initial)


def one(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Any],
    extras: dict[str, Tensor],
    steps: Steps,
    regularization: Any,
    variation: Any,
    reverse: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """One layer in one direction: the states after every step (T, B, width), and the last ones."""
    kind: Any = registry[cell]
    early, (T, B, _) = len(kind.from_h) - getattr(kind, "late", 0), x.shape
    more = {name: duck(a) for name, a in extras.items()}
    w_ih, w_hh, b_ih, b_hh = (None if a is None else duck(a) for a in weights)
    H = weights[0].shape[0] // len(kind.from_x)
    if w_hh is None:
        w_hh = duck(x.new_zeros((0, H)))
    if getattr(kind, "ordered", False):
        w_hh = ordered(w_hh, more["params"])
    gain = more.get("norm_hh")

    def product(weight: Any, gain: Any, reads: int = 1) -> Product:
        return Product(weight, gain, lambda a: a, reads)

    x_product = product(w_ih, more.get("norm_ih"))
    h_product, late_product = (
        product(w_hh[rows], None if gain is None else gain[rows], reads)
        for rows, reads in ((slice(early * H), 1), (slice(early * H, None), getattr(kind, "reads", 1)))
    )
    biases = (None, None) if b_hh is None else (b_hh[: early * H], b_hh[early * H :])
    drops = "sequence" if variation is None else variation[3]
    factors = shares = None
    masked = regularization is not None and regularization[2] and regularization[1]
    if masked:
        factors = duck(placed(dropout_masks(regularization, drops != "sequence", T, B, H), x))
    if regularization is not None and any(regularization[0]):
        shares = duck(placed(zoneout_shares(regularization, T, B, H), x))
    if variation is not None and bool(getattr(kind, "roles", "")):
        candidates = (factors, 1 - regularization[1]) if masked and drops == "candidate" else (None, 1.0)
        kind = Cell(kind, variation, more.get("norm_c"), more.get("bias_c"), *candidates)
    if drops == "candidate":
        factors = None

    if steps.active is not None:
        x = torch.where(steps.active, x, 0)  # what is skipped, even NaN, has no gradient
    of_x = plus(x_product.forward([duck(x)])[0], b_ih)
    p = more["params"][:, None] if "params" in more else ()
    s: Any = [duck(a) for a in state]
    initial = s if steps.to_initial else [duck(torch.zeros_like(a)) for a in state]
    after: list[list[Tensor]] = []
    for t in range(T - 1, -1, -1) if reverse else range(T):
        before = s
        if steps.restart is not None:
            s = [where(duck(steps.restart[t]), b, a) for b, a in zip(initial, s, strict=True)]
        slots: list[Any] = [None] * kind.slots
        pieces = [(kind.from_x, of_x[t])]
        if early:
            rows, _ = h_product.forward([dropped(s[0], factors, t)])
            pieces.append((kind.from_h[:early], plus(rows, biases[0])))
        add(slots, pieces, H)
        if early < len(kind.from_h):
            read = [dropped(a, factors, t) for a in kind.read(slots, s)]
            rows, _ = late_product.forward(read)
            add(slots, [(kind.from_h[early:], plus(rows, biases[1]))], H)
        at = (t,) if isinstance(kind, Cell) else ()
        new = list(kind.forward(*at, slots, s, p)[0])
        if "weight_hr" in more:
            new[0] = new[0] @ more["weight_hr"].T
        if shares is not None:
            kept = [shares[t, k, :, : a.tensor.shape[1]] for k, a in enumerate(new)]
            new = [(1 - share) * a + share * b for share, a, b in zip(kept, new, s, strict=True)]
        if steps.active is not None:
            on = duck(steps.active[t])
            s = [where(on, a, b) for a, b in zip(new, before, strict=True)]
            new = [where(on, a, 0) for a in new]
        else:
            s = new
        after.append([a.tensor for a in new])
    if reverse:
        after.reverse()
    widths = [a.shape[1] for a in state]
    sequences = [
        torch.stack([a[k] for a in after]) if after else x.new_empty((0, B, n)) for k, n in enumerate(widths)
    ]
    return sequences, [a.tensor for a in s]


def diagonal(weight: Tensor, heads: int) -> Tensor:
    """`pyrnn.reference.sequence.diagonal`, differentiable."""
    n = weight.shape[1]
    whole = torch.diag_embed(weight.view(-1, heads, n, n).movedim(1, -1))  # (slots, n, n, heads, heads)
    return whole.permute(0, 3, 1, 4, 2).reshape(len(weight), heads * n)


def add(slots: list[Any], pieces: Sequence[tuple[Sequence[int], Any]], H: int) -> None:
    """Add the rows of products (B, n·H) to the slots that they are for."""
    for numbers, rows in pieces:
        for k, slot in enumerate(numbers):
            piece = rows[:, k * H : k * H + H]
            slots[slot] = piece if slots[slot] is None else slots[slot] + piece


def plus(rows: Any, bias: Any) -> Any:
    """rows + bias, if there is one."""
    return rows if bias is None else rows + bias


def dropped(h: Any, factors: Any, t: int) -> Any:
    """What the product of h reads at step t."""
    return h if factors is None else h * factors[t][:, : h.tensor.shape[1]]


def placed(a: Any, like: Tensor) -> Tensor:
    """NumPy's array as a tensor beside another."""
    return torch.tensor(np.ascontiguousarray(a), dtype=like.dtype, device=like.device)
