# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources without a GPU: numbers, fragments and plan; the exchange under the thread sanitizer."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cuda_library import compiler
from test_parallel_native import run, thread_sanitizer  # noqa: F401

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "tests" / "native"
FLAGS = ("-std=c++17", "-O0", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror")


def build(folder, name, *flags, change=None):
    """A program of tests/native on a copy of the sources, in which `change` = (file, old, new) is made."""
    for part in ("csrc", "cuda", "tests/native"):
        shutil.copytree(ROOT / part, folder / part)
    if change:
        file, old, new = change
        text = (folder / "cuda" / file).read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}"
        (folder / "cuda" / file).write_text(text.replace(old, new), encoding="utf-8")
    program = folder / name
    sources = [folder / "tests" / "native" / f"{name}.cpp"]
    if name == "test_cuda_plan":
        sources.append(folder / "cuda" / "emulator.cpp")
    command = [compiler(), *FLAGS, *flags, *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def test_numbers_fragments_and_plan(tmp_path):
    result = run(build(tmp_path, "test_cuda_plan"))
    assert result.returncode == 0, result.stdout
    assert "0 failed" in result.stdout


@pytest.mark.parametrize(
    "change",
    [
        ("fragment.h", "8 * (i >> 1)", "8 * (i & 1)"),
        ("fragment.h", "group_of(context.lane()), piece", "piece_of(context.lane()), piece"),
        ("fragment.h", "lower.word[2 * half + 1]", "upper.word[2 * half + 1]"),
        ("number.h", "0x7fff + (bits >> 16 & 1)", "0x8000"),
        ("plan.h", "(tiles + groups - 1) / groups", "tiles / groups"),
        ("plan.h", "place.unit_blocks > machine.multiprocessors", "place.unit_blocks > 2048"),
        ("plan.h", "place.fits = place.shared <= size_t(machine.shared_bytes)", "place.fits = true"),
    ],
    ids=lambda change: change[1],
)
def test_a_bug_is_seen(tmp_path, change):
    result = run(build(tmp_path, "test_cuda_plan", change=change))
    assert result.returncode != 0, result.stdout


def test_exchange_has_no_race(tmp_path, thread_sanitizer):  # noqa: F811
    result = run(build(tmp_path, "test_cuda_exchange", thread_sanitizer))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("0 wrong") and "WARNING" not in result.stderr


#: What orders the kernels' exchange, taken away.
RACES = {
    "no barrier": ("persistent.h", "        context.barrier();", ""),
    "one buffer": ("persistent.h", "turn ^= 1", "turn ^= 0"),
    "nothing is awaited in float32": ("number.h", "  return word == 0xffffffff;", "  return false;"),
    "nothing is awaited": ("persistent.h", "while (missing(", "while (false && missing("),
}


def test_races_are_seen(tmp_path, thread_sanitizer):  # noqa: F811
    """The same kernels without what orders them: the sanitizer or the result must tell."""

    def broken(name):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        return name, run(build(folder, "test_cuda_exchange", thread_sanitizer, change=RACES[name]))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, result in pool.map(broken, RACES):
            assert result.returncode != 0, name
            assert "data race" in result.stderr or not result.stdout.startswith("0 wrong"), name
