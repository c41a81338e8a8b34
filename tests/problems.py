# SPDX-License-Identifier: Apache-2.0
"""Random problems for the tests: inputs, parameters, gradients coming in, and every kind of option."""

from copy import copy
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from pyrnn import reference
from pyrnn.layout import Layout
from pyrnn.reference.cells import possible
from pyrnn.reference.functional import REFERENCE

CELLS = sorted(reference.cells())
#: Those whose step is a plain product of h: what streams and the compiled decoder know.
FUSED = [name for name in CELLS if not REFERENCE.specs[name].staged]
#: What the CUDA kernels know: those, and cells whose last slots read what they make of the first ones.
ON_CUDA = [
    name
    for name in CELLS
    if REFERENCE.specs[name].from_h
    and not REFERENCE.specs[name].ordered
    and REFERENCE.specs[name].from_h <= 8
]
#: The first of each interface: the others differ from one of these in their formula alone.
DISTINCT = list(
    {
        tuple(value for key, value in constants.items() if key != "roles"): name
        for name, constants in reversed(reference.cells().items())
    }.values()
)[::-1]
OPTIONS = ("plain", "lengths", "mask", "resets", "initial", "all")


def varied(*axes: Any, cells: Any = CELLS) -> list[tuple[Any, ...]]:
    """Cases (cell, a value of each axis): every cell meets every value of every axis.

    As many for a cell as the longest axis has values. Which values meet depends on the cell's name alone:
    most pairs come together in some cell, and a new cell changes none of the others' cases.
    """
    count = max(map(len, axes))
    cases = []
    for cell in cells:
        rng = np.random.Generator(np.random.Philox(crc32(cell.encode())))
        columns = [rng.permutation(np.arange(count) % len(axis)) for axis in axes]
        cases += [
            (cell, *(axis[k] for axis, k in zip(axes, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]
    return cases


def options(kind: str, T: int, B: int, rng: np.random.Generator) -> dict[str, Any]:
    """Lengths (a zero and a full one among them), masks with holes, resets; alone and together."""
    chosen: dict[str, Any] = {}
    if kind in ("lengths", "all"):
        chosen["lengths"] = rng.integers(0, T + 1, B)
        chosen["lengths"][:2] = (0, T)[:B]
    if kind in ("mask", "all"):
        chosen["mask"] = rng.random((T, B)) < 0.7
    if kind in ("resets", "initial", "all"):
        chosen["resets"] = rng.random((T, B)) < 0.3
    if kind in ("initial", "all"):
        chosen["reset_to"] = "initial"
    return chosen


def active(T: int, B: int, chosen: dict[str, Any]) -> np.ndarray:
    """Steps that count, bool (T, B)."""
    steps = np.arange(T)[:, None] < chosen.get("lengths", np.full(B, T))
    return steps & chosen.get("mask", np.ones((T, B), bool))


@dataclass
class Problem:
    """One problem in float64; `run` solves it on a pair of forward and backward functions."""

    cell: str
    T: int = 5
    B: int = 3
    I: int = 4  # noqa: E741
    H: int = 6
    num_layers: int = 1
    directions: int = 1
    bias: bool = True
    kind: str = "plain"
    seed: int = 0
    layer_norm: bool = False
    proj_size: int = 0
    dtype: Any = np.float64
    inputs: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.Generator(np.random.Philox(self.seed))
        layout = Layout(
            REFERENCE.spec(self.cell),
            self.I,
            self.H,
            self.num_layers,
            self.directions,
            self.bias,
            layer_norm=self.layer_norm,
            proj_size=self.proj_size,
        )
        # Sums of variance one half: neither saturation nor decay hides errors.
        fan_in = {n: s[1] if len(s) == 2 else 4 for n, s in layout.shapes.items()}
        self.params = {
            n: self.of(rng.normal(scale=0.5 * fan_in[n] ** -0.5, size=s)) for n, s in layout.shapes.items()
        }
        rows, sizes = self.num_layers * self.directions, layout.state_sizes
        self.x = self.of(rng.normal(size=(self.T, self.B, self.I)))
        self.state = self.structure(
            possible(self.cell, [rng.normal(size=(rows, self.B, size)) for size in sizes])
        )
        self.dy = self.of(rng.normal(size=(self.T, self.B, layout.sizes[2])))
        self.dstate = self.structure([rng.normal(size=(rows, self.B, size)) for size in sizes])
        self.options = options(self.kind, self.T, self.B, rng)

    def of(self, a: np.ndarray) -> np.ndarray:
        return a.astype(self.dtype)

    def structure(self, arrays: list[np.ndarray]) -> Any:
        return self.of(arrays[0]) if len(arrays) == 1 else tuple(map(self.of, arrays))

    def run(self, module: Any, **more: Any) -> dict[str, np.ndarray]:
        """Outputs and gradients by name, from `module.sequence_forward` and `module.sequence_backward`."""
        y, state, saved = module.sequence_forward(
            self.cell, self.x, self.state, self.params, **self.options, **more
        )
        return {
            "y": y,
            **named("state", state),
            **named_gradients(module.sequence_backward(saved, self.dy, self.dstate)),
        }

    def exact(self) -> "Problem":
        """The same numbers as float64."""
        wide = copy(self)
        wide.x, wide.dy = self.x.astype(float), self.dy.astype(float)
        wide.params = {name: a.astype(float) for name, a in self.params.items()}
        wide.state, wide.dstate = (
            tuple(a.astype(float) for a in s) if isinstance(s, tuple) else s.astype(float)
            for s in (self.state, self.dstate)
        )
        return wide


def named(name: str, state: Any) -> dict[str, np.ndarray]:
    """The arrays of a state by name."""
    arrays = state if isinstance(state, tuple) else (state,)
    return {f"{name}[{k}]": a for k, a in enumerate(arrays)}


def named_gradients(grads: Any) -> dict[str, np.ndarray]:
    """The arrays of gradients by name."""
    return {"dx": grads.x, **named("dstate", grads.state), **{f"d{n}": g for n, g in grads.params.items()}}
