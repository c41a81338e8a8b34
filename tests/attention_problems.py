# SPDX-License-Identifier: Apache-2.0
"""Random attention problems for the tests: inputs, parameters, gradients coming in, every kind of option."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pyrnn import functional, reference
from pyrnn.attending import ALIGNMENTS
from pyrnn.scoring import SCORES

#: What a problem may be about; "bare" has no parameter that is optional.
KINDS = (
    *("plain", "bare", "shared", "lengths", "mask", "bias", "causal", "window", "scale"),
    *("local_m", "local_p", "heads", "single", "history", "all"),
)
#: Every score with every alignment that has a gradient and every kind that there is with them.
CASES = [
    (score, alignment, kind)
    for score in SCORES
    for alignment in ALIGNMENTS
    for kind in KINDS
    if alignment != "hard_monotonic" and not (kind == "local_p" and alignment == "monotonic")
]
EVERY_CASE = pytest.mark.parametrize(("score", "alignment", "kind"), CASES)

ENGINES = pytest.mark.parametrize(
    "engine", [pytest.param(reference, id="reference"), pytest.param(functional, id="kernels")]
)


@dataclass
class AttentionProblem:
    """One problem in float64; `run` solves it on a pair of forward and backward functions."""

    score: str = "dot"
    alignment: str = "softmax"
    kind: str = "plain"
    B: int = 3
    Tq: int = 4
    Tk: int = 5
    Dq: int = 3
    Dk: int = 2
    Dv: int = 2
    A: int = 3
    P: int = 2
    F: int = 2
    W: int = 3
    heads: int = 2
    seed: int = 0
    dtype: Any = np.float64
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.Generator(np.random.Philox(self.seed))
        if SCORES[self.score] != "additive" and self.score != "general":
            self.Dk = self.Dq
        if self.kind == "bare" and SCORES[self.score] == "additive" and self.score != "concat":
            self.Dq = self.Dk = self.A
        if self.kind == "single":
            self.Tq = 1
        outer = (self.B, self.heads) if self.kind == "heads" else (self.B,)
        time = () if self.kind == "single" else (self.Tq,)
        self.params = {name: self.of(a) for name, a in self.draw(rng).items()}
        # Products of many features are as large as those of three, as weight_score sees to it for the other
        # scores: where one weight is all but one, the gradients that are left are those of rounding.
        spread = 1 if SCORES[self.score] == "additive" else (3 / self.Dq) ** 0.5
        self.query = self.of(rng.normal(scale=spread, size=(*outer, *time, self.Dq)))
        self.key = self.of(rng.normal(size=(*outer, self.Tk, self.Dk)))
        self.value = None if self.kind == "shared" else self.of(rng.normal(size=(*outer, self.Tk, self.Dv)))
        mixed = self.Dk if self.value is None else self.Dv
        self.dcontext = self.of(rng.normal(size=(*outer, *time, mixed)))
        self.dweights = self.of(rng.normal(size=(*outer, *time, self.Tk)))
        self.options = {"score": self.score, "alignment": self.alignment, **self.choose(rng)}

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Parameters, of a scale at which neither saturation nor decay hides errors."""
        params: dict[str, np.ndarray] = {}

        def add(name: str, *shape: int) -> None:
            params[name] = rng.normal(scale=0.7 * max(shape[1:], default=1) ** -0.5, size=shape)

        full, additive = self.kind != "bare", SCORES[self.score] == "additive"
        if self.score == "general":
            add("weight", self.Dq, self.Dk)
        if additive:
            params["weight_score"] = rng.normal(scale=2 * (3 / self.A) ** 0.5, size=self.A)
        if self.score == "concat":
            add("weight", self.A, self.Dq + self.Dk)
        elif additive and full:
            add("weight_query", self.A, self.Dq)
            add("weight_key", self.A, self.Dk)
            params["gain"] = np.array(1.3)
        if additive and full:
            add("bias", self.A)
        if self.score == "location":
            params["weight_filter"] = rng.normal(scale=(2 / self.F / self.W) ** 0.5, size=(self.F, self.W))
            params["weight_location"] = rng.normal(size=(self.A, self.F))
        if additive and self.kind in ("history", "all"):
            params["weight_coverage"] = rng.normal(size=self.A)
        if self.alignment == "monotonic" and full:
            params["bias_score"] = np.array(-0.4)
        if self.kind == "local_p":
            params["weight_position"] = rng.normal(size=(self.P, self.Dq))
            params["weight_position_score"] = rng.normal(size=self.P)
        return params

    def choose(self, rng: np.random.Generator) -> dict[str, Any]:
        """Lengths (a zero and a full one among them), masks with an empty row, windows; alone, together."""
        B, Tq, Tk, kind = self.B, self.Tq, self.Tk, self.kind
        chosen: dict[str, Any] = {}
        if kind in ("lengths", "local_p", "all"):
            chosen["key_lengths"] = rng.integers(0, Tk + 1, B)
            chosen["key_lengths"][:2] = (Tk, 0)[:B]
        if kind in ("mask", "all"):
            chosen["mask"] = rng.random((B, Tq, Tk)) < 0.7
            # An empty row, the last: after it a monotonic alignment has nothing to move.
            chosen["mask"][:1, -1:] = False
        if kind == "bias":
            mask = rng.normal(size=(B, 1, Tk))
            mask[rng.random(mask.shape) < 0.2] = -np.inf
            chosen["mask"] = self.of(mask)
        if kind in ("causal", "all"):
            chosen |= {"causal": True, "query_offset": 2}
        if kind == "window":
            chosen |= {"window": (1, 2), "query_offset": 1}
        if kind in ("scale", "all"):
            chosen["scale"] = 0.6
        if kind.startswith("local"):
            chosen |= {"local": kind[-1], "window": 2}
        if kind in ("history", "single", "all"):
            if self.score == "location" or self.alignment == "monotonic":
                chosen["previous"] = self.of(rng.dirichlet(np.ones(Tk), B) if Tk else np.zeros((B, 0)))
            if "weight_coverage" in self.params:
                chosen["coverage"] = self.of(rng.random((B, Tk)))
        return chosen

    def of(self, a: np.ndarray) -> np.ndarray:
        return a.astype(self.dtype)

    def exact(self) -> "AttentionProblem":
        """The problem with the same numbers in float64: what is left to compare is the arithmetic."""
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(twin, name, {key: widened(a) for key, a in value.items()})
            else:
                setattr(twin, name, widened(value) if name != "dtype" else np.float64)
        return twin

    def inputs(self) -> dict[str, np.ndarray]:
        """What has a gradient, by name."""
        given = {"query": self.query, "key": self.key, "value": self.value, **self.params}
        given |= {name: self.options[name] for name in ("previous", "coverage") if name in self.options}
        return {name: a for name, a in given.items() if a is not None}

    def forward(self, module: Any, inputs: dict[str, np.ndarray] | None = None, **more: Any) -> Any:
        """`module.attention_forward`, on other inputs if given."""
        a = self.inputs() | (inputs or {})
        given = {name: a[name] for name in ("previous", "coverage") if name in a}
        return module.attention_forward(
            *(a["query"], a["key"], a.get("value")),
            params={name: a[name] for name in self.params},
            **self.options | given | more,
        )

    def run(self, module: Any, **more: Any) -> dict[str, np.ndarray]:
        """Context, weights and gradients, from `module.attention_forward` and `attention_backward`."""
        context, weights, saved = self.forward(module, **more)
        grads = module.attention_backward(saved, self.dcontext, self.dweights)
        return {"context": context, "weights": weights, **named_gradients(grads)}


def widened(value: Any) -> Any:
    """An array of floats in float64, anything else as it is."""
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if floats else value


def named_gradients(grads: Any) -> dict[str, np.ndarray]:
    """The arrays of gradients by name."""
    arrays = {name: getattr(grads, name) for name in ("query", "key", "value", "previous", "coverage")}
    return {f"d{name}": a for name, a in (arrays | grads.params).items() if a is not None}
