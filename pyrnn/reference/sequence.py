# SPDX-License-Identifier: Apache-2.0
"""The engine in NumPy: one layer in one direction, forward and reverse sweep, for any registered cell.

Same names and arguments as `pyrnn._core.forward` and `pyrnn._core.backward`; any float or complex dtype.
Here x is (T, B, I), y (T, B, H), states S arrays (B, H); slots and what is saved are (T, slots, B, H). With a
projection (Sak et al. 2014) h has P numbers, and zeros after them in here.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyrnn.layout import Array
from pyrnn.reference.cells import registry
from pyrnn.reference.products import Product
from pyrnn.reference.regularization import dropout_masks, zoneout_shares
from pyrnn.reference.varied import VariedCell


class Saved(NamedTuple):
    """What one pass keeps for its backward."""

    cell: Any
    x: Array  # (T, B, I), zero where not active
    state: Array  # (T, S, B, H): the states each step started from, zero where not active
    save: Array  # (T, saved, B, H), zero where not active
    products: tuple[Product, Product, Product]  # of x, of h, and of what the late slots read
    kept: tuple[Any, Any, Any]  # by them; of h's and the late ones' for every step
    params: Array  # (params, 1, H)
    shares: Array  # (T, S, B, H), or (): how much of the old state zoneout keeps
    factors: Array  # (T, B, H), or (T, 1, 1): dropout of the h that the product reads
    projection: (
        tuple[Array, Array] | None
    )  # weight_hr (H, H), zeros below P; (T, B, H), what it is multiplied with
    active: Array  # bool (T, B, 1)
    restart: Array  # bool (T, B, 1)
    to_initial: bool
    steps: range  # in the order of the forward
    rounded: Any  # what the products do to both sides
    after: Array  # (T, S, B, H): the states after each step, zero where not active
    heads: int  # blocks of weight_hh

    def saved(self) -> Array:
        """What the cell saved at every step, (T, B, saved, H)."""
        return np.swapaxes(self.save, 1, 2)

    def states(self) -> Array:
        """The states after every step, (T, B, S, H)."""
        return np.swapaxes(self.after, 1, 2)


def forward(
    cell: str,
    x: Array,
    state: Sequence[Array],
    weight_ih: Array,
    weight_hh: Array | None,
    bias_ih: Array | None,
    bias_hh: Array | None,
    y: Array,
    state_out: Sequence[Array],
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    save: bool = False,
    compute_dtype: str | None = None,
    params: Array | None = None,
    regularization: Any = None,
    norm_ih: Array | None = None,
    norm_hh: Array | None = None,
    weight_hr: Array | None = None,
    variation: Any = None,
    norm_c: Array | None = None,
    bias_c: Array | None = None,
    checkpoint: bool = False,
    heads: int = 1,
) -> Saved | None:
    """Write y and state_out; return what `backward` needs when `save`.

    With compute_dtype="bfloat16" the products round both sides, here and in the backward; with "int8" those
    of the forward, row by row. `checkpoint` changes nothing: the reference keeps everything.
    """
    kind: Any = registry[cell]
    rounded = ROUNDED[compute_dtype]
    (T, B, _), early = x.shape, len(kind.from_h) - getattr(kind, "late", 0)
    if weight_hh is None:
        weight_hh = np.zeros((0, len(weight_ih) // len(kind.from_x)), x.dtype)
    if heads > 1:
        weight_hh = diagonal(weight_hh, heads)
    if getattr(kind, "ordered", False) and params is not None:
        weight_hh = ordered(weight_hh, params)
    P = weight_hh.shape[1]
    H = P if weight_hr is None else weight_hr.shape[1]
    if weight_hr is not None:
        weight_hr, weight_hh = padded(weight_hr, 0, H), padded(weight_hh, 1, H)
    x_product = Product(rounded(weight_ih), norm_ih, rounded)
    h_product, late_product = (
        Product(rounded(weight_hh[rows]), None if norm_hh is None else norm_hh[rows], rounded, reads)
        for rows, reads in ((slice(early * H), 1), (slice(early * H, None), getattr(kind, "reads", 1)))
    )
    biases = (None, None) if bias_hh is None else (bias_hh[: early * H], bias_hh[early * H :])
    active = active_steps(T, B, lengths, mask)
    restart = active & (np.zeros((T, B, 1), bool) if resets is None else resets[:, :, None])
    x = np.where(active, x, 0)
    drops = "sequence" if variation is None else variation[3]
    masks = dropout_masks(regularization, drops != "sequence", T, B, H).astype(x.dtype)
    factors = np.ones((T, 1, 1), x.dtype) if drops == "candidate" else masks
    varies = variation is not None and bool(getattr(kind, "roles", ""))  # else only the masks are others
    if varies:
        dropped = drops == "candidate" and regularization is not None and regularization[2]
        candidates = (masks, 1 - regularization[1]) if dropped else (None, 1.0)
        kind = VariedCell(kind, variation, norm_c, bias_c, *candidates)
    a = np.zeros((T, kind.slots, B, H), x.dtype)
    rows, x_kept = x_product.forward([x])
    a[:, list(kind.from_x)] += split(plus(rows, bias_ih), H)
    h_kept, late_kept = [None] * T, [None] * T
    started, kept = np.zeros((T, kind.states, B, H), x.dtype), np.zeros((T, kind.saved, B, H), x.dtype)

    shares, after = zoneout_shares(regularization, T, B, H).astype(x.dtype), np.zeros_like(started)
    p = np.zeros((0, 1, H), x.dtype) if params is None else params[:, None]
    steps = range(T - 1, -1, -1) if reverse else range(T)
    s = np.stack([padded(a, 1, H) for a in state])
    hidden = np.zeros((T, B, H), x.dtype)
    initial = s if reset_to_initial else np.zeros_like(s)
    for t in steps:
        s = np.where(restart[t], initial, s)
        rows, h_kept[t] = h_product.forward([s[0] * factors[t]])
        a[t, list(kind.from_h[:early])] += split(plus(rows, biases[0]), H)
        if early < len(kind.from_h):
            rows, late_kept[t] = late_product.forward([read * factors[t] for read in kind.read(a[t], s)])
            np.add.at(
                a[t], list(kind.from_h[early:]), split(plus(rows, biases[1]), H)
            )  # a slot may come again
        at = (t,) if varies else ()
        s_new, step_save = kind.forward(*at, a[t], s, p)
        s_new = np.stack(s_new)
        if weight_hr is not None:
            hidden[t] = np.where(active[t], s_new[0], 0)
            s_new[0] = rounded(s_new[0]) @ rounded(weight_hr).T
        s_new = (1 - shares[t]) * s_new + shares[t] * s
        started[t] = np.where(active[t], s, 0)
        kept[t] = np.where(active[t], step_save, 0)
        s = np.where(active[t], s_new, s)
        after[t] = np.where(active[t], s, 0)
        y[t] = after[t, 0, :, :P]
    for out, value in zip(state_out, s, strict=True):
        out[...] = value[:, : out.shape[1]]
    if not save:
        return None
    products, kept_by = (x_product, h_product, late_product), (x_kept, h_kept, late_kept)
    projection = None if weight_hr is None else (weight_hr, hidden)
    read = (products, kept_by, p, shares, factors, projection)
    return Saved(
        kind, x, started, kept, *read, active, restart, reset_to_initial, steps, rounded, after, heads
    )


def backward(
    saved: Saved,
    dy: Array | None,
    dstate: Sequence[Array] | None,
    dx: Array | None,
    dx_accumulate: bool,
    dstate_out: Sequence[Array],
    dweight_ih: Array,
    dweight_hh: Array | None,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
    dparams: Array | None = None,
    dnorm_ih: Array | None = None,
    dnorm_hh: Array | None = None,
    dweight_hr: Array | None = None,
    dnorm_c: Array | None = None,
    dbias_c: Array | None = None,
    dstates: Sequence[Array] | None = None,
) -> None:
    """Write the gradients of what `forward` read; dx is added to when `dx_accumulate`."""
    kind, active, restart, rounded = saved.cell, saved.active, saved.restart, saved.rounded
    (x_product, h_product, late_product), (x_kept, h_kept, late_kept) = saved.products, saved.kept
    early = len(kind.from_h) - getattr(kind, "late", 0)
    early_slots, late_slots = list(kind.from_h[:early]), list(kind.from_h[early:])
    T, S, B, H = saved.state.shape
    da = np.zeros((T, kind.slots, B, H), saved.x.dtype)
    dp = np.zeros((kind.params, B, H), saved.x.dtype)
    ds = np.zeros((S, B, H), saved.x.dtype)
    if dweight_hr is not None:
        dweight_hr[...] = 0
    for d, given in zip(ds, () if dstate is None else dstate, strict=False):
        d[:, : given.shape[1]] = given
    dinitial = np.zeros_like(ds)
    drows = np.zeros((T, B, len(kind.from_h) * H), saved.x.dtype)  # of the products of h, before their gain
    dh = np.zeros((T, B, H), saved.x.dtype)
    if dy is not None:
        dh[..., : dy.shape[2]] = np.where(active, dy, 0)
    dafter = np.zeros_like(saved.after)
    for s, of_state in enumerate(() if dstates is None else dstates):
        dafter[:, s, :, : of_state.shape[2]] = np.where(active, of_state, 0)
    for out in (dnorm_c, dbias_c):
        if out is not None:
            out[...] = 0
    for t in reversed(saved.steps):
        ds_new = np.where(active[t], ds, 0)
        ds_new[0] += dh[t]
        ds_new += dafter[t]
        past = saved.shares[t] * ds_new  # what zoneout leads past the cell
        ds_new = ds_new - past
        if saved.projection is not None and dweight_hr is not None:
            weight_hr, hidden = saved.projection
            dweight_hr += (rounded(ds_new[0]).T @ rounded(hidden[t]))[: len(dweight_hr)]
            ds_new[0] = rounded(ds_new[0]) @ rounded(weight_hr)
        if isinstance(kind, VariedCell):
            da[t], ds_old, dp_step, of_norm = kind.backward(
                t, saved.save[t], saved.state[t], saved.params, ds_new
            )
            for out, value in zip((dnorm_c, dbias_c), of_norm or (), strict=False):
                if out is not None:
                    out += np.where(active[t], value, 0).sum(0)
        else:
            da[t], ds_old, dp_step = kind.backward(saved.save[t], saved.state[t], saved.params, ds_new)
        ds_old = np.stack(list(ds_old)) + past
        if kind.params:
            dp += dp_step
        if late_slots:
            drows[t, :, early * H :] = late_product.backward(join(da[t, late_slots]), late_kept[t])
            dread = late_product.pull(drows[t, :, early * H :]) * saved.factors[t]
            ds_read, da_read = kind.read_backward(saved.save[t], saved.state[t], dread)
            ds_old += ds_read
            da[t] += da_read
        drows[t, :, : early * H] = h_product.backward(join(da[t, early_slots]), h_kept[t])
        ds_old[0] += h_product.pull(drows[t, :, : early * H])[0] * saved.factors[t]
        ds = np.where(active[t], ds_old, ds)
        dinitial += np.where(restart[t], ds, 0)
        ds = np.where(restart[t], 0, ds)
    for out, value in zip(dstate_out, ds + dinitial if saved.to_initial else ds, strict=True):
        out[...] = value[:, : out.shape[1]]

    # The weight gradients need no recurrence: one product over all steps and rows.
    da_x, da_h = join(da[:, list(kind.from_x)]), join(da[:, list(kind.from_h)])
    dx_rows = x_product.backward(da_x, x_kept)
    dweight_ih[...] = x_product.dweight(dx_rows, [saved.x])
    if dweight_hh is not None:
        dweight = h_product.dweight(drows[..., : early * H], [saved.state[:, 0] * saved.factors])
        dweight = ordered(dweight, saved.params[:, 0]) if getattr(kind, "ordered", False) else dweight
        dweight_hh[: early * H] = blocks(dweight, saved.heads)[:, : dweight_hh.shape[1]]
    if late_slots and dweight_hh is not None:
        late_seen = [kind.read_saved(*kept) for kept in zip(saved.save, saved.state, strict=True)]
        seen = np.moveaxis(np.reshape(late_seen, (T, late_product.reads, B, H)), 1, 0) * saved.factors
        dweight_hh[early * H :] = blocks(
            late_product.dweight(drows[..., early * H :], list(seen)), saved.heads
        )
    if dnorm_ih is not None:
        dnorm_ih[...] = (da_x * x_kept[0]).sum((0, 1))
    if dnorm_hh is not None:
        of_h = [
            np.concatenate([k[0] for k in kept if k is not None], -1)
            for kept in zip(h_kept, late_kept, strict=True)
        ]
        dnorm_hh[...] = (da_h * np.reshape(of_h, da_h.shape)).sum((0, 1))
    if dparams is not None:
        dparams[...] = dp.sum(1)
    if dbias_ih is not None:
        dbias_ih[...] = da_x.sum((0, 1))
    if dbias_hh is not None:
        dbias_hh[...] = da_h.sum((0, 1))
    if dx is not None:
        dx[...] = x_product.pull(dx_rows)[0] + (dx if dx_accumulate else 0)


def active_steps(T: int, B: int, lengths: Array | None, mask: Array | None) -> Array:
    """Steps that count, bool (T, B, 1): before the row's length and where the mask is True."""
    active = np.ones((T, B), bool)
    if lengths is not None:
        active &= np.arange(T)[:, None] < lengths
    if mask is not None:
        active &= mask
    return active[:, :, None]


def ordered(weight: Array, params: Array) -> Array:
    """A weight of h (H, H) with zeros from every unit to those whose first parameter is larger."""
    order = params[0].real
    return np.where(order >= order[:, None], weight, 0)


def diagonal(weight: Array, heads: int) -> Array:
    """A weight (slots·H, H/heads) as (slots·H, H): zeros between units of different heads."""
    n = weight.shape[1]
    parts = weight.reshape(-1, heads, n, n)
    whole = np.zeros((len(parts), heads, n, heads, n), weight.dtype)
    for k in range(heads):
        whole[:, k, :, k] = parts[:, k]
    return whole.reshape(len(weight), heads * n)


def blocks(weight: Array, heads: int) -> Array:
    """What `diagonal` makes whole: the blocks of a weight (slots·H, H) for units of one head."""
    rows, H = weight.shape
    parts = weight.reshape(rows // H, heads, H // heads, heads, H // heads)
    return np.stack([parts[:, k, :, k] for k in range(heads)], 1).reshape(rows, H // heads)


def padded(a: Array, axis: int, size: int) -> Array:
    """`a` with zeros behind, to this size of an axis."""
    missing = [(0, size - n if k == axis else 0) for k, n in enumerate(a.shape)]
    return np.pad(a, missing)


def plus(rows: Array, bias: Array | None) -> Array:
    """rows + bias, if there is one."""
    return rows if bias is None else rows + bias


def bfloat16(a: Array) -> Array:
    """float32 rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    return np.where(np.isnan(a), a, rounded)


def int8(a: Array) -> Array:
    """Every row's numbers to the nearest of 255 that are equally far apart, from -max |row| to max |row|."""
    scale = np.abs(a).max(-1, keepdims=True) / 127
    return np.asarray(np.rint(a / np.where(scale > 0, scale, 1)) * scale)


#: What products do to both sides.
ROUNDED: dict[str | None, Callable[[Array], Array]] = {None: np.asarray, "bfloat16": bfloat16, "int8": int8}


def split(rows: Array, H: int) -> Array:
    """(..., B, slots·H) -> (..., slots, B, H)."""
    return np.moveaxis(rows.reshape(*rows.shape[:-1], rows.shape[-1] // H, H), -2, -3)


def join(slots: Array) -> Array:
    """(..., slots, B, H) -> (..., B, slots·H)."""
    *outer, n, B, H = slots.shape
    return np.moveaxis(slots, -3, -2).reshape(*outer, B, n * H)
