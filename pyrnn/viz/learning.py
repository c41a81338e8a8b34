# SPDX-License-Identifier: Apache-2.0
"""What training does: gradients through time, learning curves, results of several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.layout import Array
from pyrnn.viz.axes import checked, drawn_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The shortest gradient that is drawn.
FLOOR = 1e-12


def gradient_norms(
    norms: Mapping[str, Array],
    *,
    colors: Mapping[str, str] | None = None,
    floor: float = FLOOR,
    ax: Axes | None = None,
) -> Axes:
    """Lengths of gradients through time, on a logarithmic scale, a line for each state of each name.

    Parameters
    ----------
    norms : mapping of str to array (T,) or (states, T)
        |∂L/∂h_t| for t = 1 to T; with two rows, that and |∂L/∂c_t|, which is dashed.
    colors : mapping of str to str, optional
        matplotlib's colour for each name; ten in turn by default.
    floor : float
        Where the scale ends: nothing shorter is drawn.
    ax : matplotlib.axes.Axes, optional
        A new figure's by default, and then with a legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        A shape is wrong.
    ImportError
        matplotlib is not installed.

    Notes
    -----
    What Pascanu et al. (2013) look at: a factor below one at each step back makes a straight line downwards.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn import viz
    >>> ax = viz.gradient_norms({"rnn": 0.5 ** np.arange(20)[::-1], "lstm": np.ones((2, 20))})
    >>> [line.get_label() for line in ax.lines]
    ['rnn', 'lstm, ∂L/∂h', 'lstm, ∂L/∂c']
    """
    alone, ax = ax is None, drawn_on(ax, (6, 4))
    from matplotlib.ticker import MaxNLocator

    longest, highest = 1, 1.0
    for k, (name, values) in enumerate(norms.items()):
        rows = np.atleast_2d(np.asarray(values))
        checked(f"norms[{name!r}]", rows, "states", "T")
        for state, row, line in zip("hc", rows, ("-", "--"), strict=False):
            t = 1 + np.flatnonzero(row >= floor)
            label = name if len(rows) == 1 else f"{name}, ∂L/∂{state}"
            ax.semilogy(t, row[t - 1], line, color=(colors or {}).get(name, f"C{k % 10}"), label=label)
        longest = max(longest, rows.shape[1])
        highest = max(highest, float(np.max(rows, initial=0)))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(xlabel="step t", ylabel="|∂L/∂h_t|", xlim=(1, max(2, longest)), ylim=(floor, 3 * highest))
    ax.grid(alpha=0.3)
    if alone:
        ax.legend()
    return ax


def learning_curves(
    curves: Mapping[str, Array],
    *,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A line for each name: a measure against the number of updates.

    Parameters
    ----------
    curves : mapping of str to array (points, 2)
        Updates, measure.
    styles : mapping of str to mapping, optional
        Keyword arguments of `Axes.plot` for a name.
    ax : matplotlib.axes.Axes, optional
        A new figure's by default, and then with a legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        A shape is wrong.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn import viz
    >>> ax = viz.learning_curves({"gru": np.array([[0, 1.0], [100, 0.3], [200, 0.1]])})
    >>> ax.lines[0].get_ydata().tolist()
    [1.0, 0.3, 0.1]
    """
    alone, ax = ax is None, drawn_on(ax, (6, 4))
    for name, values in curves.items():
        points = checked(f"curves[{name!r}]", values, "points", 2)
        ax.plot(points[:, 0], points[:, 1], label=name, **(styles or {}).get(name, {}))
    ax.set_xlabel("updates")
    ax.grid(alpha=0.3)
    if alone:
        ax.legend()
    return ax


def seeds(
    errors: Mapping[str, Sequence[float]],
    *,
    labels: Mapping[str, str] | None = None,
    colors: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Results of several seeds: a row for each name, a point for each seed, a black line at the mean.

    Parameters
    ----------
    errors : mapping of str to sequence of float
        From top to bottom; a name with no number keeps an empty row.
    labels, colors : mapping of str to str, optional
        What stands beside a row, and matplotlib's colour of it.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from pyrnn import viz
    >>> ax = viz.seeds({"gru": [0.1, 0.3], "lstm": [0.2, 0.2, 0.5]})
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['gru', 'lstm']
    """
    ax = drawn_on(ax, (6, 0.9 + 0.35 * max(3, len(errors))))
    for place, (name, found) in enumerate(errors.items()):
        color = (colors or {}).get(name, f"C{place % 10}")
        if len(found):
            ax.plot([min(found), max(found)], [place, place], color=color, alpha=0.35, linewidth=6)
            ax.plot(found, [place] * len(found), "o", color=color, markersize=4)
            ax.plot([np.mean(found)], [place], "|", color="black", markersize=13, markeredgewidth=1.6)
    ax.set_yticks(range(len(errors)), [(labels or {}).get(name, name) for name in errors])
    ax.set_ylim(len(errors) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)
    return ax
