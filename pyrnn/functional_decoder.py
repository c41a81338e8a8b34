# SPDX-License-Identifier: Apache-2.0
"""The decoder's whole loop as one call of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pyrnn import decoding, scoring, windows
from pyrnn.backends.layer import Backend
from pyrnn.functional_attention import ATTENTION, CORE
from pyrnn.layout import Array

Arrays = Sequence[Array | None]


class Kept(NamedTuple):
    """What a forward of the kernels keeps for its backward."""

    core: Any  # _core.DecoderSaved
    x: Array
    keys: Array
    values: Array
    states: Sequence[Array]
    weights: Arrays
    layer: Arrays
    score: str
    params: dict[str, Array]
    sums: dict[str, Array | None]
    fed: int


class Native:
    """The decoder on the kernels; see `pyrnn.reference.decoder.Loop` for the arguments.

    A window around a predicted centre (`local="p"`) depends on the state of the step; there the loop is in
    Python, with a call of the kernels for every step of the cell and of the attention.
    """

    attention = ATTENTION

    def __init__(self, cells: Backend) -> None:
        self.cells = cells

    @cached_property
    def loop(self) -> decoding.Backend:
        """The loop in Python, which is the reference's."""
        from pyrnn.reference.decoder import Loop  # late, because the reference's layers import this module

        return Loop(self.cells, self.attention)

    def forward(
        self,
        cell: str,
        x: Array,
        keys: Array,
        values: Array,
        states: Sequence[Array],
        weights: Arrays,
        layer: Arrays,
        attention: dict[str, Any],
        *,
        lengths: Array | None,
        mask: Array | None,
        query: str,
        input_feed: bool,
        feed: Array | None,
        previous: Array | None,
        coverage: Array | None,
        save: bool,
    ) -> tuple[Array, Sequence[Array], Array, Any]:
        """Outputs, final states, alignment weights, and what `backward` needs when `save`."""
        options = dict(
            lengths=lengths, mask=mask, query=query, input_feed=input_feed, feed=feed, previous=previous,
            coverage=coverage, save=save,
        )  # fmt: skip
        if attention.get("local") == "p" or self.loop.cells.spec(cell).staged:
            return self.loop.forward(cell, x, keys, values, states, weights, layer, attention, **options)
        (B, T, _), (Tk, M), H, dtype = x.shape, values.shape[1:], states[0].shape[1], x.dtype
        score, params = attention["score"], attention["params"]
        O = M + H if layer[0] is None else layer[0].shape[0]  # noqa: E741
        fed = (O if layer[0] is not None and query == "current" else M) if input_feed else 0
        scale = attention.get("scale")
        if scale is None:
            scale = H**-0.5 if score == "scaled_dot" else 1.0
        rule = windows.rule_of(*(attention.get(name, default) for name, default in RULE.items()))
        flags, bias = windows.read_mask(mask, (B,), T, Tk, False, dtype)
        if "bias_score" in params:
            bias = (np.zeros((B, T, Tk), dtype) if bias is None else bias) + params["bias_score"]
        weight_query, _ = scoring.matrices(score, params, H)
        outputs, alignment = CORE.empty((B, T, O), dtype), CORE.empty((B, T, Tk), dtype)
        final = [np.empty_like(s) for s in states]
        sums = {"previous": previous, "coverage": coverage}
        core = CORE.decoder_forward(
            cell,
            x,
            keys,
            values,
            list(states),
            *weights[:4],
            *layer,
            None if weight_query is None else np.ascontiguousarray(weight_query),
            params.get("bias"),
            scoring.SCORES[score],
            attention.get("alignment", "softmax"),
            scoring.score_weight(params),
            windows.bounds_of(rule, np.full(B, Tk) if lengths is None else lengths, T, None),
            outputs,
            alignment,
            final,
            query_previous=query == "previous",
            input_feed=input_feed,
            feed=feed,
            mask=flags,
            bias=bias,
            scale=float(scale),
            **sums,
            **{name: params.get(name) for name in HISTORY},
            params=weights[4],
            save=save,
        )
        if not save:
            return outputs, final, alignment, None
        kept = Kept(core, x, keys, values, states, weights, layer, score, params, sums, fed)
        # The kernels read theirs in the backward: what the caller does with these does not matter.
        return outputs.copy(), final, alignment.copy(), kept

    def backward(
        self, saved: Any, doutputs: Array | None, dstates: Sequence[Array] | None, dweights: Array | None
    ) -> dict[str, Any]:
        """Gradients by name; see `pyrnn.reference.decoder.Loop.backward`."""
        if not isinstance(saved, Kept):
            return self.loop.backward(saved, doutputs, dstates, dweights)
        params, dtype, B = saved.params, saved.x.dtype, len(saved.x)
        dx, dkeys, dvalues = empty((saved.x, saved.keys, saved.values))
        dstate, dfeed = [np.empty_like(s) for s in saved.states], np.empty((B, saved.fed), dtype)
        dcell, dlayer = empty(saved.weights), empty(saved.layer)
        weight_query, _ = scoring.matrices(saved.score, params, saved.states[0].shape[1])
        dquery = None if weight_query is None else CORE.empty(weight_query.shape, dtype)
        dbias, dbias_score = empty([params.get("bias")])[0], np.empty(1, dtype)
        (dv,) = empty([scoring.score_weight(params)])
        sums = dict(zip(saved.sums, empty(saved.sums.values()), strict=True))
        history = dict(zip(HISTORY, empty(params.get(name) for name in HISTORY), strict=True))
        CORE.decoder_backward(
            saved.core,
            doutputs,
            None if dstates is None else list(dstates),
            dweights,
            dx,
            dkeys,
            dvalues,
            dstate,
            dfeed,
            *dcell[:4],
            *dlayer,
            dquery,
            dbias,
            dbias_score,
            dv,
            *sums.values(),
            *history.values(),
            dcell[4],
        )
        named: dict[str, Any] = {} if dv is None else scoring.score_weight_backward(params, dv)
        named |= {"bias": dbias, "bias_score": dbias_score.reshape(()), **history}
        if dquery is not None:
            named |= {"weight": dquery.T} if saved.score == "general" else {"weight_query": dquery}
        return {
            "x": dx,
            "keys": dkeys,
            "values": dvalues,
            "states": dstate,
            "weights": dcell,
            "layer": dlayer,
            "attention": {name: named[name] for name in params},
            "feed": dfeed,
            **sums,
        }


def empty(arrays: Any) -> list[Array | None]:
    """New arrays in the shapes of these, where there are any."""
    return [None if a is None else CORE.empty(a.shape, a.dtype) for a in arrays]


RULE: dict[str, Any] = {"causal": False, "window": None, "local": None, "query_offset": 0}
HISTORY = ("weight_filter", "weight_location", "weight_coverage")
