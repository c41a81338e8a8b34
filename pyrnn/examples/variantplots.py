# SPDX-License-Identifier: Apache-2.0
"""Plots of the comparison of cells, and of gradients through time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pyrnn import viz
from pyrnn.examples.plots import figure, write
from pyrnn.examples.running import check_folder
from pyrnn.examples.vanishing import Vanishing
from pyrnn.examples.variants import Comparison

#: Tab10's colours with four line styles: enough for forty lines that can be told apart.
STYLES = ("-", "--", ":", "-.")


def check_plot(path: str | os.PathLike[str]) -> None:
    """ValueError when no plot can be written there: sooner than after minutes of training."""
    check_folder(path)
    formats = figure(1, 1)[0].canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1].removeprefix(".").lower()
    if ending not in formats:
        raise ValueError(f"--plot: expected a name that ends in .png, .svg or .pdf, got {os.fspath(path)}")


def style(k: int) -> dict[str, Any]:
    """How the k-th of several lines is drawn."""
    return {"color": f"C{k % 10}", "linestyle": STYLES[k // 10 % len(STYLES)]}


def plot_variants(path: str | os.PathLike[str], comparison: Comparison) -> None:
    """Errors of every cell with a point for each seed, the best cell on top; and the mean learning curves."""
    rows = sorted(comparison.summaries(), key=lambda s: np.inf if s.mean is None else s.mean)
    log = comparison.task.solved is not None
    made, (errors, curves) = figure(12.5, 1.4 + 0.32 * max(8, len(rows)), 2)
    styles = {cell: style(k) for k, cell in enumerate(comparison.cells)}
    viz.seeds(
        {s.cell: [e for e in s.errors if e is not None] for s in rows},
        labels={s.cell: f"{s.cell} ({s.hidden})" for s in rows},
        colors={cell: how["color"] for cell, how in styles.items()},
        ax=errors,
    )
    whole = {s.cell: [c for c in s.curves if all(value is not None for _, value in c)] for s in rows}
    means = {cell: np.array(found, float).mean(0) for cell, found in whole.items() if found}
    viz.learning_curves(means, styles=styles, ax=curves)
    baseline = comparison.task.baseline
    errors.axvline(baseline, color="grey", linestyle=":", linewidth=1)
    curves.axhline(baseline, color="grey", linestyle=":", linewidth=1)
    if log:
        errors.set_xscale("log")
        curves.set_yscale("log")
    title = "held out; a point a seed, | the mean"
    errors.set(xlabel=comparison.measure, title=title)
    curves.set(ylabel=comparison.measure, title="mean; dotted: no memory")
    if rows:
        made.legend(*curves.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    write(made, path)


def plot_gradients(path: str | os.PathLike[str], vanishing: Vanishing) -> None:
    """Lengths of the gradients through time on a logarithmic scale, a panel before and one after training."""
    panels = {moment: cells for moment, cells in vanishing.moments.items() if cells}
    made, axes = figure(1.5 + 4.5 * len(panels), 4, len(panels))
    highest = max(float(found.states.max()) for cells in panels.values() for found in cells.values())
    colors = {cell: f"C{k % 10}" for k, cell in enumerate(vanishing.cells)}
    for axis, (moment, cells) in zip(axes, panels.items(), strict=True):
        norms = {cell: found.states for cell, found in cells.items()}
        viz.gradient_norms(norms, colors=colors, ax=axis)
        axis.set(title=moment, ylabel="", xlim=(1, vanishing.options.length))
        axis.set_ylim(top=3 * max(1.0, highest))
    axes[0].set_ylabel("|∂L/∂h_t| / |∂L/∂h_T|")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    write(made, path)
