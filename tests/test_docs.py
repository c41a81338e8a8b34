# SPDX-License-Identifier: Apache-2.0
"""The documentation: its Python runs, its commands parse, and its tables of options are the programs'."""

import dataclasses
import os
import re
import shlex
from pathlib import Path

import pytest

from pyrnn import cli
from pyrnn.examples.config import CaptionsConfig, Config, Options, TranslateConfig

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CHARLM, ATTENTION, CAPTIONS = (DOCS / f"{name}.md" for name in ("charlm", "attention", "captions"))
#: Every page that has Python in it.
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    if "```python" in path.read_text("utf-8")
]
#: What a page that says so needs.
NEEDS = {
    "import cupy": "cupy",
    "import torch": "torch",
    "import keras": "keras",
    "import onnx": "onnx",
    "import pyrnn.sklearn": "sklearn",
    "import pyrnn.jax": "jax",
}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of every fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, fence.start(1)), fence[1]) for fence in fences]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on PyTorch
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in their order, as one program."""
    for words, module in NEEDS.items():
        if words in page.read_text(encoding="utf-8"):
            monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
            pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for line, code in blocks(page, "python"):
        # Line numbers of a failure are those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), names)


@pytest.mark.skipif(not CHARLM.exists(), reason="the source distribution has no docs")
def test_hello_is_ten_lines() -> None:
    (_, code), *_ = blocks(CHARLM, "python")
    statements = [
        line for line in code.splitlines() if line.strip() and not line.startswith(("import", "assert"))
    ]
    assert "hello" in code and "assert" in code and len(statements) <= 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    commands = [
        line.removeprefix("$ ")
        for _, block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ pyrnn ")
    ]
    assert commands or page not in (CHARLM, ATTENTION, CAPTIONS)
    for command in commands:
        cli.parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.skipif(not CHARLM.exists(), reason="the source distribution has no docs")
@pytest.mark.parametrize(
    ("page", "config", "others"),
    [
        (CHARLM, Config, {"text", "prime", "temperature"}),
        (ATTENTION, TranslateConfig, {"no-attention", "pairs", "beam", "length-penalty", "plot"}),
        (CAPTIONS, CaptionsConfig, {"count", "plot"}),
    ],
    ids=["charlm", "attention", "captions"],
)
def test_table_of_options_is_complete(page: Path, config: type[Options], others: set[str]) -> None:
    rows = re.findall(r"^\| `--([\w-]+)` \| (.*?) ?\|", page.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: default.strip("`") for name, default in rows}
    for field in dataclasses.fields(config):
        assert documented.pop(field.name) == str(field.default)
    assert set(documented) == others | {"checkpoint", "resume", "log", "quiet"}


@pytest.mark.skipif(not CHARLM.exists(), reason="the source distribution has no docs")
def test_every_page_is_in_the_contents() -> None:
    """Once, in the table of contents of docs/index.md."""
    entries = [
        line for _, block in blocks(DOCS / "index.md", "{toctree}") for line in block.split("\n\n")[1].split()
    ]
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert len(entries) == len(set(entries))
    assert {entry for entry in entries if "/" not in entry} == pages
