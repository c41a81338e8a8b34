# SPDX-License-Identifier: Apache-2.0
"""Where an attention looks: in a sequence, and in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrnn.layout import Array
from pyrnn.viz.axes import checked, drawn_on, names

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def alignment(
    weights: Array,
    source: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    cmap: str = "gray_r",
    colorbar: bool = True,
) -> Axes:
    """Heat map of an alignment matrix: a row for each query, a column for each key.

    Parameters
    ----------
    weights : array (Tq, Tk)
        Of one sequence, from 0 to 1.
    source, target : str or sequence of str, optional
        A name for each key and each query, such as the characters read and written.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure's by default.
    cmap : str
        matplotlib's name of the colours.
    colorbar : bool
        Whether the scale stands beside it.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        `weights` has not two axes, or the names do not count as many as they have to.
    ImportError
        matplotlib is not installed.

    Notes
    -----
    After figure 3 of Bahdanau et al. (2015).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from pyrnn import viz
    >>> _, weights = pyrnn.attention(np.eye(3)[None], 5 * np.eye(3)[None], return_weights=True)
    >>> ax = viz.alignment(weights[0], "abc", ["A", "B", "C"])
    >>> ax.images[0].get_array().shape
    (3, 3)
    """
    weights = checked("weights", weights, "Tq", "Tk")
    Tq, Tk = weights.shape
    size = max(0.2, min(0.32, 12 / max(Tq, Tk, 1)))
    ax = drawn_on(ax, (1.6 + size * Tk, 1.2 + size * Tq))
    image = ax.imshow(weights, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    if source is not None:
        ax.set_xticks(range(Tk), names("source", source, Tk))
    if target is not None:
        ax.set_yticks(range(Tq), names("target", target, Tq))
    ax.set_xlabel("read")
    ax.set_ylabel("written")
    ax.tick_params(top=False, bottom=False, left=False, labelsize=min(10, 34 * size))
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="weight", fraction=0.03)
    return ax


def regions(image: Array, weights: Array, *, ax: Axes | None = None) -> Axes:
    """Where an attention looked in a picture, in red.

    Parameters
    ----------
    image : array (height, width)
        Ink, from 0 (paper) to 1.
    weights : array (height, width)
        From 0 to 1, 1 where it looked most.
    ax : matplotlib.axes.Axes, optional

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
    After Xu et al. (2015), figure 3.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn import viz
    >>> ax = viz.regions(np.eye(4), np.tri(4))
    >>> ax.images[0].get_array().shape
    (4, 4, 3)
    """
    image = checked("image", image, "height", "width")
    weights = checked("weights", weights, *image.shape)
    ax = drawn_on(ax, (3, 3))
    # Ink takes all colours from the paper, weight takes green and blue: red paper, ink that stays black.
    paper = 1 - 0.9 * image
    other = paper * (1 - 0.75 * np.clip(weights, 0, 1))
    ax.imshow(np.clip(np.stack([paper, other, other], axis=2), 0, 1))
    ax.set(xticks=[], yticks=[])
    return ax
