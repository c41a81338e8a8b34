# SPDX-License-Identifier: Apache-2.0
"""The pages of the API: one for each group of names in `pyrnn`, one for each module that can be imported."""

import importlib
import inspect
import shutil
from pathlib import Path
from types import ModuleType

import pyrnn

#: Groups of the package's own names; what stands in none of them comes last.
GROUPS = {
    "Layers": ("LSTM", "GRU", "RNN", "Recurrent", "Stream", "Gradients", "load"),
    "Cells": ("cells", "Cell", "LSTMCell", "GRUCell", "RNNCell"),
    "Attention": (
        "attention",
        "BahdanauAttention",
        "LuongAttention",
        "LocationAttention",
        "MonotonicAttention",
        "AttentionGradients",
        "from_padding_mask",
    ),
    "Decoder": ("AttentionDecoder", "DecoderGradients", "Carry", "Hypotheses"),
}
#: Modules with a page each, where what they need is installed.
MODULES = (
    "functional",
    "io",
    "torch",
    "jax",
    "sklearn",
    "viz",
    "reference",
)


def write(folder: Path) -> None:
    """The pages, with nothing of an earlier build beside them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    public = [name for name in pyrnn.__all__ if name[0] != "_"]
    objects = [name for name in public if not isinstance(getattr(pyrnn, name), ModuleType)]
    grouped = {title: [name for name in names if name in objects] for title, names in GROUPS.items()}
    rest = sorted(set(objects) - {name for names in grouped.values() for name in names})
    pages = []
    for title, names in {**grouped, "Settings": rest}.items():
        pages.append(title.lower())
        page(folder / f"{pages[-1]}.rst", title, "pyrnn", "", names)
    for name in MODULES:
        try:
            module = importlib.import_module(f"pyrnn.{name}")
        except ImportError as error:
            print(f"API: no page of pyrnn.{name}: {error}")
            continue
        pages.append(name)
        text = inspect.getdoc(module) or ""
        page(folder / f"{name}.rst", f"pyrnn.{name}", f"pyrnn.{name}", text, module.__all__)
    (folder / "index.rst").write_text(
        f"{heading('API')}\n\n.. toctree::\n   :maxdepth: 2\n\n" + "".join(f"   {page}\n" for page in pages),
        encoding="utf-8",
    )


def page(path: Path, title: str, module: str, text: str, names: list[str]) -> None:
    """A heading, what the module says of itself, and the table of its names."""
    path.write_text(
        f"{heading(title)}\n\n.. currentmodule:: {module}\n\n{text}\n\n"
        ".. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n"
        + "".join(f"   {name}\n" for name in names),
        encoding="utf-8",
    )


def heading(title: str) -> str:
    """Underlined."""
    return f"{title}\n{'=' * len(title)}"
