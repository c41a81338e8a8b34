# SPDX-License-Identifier: Apache-2.0
"""The stub of the compiled module names what the module has, and nothing else."""

import ast
from pathlib import Path

import pyrnn
from pyrnn import _core


def names(body):
    return {node.name for node in body if hasattr(node, "name") and not node.name.startswith("__")}


def test_names():
    module = ast.parse(Path(pyrnn.__file__).with_name("_core.pyi").read_text(encoding="utf-8"))
    assert names(module.body) == {name for name in vars(_core) if not name.startswith("__")}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            have = {name for name in vars(getattr(_core, node.name)) if not name.startswith("_")}
            assert names(node.body) == have
