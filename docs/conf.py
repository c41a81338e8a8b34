# SPDX-License-Identifier: Apache-2.0
"""The site: the Markdown beside this file, a gallery of programs that are run, the reference of the API."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# Spinning threads of a BLAS would take the cores from the layers; see pyrnn/examples.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import names  # noqa: E402

import pyrnn  # noqa: E402

project = "pyrnn"
author = "the authors of pyrnn"
version = release = pyrnn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["gallery", "_templates", "_build"]
templates_path = ["_templates"]
nitpicky = False
default_role = "autolink"
suppress_warnings = ["ref.python"]  # `forward` in a docstring is a word of many classes

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_fence_as_directive = []

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "how",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"pyrnn {version}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False
project_copyright = "the authors of pyrnn; Apache-2.0"

names.write(HERE / "api")

#: Files of the repository that a page includes, and so links to them lead there.
INCLUDED = {"README.md": "cells.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}


def links(app, docname, source):
    """Leads links out of this folder, which are good in the repository, to the pages of the site."""
    for file, page in INCLUDED.items():
        source[0] = source[0].replace(f"](../{file}", f"]({page}")


def bars(app, what, name, obj, options, lines):
    """Keeps |x| an absolute value, which reStructuredText takes for a substitution."""
    code = (">>>", "...", "+-", "+=", "| ")
    lines[:] = [
        line if line.strip().startswith(code) or "``" in line else line.replace("|", "\\|") for line in lines
    ]


def setup(app):
    """Both hooks; the second after numpydoc's."""
    app.connect("source-read", links)
    app.connect("autodoc-process-docstring", bars, priority=900)
