# SPDX-License-Identifier: Apache-2.0
"""Breaks the library on purpose, one line at a time, and expects the tests to notice.

python tests/planted_bugs.py            every bug, about half a minute each on two cores
python tests/planted_bugs.py --quick    three of them
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("csrc", "pyrnn", "tests", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")
TESTS = ("test_minimal", "test_dual", "test_kernels", "test_semantics", "test_streams", "test_reference")


class Bug(NamedTuple):
    """`old`, which stands once in the file, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    quick: bool = False


BUGS = (
    Bug(
        "gate order swapped",
        "csrc/cells/lstm.h",
        "i = Sigmoid::f(a[0]), f = Sigmoid::f(a[1])",
        "f = Sigmoid::f(a[0]), i = Sigmoid::f(a[1])",
    ),
    Bug("z for 1 - z", "csrc/cells/gru.h", "n + z * (s[0] - n)", "s[0] + z * (n - s[0])"),
    Bug("r gates nothing in the backward", "csrc/cells/gru.h", "da[3] = dn * r;", "da[3] = dn;"),
    Bug("a state's gradient dropped", "csrc/cells/lstm.h", "ds[1] = dc * f;", "ds[1] = dc;"),
    Bug(
        "lengths ignored",
        "csrc/engine/schedule.cpp",
        "!options.lengths || t < options.lengths[b]",
        "!options.lengths || t < options.lengths[b] + T",
        quick=True,
    ),
    Bug(
        "initial state ignored",
        "csrc/engine/sequence_forward.h",
        "b < B && args.state[s].data ?",
        "b < 0 && args.state[s].data ?",
    ),
    Bug("reverse ignored", "csrc/engine/schedule.cpp", "options.reverse ? T - 1 - i : i", "i"),
    Bug(
        "resets ignored",
        "csrc/engine/schedule.cpp",
        "options.resets && options.resets[",
        "false && options.resets[",
    ),
    Bug(
        "gradient flows through a reset",
        "csrc/engine/sequence_backward.h",
        "if (source > B) continue;",
        "if (source >= 0) continue;",
    ),
    Bug("a bias dropped", "csrc/engine/pack.h", "add(bias_hh, Cell::from_h,", "add(nullptr, Cell::from_h,"),
    Bug(
        "R transposed in the backward",
        "csrc/engine/sequence_backward.h",
        "[&](int64_t k) { return hh + k * H; }",
        "[&](int64_t k) { return hh + (k / H * H + (H - 1 - k % H)) * H; }",
    ),
    Bug(
        "weight gradient from the new h",
        "csrc/engine/sequence_backward.h",
        "state_row(schedule.source[first + k])",
        "state_row(schedule.target[first + k])",
        quick=True,
    ),
    Bug(
        "final state from the last step of the batch",
        "csrc/engine/schedule.cpp",
        "last_[b] = target_.back();",
        "last_[B - 1 - b] = target_.back();",
    ),
    Bug(
        "dropout mask not used in the backward",
        "pyrnn/stacking.py",
        "            dx *= dropped\n",
        "            pass\n",
        True,
    ),
    Bug("directions swapped", "pyrnn/stacking.py", "reverse=d == 1,", "reverse=d == 0 and D == 2,"),
)


class Copy:
    """A copy of the tree, and the library built from it, before other packages in the search path."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.build = folder / "tree", folder / "build"
        self.tree.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
                )
            else:
                shutil.copy2(source, self.tree / name)
        self.site = folder / "site"
        self.environment = {**os.environ, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment.pop("PYRNN_ISA", None)

    def install(self) -> None:
        """Builds what changed, for one instruction set."""
        isa = "neon" if os.uname().machine in ("aarch64", "arm64") else "v3"
        command = ["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", f"-DPYRNN_ISAS={isa}"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_folder()}"]
        run(command)
        run(["cmake", "--build", self.build])
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(self.tree / "pyrnn", self.site / "pyrnn")
        for extension in self.build.glob("_core*.so"):
            shutil.copy2(extension, self.site / "pyrnn")
        where = [sys.executable, "-P", "-c", "import pyrnn; print(pyrnn.__file__)"]
        found = subprocess.check_output(where, env=self.environment, text=True)
        if not found.startswith(str(self.site)):  # an editable install comes first, whatever the path says
            raise RuntimeError(
                f"the tests would import {found.strip()}: run this where pyrnn is not editable"
            )

    def failing_test(self) -> str | None:
        """The first test that fails, if one does."""
        tests = [f"tests/{name}.py" for name in TESTS]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        process = subprocess.run(
            command,
            cwd=self.tree,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if process.returncode == 0:
            return None
        # 1 is a test that failed, a negative number a signal; anything else means that no test was run.
        if process.returncode > 1:
            raise RuntimeError(process.stdout + process.stderr)
        failed = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("FAILED")]
        return failed[0].removeprefix("tests/") if failed else f"signal {-process.returncode}"


def pybind11_folder() -> str:
    return subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()


def run(command: list) -> None:
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(list(map(str, command)), env=tools, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{process.stdout}{process.stderr}")


def plant(copy: Copy, bug: Bug) -> str | None:
    """The test that notices the bug."""
    path = copy.tree / bug.file
    text = path.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise ValueError(
            f"{bug.name}: {bug.old!r} stands {text.count(bug.old)} times in {bug.file}, expected once"
        )
    path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    try:
        copy.install()
        return copy.failing_test()
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three bugs")
    quick = parser.parse_args().quick
    bugs = [bug for bug in BUGS if bug.quick or not quick]
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.install()
        failing = copy.failing_test()
        if failing:
            print(f"without any bug: {failing} fails")
            return 1
        caught = 0
        print("| bug | file | noticed by | s |\n|---|---|---|---|", flush=True)
        for bug in bugs:
            start = time.perf_counter()
            noticed = plant(copy, bug)
            caught += noticed is not None
            seconds = time.perf_counter() - start
            print(f"| {bug.name} | {bug.file} | {noticed or 'NOBODY'} | {seconds:.0f} |", flush=True)
    print(f"\n{caught} of {len(bugs)} noticed")
    return 0 if caught == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
