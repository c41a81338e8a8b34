# SPDX-License-Identifier: Apache-2.0
"""What was measured, as the JSON file has it: machine, versions, peaks, and every sample of every row."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pyrnn
from pyrnn import _core
from pyrnn.bench.grid import Case
from pyrnn.bench.peaks import caches

OURS = "pyrnn"
#: Distributions whose versions decide results.
DISTRIBUTIONS = ("torch", "onnx", "onnxruntime", "openvino", "jax", "jaxlib", "keras")


@dataclass
class Row:
    """One case on so many threads.

    Attributes
    ----------
    case : Case
    threads : int
    seconds : dict
        Of a call, by library: one number for each round.
    errors : dict
        Why a library that takes part has no seconds.
    limits : list of float
        Seconds that the case takes at the least: the lower of two measurements around each of our batches.
    by : str
        What that limit is: fma, bfloat16, or the level of memory that the weights are read from.
    saved_bytes : int or None
        What the forward keeps for the backward.
    """

    case: Case
    threads: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    limits: list[float] = field(default_factory=list)
    by: str = ""
    saved_bytes: int | None = None

    @property
    def ours(self) -> float | None:
        """The median of this library."""
        return median(self.seconds[OURS]) if self.seconds.get(OURS) else None

    @property
    def shares(self) -> list[float]:
        """Limit over time, round by round."""
        return [limit / taken for limit, taken in zip(self.limits, self.seconds.get(OURS, ()), strict=False)]

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest peer and its median."""
        peers = {name: median(taken) for name, taken in self.seconds.items() if name != OURS and taken}
        return min(peers.items(), key=lambda item: item[1]) if peers else None

    @property
    def kept(self) -> float | None:
        """Numbers of four bytes kept for each step, sequence, unit, layer and direction."""
        if self.saved_bytes is None:
            return None
        case = self.case
        return self.saved_bytes / (4 * case.T * case.B * case.H * case.layers * case.directions)


@dataclass
class Figures:
    """A run: what it was on, and its rows as far as it came."""

    command: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, Any] = field(default_factory=dict)  # by number of threads
    rows: list[Row] = field(default_factory=list)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file beside its place and rename it: a reader never sees half of it."""
        target = Path(path)
        content = asdict(self)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=target.name, delete=False
        ) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, target)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Figures:
        """From such a file.

        Raises
        ------
        ValueError
            The file is not one of these.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = [Row(**{**row, "case": Case(**row["case"])}) for row in content.pop("rows")]
            return cls(**content, rows=rows)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{os.fspath(path)}: expected figures of `pyrnn bench`, got {error!r}") from None


def machine() -> dict[str, Any]:
    """What the figures depend on beside the libraries."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        models = [
            line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")
        ]
    except OSError:
        models = []
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "CPUs": _core.available_cpus(),
        "instruction set": _core.isa(),
        "caches": {name: size for name, (size, _) in caches().items()},
        "platform": platform.platform(),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Of what is installed, by the name of the distribution."""
    found = {"pyrnn": pyrnn.__version__, "Python": platform.python_version(), "NumPy": np.__version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
