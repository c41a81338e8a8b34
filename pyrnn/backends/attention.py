# SPDX-License-Identifier: Apache-2.0
"""Attention on arrays of a CUDA device: what `pyrnn.attending` does for NumPy's.

Projections are the array library's own products; scores, softmax and mixing are the kernels'. Nothing here
waits for the device.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrnn import _core, checks, scoring, windows
from pyrnn.attending import AttentionGradients, axes_of, original
from pyrnn.backends.cuda import open_library
from pyrnn.backends.device import DeviceArrays, library_of, number_of
from pyrnn.layout import Shapes

SCORES = ("dot", "scaled_dot", "general", "additive", "concat")


@dataclass(slots=True)
class DeviceSaved:
    """What a forward on a device keeps for its backward: opaque, tied to the arrays it read and gave."""

    core: Any  # what the kernels saved
    arrays: DeviceArrays
    dtype: str
    score: str
    params: dict[str, Any]
    query: Any  # before projection, (B·heads, Tq, Dq)
    key: Any
    value: Any
    projected: tuple[Any, Any]
    weight_score: Any
    weights: Any
    outer: tuple[int, ...]
    single: bool
    with_value: bool
    owner: Any = None

    def backward(self, dcontext: Any, dweights: Any = None) -> AttentionGradients:
        """The gradients; see `pyrnn.functional.attention_backward`."""
        arrays, dtype, outer, single, held = self.arrays, self.dtype, self.outer, self.single, self.params
        (N, Tq, _), (_, Tk, Dv), (rows, keys) = self.query.shape, self.value.shape, self.projected
        dcontext = read_gradient(arrays, "dcontext", dcontext, outer, single, (N, Tq, Dv), "Dv", dtype)
        dweights = read_gradient(arrays, "dweights", dweights, outer, single, (N, Tq, Tk), "Tk", dtype)
        drows, dkeys, dvalue = (arrays.empty(a.shape, dtype) for a in (rows, keys, self.value))
        v = self.weight_score
        dv = None if v is None else arrays.empty(v.shape, dtype)
        described: Any = [
            None if a is None else arrays.describe(a) for a in (dcontext, dweights, drows, dkeys, dvalue, dv)
        ]
        _core.cuda_attention_backward(self.core, *described, allocate=arrays.allocate, stream=arrays.stream())

        weight_query, weight_key = scoring.matrices(self.score, held, self.query.shape[-1])
        project = scoring.project_backward
        clean = arrays.without_padding
        dquery, dweight_query = project(drows, weight_query, self.query, operator.matmul, clean)
        dkey, dweight_key = project(dkeys, weight_key, self.key, operator.matmul, clean)
        dparams: dict[str, Any] = {}
        if self.score == "general" and dweight_query is not None:
            dparams["weight"] = arrays.contiguous(dweight_query.T)
        elif self.score == "concat":
            dweight = dparams["weight"] = arrays.empty(held["weight"].shape, dtype)
            Dq = self.query.shape[-1]
            dweight[:, :Dq], dweight[:, Dq:] = dweight_query, dweight_key
        else:
            dparams |= {"weight_query": dweight_query, "weight_key": dweight_key}
        if v is not None:
            dparams |= effective_backward(held, dv)
        if "bias" in held:
            dparams["bias"] = drows.sum((0, 1))
        if not self.with_value:
            dkey = dkey + dvalue
        return AttentionGradients(
            original(dquery, outer, single),
            original(dkey, outer, False),
            original(dvalue, outer, False) if self.with_value else None,
            {name: dparams[name] for name in held},
            None,
            None,
        )


def check_kind(score: str, alignment: str, local: str | None, **history: Any) -> None:
    """Refuse what only the CPU computes."""
    if score not in SCORES:
        raise NotImplementedError(
            f"score: expected {' or '.join(map(repr, SCORES))} on a CUDA device, got {score!r}"
        )
    if alignment != "softmax":
        raise NotImplementedError(f"alignment: expected 'softmax' on a CUDA device, got {alignment!r}")
    if local == "p":
        raise NotImplementedError("local: expected None or 'm' on a CUDA device, got 'p'")
    for name, value in history.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"{name}: expected none on a CUDA device, got {type(value).__name__}")


def forward(
    device: int,
    query: Any,
    key: Any,
    value: Any = None,
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
    previous: Any = None,
    coverage: Any = None,
    out: Any = None,
    save: bool = False,
) -> tuple[Any, Any, DeviceSaved | None]:
    """Attend, with the arguments of `pyrnn.functional.attention_forward`; the arrays are on `device`."""
    checks.choice("score", score, tuple(scoring.SCORES))
    check_kind(score, alignment, local, previous=previous, coverage=coverage)
    ready()
    arrays = library_of("query", query, device)
    dtype = number_of("query", arrays.describe(query)[3])
    query = arrays.plain("query", query, dtype)
    if len(query.shape) not in (2, 3, 4) or not query.shape[-1]:
        raise ValueError(
            "query: expected shape (B, Tq, Dq), (B, Dq) or (B, heads, Tq, Dq) with positive Dq, "
            f"got {tuple(query.shape)}"
        )
    single = len(query.shape) == 2
    query = arrays.contiguous(query[:, None] if single else query)
    outer = tuple(query.shape[:-2])
    key = read_keys(arrays, "key", key, outer, None, dtype)
    (Tq, Dq), (Tk, Dk) = query.shape[-2:], key.shape[-2:]
    values = key if value is None else read_keys(arrays, "value", value, outer, Tk, dtype)

    held = read_params(arrays, score, {} if params is None else params, Dq, Dk, dtype)
    rule = windows.rule_of(causal, window, local, query_offset)
    if scale is not None:
        scale = checks.finite("scale", scale)
    factor = scale if scale is not None else Dq**-0.5 if score == "scaled_dot" else 1.0
    heads = outer[1] if len(outer) == 2 else 1
    N = outer[0] * heads
    options = read_mask(arrays, mask, outer, Tq, Tk, single, dtype)
    if key_lengths is not None:
        options["lengths"] = arrays.describe(read_lengths(arrays, key_lengths, outer[0], Tk))
    shape, axes = (*outer, *(() if single else (Tq,)), values.shape[-1]), (() if single else ("Tq",))
    if out is not None:
        read = [query, key, values, *held.values()]
        arrays.output(out, shape, axes_of(outer, *axes, "Dv"), dtype, read)

    query, key, values = (a.reshape(N, *a.shape[-2:]) for a in (query, key, values))
    weight_query, weight_key = scoring.matrices(score, held, Dq)
    rows = scoring.project(query, weight_query, operator.matmul)
    if "bias" in held:
        rows = rows + held["bias"]
    rows = arrays.contiguous(rows)
    keys = arrays.contiguous(scoring.project(key, weight_key, operator.matmul))
    v = effective(held)
    v = None if v is None else arrays.contiguous(v)
    context, weights = arrays.empty((N, Tq, values.shape[-1]), dtype), arrays.empty((N, Tq, Tk), dtype)
    core = _core.cuda_attention_forward(
        "additive" if v is not None else "dot",
        arrays.describe(rows),
        arrays.describe(keys),
        arrays.describe(values),
        None if v is None else arrays.describe(v),
        arrays.describe(context),
        arrays.describe(weights),
        allocate=arrays.allocate,
        device=device,
        stream=arrays.stream(),
        heads=max(heads, 1),
        scale=factor,
        causal=rule.causal,
        left=-1 if rule.left is None else min(rule.left, FAR),
        right=0 if rule.right is None else min(rule.right, FAR),
        offset=min(rule.offset, FAR),
        save=save,
        **options,
    )
    saved = None
    if core is not None:
        saved = DeviceSaved(
            core=core,
            arrays=arrays,
            dtype=dtype,
            score=score,
            params=held,
            query=query,
            key=key,
            value=values,
            projected=(rows, keys),
            weight_score=v,
            weights=weights,
            outer=outer,
            single=single,
            with_value=value is not None,
        )
    context = original(context, outer, single)
    if out is not None:
        out[...] = context
        context = out
    return context, original(weights, outer, single), saved


#: Offsets and windows beyond this are as good as this: no axis is so long.
FAR = 2**40


def ready() -> None:
    """Open the library unless one is open."""
    try:
        _core.cuda_host_memory()
    except RuntimeError:
        open_library("cuda")


def read_keys(
    arrays: DeviceArrays, name: str, a: Any, outer: tuple[int, ...], Tk: int | None, dtype: str
) -> Any:
    """Keys or values (B, Tk, ·), with heads (B, heads, Tk, ·); Tk None takes any number."""
    a = arrays.plain(name, a, dtype)
    symbol, shape = "Dk" if name == "key" else "Dv", tuple(a.shape)
    fits = len(shape) == len(outer) + 2 and shape[:-2] == outer and Tk in (None, shape[-2])
    if not fits or not shape[-1]:
        expected = (*outer, "Tk" if Tk is None else Tk, symbol)
        raise checks.wrong_shape(name, axes_of(outer, "Tk", symbol), expected, shape)
    return arrays.contiguous(a)


def read_params(
    arrays: DeviceArrays, score: str, params: Any, query_size: int, key_size: int, dtype: str
) -> dict[str, Any]:
    """The score's parameters, checked; `pyrnn.scoring` sees their shapes in arrays that hold nothing."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    check_kind(score, "softmax", None, weight_coverage=params.get("weight_coverage"))
    held = {name: arrays.plain(name, a, dtype) for name, a in params.items()}
    shaped = {name: np.broadcast_to(np.float32(0), tuple(a.shape)) for name, a in held.items()}
    named: Shapes = scoring.shapes_of(score, shaped, query_size, key_size, False, False)
    checks.named_arrays(named, shaped, np.dtype("float32"))
    scoring.check_sizes(score, shaped, query_size, key_size)
    return {name: arrays.contiguous(held[name]) for name in named.shapes}


def read_lengths(arrays: DeviceArrays, lengths: Any, B: int, Tk: int, name: str = "key_lengths") -> Any:
    """Key lengths as int64 (B,) on the device; those that are there already are not looked at."""
    if not arrays.on_device(lengths):
        return arrays.made(checks.lengths_of(lengths, Tk, B, False, name, "Tk"), "int64")
    if arrays.describe(lengths)[3] != "int64" or tuple(lengths.shape) != (B,):
        raise ValueError(f"{name}: expected int64 of shape (B,) = ({B},) on the device")
    return arrays.contiguous(lengths)


def read_mask(
    arrays: DeviceArrays, mask: Any, outer: tuple[int, ...], Tq: int, Tk: int, single: bool, dtype: str
) -> dict[str, Any]:
    """The mask as `mask` (bool) or `bias`, described with strides that broadcast to (B, heads, Tq, Tk)."""
    if mask is None:
        return {}
    if not arrays.on_device(mask):
        host = np.asarray(mask)
        if host.dtype != np.bool_ and str(host.dtype) != dtype:
            raise TypeError(f"mask: expected dtype bool or {dtype}, got {host.dtype}")
        mask = arrays.made(host, "bool" if host.dtype == np.bool_ else dtype)
    pointer, shape, strides, number, owner = arrays.describe(mask)
    if number not in ("bool", dtype):
        raise TypeError(f"mask: expected dtype bool or {dtype}, got {number}")
    axes, full = ("(B, heads, Tq, Tk)" if len(outer) == 2 else "(B, Tq, Tk)"), (*outer, Tq, Tk)
    sizes = list(zip(shape, strides, strict=True))
    if (len(outer) == 2 and len(shape) == 3) or (single and len(shape) == 2):
        sizes.insert(1, (1, 0))  # one mask for all heads, or for the only query
        axes = "(B, Tk)" if single else axes
    sizes = [(1, 0)] * (len(full) - len(sizes)) + sizes
    if len(sizes) != len(full) or any(n not in (1, m) for (n, _), m in zip(sizes, full, strict=True)):
        expected = checks.written((outer[0], Tk) if axes == "(B, Tk)" else full)
        raise ValueError(f"mask: expected a shape that broadcasts to {axes} = {expected}, got {shape}")
    spread = [0 if n == 1 else stride for n, stride in sizes]
    if len(outer) == 1:
        spread.insert(1, 0)
    heads = outer[1] if len(outer) == 2 else 1
    described = (pointer, (outer[0], heads, Tq, Tk), tuple(spread), number, owner)
    return {"mask" if number == "bool" else "bias": described}


def read_gradient(
    arrays: DeviceArrays,
    name: str,
    d: Any,
    outer: tuple[int, ...],
    single: bool,
    shape: tuple[int, int, int],
    symbol: str,
    dtype: str,
) -> Any:
    """A gradient of the context or of the weights, as (B·heads, Tq, ·)."""
    if d is None:
        return None
    d = arrays.plain(name, d, dtype)
    expected = (*outer, *(() if single else shape[1:2]), shape[2])
    if tuple(d.shape) != expected:
        axes = axes_of(outer, *(() if single else ("Tq",)), symbol)
        raise checks.wrong_shape(name, axes, expected, tuple(d.shape))
    return arrays.contiguous(d).reshape(shape)


def length(v: Any) -> Any:
    """|v|, one where v is zero."""
    n = (v * v).sum() ** 0.5
    return n + (n == 0)


def effective(params: Mapping[str, Any]) -> Any:
    """The v of v·tanh(q + k): gain · v/|v| with a gain; None without v."""
    v = params.get("weight_score")
    return v if v is None or "gain" not in params else params["gain"] * (v / length(v))


def effective_backward(params: Mapping[str, Any], dv: Any) -> dict[str, Any]:
    """Gradients of weight_score and of the gain."""
    if "gain" not in params:
        return {"weight_score": dv}
    v, gain = params["weight_score"], params["gain"]
    n = length(v)
    unit, du = v / n, gain * dv
    return {"weight_score": (du - unit * (unit * du).sum()) / n, "gain": (unit * dv).sum()}
