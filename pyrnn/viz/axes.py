# SPDX-License-Identifier: Apache-2.0
"""What the plots share: axes to draw on, checked arrays, names of steps, and a heat map of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.layout import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Most steps of which each gets a tick of its own.
TICKS = 80


def new_axes(size: tuple[float, float], rows: int = 1) -> list[Axes]:
    """The axes of a new figure of pyplot's, one below the other; its size is in inches.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError('pyrnn.viz needs matplotlib: pip install "pyrnn-kernels[viz]"') from None
    made = pyplot.subplots(rows, squeeze=False, figsize=size, layout="constrained")[1]
    return list(made[:, 0])


def drawn_on(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure."""
    return new_axes(size)[0] if ax is None else ax


def checked(name: str, a: Any, *shape: str | int) -> Array:
    """An array of that shape, of which a word stands for any number.

    Raises
    ------
    ValueError
        Its shape is another one.
    """
    found: Array = np.asarray(a)
    fits = len(shape) == found.ndim and all(
        isinstance(expected, str) or expected == n for expected, n in zip(shape, found.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape ({', '.join(map(str, shape))}), got {found.shape}")
    return found


def names(what: str, given: Sequence[str], count: int) -> list[str]:
    """The names of some steps; a space is made visible.

    Raises
    ------
    ValueError
        There are more or fewer than `count`.
    """
    if len(given) != count:
        raise ValueError(f"{what}: expected {count} names, got {len(given)}")
    return ["␣" if name == " " else "⏎" if name == "\n" else name for name in given]


def steps(ax: Axes, T: int, labels: Sequence[str] | None) -> None:
    """The axis of time, with a name for each of T steps if there are any, and not too many."""
    if labels is None:
        ax.set_xlabel("step t")
        return
    shown = names("labels", labels, T)
    every = -(-T // TICKS) or 1
    size = 9 if T <= 40 else 7
    ax.set_xticks(range(0, T, every), shown[::every], fontsize=size)
    ax.tick_params(axis="x", length=0)
    if max(map(len, shown), default=0) > 2:
        ax.tick_params(axis="x", labelrotation=45)


def units(ax: Axes, values: Array, scale: tuple[str, float, float]) -> None:
    """A heat map of an array (T, H), units down and steps across, with a bar that tells the colours."""
    cmap, low, high = scale
    image = ax.imshow(
        values.T, cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="nearest", origin="lower"
    )
    ax.figure.colorbar(image, ax=ax, fraction=0.03)
