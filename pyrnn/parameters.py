# SPDX-License-Identifier: Apache-2.0
"""A dict of parameters whose names are fixed: a wrong one is refused where it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["Parameters"]


class Parameters(dict[str, Any]):
    """The parameters of a layer, by name: a dict in which arrays can be replaced, and no name added.

    Shapes and dtypes are checked where the arrays are used.

    Parameters
    ----------
    arrays : mapping
        Every parameter by its name.

    Raises
    ------
    ValueError
        A name that was not among them is given an array.

    Examples
    --------
    >>> import pyrnn
    >>> params = pyrnn.GRU(3, 5).params
    >>> params["weight_ih_l0"] = params["weight_ih_l0"] * 2
    >>> params["weight_ih"] = 0
    Traceback (most recent call last):
    ValueError: params: expected one of weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, got 'weight_ih'
    """

    __slots__ = ("_names",)

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self._names = tuple(arrays)

    def __setitem__(self, name: str, a: Any) -> None:
        self._known((name,))
        super().__setitem__(name, a)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """That of `dict`, for the names there are."""
        self._known((name,))
        return super().setdefault(name, default)

    def update(self, *others: Any, **named: Any) -> None:
        """That of `dict`, for the names there are."""
        more = dict(*others, **named)
        self._known(more)
        super().update(more)

    def __ior__(self, others: Any) -> Parameters:  # type: ignore[override, misc]
        self.update(others)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def _known(self, names: Iterable[Any]) -> None:
        for name in names:
            if name not in self._names:
                few = len(self._names) < 9  # all of a deep stack are no answer
                shown = self._names if few else get_close_matches(str(name), self._names, 4, 0)
                of = "one of" if few else f"one of {len(self._names)} names, such as"
                raise ValueError(f"params: expected {of} {', '.join(shown)}, got {name!r}")
