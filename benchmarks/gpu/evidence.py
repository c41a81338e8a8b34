# SPDX-License-Identifier: Apache-2.0
"""What a run on a GPU showed, and whether the sources are still those that it showed it of."""

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results"
#: Tests and peers may change without anything on the GPU changing.
PARTS = (
    ("cuda", ("*.h", "*.cu")),
    ("csrc/cells", ("*.h",)),
    ("csrc/scores", ("*.h",)),
    ("csrc", ("activations.h", "scalar.h", "fn.h")),
)


def sources_hash(root: Path = ROOT) -> str:
    """SHA-256 of every source that the GPU's code is compiled from, names included."""
    digest = hashlib.sha256()
    files = {path for folder, patterns in PARTS for p in patterns for path in (root / folder).glob(p)}
    for path in sorted(files):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def results() -> list[tuple[Path, dict]]:
    """Every run whose results are kept, the latest last."""
    runs = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in RESULTS.glob("*.json")]
    return sorted(runs, key=lambda run: run[1]["date"])


def status() -> str:
    """One line: which run vouches for the sources as they are."""
    runs = results()
    if not runs:
        return "no GPU has run the CUDA kernels yet"
    now = sources_hash()
    for path, run in reversed(runs):
        if run["sources"] == now:
            return f"run on {run['device']}, {run['date']}: {path.name}"
    return f"stale: the sources changed since {runs[-1][0].name} ({runs[-1][1]['device']})"


if __name__ == "__main__":
    print(status())
