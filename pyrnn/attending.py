# SPDX-License-Identifier: Apache-2.0
"""Attention over any back end that scores projected queries and keys, aligns them and mixes the values.

The kernels and the NumPy reference are two such back ends; what is here is written once for both: checks,
heads, projections (`pyrnn.scoring`), which keys a query may attend to (`pyrnn.windows`), and the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from pyrnn import checks, scoring, windows
from pyrnn.layout import Array

ALIGNMENTS = ("softmax", "sparsemax", "monotonic", "hard_monotonic")
HISTORY = ("weight_filter", "weight_location", "weight_coverage")
DIFFERENTIABLE = ("query", "key", "value", "weight_score", "center", "previous", "coverage", *HISTORY)


class Arguments(NamedTuple):
    """What a back end reads. Everything is checked, C-contiguous and of one dtype.

    Query i of row b attends to the keys j with bounds[b, i, 0] ≤ j < bounds[b, i, 1], mask and bias > -inf.
    """

    score: str  # "dot", "cosine" or "additive"
    alignment: str
    query: Array  # (B, Tq, D)
    key: Array  # (B, Tk, D)
    value: Array  # (B, Tk, Dv)
    weight_score: Array | None  # (D,), for "additive"
    bounds: Array  # int64 (B, Tq, 2), 0 to Tk
    mask: Array | None = None  # bool (B, Tq, Tk)
    bias: Array | None = None  # (B, Tq, Tk), added to the scores after scaling
    scale: float = 1.0
    center: Array | None = (
        None  # (B, Tq): weights are multiplied by exp(-(j - center)² / (2 sigma²)), α = a·g
    )
    sigma: float = 1.0
    previous: Array | None = None  # (B, Tk): weights before the first query
    coverage: Array | None = None  # (B, Tk): their sum before the first query
    weight_filter: Array | None = None  # (F, W)
    weight_location: Array | None = None  # (D, F)
    weight_coverage: Array | None = None  # (D,)

    def differentiable(self) -> dict[str, Array]:
        """The arrays that have a gradient, by name; a bias has one through its sum alone."""
        named = ((name, getattr(self, name)) for name in DIFFERENTIABLE)
        return {name: a for name, a in named if a is not None}


class Backend(NamedTuple):
    """What computes attention.

    Attributes
    ----------
    forward : callable
        `forward(arguments, save, out)` gives the context (B, Tq, Dv), in `out` if that is an array, the
        weights (B, Tq, Tk), and what backward needs when `save`, else None.
    backward : callable
        `backward(saved, dcontext, dweights)`, dweights may be None, gives the gradients of
        `arguments.differentiable()` by name, and "bias_score", that of a number added to every score.
    dtypes : tuple of dtype
        The number types it computes in.
    multiply : callable
        The matrix product of the projections.
    """

    forward: Callable[[Arguments, bool, Array | None], tuple[Array, Array, Any]]
    backward: Callable[[Any, Array, Array | None], dict[str, Array]]
    dtypes: tuple[np.dtype[Any], ...]
    multiply: scoring.Multiply = np.matmul


class AttentionGradients(NamedTuple):
    """Gradients in the shapes of what they belong to.

    Attributes
    ----------
    query, key : array
    value : array or None
        None when the keys were the values: then the gradient is part of `key`.
    params : dict of arrays
        Every parameter by name.
    previous, coverage : array or None
        When they were given.
    """

    query: Array
    key: Array
    value: Array | None
    params: dict[str, Array]
    previous: Array | None
    coverage: Array | None


class Memory:
    """Keys and values made ready for many queries, by `precompute`.

    Attributes
    ----------
    score : str
    key, value, lengths : array
        As given; value and lengths may be None.
    projected : array, as the key
    weight : array or None
        The parameter that projected the keys.
    """

    __slots__ = ("key", "lengths", "projected", "score", "value", "weight")

    def __init__(
        self,
        score: str,
        key: Array,
        value: Array | None,
        lengths: Array | None,
        projected: Array,
        weight: Array | None,
    ) -> None:
        self.score, self.key, self.value, self.lengths = score, key, value, lengths
        self.projected, self.weight = projected, weight

    def check(self, score: str, params: Any) -> None:
        """Refuse a memory made for another score or with another weight."""
        if score != self.score:
            raise ValueError(f"key: expected a memory made for score {score!r}, got one for {self.score!r}")
        given, made = key_weight(score, params), cast(Any, self.weight)
        if given is not made and not np.array_equal(given, made):  # a copy will do
            raise ValueError("key: expected a memory made with the params given, got one of other weights")


@dataclass(slots=True)
class Saved:
    """What a forward keeps for its backward: opaque, tied to the arrays it read and the weights it gave."""

    backend: Backend
    arguments: Arguments
    kept: Any  # what the back end saved
    score: str
    params: dict[str, Array]
    query: Array  # before projection
    key: Array
    center: windows.Center | None
    outer: tuple[int, ...]  # (B,) or (B, heads)
    single: bool  # the query had no time axis
    with_value: bool
    owner: Any = None


def forward(
    backend: Backend,
    query: Array,
    key: Array | Memory,
    value: Array | None = None,
    *,
    score: str = "dot",
    params: Any = None,
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
    save: bool = False,
) -> tuple[Array, Array, Any]:
    """Attend, with the arguments of `pyrnn.functional.attention_forward`.

    The third result is a Saved when `save`, else None.
    """
    checks.choice("score", score, tuple(scoring.SCORES))
    checks.choice("alignment", alignment, ALIGNMENTS)
    given, projected = {} if params is None else params, None
    if isinstance(key, Memory):
        for name, argument in (("value", value), ("key_lengths", key_lengths)):
            if argument is not None:
                raise ValueError(f"{name}: expected None beside a memory, which has its own, got one")
        key.check(score, given)
        projected, value, key_lengths, key = key.projected, key.value, key.lengths, key.key
    if not isinstance(query, np.ndarray):
        raise TypeError(f"query: expected a NumPy array, got {type(query).__name__}")
    dtype = number_type(backend, "query", query.dtype)
    query, single, outer = read_query(query, dtype)
    key = read_keys("key", key, outer, None, dtype)
    values = key if value is None else read_keys("value", value, outer, key.shape[-2], dtype)
    (B, heads), Tq, Dq = (outer[0], outer[1] if len(outer) == 2 else 1), query.shape[-2], query.shape[-1]
    Tk, Dk = key.shape[-2:]

    monotonic, rule = "monotonic" in alignment, windows.rule_of(causal, window, local, query_offset)
    if rule.centered and monotonic:
        raise ValueError(f"local: expected None or 'm' with alignment={alignment!r}, got 'p'")
    shapes = scoring.shapes_of(score, given, Dq, Dk, monotonic, rule.centered)
    arrays = scoring.arrays_of(shapes, given, dtype)
    scoring.check_sizes(score, arrays, Dq, Dk)
    if scale is not None:
        scale = checks.finite("scale", scale)
    factor = scale if scale is not None else Dq**-0.5 if score == "scaled_dot" else 1.0
    lengths = windows.lengths_of(rule, key_lengths, Tk, B, heads)
    flags, bias = windows.read_mask(mask, outer, Tq, Tk, single, dtype)
    if previous is not None:
        if not monotonic and score != "location":
            raise ValueError("previous: expected None without location features or a monotonic alignment")
        previous = read_weights("previous", previous, outer, Tk, dtype)
    if coverage is not None:
        if "weight_coverage" not in arrays:
            raise ValueError("coverage: expected None without 'weight_coverage' among the params")
        coverage = read_weights("coverage", coverage, outer, Tk, dtype)
    into = None
    if out is not None:
        read = [query, key, values, flags, bias, previous, coverage, *arrays.values()]
        shape, axes = (*outer, *(() if single else (Tq,)), values.shape[-1]), (() if single else ("Tq",))
        checks.output(out, shape, axes_of(outer, *axes, "Dv"), dtype, [a for a in read if a is not None])
        if out.dtype == dtype and out.flags.c_contiguous and out.flags.aligned:
            into = out.reshape(B * heads, Tq, values.shape[-1])

    if len(outer) == 2:
        query, key, values = (a.reshape(B * heads, *a.shape[-2:]) for a in (query, key, values))
    weight_query, weight_key = scoring.matrices(score, arrays, Dq)
    rows = scoring.project(query, weight_query, backend.multiply)
    if "bias" in arrays:
        rows = rows + arrays["bias"]
    if "bias_score" in arrays:
        start = np.zeros((B * heads, Tq, Tk), dtype) if bias is None else bias
        bias = start + arrays["bias_score"]
    center = None if lengths is None or not rule.centered else windows.center_of(arrays, query, lengths)
    at = None if center is None else center.at
    arguments = Arguments(
        scoring.SCORES[score],
        alignment,
        rows,
        scoring.project(key, weight_key, backend.multiply) if projected is None else projected,
        values,
        scoring.score_weight(arrays),
        windows.whole_rows(B * heads, Tq, Tk)
        if lengths is None
        else windows.bounds_of(rule, lengths, Tq, at),
        flags,
        bias,
        factor,
        at,
        rule.sigma,
        previous,
        coverage,
        *(arrays.get(name) for name in HISTORY),
    )
    context, weights, kept = backend.forward(arguments, save, into)
    saved = None
    if save:
        saved = Saved(
            backend, arguments, kept, score, arrays, query, key, center, outer, single, value is not None
        )
    mixed = original(context, outer, single)
    if out is not None:
        if context is not into:
            out[...] = mixed
        mixed = out
    return mixed, original(weights, outer, single), saved


def context(
    backend: Backend,
    query: Array,
    key: Array | Memory,
    value: Array | None,
    return_weights: bool,
    **options: Any,
) -> Array | tuple[Array, Array]:
    """`forward` that keeps nothing, and gives the weights on request only."""
    checks.flag("return_weights", return_weights)
    mixed, weights, _ = forward(backend, query, key, value, save=False, **options)
    return (mixed, weights) if return_weights else mixed


def backward(saved: Saved, dcontext: Array | None, dweights: Array | None = None) -> AttentionGradients:
    """The way back; see `pyrnn.functional.attention_backward`."""
    if not isinstance(saved, Saved):
        raise TypeError(f"saved: expected what attention_forward returned, got {type(saved).__name__}")
    a, outer, single, params = saved.arguments, saved.outer, saved.single, saved.params
    if a.alignment == "hard_monotonic":
        raise ValueError(
            "saved: expected an alignment with a gradient, got 'hard_monotonic'; use 'monotonic'"
        )
    (N, Tq, _), (_, Tk, Dv), dtype = a.query.shape, a.value.shape, a.query.dtype
    dcontext = read_gradient("dcontext", dcontext, outer, single, (N, Tq, Dv), "Dv", dtype)
    dweights = read_gradient("dweights", dweights, outer, single, (N, Tq, Tk), "Tk", dtype)
    grads = saved.backend.backward(
        saved.kept, np.zeros((N, Tq, Dv), dtype) if dcontext is None else dcontext, dweights
    )

    weight_query, weight_key = scoring.matrices(saved.score, params, saved.query.shape[-1])
    multiply = saved.backend.multiply
    dquery, dweight_query = scoring.project_backward(grads["query"], weight_query, saved.query, multiply)
    dkey, dweight_key = scoring.project_backward(grads["key"], weight_key, saved.key, multiply)
    dparams = scoring.matrices_backward(saved.score, dweight_query, dweight_key)
    dparams |= {
        name: grads[name] for name in ("weight_filter", "weight_location", "weight_coverage") if name in grads
    }
    if a.weight_score is not None:
        dparams |= scoring.score_weight_backward(params, grads["weight_score"])
    if "bias" in params:
        dparams["bias"] = grads["query"].sum((0, 1))
    if "bias_score" in params:
        dparams["bias_score"] = grads["bias_score"]
    if saved.center is not None:
        dquery_center, dposition = windows.center_backward(params, saved.query, saved.center, grads["center"])
        dquery = dquery + dquery_center
        dparams |= dposition
    dvalue = grads["value"]
    if not saved.with_value:
        dkey = dkey + dvalue
    return AttentionGradients(
        original(dquery, outer, single),
        original(dkey, outer, False),
        original(dvalue, outer, False) if saved.with_value else None,
        {name: dparams[name] for name in params},
        None if a.previous is None else grads["previous"].reshape(*outer, Tk),
        None if a.coverage is None else grads["coverage"].reshape(*outer, Tk),
    )


def precompute(
    backend: Backend,
    key: Array,
    value: Array | None = None,
    *,
    score: str = "dot",
    params: Any = None,
    key_lengths: Any = None,
) -> Memory:
    """What the keys alone decide; see `pyrnn.functional.precompute`."""
    checks.choice("score", score, tuple(scoring.SCORES))
    if not isinstance(key, np.ndarray):
        raise TypeError(f"key: expected a NumPy array, got {type(key).__name__}")
    dtype = number_type(backend, "key", key.dtype)
    if key.ndim not in (3, 4) or not key.shape[-1]:
        raise ValueError(
            f"key: expected shape (B, Tk, Dk) or (B, heads, Tk, Dk) with positive Dk, got {key.shape}"
        )
    outer, (Tk, Dk) = key.shape[:-2], key.shape[-2:]
    key = read_keys("key", key, outer, None, dtype)
    if value is not None:
        value = read_keys("value", value, outer, Tk, dtype)
    if key_lengths is not None:
        key_lengths = checks.lengths_of(key_lengths, Tk, outer[0], False, "key_lengths", "Tk")
    weight = key_weight(score, {} if params is None else params)
    matrix = weight
    if weight is not None:
        name = "weight" if score == "concat" else "weight_key"
        if not isinstance(weight, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(weight).__name__}")
        axes, least = ("(A, Dq + Dk)", Dk + 1) if score == "concat" else ("(A, Dk)", Dk)
        if weight.ndim != 2 or weight.shape[1] < least or (least == Dk and weight.shape[1] > Dk):
            raise ValueError(f"{name}: expected shape {axes} with Dk = {Dk}, got {weight.shape}")
        matrix = checks.plain_array(name, weight, dtype)[:, weight.shape[1] - Dk :]
    rows = scoring.project(key.reshape(int(np.prod(outer)), Tk, Dk), matrix, backend.multiply)
    return Memory(score, key, value, key_lengths, rows, weight)


def key_weight(score: str, params: Any) -> Any:
    """The parameter that projects the keys, or None."""
    name = {"additive": "weight_key", "location": "weight_key", "concat": "weight"}.get(score)
    return None if name is None or not hasattr(params, "get") else params.get(name)


def number_type(backend: Backend, name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The native form of a dtype this back end computes in, else TypeError."""
    for known in backend.dtypes:
        if dtype == known or dtype.newbyteorder("=") == known:
            return known
    raise TypeError(f"{name}: expected dtype {' or '.join(map(str, backend.dtypes))}, got {dtype}")


def read_query(query: Array, dtype: np.dtype[Any]) -> tuple[Array, bool, tuple[int, ...]]:
    """The query with an axis for time, whether it had none, and the axes before: (B,) or (B, heads)."""
    query = checks.plain_array("query", query, dtype)
    if query.ndim not in (2, 3, 4) or not query.shape[-1]:
        raise ValueError(
            "query: expected shape (B, Tq, Dq), (B, Dq) or (B, heads, Tq, Dq) with positive Dq, "
            f"got {query.shape}"
        )
    single = query.ndim == 2
    query = contiguous(query[:, None] if single else query, dtype)
    return query, single, query.shape[:-2]


def read_keys(name: str, a: Any, outer: tuple[int, ...], Tk: int | None, dtype: np.dtype[Any]) -> Array:
    """Keys or values (B, Tk, ·), with heads (B, heads, Tk, ·); Tk None takes any number."""
    a = checks.plain_array(name, a, dtype)
    symbol = "Dk" if name == "key" else "Dv"
    fits = a.ndim == len(outer) + 2 and a.shape[:-2] == outer and Tk in (None, a.shape[-2])
    if not fits or not a.shape[-1]:
        expected = (*outer, "Tk" if Tk is None else Tk, symbol)
        raise checks.wrong_shape(name, axes_of(outer, "Tk", symbol), expected, a.shape)
    return contiguous(a, dtype)


def read_weights(name: str, a: Any, outer: tuple[int, ...], Tk: int, dtype: np.dtype[Any]) -> Array:
    """Weights of one query, (B, Tk) or (B, heads, Tk), as (B·heads, Tk)."""
    a = checks.plain_array(name, a, dtype)
    if a.shape != (*outer, Tk):
        raise checks.wrong_shape(name, axes_of(outer, "Tk"), (*outer, Tk), a.shape)
    return contiguous(a, dtype).reshape(int(np.prod(outer)), Tk)


def read_gradient(
    name: str,
    d: Array | None,
    outer: tuple[int, ...],
    single: bool,
    shape: tuple[int, int, int],
    symbol: str,
    dtype: np.dtype[Any],
) -> Array | None:
    """A gradient of the context or of the weights, as (B·heads, Tq, ·)."""
    if d is None:
        return None
    d = checks.plain_array(name, d, dtype)
    time = () if single else shape[1:2]
    if d.shape != (*outer, *time, shape[2]):
        axes = axes_of(outer, *(() if single else ("Tq",)), symbol)
        raise checks.wrong_shape(name, axes, (*outer, *time, shape[2]), d.shape)
    return contiguous(d, dtype).reshape(shape)


def axes_of(outer: tuple[int, ...], *inner: str) -> str:
    """A shape in symbols: `(B, heads, Tk, Dk)`."""
    return checks.written(("B", "heads")[: len(outer)] + inner)


def contiguous(a: Array, dtype: np.dtype[Any]) -> Array:
    """`a` in native byte order, aligned and C-contiguous."""
    if a.dtype is dtype and a.flags.c_contiguous and a.flags.aligned:
        return a
    return np.require(a, dtype, ["C", "A"])


def original(a: Array, outer: tuple[int, ...], single: bool) -> Array:
    """(B·heads, Tq, ·) in the caller's shape."""
    if len(outer) == 2:
        return a.reshape(*outer, *a.shape[1:])
    return a[:, 0] if single else a
