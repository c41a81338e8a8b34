# SPDX-License-Identifier: Apache-2.0
"""Attention in NumPy: scores, alignment, context, and the way back; any float or complex dtype.

A query at a time, for the whole batch, over all keys: an array (B, Tk, D) is the largest there is. Here q is
(B, D), k (B, Tk, D), s, p and the weights α (B, Tk). Every comparison looks at the real part alone and
nothing is conjugated, so that a complex step passes through.
"""

from typing import Any, NamedTuple

import numpy as np

from pyrnn.attending import Arguments
from pyrnn.layout import Array
from pyrnn.reference.cells.activations import Sigmoid, Tanh
from pyrnn.scoring import unit, unit_backward


class Dot:
    """s_j = q·k_j (Luong et al. 2015, arXiv:1508.04025)."""

    @staticmethod
    def forward(q: Array, k: Array, v: Any) -> Array:
        s: Array = np.einsum("bd,bkd->bk", q, k)
        return s

    @staticmethod
    def backward(q: Array, k: Array, v: Any, ds: Array) -> tuple[Array, Array, Any]:
        return np.einsum("bk,bkd->bd", ds, k), ds[:, :, None] * q[:, None], None


class Cosine:
    """s_j = q·k_j / (|q| |k_j|), zero where a length is zero (Graves et al. 2014, arXiv:1410.5401)."""

    @staticmethod
    def forward(q: Array, k: Array, v: Any) -> Array:
        return Dot.forward(unit(q), unit(k), v)

    @staticmethod
    def backward(q: Array, k: Array, v: Any, ds: Array) -> tuple[Array, Array, Any]:
        dq, dk, _ = Dot.backward(unit(q), unit(k), v, ds)
        return unit_backward(q, dq), unit_backward(k, dk), None


class Additive:
    """s_j = Σ_d v_d tanh(q_d + k_jd) (Bahdanau et al. 2015, arXiv:1409.0473)."""

    @staticmethod
    def forward(q: Array, k: Array, v: Array) -> Array:
        return Tanh.f(q[:, None] + k) @ v

    @staticmethod
    def backward(q: Array, k: Array, v: Array, ds: Array) -> tuple[Array, Array, Array]:
        y = Tanh.f(q[:, None] + k)
        dk = ds[:, :, None] * v * Tanh.df(y)
        return dk.sum(1), dk, np.einsum("bk,bkd->d", ds, y)


class Softmax:
    """α_j = e^{s_j} / Σ e^s over the keys attended to; ds = α (dα - Σ α dα)."""

    @staticmethod
    def forward(s: Array, attended: Array, before: Array) -> tuple[Array, Array]:
        s = np.where(attended, s - largest(s, attended), 0)
        e = np.where(attended, np.exp(s), 0)
        total = e.sum(-1, keepdims=True)
        w = np.divide(e, total, out=np.zeros_like(e), where=total != 0)
        return w, w

    @staticmethod
    def backward(w: Array, before: Array, dw: Array) -> tuple[Array, Array]:
        return w * (dw - (w * dw).sum(-1, keepdims=True)), np.zeros_like(w)


class Sparsemax:
    """α = max(s - τ, 0), the projection on the simplex (Martins & Astudillo 2016, arXiv:1602.02068).

    With z the scores in descending order, the support is the largest k with 1 + k z_k > Σ_{j≤k} z_j, and
    τ = (Σ_{j≤k} z_j - 1) / k. On the support ds = dα - its mean there, elsewhere zero.
    """

    @staticmethod
    def forward(s: Array, attended: Array, before: Array) -> tuple[Array, Array]:
        s = np.where(attended, s - largest(s, attended), 0)
        order = np.argsort(np.where(attended, -s.real, np.inf), axis=-1, kind="stable")
        z, there = np.take_along_axis(s, order, -1), np.take_along_axis(attended, order, -1)
        sums = np.cumsum(z, -1)
        k = np.arange(1, s.shape[1] + 1, dtype=s.real.dtype)
        support = (there & (1 + k * z.real > sums.real)).sum(-1, keepdims=True)
        if not s.size:
            return s, s
        support = np.maximum(support, 1)
        tau = (np.take_along_axis(sums, support - 1, -1) - 1) / support.astype(s.real.dtype)
        w = np.where(attended & ~(s.real <= tau.real), s - tau, 0)
        return w, w

    @staticmethod
    def backward(w: Array, before: Array, dw: Array) -> tuple[Array, Array]:
        support = w.real != 0
        size = np.maximum(support.sum(-1, keepdims=True), 1).astype(w.real.dtype)
        mean = np.where(support, dw, 0).sum(-1, keepdims=True) / size
        return np.where(support, dw - mean, 0), np.zeros_like(w)


class Monotonic:
    """The expectation of an alignment that only moves forward (Raffel et al. 2017, arXiv:1704.00784).

    p_j = σ(s_j), zero for a key that is not attended to: the probability to stop at key j once it is reached.
    With α' the weights of the query before, q_j = (1 - p_{j-1}) q_{j-1} + α'_j and α_j = p_j q_j.
    """

    @staticmethod
    def choose(s: Array) -> Array:
        """The probability to stop."""
        return Sigmoid.f(s)

    @classmethod
    def forward(cls, s: Array, attended: Array, before: Array) -> tuple[Array, Array]:
        p = np.where(attended, cls.choose(s), 0)
        return p, p * reached(p, before)

    @classmethod
    def backward(cls, p: Array, before: Array, dw: Array) -> tuple[Array, Array]:
        q = reached(p, before)
        dp, dbefore = np.zeros_like(p), np.zeros_like(p)
        dq = np.zeros(len(p), p.dtype)  # of q_{j+1}
        for j in reversed(range(p.shape[1])):
            dp[:, j] = (dw[:, j] - dq) * q[:, j]
            dq = dw[:, j] * p[:, j] + dq * (1 - p[:, j])
            dbefore[:, j] = dq
        return dp * Sigmoid.df(p), dbefore


class HardMonotonic(Monotonic):
    """The decoding of a monotonic alignment: p_j is one where s_j > 0, else zero. It has no gradient."""

    @staticmethod
    def choose(s: Array) -> Array:
        return (s.real > 0).astype(s.dtype)


def reached(p: Array, before: Array) -> Array:
    """q_j = (1 - p_{j-1}) q_{j-1} + α'_j, the probability that key j is reached."""
    q = np.zeros_like(p)
    carried = np.zeros(len(p), p.dtype)
    for j in range(p.shape[1]):
        q[:, j] = carried + before[:, j]
        carried = (1 - p[:, j]) * q[:, j]
    return q


def largest(s: Array, attended: Array) -> Array:
    """The largest real part among the keys attended to, (B, 1); zero where there is none."""
    most = np.where(attended, s.real, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    return np.asarray(np.where(most == -np.inf, 0, most))


SCORES: dict[str, Any] = {"dot": Dot, "cosine": Cosine, "additive": Additive}
ALIGNMENTS: dict[str, Any] = {
    "softmax": Softmax,
    "sparsemax": Sparsemax,
    "monotonic": Monotonic,
    "hard_monotonic": HardMonotonic,
}


def filtered(before: Array, weight_filter: Array) -> tuple[Array, Array]:
    """f_j = Σ_u filter_u α'_{j+u-W//2} (B, Tk, F), zeros beyond the ends; and what each reads, (B, Tk, W).

    Chorowski et al. 2015, arXiv:1506.07503, equation 8.
    """
    Tk, W = before.shape[1], weight_filter.shape[1]
    padded = np.pad(before, ((0, 0), (W // 2, W // 2)))
    windows = np.stack([padded[:, u : u + Tk] for u in range(W)], axis=-1)
    return windows @ weight_filter.T, windows


def filtered_backward(windows: Array, weight_filter: Array, df: Array) -> tuple[Array, Array]:
    """Gradients of α' and of the filters."""
    (B, Tk, W), half = windows.shape, weight_filter.shape[1] // 2
    dpadded, dwindows = np.zeros((B, Tk + 2 * half), df.dtype), df @ weight_filter
    for u in range(W):
        dpadded[:, u : u + Tk] += dwindows[:, :, u]
    return dpadded[:, half : half + Tk], np.einsum("bkf,bkw->fw", df, windows)


class Row(NamedTuple):
    """What one query reads, zero wherever it does not attend."""

    attended: Array  # bool (B, Tk)
    some: Array  # bool (B, 1): there is a key at all
    q: Array
    k: Array  # with what the weights before add to it
    v: Array  # (B, Tk, Dv)
    bias: Array
    gaussian: Array
    away: Array  # (B, Tk): j - center
    windows: Any  # (B, Tk, W)
    features: Any  # (B, Tk, F)


class Saved(NamedTuple):
    """What forward keeps for backward."""

    arguments: Arguments
    weights: Array  # (B, Tq, Tk)
    kept: Array  # (B, Tq, Tk): p of a monotonic alignment, else the weights before the Gaussian


def weights_before(a: Arguments, weights: Array, i: int, first: float) -> Array:
    """The weights of the query before query i; before the first, `previous` or else `first` at key 0."""
    if i > 0:
        return np.asarray(weights[:, i - 1])
    if a.previous is not None:
        return a.previous
    start = np.zeros_like(a.key[:, :, 0])
    start[:, :1] = first
    return start


def read(a: Arguments, weights: Array, covered: Array, i: int) -> Row:
    """What query i reads; `covered` (B, Tk) is the sum of the weights before it."""
    j = np.arange(a.key.shape[1], dtype=a.query.real.dtype)
    attended = (a.bounds[:, i, :1] <= j) & (j < a.bounds[:, i, 1:])
    if a.mask is not None:
        attended &= a.mask[:, i]
    if a.bias is not None:
        attended &= a.bias[:, i].real != -np.inf
    some = np.asarray(attended.any(-1, keepdims=True))
    k, windows, features = np.where(attended[:, :, None], a.key, 0), None, None
    if a.weight_filter is not None and a.weight_location is not None:
        features, windows = filtered(weights_before(a, weights, i, 0), a.weight_filter)
        k = k + features @ a.weight_location.T
    if a.weight_coverage is not None:  # See et al. 2017, arXiv:1704.04368, equation 11
        k = k + covered[:, :, None] * a.weight_coverage
    away, gaussian = np.zeros_like(k[:, :, 0]), np.ones_like(k[:, :, 0])
    if a.center is not None:  # Luong et al. 2015, equation 10
        away = j - a.center[:, i, None]
        gaussian = np.exp(-away * away / (2 * a.sigma**2))
    return Row(
        attended,
        some,
        np.where(some, a.query[:, i], 0),
        k,
        np.where(attended[:, :, None], a.value, 0),
        np.zeros_like(away) if a.bias is None else a.bias[:, i],
        gaussian,
        away,
        windows,
        features,
    )


def first_coverage(a: Arguments) -> Array:
    """What was covered before the first query, (B, Tk)."""
    return np.zeros_like(a.key[:, :, 0]) if a.coverage is None else a.coverage


def forward(a: Arguments, save: bool = False, out: Array | None = None) -> tuple[Array, Array, Saved | None]:
    """The context (B, Tq, Dv), in `out` if given, the weights (B, Tq, Tk), and what backward needs."""
    (B, Tq, _), (_, Tk, Dv), dtype = a.query.shape, a.value.shape, a.query.dtype
    context = np.empty((B, Tq, Dv), dtype) if out is None else out
    weights = np.zeros((B, Tq, Tk), dtype)
    kept, covered = np.zeros_like(weights), first_coverage(a)
    for i in range(Tq):
        row = read(a, weights, covered, i)
        s = a.scale * SCORES[a.score].forward(row.q, row.k, a.weight_score) + row.bias
        before = weights_before(a, weights, i, 1)
        kept[:, i], w = ALIGNMENTS[a.alignment].forward(s, row.attended, before)
        weights[:, i] = w * row.gaussian
        context[:, i] = np.einsum("bk,bkd->bd", weights[:, i], row.v)
        covered = covered + weights[:, i]
    return context, weights, Saved(a, weights, kept) if save else None


def backward(saved: Saved, dcontext: Array, dweights: Array | None) -> dict[str, Array]:
    """Gradients of the arguments that were given, by name; "bias_score": of a number added to every score."""
    a, weights, kept = saved
    (B, Tq, Tk), score, align = weights.shape, SCORES[a.score], ALIGNMENTS[a.alignment]
    grads = {name: np.zeros_like(array) for name, array in a.differentiable().items()}
    grads["bias_score"] = np.zeros((), weights.dtype)
    sums = np.cumsum(np.concatenate([first_coverage(a)[:, None], weights], axis=1), axis=1)
    dbefore, dcovered = np.zeros((B, Tk), weights.dtype), np.zeros((B, Tk), weights.dtype)
    for i in reversed(range(Tq)):
        row = read(a, weights, sums[:, i], i)
        dc = np.where(row.some, dcontext[:, i], 0)
        grads["value"] += weights[:, i, :, None] * dc[:, None]
        dw = np.einsum("bd,bkd->bk", dc, row.v) + dbefore + dcovered
        dw = np.where(row.attended, dw if dweights is None else dw + dweights[:, i], 0)
        if a.center is not None:
            grads["center"][:, i] = (dw * weights[:, i] * row.away).sum(-1) / a.sigma**2
        ds, dbefore = align.backward(kept[:, i], weights_before(a, weights, i, 1), dw * row.gaussian)
        ds = np.where(row.attended, ds, 0)
        grads["bias_score"] += ds.sum()
        grads["query"][:, i], dk, dv = score.backward(row.q, row.k, a.weight_score, a.scale * ds)
        grads["key"] += np.where(row.attended[:, :, None], dk, 0)
        if dv is not None:
            grads["weight_score"] += dv
        if a.weight_filter is not None and a.weight_location is not None:
            grads["weight_location"] += np.einsum("bkd,bkf->df", dk, row.features)
            dx, dfilter = filtered_backward(row.windows, a.weight_filter, dk @ a.weight_location)
            grads["weight_filter"] += dfilter
            dbefore = dbefore + dx
        if a.weight_coverage is not None:
            grads["weight_coverage"] += np.einsum("bkd,bk->d", dk, sums[:, i])
            dcovered = dcovered + dk @ a.weight_coverage
    if a.previous is not None:
        grads["previous"] = dbefore
    if a.coverage is not None:
        grads["coverage"] = dcovered
    return grads
