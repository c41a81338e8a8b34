# SPDX-License-Identifier: Apache-2.0
"""What every adapter of a library has."""

from __future__ import annotations

from typing import Any, ClassVar

from pyrnn.bench.grid import FORMS, MODES, Case
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array


class Peer:
    """A library on the numbers of a problem.

    Made once for a case, with as many threads as all others get. `run` is what is timed: it returns when the
    result is there, in the library's own arrays; `result` turns that into NumPy's by name, untimed.

    Attributes
    ----------
    name : str
        In tables and on the command line.
    modules : tuple of str
        What must be installed.
    cells, modes, forms, computes
        What it can do.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    cells: ClassVar[tuple[str, ...]] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
    modes: ClassVar[tuple[str, ...]] = tuple(MODES)
    forms: ClassVar[tuple[str, ...]] = FORMS
    computes: ClassVar[tuple[str, ...]] = ("float32",)

    def __init__(self, problem: Problem, threads: int) -> None:
        self.problem, self.case, self.threads = problem, problem.case, threads

    @classmethod
    def takes(cls, case: Case) -> bool:
        """Whether the library has this, under this adapter."""
        return (
            case.cell in cls.cells
            and case.mode in cls.modes
            and case.form in cls.forms
            and case.compute in cls.computes
        )

    @classmethod
    def invited(cls, case: Case) -> bool:
        """Whether it takes part in what it takes without being asked for by name."""
        return True

    def run(self) -> Any:
        """Once through the case."""
        raise NotImplementedError

    def result(self, ran: Any) -> dict[str, Array]:
        """What `run` returned, as the problem expects it."""
        raise NotImplementedError

    def choose(self, **runs: Any) -> None:
        """Let `run` be the one that the case's mode names."""
        self.run = runs[self.case.mode]  # type: ignore[method-assign]
