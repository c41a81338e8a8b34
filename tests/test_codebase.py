# SPDX-License-Identifier: Apache-2.0
"""Rules of the code base that no compiler and no linter checks."""

import re
import tomllib
from pathlib import Path

import planted_bugs
import pytest

import pyrnn

ROOT = Path(__file__).parent.parent
FOLDERS = (".ci", "benchmarks", "csrc", "cuda", "docs", "pyrnn", "tests")
SUFFIXES = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".txt", ".toml", ".yaml", ".sh", ".md", ""}
MOST_LINES = 450


def text_files():
    top = [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".git")]
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(
        path
        for path in top + below
        if path.suffix in SUFFIXES and "__pycache__" not in path.relative_to(ROOT).parts
    )


FILES = text_files()
SOURCES = [
    path for path in FILES if path.suffix != ".md" and path.name not in ("LICENSE", "NOTICE", "py.typed")
]
CODE = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in FOLDERS]


def name(path):
    return str(path.relative_to(ROOT))


def test_the_files_are_found():
    """The rules below are about something."""
    found = {name(path) for path in SOURCES}
    assert {".ci/run", "CMakeLists.txt", "csrc/kernels.cpp", "pyproject.toml", "pyrnn/__init__.py"} <= found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_license_line(path):
    """First, or second after a #! line."""
    assert any("SPDX-License-Identifier: Apache-2.0" in line for line in path.read_text().splitlines()[:2])


@pytest.mark.parametrize("path", CODE, ids=name)
def test_length(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    folders = ("work", "tmp", "home", "root", "Users")
    found = re.findall(rf"(?<![\w.)}}~*-])/(?:{'|'.join(folders)})/[\w.]+", text)
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_put_off(path):
    """Neither notes to oneself nor numbers of issues: both belong where they can be closed."""
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    text = path.read_text(encoding="utf-8")
    assert not [word for word in words if re.search(rf"\b{word}\b", text)]
    assert not re.search(r"(?i)\b(issue|pull|PR) ?#\d+", text)


def test_names_of_files():
    """A name that fits everything says nothing."""
    banned = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [name(path) for path in FILES if banned & set(re.split(r"[_.]", path.name.lower()))]


@pytest.mark.parametrize("path", [path for path in CODE if path.suffix in {".h", ".cpp", ".cu"}], ids=name)
def test_no_openmp(path):
    """GNU's run-time library hangs after a fork."""
    assert not re.search(r"#\s*pragma\s+omp|<omp\.h>", path.read_text(encoding="utf-8"))


def test_flags():
    """-ffast-math, linked in, sets flush-to-zero for the whole process."""
    lines = [
        line.split("#", 1)[0]
        for file in ("CMakeLists.txt", "pyproject.toml")
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines()
    ]
    for flag in ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native", "-fopenmp"):
        assert not [line for line in lines if flag in line]


def reachable(path, seen):
    """`path` and every file of the project that it includes; the system's headers by name."""
    system = set()
    if path not in seen:
        seen.add(path)
        for kind, included in re.findall(r'^\s*#\s*include\s+([<"])([^>"]+)', path.read_text(), re.MULTILINE):
            system |= {included} if kind == "<" else reachable((path.parent / included).resolve(), seen)
    return system


def test_headers_of_the_kernels():
    """An inline function of the standard library would be compiled for every instruction set, and the linker
    would keep one copy, perhaps one that the processor cannot run."""
    seen = set()
    system = reachable((ROOT / "csrc" / "kernels.cpp").resolve(), seen)
    assert len(seen) > 10
    assert system <= {"stddef.h", "stdint.h", "math.h", "sched.h", "immintrin.h"}


@pytest.mark.parametrize("folder", ["cells", "engine"])
def test_kernels_live_in_the_namespace_of_their_instruction_set(folder):
    """Otherwise two objects would share a name and the linker would keep either."""
    seen = set()
    reachable((ROOT / "csrc" / "kernels.cpp").resolve(), seen)
    compiled_once = "parallel.h"
    for path in seen:
        text = path.read_text(encoding="utf-8")
        if path.parent.name == folder and "namespace pyrnn {" in text and path.name != compiled_once:
            assert "inline namespace PYRNN_ISA_NAMESPACE {" in text, name(path)


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == pyrnn.__version__
    assert f"## [{pyrnn.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_runtime_dependency_but_numpy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [re.split(r"\W", dependency)[0] for dependency in project["dependencies"]] == ["numpy"]


@pytest.mark.parametrize("bug", planted_bugs.BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug):
    """What it changes stands in its file, once."""
    assert (ROOT / bug.file).read_text(encoding="utf-8").count(bug.old) == 1
