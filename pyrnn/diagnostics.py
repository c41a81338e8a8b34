# SPDX-License-Identifier: Apache-2.0
"""What is installed on this machine, and whether its kernels compute what they should."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import pyrnn
from pyrnn import _core, functional, reference
from pyrnn.backends import cuda
from pyrnn.layout import Array, Layout

#: The bounds of the tests: reference against complex step, cells against dual numbers, float64 kernels
#: against the reference; and float32 kernels, relative L2 error in units of eps · √T.
COMPLEX_STEP, DUAL, FLOAT64 = 1e-12, 1e-14, 1e-12
FLOAT32 = 8.0


def properties() -> dict[str, str]:
    """Names and values of what decides results and speed on this machine."""
    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    return {
        "pyrnn": pyrnn.__version__,
        "instruction set": f"{_core.isa()} (of {', '.join(_core.isas())}; PYRNN_ISA chooses another)",
        "threads": f"{_core.num_threads()} of {_core.available_cpus()} CPUs available",
        "cells": ", ".join(_core.cells()),
        "CUDA library": cuda.status(),
        "NumPy": f"{np.__version__}, BLAS {blas['name']} {blas['version']}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
    }


class Check(NamedTuple):
    """A measured error and the bound it must not exceed."""

    what: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.error <= self.bound

    @property
    def verdict(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"


class Problem:
    """A random problem: sizes, options, inputs and what flows back.

    Parameters
    ----------
    cell : str
    sizes : tuple of int
        T, B, I, H.
    layers, directions : int
    masked : bool
        With lengths (a zero among them), a mask, and resets to the initial state.
    """

    def __init__(
        self,
        cell: str,
        sizes: tuple[int, int, int, int],
        layers: int = 1,
        directions: int = 1,
        masked: bool = False,
    ) -> None:
        rng = np.random.Generator(np.random.Philox(list(sizes)))
        T, B, inputs, H = sizes
        constants = _core.cells()[cell]
        spec = functional.KERNELS.spec(cell)
        layout = Layout(spec, inputs, H, layers, directions)

        def normal(*shape: int) -> Array:
            return rng.normal(size=shape).astype(np.float32)

        self.cell, self.T = cell, T
        self.x, self.dy = normal(T, B, inputs), normal(T, B, H * directions)
        self.state = [normal(layers * directions, B, H) for _ in range(constants["states"])]
        for k in sums_of_weights(cell):
            self.state[k] = 1 + abs(self.state[k])
        self.dstate = [normal(layers * directions, B, H) for _ in range(constants["states"])]
        self.params = {
            name: (rng.uniform(-1, 1, shape) * H**-0.5).astype(np.float32)
            for name, shape in layout.shapes.items()
        }
        self.options: dict[str, Any] = {}
        if masked:
            lengths = rng.integers(0, T + 1, B)
            lengths[0] = 0
            self.options = {
                "lengths": lengths,
                "mask": rng.random((T, B)) < 0.8,
                "resets": rng.random((T, B)) < 0.2,
                "reset_to": "initial",
            }

    def results(self, module: Any, dtype: Any) -> dict[str, Array]:
        """Outputs and gradients by name, computed in `dtype` by `pyrnn.functional` or `pyrnn.reference`."""

        def typed(arrays: list[Array]) -> Any:
            cast = tuple(a.astype(dtype) for a in arrays)
            return cast if len(cast) > 1 else cast[0]

        params = {name: a.astype(dtype) for name, a in self.params.items()}
        y, final, saved = module.sequence_forward(
            self.cell, self.x.astype(dtype), typed(self.state), params, **self.options
        )
        grads = module.sequence_backward(saved, self.dy.astype(dtype), typed(self.dstate))
        found = {"y": y, "dx": grads.x, **{f"d{name}": a for name, a in grads.params.items()}}
        for label, states in (("state", final), ("dstate", grads.state)):
            for k, s in enumerate(states if isinstance(states, tuple) else (states,)):
                found[f"{label}[{k}]"] = s
        return found


def sums_of_weights(cell: str) -> list[int]:
    """The states that h is divided by, which are positive in every sequence: n of sLSTM."""
    return [k for k, name in enumerate(functional.KERNELS.spec(cell).state_names) if name == "n"]


def checks_of(cell: str) -> Iterator[Check]:
    """Every link from the formula to the float32 kernels, one after the other.

    Parameters
    ----------
    cell : str
        A registered name.

    Yields
    ------
    Check
        The reference against the complex step; the C++ cell's backward against its own forward on dual
        numbers; the kernels in float64 against the reference; in float32 against the reference in float64.
    """
    both: dict[str, Any] = {"bidirectional": True, "num_layers": 2, "lengths": [3, 1]}
    for options in ({}, both):
        what = "reference against complex step" + (", 2 directions and layers" if options else "")
        yield Check(what, reference.gradcheck(cell, tolerance=np.inf, **options), COMPLEX_STEP)
    yield Check("C++ cell's backward against its forward on dual numbers", transposition_error(cell), DUAL)
    problems = {
        "T, B, I, H = 7, 5, 9, 17": Problem(cell, (7, 5, 9, 17)),
        "T, B, I, H = 20, 33, 31, 64": Problem(cell, (20, 33, 31, 64)),
        "2 directions and layers, lengths, mask, resets": Problem(cell, (9, 6, 3, 8), 2, 2, masked=True),
    }
    for what, problem in problems.items():
        expected = problem.results(reference, np.float64)
        got = problem.results(functional, np.float64)
        yield Check(f"float64, {what}", worst(got, expected, np.inf), FLOAT64)
        got = problem.results(functional, np.float32)
        bound = FLOAT32 * float(np.sqrt(problem.T) * np.finfo(np.float32).eps)
        yield Check(f"float32, {what}", worst(got, expected, 2), bound)


def transposition_error(cell: str, draws: int = 200) -> float:
    """Largest |w·(J v) - (Jᵀ w)·v| over |w|·|v|: J v is forward on dual numbers, Jᵀ w is backward."""
    constants = _core.cells()[cell]
    sizes = (constants["slots"], constants["states"], constants["params"])
    rng = np.random.Generator(np.random.Philox(0))
    largest = 0.0
    for _ in range(draws):
        (a, s, p), direction = ([rng.normal(0, 2, n).tolist() for n in sizes] for _ in range(2))
        for k in sums_of_weights(cell):
            s[k] = 1 + abs(s[k])
        w = rng.normal(size=constants["states"])
        _, moved = _core.cell_jvp(cell, a, s, p, *direction)
        pulled = _core.cell_vjp(cell, a, s, p, w.tolist())
        pulled_back = sum(np.dot(g, v) for g, v in zip(pulled, direction, strict=True))
        length = np.linalg.norm(w) * np.linalg.norm(np.concatenate(direction))
        error = abs(np.dot(w, moved) - pulled_back) / length
        largest = max(largest, float(error)) if np.isfinite(error) else np.inf
    return largest


def worst(got: dict[str, Array], expected: dict[str, Array], order: float) -> float:
    """The largest relative error of any array, in the norm of that order; infinite for NaN."""
    errors = [
        float(np.linalg.norm((got[name] - a).ravel(), order) / (np.linalg.norm(a.ravel(), order) or 1))
        for name, a in expected.items()
    ]
    return max(errors) if np.isfinite(errors).all() else np.inf
