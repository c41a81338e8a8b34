# SPDX-License-Identifier: Apache-2.0
"""A score's parameters, and what they make of queries and keys before any pair is looked at.

The back ends know three scores of a projected query and key of equal size D: their product, the cosine of
their angle, and v·tanh(q + k). Every score is one of them after a projection: q·(W k) = (Wᵀq)·k is a product,
and W [q; k] = W_q q + W_k k needs no concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pyrnn import checks
from pyrnn.layout import Array, Shapes

#: A matrix product.
Multiply = Callable[[Array, Array], Array]

#: The back ends' score behind every score.
SCORES = {
    "dot": "dot",
    "scaled_dot": "dot",
    "general": "dot",
    "cosine": "cosine",
    "additive": "additive",
    "concat": "additive",
    "location": "additive",
}


def shapes_of(
    score: str, params: Any, query_size: int, key_size: int, monotonic: bool, centered: bool
) -> Shapes:
    """Names and shapes of the parameters; sizes that nothing else tells are read off the parameters.

    Parameters
    ----------
    score : str
    params : dict of arrays
        Tells which of the optional parameters there are.
    query_size, key_size : int
        Dq and Dk.
    monotonic, centered : bool
        Whether the alignment is monotonic, and the window's centre predicted.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    A = F = W = P = 0
    if SCORES[score] == "additive":
        (A,) = extent(params, "weight_score", ("A",))
    if score == "location":
        F, W = extent(params, "weight_filter", ("F", "W"))
        if W % 2 == 0:
            raise ValueError(f"weight_filter: expected shape (F, W) with odd W, got {(F, W)}")
    if centered:
        (P,) = extent(params, "weight_position_score", ("P",))
    return shapes_from(score, tuple(params), (query_size, key_size, A, F, W, P), monotonic, centered)


@lru_cache(maxsize=64)
def shapes_from(
    score: str, names: tuple[str, ...], sizes: tuple[int, ...], monotonic: bool, centered: bool
) -> Shapes:
    """`shapes_of` the parameters of these names, for sizes Dq, Dk, A, F, W, P."""
    query_size, key_size, A, F, W, P = sizes
    named: dict[str, tuple[tuple[int, ...], str]] = {}
    optional: dict[str, tuple[tuple[int, ...], str]] = {}
    if score == "general":
        named["weight"] = ((query_size, key_size), "(Dq, Dk)")
    if SCORES[score] == "additive":
        named["weight_score"] = ((A,), "(A,)")
        if score == "concat":
            named["weight"] = ((A, query_size + key_size), "(A, Dq + Dk)")
        else:
            optional["weight_query"] = ((A, query_size), "(A, Dq)")
            optional["weight_key"] = ((A, key_size), "(A, Dk)")
            optional["gain"] = ((), "()")
        optional["bias"] = ((A,), "(A,)")
        optional["weight_coverage"] = ((A,), "(A,)")
    if score == "location":
        named["weight_filter"] = ((F, W), "(F, W)")
        named["weight_location"] = ((A, F), "(A, F)")
    if monotonic:
        optional["bias_score"] = ((), "()")
    if centered:
        named["weight_position"] = ((P, query_size), "(P, Dq)")
        named["weight_position_score"] = ((P,), "(P,)")
    return Shapes(named | {name: shape for name, shape in optional.items() if name in names})


def extent(params: Mapping[str, Any], name: str, axes: Sequence[str]) -> tuple[int, ...]:
    """The shape of a parameter that decides sizes."""
    symbols = checks.written(axes)
    if name not in params:
        raise ValueError(f"params: expected {name!r} of shape {symbols}, got no such name")
    a = params[name]
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    if a.ndim != len(axes) or not all(a.shape):
        raise ValueError(f"{name}: expected shape {symbols} with positive sizes, got {a.shape}")
    return tuple(a.shape)


def arrays_of(shapes: Shapes, params: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Array]:
    """The parameters, checked; a NumPy scalar is an array without axes."""
    if len(params) == shapes.count and all(
        type(a := params.get(name)) is np.ndarray and a.shape == shape and a.dtype == dtype and a.flags.carray
        for name, shape in shapes.shapes.items()
    ):
        return dict(params)
    plain = {name: np.asarray(a) if isinstance(a, np.generic) else a for name, a in params.items()}
    return checks.named_arrays(shapes, plain, dtype)


def check_sizes(score: str, params: Mapping[str, Array], query_size: int, key_size: int) -> None:
    """Refuse queries and keys that no projection brings to one size."""
    if SCORES[score] != "additive":
        if score != "general" and query_size != key_size:
            raise ValueError(
                f"key: expected as many features as the query for score {score!r}, Dk = Dq = {query_size}, "
                f"got {key_size}"
            )
    elif score != "concat":
        A = params["weight_score"].shape[0]
        for name, symbol, size in (("query", "Dq", query_size), ("key", "Dk", key_size)):
            if f"weight_{name}" not in params and size != A:
                raise ValueError(f"{name}: expected {symbol} = A = {A} without weight_{name}, got {size}")


def matrices(score: str, params: Mapping[str, Array], query_size: int) -> tuple[Array | None, Array | None]:
    """What projects a query, (D, Dq), and a key, (D, Dk)."""
    if score == "general":
        return params["weight"].T, None
    if score == "concat":
        return params["weight"][:, :query_size], params["weight"][:, query_size:]
    return params.get("weight_query"), params.get("weight_key")


def matrices_backward(score: str, dquery: Array | None, dkey: Array | None) -> dict[str, Array]:
    """Gradients of the parameters from those of what projects a query and a key."""
    if score == "general" and dquery is not None:
        return {"weight": np.ascontiguousarray(dquery.T)}
    if score == "concat" and dquery is not None and dkey is not None:
        return {"weight": np.concatenate([dquery, dkey], axis=1)}
    named = {"weight_query": dquery, "weight_key": dkey}
    return {name: d for name, d in named.items() if d is not None}


def project(a: Array, weight: Array | None, multiply: Multiply = np.matmul) -> Array:
    """a · weightᵀ over the last axis; a itself without a weight."""
    if weight is None:
        return a
    # Padding may hold anything; each row is on its own.
    with np.errstate(invalid="ignore", over="ignore"):
        rows = multiply(a.reshape(-1, a.shape[-1]), weight.T)
    return rows.reshape(*a.shape[:-1], weight.shape[0])


def without_padding(a: Array, d: Array) -> Array:
    """Rows of a, zero where d is zero: there a may hold NaN, which times zero is NaN."""
    idle = ~d.any(-1)
    if np.isfinite(a[idle]).all():
        return a
    a = a.copy()
    a[idle] = 0
    return a


def project_backward(
    d: Array,
    weight: Array | None,
    a: Array,
    multiply: Multiply = np.matmul,
    clean: Multiply = without_padding,
) -> tuple[Array, Array | None]:
    """Gradients of a and of the weight; `clean` is `without_padding` of the arrays' library."""
    if weight is None:
        return d, None
    rows = d.reshape(-1, d.shape[-1])
    dweight = multiply(rows.T, clean(a.reshape(-1, a.shape[-1]), rows))
    return multiply(rows, weight).reshape(a.shape), dweight


def score_weight(params: Mapping[str, Array]) -> Array | None:
    """The v of v·tanh(q + k): gain · v/|v| with a gain (Salimans & Kingma 2016, arXiv:1602.07868)."""
    v = params.get("weight_score")
    return v if v is None or "gain" not in params else params["gain"] * unit(v)


def score_weight_backward(params: Mapping[str, Array], dv: Array) -> dict[str, Array]:
    """Gradients of weight_score and of the gain."""
    if "gain" not in params:
        return {"weight_score": dv}
    v, gain = params["weight_score"], params["gain"]
    return {"weight_score": unit_backward(v, gain * dv), "gain": np.asarray((unit(v) * dv).sum())}


def unit(v: Array) -> Array:
    """v / |v| over the last axis, zero where |v| is zero."""
    n = length(v)
    return np.asarray(np.divide(v, n, out=np.zeros_like(v), where=n != 0))


def unit_backward(v: Array, du: Array) -> Array:
    """dv = (du - u (u·du)) / |v|."""
    n, u = length(v), unit(v)
    dv = du - u * (u * du).sum(-1, keepdims=True)
    return np.asarray(np.divide(dv, n, out=np.zeros_like(v), where=n != 0))


def length(v: Array) -> Array:
    """|v|, the last axis kept as one; nothing is conjugated, so that a complex step passes through."""
    return np.asarray(np.sqrt((v * v).sum(-1, keepdims=True)))
