# SPDX-License-Identifier: Apache-2.0
"""Evidence from a GPU is about sources: README and docs say what none has confirmed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / "benchmarks" / "gpu" / "evidence.py"


@pytest.fixture
def evidence():
    if not EVIDENCE.exists():
        pytest.skip("the source distribution has no benchmarks")
    spec = importlib.util.spec_from_file_location("evidence", EVIDENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hash_is_of_the_sources(evidence, tmp_path):
    for folder in ("cuda", "csrc"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert evidence.sources_hash(tmp_path) == evidence.sources_hash()
    (tmp_path / "csrc" / "dispatch.cpp").write_text("", encoding="utf-8")
    assert evidence.sources_hash(tmp_path) == evidence.sources_hash()
    with (tmp_path / "csrc" / "cells" / "lstm.h").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert evidence.sources_hash(tmp_path) != evidence.sources_hash()


def test_docs_say_what_no_gpu_has_confirmed(evidence, record_property):
    """Stale or missing evidence is no failure, but it is said."""
    status = evidence.status()
    record_property("evidence", status)
    print(status)
    for page in (ROOT / "README.md", ROOT / "docs" / "cuda.md"):
        says_so = "no gpu has run" in " ".join(page.read_text(encoding="utf-8").lower().split())
        assert says_so == (not evidence.results()), page.name
