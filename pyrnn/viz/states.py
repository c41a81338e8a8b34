# SPDX-License-Identifier: Apache-2.0
"""What goes on in a layer while it reads: gates, hidden state, cell state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrnn.layout import Array
from pyrnn.viz.axes import checked, drawn_on, new_axes, steps, units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The names of values from -1 to 1; every other gate is from 0 to 1.
SIGNED = ("g", "n", "h")


def gates(
    activations: Mapping[str, Array],
    labels: Sequence[str] | None = None,
    *,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """A heat map for each gate: units down, steps across.

    Parameters
    ----------
    activations : mapping of str to array (T, H)
        Of one sequence, as `layer.gates` names them: i f g o, r z n, …
    labels : str or sequence of str, optional
        A name for each step, such as its character.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each gate; a new figure's by default, one below the other.

    Returns
    -------
    list of matplotlib.axes.Axes
        In the order of `activations`. Gates are shown from 0 to 1; g, n and h, the values that are to be
        written, from -1 to 1.

    Raises
    ------
    ValueError
        A shape is wrong, or `axes` or `labels` do not count as many as they have to.
    TypeError
        `activations` is no mapping.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from pyrnn import viz
    >>> layer = pyrnn.LSTM(3, 8, seed=0)
    >>> found = layer.gates(np.ones((6, 1, 3), np.float32))
    >>> axes = viz.gates({name: a[:, 0] for name, a in found.items()}, "abcdef")
    >>> [ax.get_ylabel() for ax in axes]
    ['i', 'f', 'g', 'o']
    """
    if not isinstance(activations, Mapping):
        raise TypeError(f"activations: expected a dict of arrays, got {type(activations).__name__}")
    shape: tuple[str | int, ...] = ("T", "H")
    arrays = {}
    for name, a in activations.items():
        arrays[name] = checked(f"activations[{name!r}]", a, *shape)
        shape = arrays[name].shape
    if not arrays:
        raise ValueError("activations: expected at least one gate, got none")
    if axes is None:
        T, H = next(iter(arrays.values())).shape
        height = 0.5 + len(arrays) * min(2.0, max(0.7, 0.06 * H))
        axes = new_axes((min(12, max(5, 1.5 + 0.16 * T)), height), len(arrays))
    if len(axes) != len(arrays):
        raise ValueError(f"axes: expected one for each of {len(arrays)} gates, got {len(axes)}")
    for ax, (name, a) in zip(axes, arrays.items(), strict=True):
        signed = name in SIGNED or bool(np.min(a, initial=0) < 0)
        units(ax, a, ("RdBu_r", -1, 1) if signed else ("viridis", 0, 1))
        ax.set_ylabel(name, rotation=0, labelpad=10, va="center", fontweight="bold")
        ax.set_yticks([])
        if ax is not axes[-1]:
            ax.set_xticks([])
    steps(axes[-1], len(next(iter(arrays.values()))), labels)
    return list(axes)


def hidden_state(
    h: Array,
    labels: Sequence[str] | None = None,
    *,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of the outputs of a layer, or of any state: units down, steps across.

    Parameters
    ----------
    h : array (T, H)
        Of one sequence.
    labels : str or sequence of str, optional
        A name for each step.
    limit : float, optional
        The value of the darkest colours, blue at -limit and red at limit; the largest there is by default.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        `h` has not two axes, or `labels` not T names.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from pyrnn import viz
    >>> y, h = pyrnn.GRU(3, 8, seed=0)(np.ones((6, 1, 3), np.float32))
    >>> ax = viz.hidden_state(y[:, 0], "abcdef")
    >>> ax.images[0].get_array().shape
    (8, 6)
    """
    h = checked("h", h, "T", "H")
    T, H = h.shape
    ax = drawn_on(ax, (min(12, max(5, 1.5 + 0.16 * T)), min(6, max(1.8, 1 + 0.06 * H))))
    if limit is None:
        limit = float(np.max(np.abs(h), initial=0)) or 1.0
    units(ax, h, ("RdBu_r", -limit, limit))
    ax.set_ylabel("unit")
    steps(ax, T, labels)
    return ax


def cell_state(
    c: Array,
    labels: Sequence[str] | None = None,
    *,
    kept: Array | None = None,
    written: Array | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The conveyor belt: the cell state of one unit, what each step kept of it and what it added.

    Parameters
    ----------
    c : array (T,)
        Of one unit of one sequence.
    labels : str or sequence of str, optional
        A name for each step.
    kept : array (T,), optional
        The forget gate, which colours the line from one step to the next: dark where all is kept.
    written : array (T,), optional
        i·g, as bars.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        A shape is wrong, or `labels` are not T names.
    ImportError
        matplotlib is not installed.

    Notes
    -----
    c_t = f_t·c_{t-1} + i_t·g_t (Hochreiter & Schmidhuber 1997, Gers et al. 2000): `kept` is f, `written` i·g.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn import viz
    >>> f, added = np.array([1, 1, 0.5]), np.array([1.0, 0, 0])
    >>> ax = viz.cell_state(np.array([1, 1, 0.5]), "abc", kept=f, written=added)
    >>> len(ax.patches), len(ax.collections[0].get_segments())
    (3, 2)
    """
    c = checked("c", c, "T")
    T = len(c)
    ax = drawn_on(ax, (min(12, max(5, 1.5 + 0.16 * T)), 2.6))
    t = np.arange(T)
    if written is not None:
        ax.bar(t, checked("written", written, T), 0.8, color="tab:orange", label="written, i·g")
    if kept is None:
        ax.plot(t, c, color="tab:blue", linewidth=2.5, label="c")
    else:
        from matplotlib.collections import LineCollection

        ends = np.stack([t, c], axis=1)
        pieces = list(np.stack([ends[:-1], ends[1:]], axis=1))
        belt = LineCollection(pieces, cmap="Blues", linewidths=3, capstyle="round", label="c")
        belt.set_array(checked("kept", kept, T)[1:])
        belt.set_clim(-0.25, 1)  # nothing is drawn in white
        ax.add_collection(belt)
        bar = ax.figure.colorbar(belt, ax=ax, fraction=0.03, label="kept, f")
        bar.ax.set_ylim(0, 1)
        ax.autoscale_view()
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_ylabel("c")
    ax.set_xlim(-0.6, max(T, 1) - 0.4)
    if written is not None:
        ax.legend(loc="upper left", fontsize=8)
    steps(ax, T, labels)
    return ax
