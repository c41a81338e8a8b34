# SPDX-License-Identifier: Apache-2.0
"""The thread pool under the thread sanitizer: a program of its own, several callers, no race."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "native" / "test_parallel.cpp"
EMPTY = "int main() { return 0; }\n"


def build(source, program, *flags, csrc=None):
    """Compiles `source`, with the thread pool of the folder `csrc` if there is one."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-O1", "-g", "-pthread", *flags, str(source), "-o", str(program)]
    if csrc:
        command += [f"-I{csrc}", str(csrc / "engine" / "parallel.cpp")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(program):
    # Address randomisation of recent kernels is more than older sanitizers can take.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    return subprocess.run(
        [*fixed, str(program)],
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1 second_deadlock_stack=1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def thread_sanitizer(tmp_path_factory):
    """The flag, where an empty program builds and runs with it."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "empty.cpp").write_text(EMPTY, encoding="utf-8")
    flag = "-fsanitize=thread"
    if build(folder / "empty.cpp", folder / "empty", flag).returncode or run(folder / "empty").returncode:
        pytest.skip("the compiler has no thread sanitizer that runs here")
    return flag


def test_no_race(tmp_path, thread_sanitizer):
    flags = ("-Wall", "-Wextra", "-Werror", thread_sanitizer)
    built = build(PROGRAM, tmp_path / "parallel", *flags, csrc=ROOT / "csrc")
    assert built.returncode == 0, built.stderr
    result = run(tmp_path / "parallel")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 wrong" in result.stdout and "WARNING" not in result.stderr


@pytest.mark.parametrize("file", ["barrier.h", "parallel.cpp"])
def test_a_race_is_seen(file, tmp_path, thread_sanitizer):
    """The same program with nothing ordered: the sanitizer must tell, or it guards nothing."""
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    text = (csrc / "engine" / file).read_text(encoding="utf-8")
    relaxed = re.sub(r"__ATOMIC_(ACQUIRE|RELEASE|ACQ_REL)", "__ATOMIC_RELAXED", text)
    relaxed = re.sub(r"memory_order_(acquire|release|acq_rel)", "memory_order_relaxed", relaxed)
    assert relaxed != text
    (csrc / "engine" / file).write_text(relaxed, encoding="utf-8")
    built = build(PROGRAM, tmp_path / "broken", thread_sanitizer, csrc=csrc)
    assert built.returncode == 0, built.stderr
    result = run(tmp_path / "broken")
    assert result.returncode != 0 and "data race" in result.stderr
