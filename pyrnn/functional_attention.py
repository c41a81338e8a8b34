# SPDX-License-Identifier: Apache-2.0
"""Attention as functions on the kernels; `pyrnn.functional` holds them under its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn import _core, attending, checks, placing
from pyrnn.attending import DIFFERENTIABLE, Arguments, AttentionGradients, Backend, Memory, Saved
from pyrnn.checks import FLOATS
from pyrnn.layout import Array

#: The compiled module; its functions take groups of arguments here, which types cannot follow.
CORE: Any = _core


def forward(a: Arguments, save: bool, out: Array | None) -> tuple[Array, Array, Any]:
    """`_core.attention_forward` into `out` or a new array, and new weights.

    What the only query of an additive score makes of every key is kept in the array that a backward will
    write the keys' gradient into: no memory more, and the first backward need not compute it again.
    """
    (B, Tq, _), (_, Tk, Dv), dtype = a.query.shape, a.value.shape, a.query.dtype
    context = _core.empty((B, Tq, Dv), dtype) if out is None else out
    weights = _core.empty((B, Tq, Tk), dtype)
    options = {name: value for name, value in zip(OPTIONS, a[POSITIONAL:], strict=True) if value is not None}
    if not save:
        CORE.attention_forward(*a[:POSITIONAL], context, weights, **options)
        return context, weights, None
    room: list[Array] = []
    if Tq == 1 and a.score == "additive" and a.weight_filter is None and a.weight_coverage is None:
        room.append(_core.empty(a.key.shape, dtype))
        options["phi"] = room[0]
    kept = CORE.attention_forward(*a[:POSITIONAL], context, weights, save=True, **options)
    return context, weights, (a, kept, room)


def backward(saved: Any, dcontext: Array, dweights: Array | None) -> dict[str, Array]:
    """`_core.attention_backward` into new arrays, once into the one that forward left for it."""
    a, kept, room = saved
    try:  # threads may share what a forward saved: one of them gets the room
        dkey = room.pop()
    except IndexError:
        dkey = _core.empty(a.key.shape, a.key.dtype)
    others = [None if (x := a[i]) is None else _core.empty(x.shape, x.dtype) for i in OTHERS]
    grads: list[Any] = [others[0], dkey, *others[1:]]
    dbias = np.empty(1, a.query.dtype)
    CORE.attention_backward(kept, dcontext, dweights, *grads[:4], dbias, *grads[4:])
    named = {name: d for name, d in zip(DIFFERENTIABLE, grads, strict=True) if d is not None}
    named["bias_score"] = dbias.reshape(())
    return named


#: How many of the arguments `_core.attention_forward` takes by position; the others by name.
POSITIONAL = Arguments._fields.index("mask")
OPTIONS = Arguments._fields[POSITIONAL:]
#: Where the arguments are that have a gradient, but for the keys, the second of them.
OTHERS = tuple(Arguments._fields.index(name) for name in DIFFERENTIABLE if name != "key")


def multiply(a: Array, b: Array) -> Array:
    """A matrix product by the kernels: a BLAS's threads would go on spinning on the cores they need next."""
    (a, a_transposed), (b, b_transposed) = rows_of(a), rows_of(b)
    out = _core.empty((a.shape[1 if a_transposed else 0], b.shape[0 if b_transposed else 1]), a.dtype)
    _core.multiply(a, b, out, a_transposed=a_transposed, b_transposed=b_transposed)
    return out


def rows_of(a: Array) -> tuple[Array, bool]:
    """A matrix as a C-contiguous array, and whether that is its transpose."""
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        return a.T, True
    return np.ascontiguousarray(a), False


ATTENTION = Backend(forward, backward, FLOATS, multiply)


def attention_forward(
    query: Array,
    key: Array | Memory,
    value: Array | None = None,
    *,
    score: str = "dot",
    params: dict[str, Array] | None = None,
    mask: Any = None,
    key_lengths: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: Any = None,
    alignment: str = "softmax",
    local: str | None = None,
    query_offset: int = 0,
    previous: Array | None = None,
    coverage: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Saved]:
    """Score every query against every key, align, mix the values, and keep what the backward needs.

    Parameters
    ----------
    query : array (B, Tq, Dq), (B, Dq) for one step, or (B, heads, Tq, Dq)
        float32 or float64; every other array has its dtype. Arrays of a CUDA device: see docs/cuda.md.
    key : array (B, Tk, Dk) or (B, heads, Tk, Dk)
        Or what `precompute` made of the keys, the values and their lengths.
    value : array (B, Tk, Dv) or (B, heads, Tk, Dv), optional
        The keys when None.
    score : {"dot", "scaled_dot", "general", "cosine", "additive", "concat", "location"}
        q·k, q·k / √Dq, q·W k, q·k / (|q| |k|), v·tanh(W_q q + W_k k + b), v·tanh(W [q; k] + b), and the
        additive score with features of the weights before, U (filters ⋆ α).
    params : dict of arrays, optional
        "general": `weight` (Dq, Dk).
        "concat": `weight` (A, Dq + Dk), `weight_score` (A,), optional `bias` (A,).
        "additive" and "location": `weight_score` (A,), optional `weight_query` (A, Dq), `weight_key` (A, Dk)
        (without, query and key are taken as projected), `bias` (A,), `gain` () which puts gain·v/|v| in v's
        place; "location" also `weight_filter` (F, W), W odd, and `weight_location` (A, F).
        `weight_coverage` (A,) with the three last adds the sum of the weights before (See et al. 2017).
        Monotonic alignments: optional `bias_score` (), added to every score.
        `local="p"`: `weight_position` (P, Dq), `weight_position_score` (P,).
    mask : array, optional
        bool, True = attend, or of the query's dtype and added to the scores (-inf = masked); broadcast to
        (B, Tq, Tk), with heads to (B, heads, Tq, Tk), where three axes count as (B, Tq, Tk). For a query
        without Tq also (B, Tk).
    key_lengths : integers (B,), optional
        Keys of each row. What lies behind, even NaN, has no influence.
    scale : float, optional
        What the scores are multiplied by; 1, for "scaled_dot" 1/√Dq.
    causal : bool
        Query i attends to the keys j ≤ n = query_offset + i only.
    window : int or (int, int), optional
        Query i attends to the keys n - left ≤ j ≤ n + right only.
    alignment : {"softmax", "sparsemax", "monotonic", "hard_monotonic"}
        How scores become weights; the last has no backward.
    local : {None, "m", "p"}
        Luong et al. 2015: "m" is `window` around n; "p" a window around a predicted centre
        p = L σ(v·tanh(W q)), L the key length, where weights are multiplied by exp(-(j - p)² / 2σ²),
        σ = window / 2.
    query_offset : int
        Position of the first query.
    previous : array (B, Tk) or (B, heads, Tk), optional
        Weights before the first query, for "location" and monotonic alignments; zeros when None, for a
        monotonic alignment one at key 0.
    coverage : array (B, Tk) or (B, heads, Tk), optional
        Sum of the weights before the first query, for `weight_coverage`; zeros when None.
    out : array, optional
        Where to write the context; it must share no memory with what is read.

    Returns
    -------
    context : array (B, Tq, Dv), (B, Dv) or (B, heads, Tq, Dv)
    weights : array (B, Tq, Tk), (B, Tk) or (B, heads, Tq, Tk)
        Zero, as the context, for a query that has no key.
    saved : Saved
        For `attention_backward`. What was read and the weights must not change until then.

    Raises
    ------
    ValueError
        A shape, a name or a value is wrong.
    TypeError
        A dtype or a kind is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import attention_backward, attention_forward
    >>> query, key = np.ones((2, 4)), np.ones((2, 5, 4))
    >>> context, weights, saved = attention_forward(query, key, score="scaled_dot", key_lengths=[5, 2])
    >>> weights[1]
    array([0.5, 0.5, 0. , 0. , 0. ])
    >>> attention_backward(saved, np.ones_like(context)).key.shape
    (2, 5, 4)

    Notes
    -----
    Equivalent to `torch.nn.functional.scaled_dot_product_attention` for "scaled_dot", softmax and bool masks.
    """
    return placing.forward(
        ATTENTION,
        query,
        key,
        value,
        score=score,
        params=params,
        mask=mask,
        key_lengths=key_lengths,
        scale=scale,
        causal=causal,
        window=window,
        alignment=alignment,
        local=local,
        query_offset=query_offset,
        previous=previous,
        coverage=coverage,
        out=out,
        save=True,
    )


def attention_backward(
    saved: Saved, dcontext: Array | None, dweights: Array | None = None
) -> AttentionGradients:
    """Gradients of a scalar from its gradients with respect to what `attention_forward` returned.

    Parameters
    ----------
    saved : Saved
        From `attention_forward`; may be used more than once.
    dcontext : array, as the context, or None for zeros
    dweights : array, as the weights, or None for zeros
        Has no influence where a key was not attended to, even when NaN.

    Returns
    -------
    AttentionGradients
        `query`, `key`, `value`, `params`, `previous`, `coverage`. Without a value, `key` holds the gradients
        of both and `value` is None; `previous` and `coverage` are None when they were not given.

    Raises
    ------
    TypeError
        `saved` is something else, or a dtype is wrong.
    ValueError
        A shape is wrong, or the alignment was "hard_monotonic".

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> query, key = np.ones((2, 4, 3), np.float32), np.ones((2, 9, 3), np.float32)
    >>> context, weights, saved = pyrnn.functional.attention_forward(query, key)
    >>> grads = pyrnn.functional.attention_backward(saved, context)  # of ½·Σ context²
    >>> grads.query.shape, grads.key.shape, grads.value is None
    ((2, 4, 3), (2, 9, 3), True)
    """
    return placing.backward(saved, dcontext, dweights)


def attention(
    query: Array,
    key: Array | Memory,
    value: Array | None = None,
    *,
    score: str = "dot",
    params: dict[str, Array] | None = None,
    mask: Any = None,
    key_lengths: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: Any = None,
    alignment: str = "softmax",
    local: str | None = None,
    query_offset: int = 0,
    previous: Array | None = None,
    coverage: Array | None = None,
    return_weights: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Attend and keep nothing; see `attention_forward`.

    Returns
    -------
    context : array (B, Tq, Dv), (B, Dv) or (B, heads, Tq, Dv)
    weights : array (B, Tq, Tk), (B, Tk) or (B, heads, Tq, Tk), with `return_weights`

    Examples
    --------
    >>> import numpy as np
    >>> import pyrnn
    >>> query, key = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    >>> context, weights = pyrnn.attention(query, key, causal=True, return_weights=True)
    >>> weights[0].round(2)
    array([[1.  , 0.  , 0.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  , 0.  , 0.  ],
           [0.33, 0.33, 0.33, 0.  , 0.  ]])
    """
    checks.flag("return_weights", return_weights)
    mixed, weights, _ = placing.forward(
        ATTENTION,
        query,
        key,
        value,
        score=score,
        params=params,
        mask=mask,
        key_lengths=key_lengths,
        scale=scale,
        causal=causal,
        window=window,
        alignment=alignment,
        local=local,
        query_offset=query_offset,
        previous=previous,
        coverage=coverage,
        out=out,
        save=False,
    )
    return (mixed, weights) if return_weights else mixed


def precompute(
    key: Array,
    value: Array | None = None,
    *,
    score: str = "dot",
    params: dict[str, Array] | None = None,
    key_lengths: Any = None,
) -> Memory:
    """Keys projected once, for `attention_forward` to take in place of `key`, step by step.

    Parameters
    ----------
    key, value, score, params, key_lengths
        As in `attention_forward`, which must be given the same score and params.

    Returns
    -------
    Memory
        The results and the gradients are those of the keys themselves.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import attention, precompute
    >>> params = {"weight_key": np.ones((3, 4)), "weight_score": np.ones(3)}
    >>> memory = precompute(np.ones((2, 5, 4)), score="additive", params=params)
    >>> attention(np.ones((2, 3)), memory, score="additive", params=params).shape
    (2, 4)
    """
    return attending.precompute(ATTENTION, key, value, score=score, params=params, key_lengths=key_lengths)
