# SPDX-License-Identifier: Apache-2.0
"""The decoder's loop in NumPy: cell, attention and input feeding, step by step, and back.

Luong et al. 2015 (query "current") and Bahdanau et al. 2015 (query "previous"), with h_t = s_t[0]:

    current:   s_t = cell([x_t; feed_{t-1}], s_{t-1});  c_t = attention(h_t)
    previous:  c_t = attention(h_{t-1});  s_t = cell([x_t; c_t], s_{t-1})
    out_t = tanh(W [c_t; h_t] + b), or [c_t; h_t] without W;  feed_t = out_t with W, else c_t

Sizes: x (B, T, I), keys (B, Tk, D), values (B, Tk, M), states S arrays (B, H), outputs (B, T, O).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyrnn import attending
from pyrnn.backends.layer import Backend
from pyrnn.decoding import remembers
from pyrnn.layout import Array


class Step(NamedTuple):
    """What one step keeps for its backward."""

    cell: Any
    attention: Any
    joined: Array  # (B, M + H): [c; h]
    out: Array  # (B, O)


class Saved(NamedTuple):
    """What the loop keeps for its backward."""

    steps: list[Step]
    weights: Sequence[Array | None]
    layer: Sequence[Array | None]
    score_params: dict[str, Array]
    x: Array
    keys: Array
    values: Array
    states: Sequence[Array]
    query: str
    fed: int


class Loop:
    """The loop over one-step cells and one-step attention of any engines.

    Parameters
    ----------
    cells : pyrnn.Backend
    attention : pyrnn.attending.Backend
    """

    def __init__(self, cells: Backend, attention: attending.Backend) -> None:
        self.cells, self.attention = cells, attention

    def forward(
        self,
        cell: str,
        x: Array,
        keys: Array,
        values: Array,
        states: Sequence[Array],
        weights: Sequence[Array | None],
        layer: Sequence[Array | None],
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
    ) -> tuple[Array, Sequence[Array], Array, Saved | None]:
        """Outputs, final states, alignment weights, and what `backward` needs when `save`.

        Everything is checked and C-contiguous. `weights` are weight_ih, weight_hh, bias_ih, bias_hh and the
        cell's per-unit parameters, `layer` weight_attention, bias_attention, None where there is none.
        `attention` holds keyword arguments of `attention_forward` for keys that are projected already: the
        score is dot, scaled_dot, cosine, additive or location.
        """
        (B, T, _), (M, H) = x.shape, (values.shape[2], states[0].shape[1])
        weight, bias = layer
        O = M + H if weight is None else weight.shape[0]  # noqa: E741
        fed = (O if weight is not None and query == "current" else M) if input_feed else 0
        offset, params = attention.get("query_offset", 0), attention["params"]
        follows, covers = remembers(attention)
        if covers and coverage is None:
            coverage = np.zeros(values.shape[:2], x.dtype)
        if feed is None:
            feed = np.zeros((B, fed), x.dtype)

        outputs, alignment = np.empty((B, T, O), x.dtype), np.empty((B, T, values.shape[1]), x.dtype)
        steps = []
        for t in range(T):
            if query == "current":
                read = np.concatenate([x[:, t], feed], axis=1) if fed else x[:, t]
                states, cell_saved = self.cell_step(cell, read, states, weights, save)
            context, w, attention_saved = attending.forward(
                self.attention,
                states[0][:, None],
                keys,
                values,
                **attention | {"query_offset": offset + t},
                key_lengths=lengths,
                mask=None if mask is None else mask[:, t : t + 1],
                previous=previous,
                coverage=coverage,
                save=save,
            )
            if query == "previous":
                read = np.concatenate([x[:, t], context[:, 0]], axis=1) if fed else x[:, t]
                states, cell_saved = self.cell_step(cell, read, states, weights, save)
            context, w = context[:, 0], w[:, 0]
            joined = np.concatenate([context, states[0]], axis=1)
            out = joined if weight is None else np.tanh(joined @ weight.T + (0 if bias is None else bias))
            feed = context if weight is None else out
            if not fed:
                feed = feed[:, :0]
            previous = w if follows else None
            coverage = coverage + w if covers else None
            outputs[:, t], alignment[:, t] = out, w
            if save:
                steps.append(Step(cell_saved, attention_saved, joined, out))
        saved = Saved(steps, weights, layer, params, x, keys, values, states, query, fed) if save else None
        return outputs, [np.array(s) for s in states], alignment, saved

    def backward(
        self,
        saved: Saved,
        doutputs: Array | None,
        dstates: Sequence[Array] | None,
        dweights: Array | None,
    ) -> dict[str, Any]:
        """Gradients of x, keys, values, states, weights, layer, attention by name, feed, previous, coverage.

        Among the arguments, None stands for a gradient of zeros.
        """
        x, values, (weight, bias), fed = saved.x, saved.values, saved.layer, saved.fed
        (B, T, I), M = x.shape, values.shape[2]  # noqa: E741
        dx = np.zeros_like(x)
        dkeys, dvalues = np.zeros_like(saved.keys), np.zeros_like(values)
        ds = [np.zeros_like(s) for s in saved.states] if dstates is None else [np.array(d) for d in dstates]
        dcell, dlayer = [zeros(a) for a in saved.weights], [zeros(a) for a in saved.layer]
        dparams = {name: np.zeros_like(a) for name, a in saved.score_params.items()}
        dfeed = np.zeros((B, fed), x.dtype)
        dprevious, dcoverage = np.zeros(values.shape[:2], x.dtype), np.zeros(values.shape[:2], x.dtype)

        for t in reversed(range(T)):
            step = saved.steps[t]
            dout = np.zeros_like(step.out) if doutputs is None else doutputs[:, t]
            if weight is not None:
                if saved.query == "current" and fed:
                    dout = dout + dfeed
                dz = dout * (1 - step.out * step.out)
                dlayer[0] += dz.T @ step.joined
                if bias is not None:
                    dlayer[1] += dz.sum(0)
                dout = dz @ weight
            dcontext = np.array(dout[:, :M])
            ds[0] += dout[:, M:]
            if saved.query == "current" and fed and weight is None:
                dcontext += dfeed
            if saved.query == "previous":
                dread, ds = self.cell_back(step.cell, ds, I + fed, dcell)
                if fed:
                    dcontext += dread[:, I:]
            dw = dprevious + dcoverage + (0 if dweights is None else dweights[:, t])
            grads = attending.backward(step.attention, dcontext[:, None], dw[:, None])
            ds[0] += grads.query[:, 0]
            dkeys += grads.key
            dvalues += grads.value  # given apart from the keys
            for name, d in grads.params.items():
                dparams[name] += d
            if grads.previous is not None:
                dprevious = grads.previous
            if grads.coverage is not None:
                dcoverage += grads.coverage
            if saved.query == "current":
                dread, ds = self.cell_back(step.cell, ds, I + fed, dcell)
                dfeed = dread[:, I:]
            dx[:, t] = dread[:, :I]
        return {
            "x": dx,
            "keys": dkeys,
            "values": dvalues,
            "states": ds,
            "weights": dcell,
            "layer": dlayer,
            "attention": dparams,
            "feed": np.array(dfeed),
            "previous": dprevious,
            "coverage": dcoverage,
        }

    def cell_step(
        self, cell: str, x: Array, states: Sequence[Array], weights: Sequence[Array | None], save: bool
    ) -> tuple[list[Array], Any]:
        """The cell as a sequence of one step: x (B, I) and states to states."""
        B, H = states[0].shape
        new, y = [np.empty((B, H), x.dtype) for _ in states], np.empty((1, B, H), x.dtype)
        return new, self.cells.forward(
            cell,
            np.ascontiguousarray(x)[None],
            list(states),
            *weights[:4],
            y,
            new,
            save=save,
            params=weights[4],
        )

    def cell_back(
        self, saved: Any, ds: list[Array], inputs: int, dweights: list[Array | None]
    ) -> tuple[Array, list[Array]]:
        """Back through one step; adds to dweights."""
        B, H = ds[0].shape
        dx, dold = np.empty((1, B, inputs), ds[0].dtype), [np.empty((B, H), ds[0].dtype) for _ in ds]
        step = [None if d is None else np.empty_like(d) for d in dweights]
        self.cells.backward(saved, None, ds, dx, False, dold, *step[:4], dparams=step[4])
        for total, d in zip(dweights, step, strict=True):
            if total is not None:
                total += d
        return dx[0], dold


def zeros(a: Array | None) -> Array | None:
    """Zeros in the shape of a parameter, if there is one."""
    return None if a is None else np.zeros_like(a)
