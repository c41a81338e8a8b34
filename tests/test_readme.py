# SPDX-License-Identifier: Apache-2.0
"""The README is true: its table of cells, its links and its limits."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import pyrnn
from pyrnn import _core
from pyrnn.scoring import SCORES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def table_of_cells():
    """Rows by the cell's name: layer, state, gates, equivalent."""
    section = README.split("## Cells")[1].split("\n## ")[0]
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_cell_is_in_the_table():
    assert tuple(table_of_cells()) == pyrnn.cells()


@pytest.mark.parametrize("cell", pyrnn.cells())
def test_row_of_a_cell(cell):
    layer_text, states, gates, _ = table_of_cells()[cell]
    if layer_text == f'`pyrnn.Recurrent("{cell}", …)`':
        layer = pyrnn.Recurrent(cell, 3, 4)
    else:
        name, option, value = re.fullmatch(r"`pyrnn\.(\w+)(?:\((\w+)=(.+)\))?`", layer_text).groups()
        layer = getattr(pyrnn, name)(3, 4, **({option: ast.literal_eval(value)} if option else {}))
    assert layer.cell == cell
    assert len(states.split(", ")) == _core.cells()[cell]["states"]
    assert list(layer.gates(np.zeros((2, 1, 3), np.float32))) == gates.split(" ")


def test_every_score_is_in_the_table():
    section = README.split("## Scores")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line[:3] == "| `"]
    assert [row[1].strip(" `") for row in rows] == list(SCORES)
    for row in rows:
        for name in re.findall(r"`pyrnn\.(\w+)`", row[-2]):
            assert isinstance(getattr(pyrnn, name), type)


def test_length():
    assert len(README.splitlines()) < 150


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the source distribution has no docs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_what_is_said_to_be_missing_is():
    limits = README.split("## Limits")[1].split("\n## ")[0]
    assert '`device="cuda"`' in limits
    with pytest.raises(RuntimeError, match="device"):
        pyrnn.GRU(3, 4, device="cuda")
