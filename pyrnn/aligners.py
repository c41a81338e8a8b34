# SPDX-License-Identifier: Apache-2.0
"""The kinds of attention by name: Bahdanau, Luong, location-aware and monotonic."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn import checks
from pyrnn.aligning import Aligner, Named, size_or_none
from pyrnn.layout import Array

__all__ = ["BahdanauAttention", "LocationAttention", "LuongAttention", "MonotonicAttention"]


class Additive(Aligner):
    """What the kinds with an additive score share: s = vᵀ tanh(W_q q + W_k k + b)."""

    units: int
    normalize: bool
    bias: bool
    coverage: bool
    alignment: str

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        normalize: bool,
        bias: bool,
        coverage: bool,
        scale: float | None,
        dtype: Any,
        seed: int | None,
        **own: Any,
    ) -> None:
        sizes = {"query_size": query_size, "key_size": key_size, "units": units}
        flags = {"normalize": normalize, "bias": bias, "coverage": coverage}
        super().__init__(seed, **sizes, **own, **flags, scale=scale, dtype=dtype)

    def _named(self) -> Named:
        return additive(
            self.units,
            {"weight_query": ("Dq", self.query_size), "weight_key": ("Dk", self.key_size)},
            bias=self.bias,
            gain=self.normalize,
            coverage=self.coverage,
        )

    def _arguments(self, training: bool) -> dict[str, Any]:
        return {"score": "additive", "scale": self.scale, "alignment": self.alignment}


class BahdanauAttention(Additive):
    """Additive attention (Bahdanau et al. 2015): s = vᵀ tanh(W_q q + W_k k + b).

    Parameters
    ----------
    query_size, key_size : int
        Dq and Dk.
    units : int
        A, the size of what is added.
    normalize : bool
        v is replaced by gain · v/|v| (Salimans & Kingma 2016).
    bias : bool
        Whether there is b.
    coverage : bool
        Adds W_c · (sum of the weights of the queries before) inside the tanh (See et al. 2017).
    scale : float, optional
        Multiplies the scores; 1 when None.
    alignment : {"softmax", "sparsemax"}
        How scores become weights; sparsemax: Martins & Astudillo 2016.
    dtype : {"float32", "float64"}, on a CUDA device also {"bfloat16", "float16"}
    device : {"cpu", "cuda", "cuda:0", …}
        Where all arrays are, as for `pyrnn.Recurrent`; docs/cuda.md says what is there.
    seed : int, optional
        Of the initial parameters.

    Attributes
    ----------
    params : dict of arrays
        `weight_query` (A, Dq), `weight_key` (A, Dk), `weight_score` (A,), and, as chosen, `bias` (A,),
        `gain` (), `weight_coverage` (A,). Weights are uniform in ±1/√(last axis) at first, the bias is 0, the
        gain 1/√A.

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> attn = pyrnn.BahdanauAttention(4, 6, 8, seed=0)
    >>> query, key = np.ones((2, 3, 4), np.float32), np.ones((2, 5, 6), np.float32)
    >>> context, weights = attn(query, key, key_lengths=[5, 2], return_weights=True)
    >>> context.shape, weights[1, 0].tolist()
    ((2, 3, 6), [0.5, 0.5, 0.0, 0.0, 0.0])

    Notes
    -----
    Equivalent to `softmax((tanh(q[:, :, None] @ W_q.T + k[:, None] @ W_k.T + b) @ v)) @ k`, without ever
    holding the array (B, Tq, Tk, A).
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        *,
        normalize: bool = False,
        bias: bool = False,
        coverage: bool = False,
        scale: float | None = None,
        alignment: str = "softmax",
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        shared = (normalize, bias, coverage, scale, dtype, seed)
        super().__init__(query_size, key_size, units, *shared, alignment=alignment, device=device)


class LuongAttention(Aligner):
    """Multiplicative attention (Luong et al. 2015), global or local.

    Parameters
    ----------
    query_size, key_size : int
        Dq and Dk; equal for "dot", "scaled_dot" and "cosine".
    score : {"dot", "general", "concat", "scaled_dot", "cosine"}
        q·k; qᵀ W k; vᵀ tanh(W [q; k] + b); q·k/√D (Vaswani et al. 2017); q·k/(|q||k|) (Graves et al. 2014).
    units : int
        A, the size of what concat adds; for "concat" alone.
    local : {None, "m", "p"}
        Only keys within `window` of a position count: that of the query itself ("m", monotonic), or
        L·sigmoid(v_pᵀ tanh(W_p q)) with L the number of keys, around which the weights fall off as a Gaussian
        of standard deviation window/2 ("p", predictive).
    window : int or (int, int)
        D; required with `local`. Without, keys from query - left to query + right count; all when None.
    position_units : int
        Size of what predicts the position, Dq when None; for `local="p"` alone.
    bias : bool
        Whether concat has b.
    coverage : bool
        For "concat" alone: adds W_c · (sum of the weights of the queries before) inside the tanh.
    scale : float, optional
        Multiplies the scores; when None 1, and 1/√D for "scaled_dot".
    alignment : {"softmax", "sparsemax"}
    dtype, device, seed
        As in `BahdanauAttention`.

    Attributes
    ----------
    params : dict of arrays
        "general": `weight` (Dq, Dk). "concat": `weight` (A, Dq + Dk), `weight_score` (A,), as chosen `bias`
        (A,) and `weight_coverage` (A,). With `local="p"` also `weight_position` (P, Dq) and
        `weight_position_score` (P,). Weights are uniform in ±1/√(last axis) at first, the bias is 0.

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong, or does not go with the score; the message names it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> attn = pyrnn.LuongAttention(4, 6, score="general", local="p", window=2, seed=0)
    >>> context, weights, saved = attn.forward(np.ones((2, 3, 4), np.float32), np.ones((2, 5, 6), np.float32))
    >>> sorted(attn.backward(saved, context).params)
    ['weight', 'weight_position', 'weight_position_score']
    """

    CHECKS = Aligner.CHECKS | {"units": size_or_none}

    score: str
    units: int | None
    local: str | None
    window: int | tuple[int, int] | None
    position_units: int | None
    bias: bool
    coverage: bool
    alignment: str

    def __init__(
        self,
        query_size: int,
        key_size: int,
        *,
        score: str = "dot",
        units: int | None = None,
        local: str | None = None,
        window: int | tuple[int, int] | None = None,
        position_units: int | None = None,
        bias: bool = False,
        coverage: bool = False,
        scale: float | None = None,
        alignment: str = "softmax",
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            seed,
            query_size=query_size,
            key_size=key_size,
            score=score,
            units=units,
            local=local,
            window=window,
            position_units=position_units,
            bias=bias,
            coverage=coverage,
            scale=scale,
            alignment=alignment,
            dtype=dtype,
            device=device,
        )

    def _configure(self, **options: Any) -> None:
        super()._configure(**options)
        score, Dq, Dk = self.score, self.query_size, self.key_size
        if score in ("dot", "scaled_dot", "cosine") and Dq != Dk:
            raise ValueError(f"key_size: expected query_size = {Dq} for score {score!r}, got {Dk}")
        if score == "concat" and self.units is None:
            raise ValueError("units: expected a size for score 'concat', got None")
        for name, default in (("units", None), ("bias", False), ("coverage", False)):
            if score != "concat" and getattr(self, name) != default:
                raise ValueError(f"{name}: expected {default} for score {score!r}, got {getattr(self, name)}")
        if self.local == "m" and self.window is None:
            raise ValueError("window: expected a number of keys for local='m', got None")
        if self.local == "p" and not (isinstance(self.window, int) and self.window):
            raise ValueError(f"window: expected a positive integer for local='p', got {self.window}")
        if self.local != "p" and self.position_units is not None:
            raise ValueError(
                f"position_units: expected None for local={self.local!r}, got {self.position_units}"
            )

    def _named(self) -> Named:
        Dq, Dk, named = self.query_size, self.key_size, Named()
        if self.score == "general":
            named["weight"] = ((Dq, Dk), "(Dq, Dk)")
        if self.score == "concat" and self.units is not None:
            named = additive(
                self.units, {"weight": ("Dq + Dk", Dq + Dk)}, bias=self.bias, coverage=self.coverage
            )
        if self.local == "p":
            P = self.position_units or Dq
            named |= {"weight_position": ((P, Dq), "(P, Dq)"), "weight_position_score": ((P,), "(P,)")}
        return named

    def _arguments(self, training: bool) -> dict[str, Any]:
        return {
            "score": self.score,
            "scale": self.scale,
            "alignment": self.alignment,
            "local": self.local,
            "window": self.window,
        }


class LocationAttention(Additive):
    """Location-aware attention (Chorowski et al. 2015): s = vᵀ tanh(W_q q + W_k k + b + U f).

    f holds, for every key, filters over the weights of the query before, so that the attention knows where it
    was.

    Parameters
    ----------
    query_size, key_size, units
        As in `BahdanauAttention`.
    filters : int
        F.
    filter_width : int
        W, odd: keys that a filter sees.
    normalize, bias, coverage, scale, alignment, dtype, seed
        As in `BahdanauAttention`.

    Attributes
    ----------
    params : dict of arrays
        Those of `BahdanauAttention`, `weight_filter` (F, W) and `weight_location` (A, F).

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> attn = pyrnn.LocationAttention(4, 6, 8, filters=3, filter_width=5, seed=0)
    >>> query, key = np.ones((2, 4), np.float32), np.ones((2, 5, 6), np.float32)
    >>> _, first = attn(query, key, return_weights=True)
    >>> _, second = attn(query, key, previous=first, return_weights=True)
    >>> bool((first == second).all())
    False
    """

    filters: int
    filter_width: int

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        *,
        filters: int = 10,
        filter_width: int = 31,
        normalize: bool = False,
        bias: bool = True,
        coverage: bool = False,
        scale: float | None = None,
        alignment: str = "softmax",
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        shared = (normalize, bias, coverage, scale, dtype, seed)
        super().__init__(
            query_size,
            key_size,
            units,
            *shared,
            filters=filters,
            filter_width=filter_width,
            alignment=alignment,
        )

    def _named(self) -> Named:
        A, F, W = self.units, self.filters, self.filter_width
        return super()._named() | {"weight_filter": ((F, W), "(F, W)"), "weight_location": ((A, F), "(A, F)")}

    def _arguments(self, training: bool) -> dict[str, Any]:
        return super()._arguments(training) | {"score": "location"}


class MonotonicAttention(Additive):
    """Monotonic attention (Raffel et al. 2017): every query goes on from the key where the last one stopped.

    The score is additive, and tells at every key whether to stop: s = vᵀ tanh(W_q q + W_k k + b) + r. A call
    takes these decisions, s > 0, and attends to one key or to none ("hard"). `forward` gives the expectation
    over stopping with probability sigmoid(s), which has a gradient; in training with noise on the scores,
    which makes them large and so the expectation like the decisions.

    Parameters
    ----------
    query_size, key_size, units
        As in `BahdanauAttention`.
    sigmoid_noise : float
        Standard deviation of the noise.
    score_bias_init : float
        r at first; negative values (the paper: -4 for long memories) let attention see all keys at first.
    normalize, bias, coverage, scale, dtype, seed
        As in `BahdanauAttention`; the paper normalises and has a bias.

    Attributes
    ----------
    params : dict of arrays
        Those of `BahdanauAttention`, and `bias_score` ().

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> attn = pyrnn.MonotonicAttention(4, 6, 8, score_bias_init=1.0, dtype="float64", seed=0)
    >>> query, key = np.zeros((1, 2, 4)), np.zeros((1, 3, 6))
    >>> attn(query, key, return_weights=True)[1].tolist()
    [[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]
    >>> attn.forward(query, key)[1][0, 0].round(2).tolist()
    [0.73, 0.2, 0.05]
    """

    sigmoid_noise: float
    score_bias_init: float

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        *,
        sigmoid_noise: float = 0.0,
        score_bias_init: float = 0.0,
        normalize: bool = True,
        bias: bool = True,
        coverage: bool = False,
        scale: float | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        shared = (normalize, bias, coverage, scale, dtype, seed)
        super().__init__(
            query_size, key_size, units, *shared, sigmoid_noise=sigmoid_noise, score_bias_init=score_bias_init
        )

    def _named(self) -> Named:
        return super()._named() | {"bias_score": ((), "()")}

    def _arguments(self, training: bool) -> dict[str, Any]:
        alignment = "monotonic" if training else "hard_monotonic"
        return {"score": "additive", "scale": self.scale, "alignment": alignment}

    def _draw(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.score_bias_init if name == "bias_score" else super()._draw(name, shape)

    def noisy(self, mask: Array | None, shape: tuple[int, ...]) -> Array | None:
        """The mask, as a float mask, with noise on the scores in it."""
        if not self.sigmoid_noise:
            return mask
        noise: Array = self.rng.normal(scale=self.sigmoid_noise, size=shape).astype(self.dtype)
        if mask is None:
            return noise
        mask = checks.array_of("mask", mask)
        if mask.ndim == 3 and len(shape) == 4:
            mask = mask[:, None]  # one mask for all heads
        try:
            np.broadcast_shapes(mask.shape, shape)
        except ValueError:
            raise checks.wrong_shape("mask", "(B, Tq, Tk)", shape, mask.shape) from None
        if mask.dtype == np.bool_:
            return np.where(mask, noise, self.dtype.type(-np.inf))
        return np.add(checks.plain_array("mask", mask, self.dtype), noise)


def additive(
    units: int, weights: dict[str, tuple[str, int]], *, bias: bool, coverage: bool, gain: bool = False
) -> Named:
    """The parameters of an additive score; `weights` names its matrices and their last axes."""
    vector = ((units,), "(A,)")
    named: Named = {name: ((units, size), f"(A, {axis})") for name, (axis, size) in weights.items()}
    named["weight_score"] = vector
    if bias:
        named["bias"] = vector
    if gain:
        named["gain"] = ((), "()")
    if coverage:
        named["weight_coverage"] = vector
    return named


KINDS = (BahdanauAttention, LocationAttention, LuongAttention, MonotonicAttention)
