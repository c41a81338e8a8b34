# SPDX-License-Identifier: Apache-2.0
"""Peak memory of additive attention, beyond what the inputs take: python benchmarks/memory.py"""

from __future__ import annotations

import resource
import subprocess
import sys

from peers_attention import Pair, PyrnnAttention, TorchAttention

PEERS = {peer.name: peer for peer in (PyrnnAttention, TorchAttention)}
CASES = [(128, 10, 128, 1024), (32, 33, 34, 1024), (32, 1, 50, 512), (8, 200, 200, 256)]


def resident() -> float:
    """Resident memory now, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def measure(name: str, mode: str, sizes: list[int]) -> None:
    """Print by how much one call raises the peak over what is resident; a tiny call before has loaded all."""
    getattr(PEERS[name](Pair("additive", 1, 2, 2, 16), 1), mode)()
    peer = PEERS[name](Pair("additive", *sizes), 2)
    before = resident()
    getattr(peer, mode)()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)


def main() -> None:
    if len(sys.argv) > 1:
        name, mode, *sizes = sys.argv[1:]
        measure(name, mode, [int(size) for size in sizes])
        return
    print(
        "| B, Tq, Tk, D | "
        + " | ".join(f"{mode} {name} MiB" for mode in ("forward", "train") for name in PEERS)
        + " |"
    )
    print("|---|" + "---|" * 2 * len(PEERS))
    for case in CASES:
        row = [", ".join(map(str, case))]
        for mode in ("forward", "train"):
            for name in PEERS:
                command = [sys.executable, __file__, name, mode, *map(str, case)]
                row.append(f"{float(subprocess.run(command, capture_output=True, check=True).stdout):.0f}")
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
