# SPDX-License-Identifier: Apache-2.0
"""What runs one layer in one direction: the interface that kernels, CUDA and the reference share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrnn.backends.numpy import NUMPY
from pyrnn.layout import Spec

#: Calls by position and by name.
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


class Backend:
    """What runs one layer in one direction.

    Parameters
    ----------
    cells : dict
        Constants of every cell by name, as `pyrnn._core.cells()` returns them.
    forward, backward : callable
        With the arguments of `pyrnn._core.forward` and `pyrnn._core.backward`.
    dtypes : tuple of dtype
        The number types it computes in.
    arrays : object, optional
        The library of its arrays; NumPy's when None.
    forward_all, backward_all, forward_chain : callable, optional
        As in `pyrnn._core`: both directions of a layer in one call, and layers each of which reads the one
        before. They may run at the same time.
    """

    def __init__(
        self,
        cells: dict[str, dict[str, Any]],
        forward: Callable[..., Any],
        backward: Callable[..., None],
        dtypes: tuple[Any, ...],
        arrays: Any = NUMPY,
        forward_all: Callable[[Calls], list[Any]] | None = None,
        backward_all: Callable[[Calls], None] | None = None,
        forward_chain: Callable[[Calls], list[Any]] | None = None,
    ) -> None:
        self.forward, self.backward, self.dtypes = forward, backward, dtypes
        #: options of a forward that is to keep the states of every step
        self.every: dict[str, Any] = {}
        self.arrays = arrays
        self.forward_all, self.backward_all = forward_all, backward_all
        self.forward_chain = forward_chain
        self.specs = {
            name: Spec(
                name,
                cell["states"],
                len(cell["from_x"]),
                len(cell["from_h"]),
                cell["params"],
                cell["param_name"],
                cell["late"],
                cell.get("ordered", False),
                cell.get("roles", ""),
            )
            for name, cell in cells.items()
        }

    def spec(self, cell: Any) -> Spec:
        """The shape-deciding constants of a cell, or an error that lists the names there are."""
        if not isinstance(cell, str):
            raise TypeError(f"cell: expected a name, got {type(cell).__name__}")
        if cell not in self.specs:
            raise ValueError(f"cell: expected one of {', '.join(self.specs)}, got {cell!r}")
        return self.specs[cell]

    def arrays_of(self, name: str, a: Any) -> Any:
        """The library that the results of a call with `a` are made with."""
        return self.arrays

    def dtype(self, name: str, dtype: Any) -> Any:
        """The native form of a dtype this back end computes in, else TypeError."""
        for known in self.dtypes:
            if dtype == known or dtype.newbyteorder("=") == known:
                return known
        raise TypeError(f"{name}: expected dtype {' or '.join(map(str, self.dtypes))}, got {dtype}")


def in_turn(run: Callable[..., Any], calls: Calls) -> list[Any]:
    """What `run` returns for each."""
    return [run(*arguments, **keywords) for arguments, keywords in calls]
