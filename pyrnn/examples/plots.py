# SPDX-License-Identifier: Apache-2.0
"""Plots with matplotlib: which characters or regions were looked at, and quality by length."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pyrnn import viz
from pyrnn.examples.translator import Quality
from pyrnn.layout import Array

END = "end"


def figure(width: float, height: float, panels: int = 1, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure that needs no window, and its axes, side by side, row after row.

    Raises
    ------
    ValueError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from None
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, list(made.subplots(rows, panels, squeeze=False).ravel())


def write(made: Any, path: str | os.PathLike[str]) -> None:
    """Save a figure in the format that the name tells; where the font lacks characters, a line says so.

    Raises
    ------
    ValueError, OSError
        matplotlib knows no such format, or the file cannot be written.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.savefig(os.fspath(path), dpi=100)
    lacking = sum("missing from font" in str(warning.message) for warning in caught)
    if lacking:
        print(f"{os.fspath(path)}: the font lacks {lacking} of the characters", file=sys.stderr)


def plot_alignment(path: str | os.PathLike[str], source: str, target: str, weights: Array) -> None:
    """The alignment matrix as a picture: a row for each character written, a column for each one read.

    Parameters
    ----------
    path : path
        PNG, SVG or PDF, as its name ends.
    source, target : str
    weights : array (Tq, Tk)
        Tq and Tk count the ends of the texts, where they were read or written.
    """
    Tq, Tk = weights.shape
    size = max(0.2, min(0.32, 12 / max(Tq, Tk)))
    made, (axes,) = figure(1.6 + size * Tk, 1.2 + size * Tq)
    viz.alignment(weights, labels(source, Tk), labels(target, Tq), ax=axes)
    write(made, path)


def labels(text: str, count: int) -> list[str]:
    """A name for each of the characters, and one for the end."""
    return [*text, END][:count]


def plot_regions(path: str | os.PathLike[str], images: Array, tokens: Array, regions: Array) -> None:
    """Where each word of some captions looked, in red: a row for each picture, a panel for each word.

    Parameters
    ----------
    path : path
    images : array (B, height, width)
    tokens : array (B, L)
    regions : array (B, L, height, width)
        From 0 to 1; see `CaptionModel.regions`.
    """
    from pyrnn.examples.canvases import END, WORDS

    words = [[WORDS[t] for t in row[: [*row, END].index(END)]] for row in tokens.tolist()]
    columns, (height, width) = max(1, *map(len, words)), images.shape[1:]
    made, panels = figure(1.1 * columns * width / height, 1.35 * len(images), columns, len(images))
    for axes in panels:
        axes.set_axis_off()
    for k, row in enumerate(words):
        for t, word in enumerate(row):
            axes = panels[k * columns + t]
            axes.set_axis_on()
            viz.regions(images[k], regions[k, t], ax=axes).set_title(word, fontsize=10)
    write(made, path)


def plot_lengths(
    path: str | os.PathLike[str], curves: Mapping[str, Sequence[tuple[tuple[int, int], Quality]]]
) -> None:
    """Exact match and, where it is known, BLEU against the length of the source, a curve for each name.

    Parameters
    ----------
    path : path
    curves : mapping of str to what `by_length` returned
    """
    points: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    for name, rows in curves.items():
        middles = [(low + high) / 2 for (low, high), _ in rows]
        exact, bleu = [100 * found.exact for _, found in rows], [found.bleu for _, found in rows]
        points.setdefault("exact match, %", []).append((name, middles, exact))
        known = [value for value in bleu if value is not None]
        if len(known) == len(rows):
            points.setdefault("BLEU", []).append((name, middles, known))
    made, panels = figure(4.5 * len(points), 3.4, len(points))
    for axes, (measure, lines) in zip(panels, points.items(), strict=True):
        for k, (name, middles, values) in enumerate(lines):
            axes.plot(middles, values, marker="os^Dv*"[k % 6], label=name)
        axes.set(xlabel="characters of the source", ylabel=measure, ylim=(-3, 103))
        axes.grid(alpha=0.3)
    panels[0].legend()
    write(made, path)
