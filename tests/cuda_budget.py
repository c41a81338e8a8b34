# SPDX-License-Identifier: Apache-2.0
"""The compile gate: what nvcc reports of every kernel against cuda/budget.csv.

    cuda/build.sh FOLDER 80 90 && python tests/cuda_budget.py FOLDER          check
    CELLS="lstm gru" MATHS=bfloat16 cuda/build.sh FOLDER 90 && python tests/cuda_budget.py FOLDER --part
    cuda/build.sh FOLDER && python tests/cuda_budget.py FOLDER --write        take what is reported

`--part`: those alone that are both in the table and in this build are judged, and it says how many are not.
Registers in the table are whole eights, as the hardware gives them out: a kernel may move within them.

A kernel fails that spills, keeps an array in local memory, takes more registers than its budget on any
architecture, or has another number of mma.sync in its PTX: none where there were some means that it was
optimised away, or multiplies without tensor cores.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

BUDGET = Path(__file__).parent.parent / "cuda" / "budget.csv"
FIELDS = ("kernel", "registers", "mma")
REPORT = re.compile(
    r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


def readable(symbols: list[str]) -> dict[str, str]:
    """Kernels by symbol, without namespaces: `StepForward<Lstm, Bfloat16Math>`."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout
    names = {}
    for symbol, name in zip(symbols, text.splitlines(), strict=True):
        body = re.sub(r"^void pyrnn::cuda::run_body<(.*)>\(.*$", r"\1", name)
        names[symbol] = re.sub(r"pyrnn::(cuda|host)::", "", body).strip()
    return names


def reports(folder: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Registers, stack and spilled bytes by kernel and architecture."""
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    matches = [m.groups() for log in sorted(folder.glob("*.log")) for m in REPORT.finditer(log.read_text())]
    names = readable([m[0] for m in matches])
    for symbol, architecture, stack, stores, loads, registers in matches:
        numbers = (int(registers), int(stack), int(stores) + int(loads))
        found.setdefault(names[symbol], {})[architecture] = numbers
    return found


def products(folder: Path) -> dict[str, int]:
    """mma.sync instructions of every kernel, in the PTX of the newest architecture."""
    counts: dict[str, int] = {}
    for kept in sorted(folder.glob("*_functions")):
        versions = {int(re.sub(r"\D", "", path.name) or 0): path for path in kept.glob("*.ptx")}
        ptx = versions[max(versions)].read_text(encoding="utf-8")
        parts = re.split(r"^\s*\.visible \.entry (\w+)\(", ptx, flags=re.MULTILINE)
        for symbol, text in zip(parts[1::2], parts[2::2], strict=True):
            counts[symbol] = text.count("mma.sync")
    names = readable(list(counts))
    return {names[symbol]: count for symbol, count in counts.items()}


def main(folder: Path, write: bool, part: bool) -> int:
    """Exit code: 1 if a kernel fails."""
    found, mma = reports(folder), products(folder)
    if write:
        with BUDGET.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(FIELDS)
            for kernel in sorted(found):
                registers = max(r for r, *_ in found[kernel].values())
                table.writerow((kernel, (registers + 7) // 8 * 8, mma[kernel]))
    with BUDGET.open(newline="", encoding="utf-8") as file:
        budget = {row["kernel"]: row for row in csv.DictReader(file)}
    judged = {kernel: found[kernel] for kernel in sorted(found) if kernel in budget}
    wrong = [] if judged else ["no kernel of the table compiled"]
    if not part:
        wrong += [f"{kernel}: in the table, and not compiled" for kernel in budget if kernel not in found]
        wrong += [f"{kernel}: not in the table" for kernel in found if kernel not in budget]
    for kernel, architectures in judged.items():
        row = budget[kernel]
        for architecture, (registers, stack, spilled) in architectures.items():
            if stack or spilled:
                wrong.append(f"{kernel}, {architecture}: {stack} bytes of stack, {spilled} spilled")
            if registers > int(row["registers"]):
                wrong.append(f"{kernel}, {architecture}: {registers} registers, budget {row['registers']}")
        if mma[kernel] != int(row["mma"]):
            wrong.append(f"{kernel}: {mma[kernel]} mma.sync, expected {row['mma']}")
    left = len(found) - len(judged)
    print("\n".join(wrong) if wrong else f"{len(judged)} kernels within budget, {left} not in the table")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--write" in sys.argv[2:], "--part" in sys.argv[2:]))
