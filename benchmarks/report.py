# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON of pytest-benchmark into the tables of docs/performance.md."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from statistics import geometric_mean, median, quantiles

PEERS = ["pyrnn", "pytorch", "torch.compile", "onnxruntime"]


def load(path: str) -> tuple[dict, dict, list[float]]:
    """Seconds by (mode, case) and peer, shares of the peak by (mode, case), and the peaks in GFLOP/s."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    times: dict = defaultdict(lambda: defaultdict(list))
    shares: dict = defaultdict(list)
    peaks = []
    for item in data["benchmarks"]:
        info = item["extra_info"]
        key = (info["mode"], tuple(info["case"]))
        times[key][info["peer"]] += item["stats"]["data"]
        if info["peer"] == "pyrnn":
            peaks.append(info["peak"])
            shares[key].append(info["flops"] / item["stats"]["median"] / 1e9 / info["peak"])
    return times, shares, peaks


def cell(values: list[float] | None) -> str:
    """Median in microseconds and half the spread between the quartiles, in per cent."""
    if values is None:
        return ""
    low, middle, high = quantiles(values, n=4)
    return f"{middle * 1e6:,.{1 if middle < 1e-4 else 0}f} ± {50 * (high - low) / middle:.0f} %"


def tables(times: dict, shares: dict, peaks: list[float]) -> str:
    low, middle, high = quantiles(peaks, n=4)
    lines = [f"Measured FMA peak: {middle:.0f} GFLOP/s, {low:.0f} to {high:.0f} between the quartiles.", ""]
    titles = {"forward": "Forward", "train": "Forward + backward", "step": "One step per call"}
    for mode, title in titles.items():
        keys = [key for key in times if key[0] == mode]
        if not keys:
            continue
        peers = [p for p in PEERS if any(p in times[key] for key in keys)]
        share = mode != "step"
        head = ["", "sizes", *(f"{p} µs" for p in peers), *(["share of peak"] if share else [])]
        head += [f"× {p}" for p in peers[1:]]
        lines += [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        ratios: dict = defaultdict(list)
        for key in keys:
            ours = median(times[key]["pyrnn"])
            row = [key[1][0], ", ".join(map(str, key[1][1:])), *(cell(times[key].get(p)) for p in peers)]
            if share:
                row.append(f"{100 * median(shares[key]):.0f} %")
            for p in peers[1:]:
                if p not in times[key]:
                    row.append("")
                    continue
                ratio = median(times[key][p]) / ours
                ratios[key[1][0], p].append(ratio)
                row.append(f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}")
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
        for (name, p), values in ratios.items():
            lines.append(f"- {name}: {geometric_mean(values):.2f} times {p} in the geometric mean, "
                         f"{min(values):.2f} times at the least.")  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", help="written by pytest --benchmark-json")
    print(tables(*load(parser.parse_args().json)))


if __name__ == "__main__":
    main()
