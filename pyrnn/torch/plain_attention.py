# SPDX-License-Identifier: Apache-2.0
"""Attention and the decoder in plain operations of PyTorch, a query at a time.

Differentiable any number of times and in either mode, under any transform. Scores and cells are the text of
the reference on tensors. Shapes and names are those of `pyrnn.functional`, and checked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyrnn import scoring, windows
from pyrnn.decoding import LAYER, cell_names
from pyrnn.functional import KERNELS
from pyrnn.reference.attention import SCORES
from pyrnn.torch import plain
from pyrnn.torch.duck import Duck

EVERY_STEP = plain.Steps(None, None, False)


class Queries:
    """Queries that come one after another, and what each hands to the next.

    Parameters
    ----------
    key, value : tensor (B, Tk, ·)
    query_size, steps : int
        Dq and Tq.
    params : dict of tensors
    options : dict
        Of `attention_forward`.
    lengths : integer tensor (B,), optional
    mask : tensor (B, Tq, Tk), bool or added to the scores, optional
    coverage : tensor (B, Tk), optional

    Raises
    ------
    NotImplementedError
        The score or the alignment reads the weights before, which no module of `pyrnn.torch` has.
    """

    def __init__(
        self,
        key: Tensor,
        value: Tensor,
        query_size: int,
        steps: int,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
        lengths: Tensor | None,
        mask: Tensor | None,
        coverage: Tensor | None,
    ) -> None:
        get, (B, Tk, _) = options.get, key.shape
        score, alignment, scale, offset = (
            get("score", "dot"),
            get("alignment", "softmax"),
            get("scale"),
            get("query_offset", 0),
        )
        if score == "location" or alignment not in ALIGNMENTS:
            raise NotImplementedError(f"attention: no plain operations for {score!r} with {alignment!r}")
        self.params, self.kind, self.align = params, SCORES[scoring.SCORES[score]], ALIGNMENTS[alignment]
        self.scale = scale if scale is not None else query_size**-0.5 if score == "scaled_dot" else 1.0
        self.rule = windows.rule_of(get("causal", False), get("window"), get("local"), offset)
        self.lengths = key.new_full((B,), Tk, dtype=torch.int64) if lengths is None else lengths
        j, n = torch.arange(Tk, device=key.device), self.rule.offset + torch.arange(steps, device=key.device)
        attended = (j < self.lengths[:, None])[:, None].expand(B, steps, Tk)
        if self.rule.causal:
            attended = attended & (j <= n[:, None])
        if self.rule.left is not None and not self.rule.centered:
            right: Any = self.rule.right
            attended = attended & (n[:, None] - self.rule.left <= j) & (j <= n[:, None] + right)
        self.bias = None
        if mask is not None and mask.dtype == torch.bool:
            attended = attended & mask
        elif mask is not None:
            attended = attended & (mask != -torch.inf)
            self.bias = torch.where(attended, mask, 0)
        self.attended, self.j = attended, j.to(key.dtype)
        seen = attended.any(1)[:, :, None]  # what no query sees may be NaN, which times zero is NaN
        self.value = torch.where(seen, value, 0)
        self.weight_query, weight_key = scoring.matrices(score, params, query_size)
        key = torch.where(seen, key, 0)
        self.key = key if weight_key is None else key @ weight_key.T
        v = params.get("weight_score")
        self.v = v if v is None or "gain" not in params else params["gain"] * unit(v)
        self.covered = torch.zeros_like(key[:, :, 0]) if coverage is None else coverage

    def attend(self, query: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The context (B, Dv) and the weights (B, Tk) of query i, (B, Dq)."""
        params, attended, gaussian = self.params, self.attended[:, i], None
        if self.rule.centered:
            center = self.center(query)
            away = self.j - center[:, None]
            attended = attended & (away.detach().abs() <= float(self.rule.left or 0))
            gaussian = torch.exp(-away * away / (2 * self.rule.sigma**2))
        q = torch.where(attended.any(-1, keepdim=True), query, 0)
        q = q if self.weight_query is None else q @ self.weight_query.T
        q = q + params["bias"] if "bias" in params else q
        k = self.key
        if "weight_coverage" in params:
            k = k + self.covered[:, :, None] * params["weight_coverage"]
        if self.kind is SCORES["cosine"]:
            s = SCORES["dot"].forward(Duck(unit(q)), Duck(unit(k)), None)
        else:
            s = self.kind.forward(Duck(q), Duck(k), None if self.v is None else Duck(self.v))
        s = self.scale * s.tensor
        s = s if self.bias is None else s + self.bias[:, i]
        weights = self.align(s, attended)
        weights = weights if gaussian is None else weights * gaussian
        self.covered = self.covered + weights
        return torch.einsum("bk,bkd->bd", weights, self.value), weights

    def center(self, query: Tensor) -> Tensor:
        """`windows.center_of`, of one query."""
        hidden = torch.tanh(query @ self.params["weight_position"].T)
        at = self.lengths * torch.sigmoid(hidden @ self.params["weight_position_score"])
        return torch.where(at.isnan(), 0, at)


def unit(v: Tensor) -> Tensor:
    """`scoring.unit`, whose derivatives are zero where |v| is."""
    none = (v == 0).all(-1, keepdim=True)
    some = torch.where(none, 1, v)
    return torch.where(none, 0, some / (some * some).sum(-1, keepdim=True).sqrt())


def softmax(s: Tensor, attended: Tensor) -> Tensor:
    """As `pyrnn.reference.attention.Softmax`."""
    e = torch.where(attended, torch.exp(below(s, attended)), 0)
    total = e.sum(-1, keepdim=True)
    return e / torch.where(total == 0, 1, total)


def below(s: Tensor, attended: Tensor) -> Tensor:
    """Scores less the largest attended to, zero elsewhere."""
    if not s.shape[-1]:
        return s
    most = torch.where(attended, s.detach(), -torch.inf).amax(-1, keepdim=True)
    return torch.where(attended, s - torch.where(most == -torch.inf, 0, most), 0)


def sparsemax(s: Tensor, attended: Tensor) -> Tensor:
    """As `pyrnn.reference.attention.Sparsemax`; the support is a constant of the derivatives."""
    s = below(s, attended)
    z = torch.where(attended, s.detach(), -torch.inf).sort(-1, descending=True)[0]
    k = torch.arange(1, s.shape[-1] + 1, device=s.device)
    kept = 1 + k * z > torch.where(z == -torch.inf, 0, z).cumsum(-1)
    support = attended & (s.detach() >= torch.where(kept, z, torch.inf).amin(-1, keepdim=True))
    size = support.sum(-1, keepdim=True).clamp(min=1)
    tau = (torch.where(support, s, 0).sum(-1, keepdim=True) - 1) / size
    return torch.where(support, s - tau, 0)


ALIGNMENTS = {"softmax": softmax, "sparsemax": sparsemax}


def attention(given: Mapping[str, Tensor], params: Mapping[str, Tensor], options: Any) -> tuple[Tensor, ...]:
    """The results of `attention_forward` of the inputs by name: the context and the weights."""
    query, key = given["query"], given["key"]
    single, value = query.dim() == 2, given.get("value", key)
    query = query[:, None] if single else query
    outer, (Tq, Dq), Tk = query.shape[:-2], query.shape[-2:], key.shape[-2]
    lengths, mask = given.get("key_lengths"), given.get("mask")
    if mask is not None:
        between = (len(outer) == 2 and mask.dim() == 3) or (single and mask.dim() == 2)
        mask = (mask[:, None] if between else mask).expand(*outer, Tq, Tk).reshape(-1, Tq, Tk)
    if len(outer) == 2 and lengths is not None:
        lengths = lengths.repeat_interleave(outer[1])
    query, key, value = (a.reshape(-1, *a.shape[-2:]) for a in (query, key, value))
    coverage = given.get("coverage")
    covered = None if coverage is None else coverage.reshape(-1, Tk)
    queries = Queries(key, value, Dq, Tq, params, options, lengths, mask, covered)
    pairs = [queries.attend(query[:, i], i) for i in range(Tq)]
    empty = query.new_empty((len(query), 0, value.shape[2])), query.new_empty((len(query), 0, Tk))
    results = tuple(torch.stack(a, 1) for a in zip(*pairs, strict=True)) if pairs else empty
    return tuple(a[:, 0] if single else a.reshape(*outer, Tq, a.shape[2]) for a in results)


def decoder(
    given: Mapping[str, Tensor],
    params: Mapping[str, Tensor],
    score: Mapping[str, Tensor],
    state: Sequence[Tensor],
    options: Mapping[str, Any],
) -> tuple[Tensor, ...]:
    """The results of `decoder_forward` of the inputs by name: outputs, weights and the final states."""
    x, memory, spec = given["x"], given["memory"], KERNELS.specs[options["cell"]]
    (B, T, _), M = x.shape, memory.shape[2]
    weights = [params.get(name) for name in cell_names(spec)]
    layer, bias = (params.get(name) for name in LAYER)
    H = params["weight_hh"].shape[1]
    extras = {} if weights[4] is None else {"params": weights[4]}
    mask = given.get("mask")
    queries = Queries(
        memory,
        memory,
        H,
        T,
        score,
        options["attention"],
        given.get("memory_lengths"),
        None if mask is None else mask.expand(B, T, memory.shape[1]),
        given.get("coverage"),
    )
    current, feeds = options["query"] == "current", options["input_feed"]
    states = list(state) or [x.new_zeros((B, H))] * spec.states
    fed = given.get("feed")
    if fed is None:
        fed = x.new_zeros((B, M if layer is None else layer.shape[0]))

    def step(read: Tensor, fed: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        read = torch.cat([read, fed], 1) if feeds else read
        cell = options["cell"], read[None], states, weights[:4], extras
        return plain.one(*cell, EVERY_STEP, None, None, reverse=False)[1]

    outputs, alignment = [], []
    for t in range(T):
        if current:
            states = step(x[:, t], fed, states)
        context, found = queries.attend(states[0], t)
        if not current:
            states = step(x[:, t], context, states)
        out = torch.cat([context, states[0]], 1)
        if layer is not None:
            out = torch.tanh(functional.linear(out, layer, bias))
        fed = context if layer is None else out
        outputs.append(out)
        alignment.append(found)
    if not T:
        O = M + H if layer is None else layer.shape[0]  # noqa: E741
        return x.new_empty((B, 0, O)), x.new_empty((B, 0, memory.shape[1])), *states
    return torch.stack(outputs, 1), torch.stack(alignment, 1), *states
