# SPDX-License-Identifier: Apache-2.0
"""Figures as Markdown: a table for each mode, losses beside wins, and what was wrong or missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median

from pyrnn.bench.figures import OURS, Figures, Row
from pyrnn.bench.grid import MODES, Case
from pyrnn.bench.timing import quartiles


@dataclass
class Entry:
    """A row of a table: what is computed, its sizes, and the seconds of every library."""

    label: str
    sizes: str
    seconds: dict[str, list[float]]
    errors: dict[str, str] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    by: str = ""
    kept: float | None = None


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(r) + " |" for r in rows),
    ]


def time(values: Sequence[float] | None) -> str:
    """Median in microseconds and half the spread between the quartiles, in per cent."""
    if not values:
        return ""
    low, middle, high = quartiles(list(values))
    text = f"{middle * 1e6:,.{1 if middle < 1e-4 else 0}f}"
    return text + (f" ± {50 * (high - low) / middle:.0f} %" if len(values) > 1 else "")


def ratio(value: float) -> str:
    """Three digits at the most."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def section(title: str, entries: Sequence[Entry]) -> list[str]:
    """A table of one mode, and what it comes to."""
    names = list(dict.fromkeys(name for e in entries for name in [*e.seconds, *e.errors]))
    peers = [name for name in names if name != OURS]
    shares, kept = any(e.shares for e in entries), any(e.kept for e in entries)
    head = ["", "sizes", f"{OURS} µs", *(["of its limit"] if shares else []), *(f"{p} µs" for p in peers)]
    head += [f"× {p}" for p in peers] if len(peers) < 3 else ["× best peer"]
    head += ["numbers kept"] if kept else []
    rows, wins = [], defaultdict(list)
    for e in entries:
        ours = median(e.seconds[OURS]) if e.seconds.get(OURS) else None
        row = [e.label, e.sizes, time(e.seconds.get(OURS)) or "error"]
        if shares:
            row.append(f"{100 * median(e.shares):.0f} % {e.by}".strip() if e.shares else "")
        row += ["error" if p in e.errors else time(e.seconds.get(p)) for p in peers]
        against = {p: median(e.seconds[p]) / ours for p in peers if e.seconds.get(p)} if ours else {}
        for p, value in against.items():
            wins[e.label, p].append((value, e))
        if len(peers) < 3:
            row += [ratio(against[p]) if p in against else "" for p in peers]
        else:
            best = min(against, key=against.__getitem__, default=None)
            row.append(f"{ratio(against[best])} {best}" if best else "")
        if kept:
            row.append(f"{e.kept:.2f}" if e.kept else "")
        rows.append(row)
    lines = [f"### {title}", "", *markdown(head, rows), ""]
    for (label, p), values in wins.items():
        found = [value for value, _ in values]
        if len(found) < 2:
            continue
        lines.append(
            f"- {label}: {geometric_mean(found):.2f} times {p} in the geometric mean, "
            f"{min(found):.2f} times at the least."
        )
    losses = [
        f"{label} {e.sizes} ({ratio(v)} {p})" for (label, p), found in wins.items() for v, e in found if v < 1
    ]
    if losses:
        lines.append(f"- Slower than a peer: {'; '.join(losses)}.")
    lines += [f"- {e.label} {e.sizes}, {name}: {error}" for e in entries for name, error in e.errors.items()]
    return [*lines, ""]


def label_of(case: Case) -> str:
    """The cell, and the form where it is not a plain layer."""
    return case.cell if case.form == "plain" else f"{case.cell} {case.form}"


def entry_of(row: Row) -> Entry:
    """As the tables take it."""
    sizes = ", ".join(map(str, row.case.shape))
    return Entry(label_of(row.case), sizes, row.seconds, row.errors, row.shares, row.by, row.kept)


def padded(rows: Sequence[Row]) -> list[str]:
    """What sequences of unequal length take of the time that all steps take."""
    lines = []
    for row in rows:
        case = row.case
        if case.form != "lengths" or not row.ours:
            continue
        for other in rows:
            plain = Case(case.cell, *case.shape, case.mode, "plain", case.compute)
            if other.case == plain and other.threads == row.threads and other.ours:
                lines.append(
                    f"- {case}: {100 * case.steps / plain.steps:.0f} % of the steps take "
                    f"{100 * row.ours / other.ours:.0f} % of the padded time."
                )
    return lines


def peaks_of(figures: Figures) -> list[str]:
    """The machine's limits, a row for each number of threads."""
    if not figures.peaks:
        return []
    first = next(iter(figures.peaks.values()))
    head = [
        "threads",
        *(f"{name} GFLOP/s" for name in first["GFLOP/s"]),
        *(f"{name} GB/s" for name in first["GB/s"]),
    ]
    rows = [
        [
            threads,
            *(f"{v:.0f}" for v in found["GFLOP/s"].values()),
            *(f"{v:.0f}" for v in found["GB/s"].values()),
        ]
        for threads, found in figures.peaks.items()
    ]
    return [*markdown(head, rows), ""]


def report(figures: Figures) -> str:
    """The whole report."""
    machine = figures.machine
    lines = [
        ", ".join(f"{name} {version}" for name, version in figures.versions.items()) + ".",
        f"{', '.join(str(machine[name]) for name in ('processor', 'instruction set', 'platform'))}.",
        "",
        *peaks_of(figures),
    ]
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in figures.rows:
        groups[row.case.mode, row.case.compute, row.threads].append(row)
    for mode, title in MODES.items():
        for (kind, compute, threads), rows in sorted(groups.items(), key=lambda item: item[0][1:]):
            if kind == mode:
                heading = f"{title}, {compute}, {threads} thread{'s' * (threads > 1)}"
                lines += section(heading, [entry_of(row) for row in rows])
    lines += padded(figures.rows)
    lines += [f"- {name}: {reason}" for name, reason in figures.missing.items()]
    return "\n".join(lines).rstrip() + "\n"
