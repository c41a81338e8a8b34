# SPDX-License-Identifier: Apache-2.0
"""Random problems for the tests of the decoder, with every kind of score."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrnn.decoding import decoder_shapes, sizes_of
from pyrnn.reference.cells import possible
from pyrnn.reference.functional import REFERENCE

#: arguments of the attention, and shapes of its parameters by the letters of `DecoderProblem`
SCORES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "dot": ({"score": "dot"}, {}),
    "scaled dot": ({"score": "scaled_dot"}, {}),
    "cosine": ({"score": "cosine", "scale": 3.0}, {}),
    "general": ({"score": "general"}, {"weight": "HM"}),
    "additive": ({"score": "additive"}, {"weight_query": "AH", "weight_key": "AM", "weight_score": "A"}),
    "normalized": (
        {"score": "additive", "scale": 0.7},
        {"weight_query": "AH", "weight_key": "AM", "weight_score": "A", "bias": "A", "gain": ""},
    ),
    "concat": ({"score": "concat"}, {"weight": "AC", "weight_score": "A", "bias": "A"}),
    "location": (
        {"score": "location"},
        {
            "weight_query": "AH",
            "weight_key": "AM",
            "weight_score": "A",
            "bias": "A",
            "weight_filter": "FW",
            "weight_location": "AF",
        },
    ),
    "coverage": (
        {"score": "additive"},
        {"weight_query": "AH", "weight_key": "AM", "weight_score": "A", "weight_coverage": "A"},
    ),
    "concat coverage": (
        {"score": "concat"},
        {"weight": "AC", "weight_score": "A", "weight_coverage": "A"},
    ),
    "monotonic": (
        {"score": "additive", "alignment": "monotonic"},
        {"weight_query": "AH", "weight_key": "AM", "weight_score": "A", "bias_score": ""},
    ),
    "sparsemax": ({"score": "general", "alignment": "sparsemax"}, {"weight": "HM"}),
    "causal": ({"score": "general", "causal": True, "query_offset": 1}, {"weight": "HM"}),
    "window": ({"score": "general", "window": (1, 2)}, {"weight": "HM"}),
    "local m": ({"score": "general", "local": "m", "window": 1}, {"weight": "HM"}),
    "local p": (
        {"score": "general", "local": "p", "window": 2},
        {"weight": "HM", "weight_position": "PH", "weight_position_score": "P"},
    ),
}


@dataclass
class DecoderProblem:
    """One problem in float64; `run` solves it on a pair of forward and backward functions."""

    kind: str = "additive"
    cell: str = "gru"
    T: int = 3
    B: int = 2
    I: int = 2  # noqa: E741
    H: int = 4
    M: int = 3
    Tk: int = 5
    A: int = 3
    layer: int | None = 5
    query: str = "current"
    input_feed: bool = True
    bias: bool = True
    lengths: bool = False
    mask: str | None = None
    given: bool = True  # state, feed, previous and coverage, where they apply
    seed: int = 0
    dtype: Any = np.float64
    inputs: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.Generator(np.random.Philox(self.seed))
        self.attention, named = SCORES[self.kind]
        if self.attention["score"] in ("dot", "scaled_dot", "cosine"):
            self.M = self.H
        B, T, Tk, H, M = self.B, self.T, self.Tk, self.H, self.M
        spec = REFERENCE.spec(self.cell)
        self.states = spec.states
        sizes = sizes_of(self.I, M, H, self.layer, self.input_feed, self.query)
        shapes = decoder_shapes(spec, sizes, self.bias, self.layer is not None).shapes
        letters = {"A": self.A, "H": H, "M": M, "C": H + M, "F": 2, "W": 3, "P": 2}
        scores = {name: tuple(letters[x] for x in text) for name, text in named.items()}

        def normal(*shape: int) -> np.ndarray:
            return np.asarray(rng.normal(size=shape), self.dtype)

        self.inputs = {"x": normal(B, T, self.I), "memory": normal(B, Tk, M)}
        self.inputs |= {f"params.{name}": 0.5 * normal(*shape) for name, shape in shapes.items()}
        self.inputs |= {f"attention.{name}": normal(*shape) for name, shape in scores.items()}
        if self.given:
            drawn = possible(self.cell, [normal(B, H) for _ in range(self.states)])
            self.inputs |= {f"state[{k}]": s for k, s in enumerate(drawn)}
            if self.query == "current" and self.input_feed:
                self.inputs["feed"] = normal(B, sizes.fed)
            if self.kind in ("monotonic", "location"):
                self.inputs["previous"] = rng.random((B, Tk)) / max(Tk, 1)
            if "coverage" in self.kind:
                self.inputs["coverage"] = rng.random((B, Tk))
        self.inputs = {name: np.asarray(a, self.dtype) for name, a in self.inputs.items()}
        self.incoming = {
            "outputs": normal(B, T, sizes.output_size),
            "weights": normal(B, T, Tk),
            **{f"state[{k}]": normal(B, H) for k in range(self.states)},
        }
        self.options: dict[str, Any] = {"query": self.query, "input_feed": self.input_feed}
        if self.lengths:
            self.options["memory_lengths"] = np.array([Tk, *rng.integers(0, Tk, B - 1)])
        if self.mask == "bool":
            self.options["mask"] = rng.random((B, T, Tk)) < 0.7
        if self.mask == "float":
            self.options["mask"] = np.where(rng.random((B, 1, Tk)) < 0.2, -np.inf, normal(B, 1, Tk))

    def forward(self, module: Any, inputs: dict[str, np.ndarray] | None = None) -> Any:
        """What `module.decoder_forward` returns."""
        a = self.inputs if inputs is None else inputs
        states = tuple(a[f"state[{k}]"] for k in range(self.states)) if self.given else (None,)
        return module.decoder_forward(
            self.cell,
            a["x"],
            a["memory"],
            part(a, "params."),
            states[0] if len(states) == 1 else states,
            attention=self.attention | {"params": part(a, "attention.")},
            **{name: a[name] for name in ("feed", "previous", "coverage") if name in a},
            **self.options,
        )

    def outputs(self, returned: Any) -> dict[str, np.ndarray]:
        """The arrays of what `decoder_forward` returned, by name."""
        outputs, state, weights, _ = returned
        states = state if isinstance(state, tuple) else (state,)
        return {
            "outputs": outputs,
            "weights": weights,
            **{f"state[{k}]": s for k, s in enumerate(states)},
        }

    def run(self, module: Any) -> dict[str, np.ndarray]:
        """Outputs and gradients by name, the gradients under the names of the inputs with a d before."""
        returned = self.forward(module)
        states = tuple(self.incoming[f"state[{k}]"] for k in range(self.states))
        grads = module.decoder_backward(
            returned[-1],
            self.incoming["outputs"],
            states[0] if len(states) == 1 else states,
            self.incoming["weights"],
        )
        given = {"x": grads.x, "memory": grads.memory}
        given |= {f"params.{name}": g for name, g in grads.params.items()}
        given |= {f"attention.{name}": g for name, g in grads.attention.items()}
        dstates = grads.state if isinstance(grads.state, tuple) else (grads.state,)
        given |= {f"state[{k}]": g for k, g in enumerate(dstates)}
        for name in ("feed", "previous", "coverage"):
            if name in self.inputs:
                given[name] = getattr(grads, name)
            else:
                assert getattr(grads, name) is None
        return self.outputs(returned) | {"d" + name: g for name, g in given.items()}


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
