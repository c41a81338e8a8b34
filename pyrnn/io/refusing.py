# SPDX-License-Identifier: Apache-2.0
"""Options of a layer that another library does not have: an error names them before anything is made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyrnn.options import Chosen

DEFAULTS = {"zoneout": 0.0, "layer_norm": False, "proj_size": 0, "reverse": False}
#: It decided what parameters started from, and nothing since.
SPENT = {"forget_bias"}


def refuse(layer: Any, library: str, allowed: Collection[str] = ()) -> None:
    """ValueError for every option but the allowed ones that is not the default.

    Options that are new here are refused until a library's conversion allows them.
    """
    values = {name: (getattr(layer, name), default) for name, default in DEFAULTS.items()}
    chosen = layer._chosen.changed()
    values |= {name: (value, Chosen._field_defaults[name]) for name, value in chosen.items()}
    for name, (value, default) in values.items():
        if value != default and name not in allowed and name not in SPENT:
            raise ValueError(f"{name}: expected {default!r}, which {library} has, got {value!r}")
    if layer._layout.ragged and "hidden_size" not in allowed:
        raise ValueError(
            f"hidden_size: expected one for all layers, which {library} has, got {layer.hidden_size}"
        )
