# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON of pytest-benchmark into tables of the kind that `pyrnn bench` prints."""

from __future__ import annotations

import argparse
import json
from statistics import quantiles

from pyrnn.bench.figures import OURS
from pyrnn.bench.grid import MODES
from pyrnn.bench.report import Entry, section

TITLES = {"forward": "Forward", "train": "Forward + backward", **MODES}


def load(path: str) -> tuple[dict[str, dict[tuple, Entry]], list[float]]:
    """Entries by mode and case, and the peaks in GFLOP/s that were measured beside attention."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    modes: dict[str, dict[tuple, Entry]] = {}
    peaks = []
    for item in data["benchmarks"]:
        info, stats = item["extra_info"], item["stats"]
        name, *sizes = info["case"]
        entries = modes.setdefault(info["mode"], {})
        entry = entries.setdefault(tuple(info["case"]), Entry(name, ", ".join(map(str, sizes)), {}))
        entry.seconds.setdefault(info["peer"], []).extend(stats["data"])
        if info["peer"] != OURS:
            continue
        if "limit" in info:
            entry.shares.append(info["limit"] / stats["median"])
            entry.by = info["by"]
        else:
            peaks.append(info["peak"])
            entry.shares.append(info["flops"] / stats["median"] / 1e9 / info["peak"])
    return modes, peaks


def tables(modes: dict[str, dict[tuple, Entry]], peaks: list[float]) -> str:
    """Markdown."""
    lines = []
    if len(peaks) > 1:
        low, middle, high = quantiles(peaks, n=4)
        spread = f"{low:.0f} to {high:.0f} between the quartiles"
        lines = [f"Measured FMA peak: {middle:.0f} GFLOP/s, {spread}.", ""]
    for mode, title in TITLES.items():
        if mode in modes:
            lines += section(title, list(modes[mode].values()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", help="written by pytest --benchmark-json")
    print(tables(*load(parser.parse_args().json)))


if __name__ == "__main__":
    main()
