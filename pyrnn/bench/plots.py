# SPDX-License-Identifier: Apache-2.0
"""Figures as two pictures: shares of the peak against arithmetic intensity, and ratios to the best peer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyrnn.bench.figures import Figures, Row
from pyrnn.bench.grid import COMPUTE, MODES
from pyrnn.bench.report import ratio
from pyrnn.examples.plots import figure, write

MARKERS = {"inference": "o", "training": "s", "stream": "^"}
COLOURS = {"lstm": "tab:blue", "gru": "tab:orange", "rnn_tanh": "tab:green", "rnn_relu": "tab:olive"}
SHORT = {"inference": "forward", "training": "fwd + bwd", "stream": "step"}


def plots(figures: Figures, folder: str | Path) -> list[Path]:
    """Write both for every number of threads and every kind of number; the files.

    Raises
    ------
    ValueError, OSError
        matplotlib is not installed, or a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for threads, compute in dict.fromkeys((row.threads, row.case.compute) for row in figures.rows):
        rows = [r for r in figures.rows if (r.threads, r.case.compute) == (threads, compute) and r.ours]
        where = f"{compute}-{threads}.png"
        if rows and str(threads) in figures.peaks:
            roofline(folder / f"roofline-{where}", rows, figures.peaks[str(threads)])
            written.append(folder / f"roofline-{where}")
        rows = [row for row in rows if row.best]
        if rows:
            ratios(folder / f"ratios-{where}", rows)
            written.append(folder / f"ratios-{where}")
    return written


def of(row: Row) -> str:
    """What all rows of a picture have in common."""
    return f"{row.case.compute}, {row.threads} thread{'s' * (row.threads > 1)}"


def roofline(path: Path, rows: Sequence[Row], peaks: dict[str, Any]) -> None:
    """Speed relative to the peak against operations for each byte of weights read, both logarithmic.

    A level's roof is the lower one of its bandwidth and the peak. Grey: the best peer at the same sizes.
    """
    made, (axes,) = figure(9, 6)
    peak = peaks["GFLOP/s"][COMPUTE[rows[0].case.compute].peak]
    cells = list(dict.fromkeys(row.case.cell for row in rows))
    # Cells beside each other, where all have the same intensity.
    beside = {cell: 1.07 ** (k - (len(cells) - 1) / 2) for k, cell in enumerate(cells)}
    points = [(row, row.case.flops / row.case.bytes_read * beside[row.case.cell]) for row in rows]
    low = min(intensity for _, intensity in points) / 2
    high = max(max(intensity for _, intensity in points) * 2, 100)
    x = np.geomspace(low, high, 200)
    for name, bandwidth in peaks["GB/s"].items():
        roof = np.minimum(1, x * bandwidth / peak)
        axes.plot(x, roof, color="0.6", linewidth=1, zorder=1)
        if roof[0] < 0.9:
            axes.annotate(
                name, (x[0], roof[0]), xytext=(2, 3), textcoords="offset points", color="0.4", fontsize=9
            )
    for row, intensity in points:
        case = row.case
        speed = case.flops / 1e9 / peak
        if row.best:
            axes.plot(
                intensity, speed / row.best[1], MARKERS[case.mode], color="0.75", markersize=5, zorder=2
            )
        colour = COLOURS.get(case.cell, "tab:red")
        filled = colour if case.form == "plain" else "white"
        axes.plot(
            intensity,
            speed / row.ours,
            MARKERS[case.mode],
            color=colour,
            markerfacecolor=filled,
            markersize=7,
            zorder=3,
        )
    for cell in cells:
        axes.plot([], [], "o", color=COLOURS.get(cell, "tab:red"), label=cell)
    for mode in dict.fromkeys(row.case.mode for row in rows):
        axes.plot([], [], MARKERS[mode], color="0.3", label=MODES[mode])
    if any(row.case.form != "plain" for row in rows):
        axes.plot([], [], "o", color="0.3", markerfacecolor="white", label="not a plain layer")
    axes.plot([], [], "o", color="0.75", label="best peer")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=1.3)
    ticks = [t for t in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if t >= axes.get_ylim()[0]]
    axes.set_yticks(ticks, [f"{100 * t:g} %" for t in ticks])
    axes.minorticks_off()
    axes.grid(color="0.93")
    axes.set_xlabel("operations for each byte of weights read (FLOP/B)")
    axes.set_ylabel(f"share of the peak, {peak:,.0f} GFLOP/s")
    axes.set_title(of(rows[0]))
    axes.legend(loc="lower right", fontsize=9)
    write(made, path)


def ratios(path: Path, rows: Sequence[Row]) -> None:
    """How many times faster than the best peer, which a square names: sizes down, cells and modes across."""
    columns = list(dict.fromkeys((row.case.cell, row.case.mode) for row in rows))
    columns.sort(key=lambda column: list(MODES).index(column[1]))
    shapes = list(dict.fromkeys((row.case.shape, row.case.form) for row in rows))
    values = np.full((len(shapes), len(columns)), np.nan)
    names: dict[tuple[int, int], str] = {}
    for row in rows:
        case = row.case
        at = shapes.index((case.shape, case.form)), columns.index((case.cell, case.mode))
        if row.best and row.ours:
            values[at], names[at] = math.log2(row.best[1] / row.ours), row.best[0]
    made, (axes,) = figure(2.8 + 1.05 * len(columns), 1.9 + 0.5 * len(shapes))
    axes.set_facecolor("0.95")
    image = axes.imshow(values, cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
    for (i, j), name in names.items():
        dark = abs(values[i, j]) > 2
        axes.text(
            j, i, f"{ratio(2 ** values[i, j])}\n{name}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    heads = [f"{cell}\n{SHORT[mode]}" for cell, mode in columns]
    sides = [", ".join(map(str, shape)) + f" {form}" * (form != "plain") for shape, form in shapes]
    axes.set_xticks(range(len(columns)), heads, fontsize=8)
    axes.set_yticks(range(len(shapes)), sides, fontsize=8)
    axes.tick_params(top=False, bottom=False, left=False)
    axes.set_ylabel("T, B, I, H")
    axes.set_title(f"times faster than the best peer\n{of(rows[0])}", fontsize=10)
    bar = made.colorbar(image, ax=axes, fraction=0.04)
    bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels=["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"])
    write(made, path)
