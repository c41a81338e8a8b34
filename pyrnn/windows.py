# SPDX-License-Identifier: Apache-2.0
"""Which keys a query may attend to: key lengths, causality, windows, and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pyrnn import checks
from pyrnn.layout import Array
from pyrnn.scoring import project, project_backward

MOST = 2**53  #: the largest offset and window: sums of a few stay far from the end of int64


class Rule(NamedTuple):
    """Which keys a query at position n may attend to."""

    causal: bool
    left: int | None  # keys before n, or before the predicted centre; None: all
    right: int | None
    centered: bool  # around a predicted centre
    offset: int  # position of the first query

    @property
    def sigma(self) -> float:
        """Half the window: the Gaussian's standard deviation (Luong et al. 2015, section 3.2)."""
        return self.left / 2 if self.centered and self.left else 1.0


class Center(NamedTuple):
    """Predicted centres and what their gradient needs."""

    at: Array  # (B, Tq): p = L σ(v·tanh(W q))
    hidden: Array  # (B, Tq, P): tanh(W q)
    length: Array  # (B, 1): L


#: Every query attends to all keys.
ALL = Rule(False, None, None, False, 0)


def rule_of(causal: Any, window: Any, local: Any, query_offset: Any) -> Rule:
    """The rule that these arguments of `attention_forward` make, checked."""
    if causal is False and window is None and local is None and query_offset is ALL.offset:
        return ALL
    causal, offset = checks.flag("causal", causal), checks.integer("query_offset", query_offset, 0)
    if offset > MOST:
        raise ValueError(f"query_offset: expected 0 to {MOST}, got {offset}")
    if local is not None:
        checks.choice("local", local, ("m", "p"))
        if window is None:
            raise ValueError(f"window: expected a number of keys with local={local!r}, got None")
    if window is None:
        return Rule(causal, None, None, False, offset)
    if local == "p":
        width = min(checks.integer("window", window, 1), MOST)
        return Rule(causal, width, width, True, offset)
    if not isinstance(window, tuple | list):
        window = (window, window)
    if len(window) != 2:
        raise ValueError(f"window: expected a number of keys or (left, right), got {len(window)} numbers")
    left, right = (min(checks.integer("window", side, 0), MOST) for side in window)
    return Rule(causal, left, right, False, offset)


def lengths_of(rule: Rule, key_lengths: Any, Tk: int, B: int, heads: int) -> Array | None:
    """The number of keys of every row, or None where every query attends to all Tk."""
    if key_lengths is not None:
        return np.repeat(checks.lengths_of(key_lengths, Tk, B, False, "key_lengths", "Tk"), heads)
    return None if rule is ALL else np.full(B * heads, Tk)


def whole_rows(rows: int, Tq: int, Tk: int) -> Array:
    """The bounds of queries that attend to all keys, read-only; those of a few queries are made once."""
    few: Callable[[int, int, int], Array] = kept_rows if rows * Tq <= 4096 else kept_rows.__wrapped__
    return few(rows, Tq, Tk)


@lru_cache(maxsize=16)
def kept_rows(rows: int, Tq: int, Tk: int) -> Array:
    """`whole_rows` of the last few sizes."""
    bounds = bounds_of(ALL, np.full(rows, Tk), Tq, None)
    bounds.flags.writeable = False
    return bounds


def bounds_of(rule: Rule, lengths: Array, Tq: int, center: Array | None) -> Array:
    """The first key of every query and the one after its last, never the lesser, int64 (B, Tq, 2)."""
    bounds = np.zeros((len(lengths), Tq, 2), np.int64)
    bounds[:, :, 1] = lengths[:, None]
    if not rule.causal and rule.left is None:
        return bounds
    n = rule.offset + np.arange(Tq)
    first, last = bounds[:, :, 0], bounds[:, :, 1]
    if rule.causal:
        last = np.minimum(last, n + 1)
    if rule.left is not None and rule.right is not None:
        if center is None:
            low, high = n - rule.left, n + rule.right
        else:
            low = np.ceil(center.real - rule.left).astype(np.int64)
            high = np.floor(center.real + rule.right).astype(np.int64)
        first, last = np.maximum(first, low), np.minimum(last, high + 1)
    return np.stack([np.minimum(first, last), last], axis=-1)


def center_of(params: Mapping[str, Array], query: Array, lengths: Array) -> Center:
    """p_i = L σ(v·tanh(W q_i)), L the number of keys (Luong et al. 2015, arXiv:1508.04025, equation 9).

    The centre of a query that is not a number is 0: its scores are none either, if it has a key at all.
    """
    length = lengths[:, None].astype(query.real.dtype)
    hidden = np.tanh(project(query, params["weight_position"]))
    at = length * (1 + np.tanh(hidden @ params["weight_position_score"] / 2)) / 2
    return Center(np.where(np.isnan(at), 0, at), hidden, length)


def center_backward(
    params: Mapping[str, Array], query: Array, center: Center, dcenter: Array
) -> tuple[Array, dict[str, Array]]:
    """Gradients of the query and of the parameters: dz = dp · p (1 - p/L)."""
    used = (dcenter != 0) & (center.length > 0)
    at, hidden = np.where(used, center.at, 0), np.where(used[:, :, None], center.hidden, 0)
    dz = dcenter * at * (1 - at / np.maximum(center.length, 1))
    dhidden = dz[:, :, None] * params["weight_position_score"] * (1 - hidden * hidden)
    dquery, dweight = project_backward(dhidden, params["weight_position"], query)
    named = {"weight_position": dweight, "weight_position_score": np.einsum("btp,bt->p", hidden, dz)}
    return dquery, {name: d for name, d in named.items() if d is not None}


def read_mask(
    mask: Any, outer: tuple[int, ...], Tq: int, Tk: int, single: bool, dtype: np.dtype[Any]
) -> tuple[Array | None, Array | None]:
    """A bool mask, or the number a float mask adds to every score; each (B·heads, Tq, Tk) or None."""
    if mask is None:
        return None, None
    a = checks.array_of("mask", mask)
    real = np.zeros(0, dtype).real.dtype
    if a.dtype != np.bool_ and a.dtype.newbyteorder("=") != real:
        raise TypeError(f"mask: expected dtype bool or {real}, got {a.dtype}")
    axes, shape = ("(B, heads, Tq, Tk)" if len(outer) == 2 else "(B, Tq, Tk)"), (*outer, Tq, Tk)
    view = a
    if len(outer) == 2 and a.ndim == 3:  # one mask for all heads
        view = a[:, None]
    if single and a.ndim == 2:
        view, axes = a[:, None], "(B, Tk)"
    try:
        full = np.broadcast_to(view, shape).reshape(-1 if Tq * Tk else int(np.prod(outer)), Tq, Tk)
    except ValueError:
        expected = checks.written((outer[0], Tk) if axes == "(B, Tk)" else shape)
        raise ValueError(
            f"mask: expected a shape that broadcasts to {axes} = {expected}, got {a.shape}"
        ) from None
    if a.dtype == np.bool_:
        return np.ascontiguousarray(full), None
    return None, np.require(full, dtype, ["C", "A"])


def from_padding_mask(pad: Any) -> Array:
    """A mask for attention from one that marks padding, as `torch.nn.MultiheadAttention` takes it.

    Parameters
    ----------
    pad : bool array (B, Tk)
        True where a key is padding.

    Returns
    -------
    bool array (B, 1, Tk)
        True where a key may be attended to.

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.from_padding_mask([[False, False, True]])
    array([[[ True,  True, False]]])
    """
    a = checks.array_of("pad", pad)
    if a.dtype != np.bool_:
        raise TypeError(f"pad: expected dtype bool, got {a.dtype}")
    if a.ndim != 2:
        raise ValueError(f"pad: expected shape (B, Tk), got {a.shape}")
    return ~a[:, None]
