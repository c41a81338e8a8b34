# SPDX-License-Identifier: Apache-2.0
"""Breaks the library on purpose, one line at a time, and expects the tests to notice.

python tests/planted_bugs.py            every bug, some seconds each on an idle core
python tests/planted_bugs.py --quick    four of them
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("csrc", "cuda", "pyrnn", "tests", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")

#: Which of the bugs the library has is said in the environment when it is loaded: it is compiled once.
DECLARED = 'extern "C" int pyrnn_planted;\n'
DEFINED = """
#include <cstdlib>
int pyrnn_planted = std::getenv("PYRNN_PLANTED") ? std::atoi(std::getenv("PYRNN_PLANTED")) : -1;
"""


def switched(bug: Bug) -> str:
    """C++ that is `old`, or `new` if the bug is planted: statement, expression or `name = expression`."""
    planted, old, new = f"pyrnn_planted == {BUGS.index(bug)}", bug.old, bug.new
    if old.endswith(";"):
        return f" {{ if ({planted}) {{ {new} }} else {{ {old} }} }}"
    name = re.match(r"[^=;(]*\w = ", old)
    kept = name[0] if name else ""
    return f"{kept}({planted} ? ({new.removeprefix(kept)}) : ({old.removeprefix(kept)}))"


def replaced(text: str, bug: Bug, new: str) -> str:
    """The text of the bug's file with `old`, which stands there once, replaced."""
    if text.count(bug.old) != 1:
        raise ValueError(
            f"{bug.name}: {bug.old!r} stands {text.count(bug.old)} times in {bug.file}, expected once"
        )
    return text.replace(bug.old, new)


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
        # Compiled for a few seconds of tests: what takes long is the optimiser.
        self.edit("CMakeLists.txt", lambda text: text.replace("-O3", "-O1"))
        self.edit("csrc/dispatch.cpp", lambda text: text + DEFINED)
        for file in {bug.file for bug in BUGS if bug.compiled}:
            self.edit(file, lambda text: DECLARED + text)
        for bug in BUGS:
            if bug.compiled:
                self.edit(bug.file, lambda text, bug=bug: replaced(text, bug, switched(bug)))
        self.site = folder / "site"
        self.environment = {**os.environ, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment.pop("PYRNN_ISA", None)

    def edit(self, file: str, change) -> None:
        path = self.tree / file
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    def install(self) -> None:
        """Builds the library, for one instruction set."""
        isa = "neon" if os.uname().machine in ("aarch64", "arm64") else "v3"
        command = ["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", f"-DPYRNN_ISAS={isa}"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_folder()}"]
        command += ["-DPYRNN_JAX=OFF", "-DPYRNN_CUDA=OFF"]
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

    def failing_test(self, names: Iterable[str], planted: int = -1, one_in: int = 1) -> str | None:
        """The first test of these files that fails, if one does, of one in so many cases."""
        tests = [f"tests/{name}.py" for name in names]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        process = subprocess.run(
            [*command, "--one-in", str(one_in), *tests],
            cwd=self.tree,
            env={**self.environment, "PYRNN_PLANTED": str(planted)},
            capture_output=True,
            text=True,
            timeout=3600,
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
    """The test that notices the bug: one of a sample, or of all if none of those does."""

    def noticed() -> str | None:
        number = BUGS.index(bug)
        return copy.failing_test(bug.tests, number, one_in=8) or copy.failing_test(bug.tests, number)

    if bug.compiled:
        return noticed()
    path = copy.site / bug.file
    text = path.read_text(encoding="utf-8")
    path.write_text(replaced(text, bug, bug.new), encoding="utf-8")
    try:
        return noticed()
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four bugs")
    quick = parser.parse_args().quick
    bugs = [bug for bug in BUGS if bug.quick or not quick]
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.install()
        failing = copy.failing_test(dict.fromkeys(name for bug in bugs for name in bug.tests), one_in=8)
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
