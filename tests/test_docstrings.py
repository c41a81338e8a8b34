# SPDX-License-Identifier: Apache-2.0
"""Docstrings of the public names: their examples run, and arguments are described."""

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import re
import sys

import pytest

import pyrnn

#: Modules whose names are public, and what they cannot be imported without.
MODULES = {
    "pyrnn": (),
    "pyrnn.functional": (),
    "pyrnn.io": (),
    "pyrnn.reference": (),
    "pyrnn.viz": ("matplotlib",),
    "pyrnn.torch": ("torch",),
    "pyrnn.jax": ("jax", "pyrnn._jax"),
    "pyrnn.sklearn": ("sklearn",),
}


def module(name):
    """It, or a skip that says what is missing."""
    for needed in MODULES[name]:
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    return importlib.import_module(name)


def public(name):
    """Functions and classes by name, each where it is defined."""
    found = module(name)
    objects = {key: getattr(found, key) for key in found.__all__}
    return {key: o for key, o in objects.items() if inspect.isfunction(o) or inspect.isclass(o)}


def is_result(o):
    """What a function returns and nobody makes."""
    return inspect.isclass(o) and (issubclass(o, tuple) or dataclasses.is_dataclass(o))


def examples(o, name):
    """The doctests of a function, or of a class and its methods."""
    names = {"__name__": "__main__", "pyrnn": pyrnn}
    return [
        test for test in doctest.DocTestFinder(exclude_empty=True).find(o, name, globs=names) if test.examples
    ]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    for key, o in public(name).items():
        for test in examples(o, f"{name}.{key}"):
            needed = re.findall(r">>> import .*\b(torch|keras|onnx)\b", test.docstring or "")
            if all(importlib.util.find_spec(module) for module in needed):
                runner.run(test, out=report.append)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    assert runner.tries > 0 or name == "pyrnn.reference"
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_everything_has_an_example(name):
    """But the reference, whose names are those of the kernels, and results."""
    lacking = [key for key, o in public(name).items() if not is_result(o) and not examples(o, key)]
    assert not lacking or name == "pyrnn.reference"


@pytest.mark.parametrize("name", MODULES)
def test_arguments_are_described(name):
    """In a section of their own, or by naming in backticks whose they are."""
    lacking = []
    for key, o in public(name).items():
        text = inspect.getdoc(o) or ""
        told = re.search(r"^(Parameters|Attributes)\n-+$", text, re.MULTILINE) or re.search(r"`[\w.]+`", text)
        if not text or (not told and inspect.signature(o).parameters):
            lacking.append(key)
    assert not lacking
