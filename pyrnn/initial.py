# SPDX-License-Identifier: Apache-2.0
"""What parameters start from."""

from __future__ import annotations

import re

import numpy as np

from pyrnn.layout import Array, Layout


def initial_params(
    layout: Layout, rng: np.random.Generator, forget_bias: float | None = None
) -> dict[str, Array]:
    """Parameters of a new layer, in float64.

    Parameters
    ----------
    layout : Layout
    rng : numpy.random.Generator
    forget_bias : float, optional
        The forget gate's part of `bias_ih`; that of `bias_hh` is zero then.

    Returns
    -------
    dict of arrays
        Uniform in ±1/√H, PyTorch's convention; a unit's weight of its own past uniform in 0 to 1 (Li et al.
        2018, for sequences of any length); the gains of normalisation are ones, what it adds and learned
        initial states zeros, and periods as `periods` has them.

    Raises
    ------
    ValueError
        There is no forget gate, or it has no bias.
    """
    params = {}
    for name, shape in layout.shapes.items():
        if name.startswith("weight_ln"):
            params[name] = np.ones(shape)
        elif name.startswith("bias_ln") or name[0] not in "wb":
            params[name] = np.zeros(shape)
        elif name.startswith("weight_period"):
            params[name] = periods(shape[1])[None]
        elif own_past(layout, name):
            params[name] = rng.uniform(0, 1, shape)
        else:
            match = re.search(r"_l([0-9]+)", name)
            bound = layout.units[int(match[1]) if match else 0] ** -0.5
            params[name] = rng.uniform(-bound, bound, shape)
    if forget_bias is not None:
        gates = forget_gates(layout)
        for names, H in zip(layout.passes, np.repeat(layout.units, layout.directions), strict=True):
            for (name, _), places, value in zip(names[2:], gates, (forget_bias, 0.0), strict=True):
                for place in places:
                    params[name][place * H : place * H + H] = value
    return params


def own_past(layout: Layout, name: str) -> bool:
    """Whether a parameter is what each unit multiplies its own past with."""
    return not layout.spec.from_h and name.startswith("weight_hh")


def periods(hidden_size: int, most: int = 8) -> Array:
    """1, 2, 4, 8 … for as many groups of units, at most so many, as equal as can be: (H,), in float64."""
    groups = min(most, hidden_size)
    return np.asarray(2.0 ** (np.arange(hidden_size) * groups // hidden_size))


def forget_gates(layout: Layout) -> tuple[list[int], list[int]]:
    """Where the forget gate stands among the blocks of bias_ih and of bias_hh."""
    from pyrnn.reference.cells import registry

    cell = registry[layout.spec.name]
    names = cell.gate_names
    if "f" not in names:
        raise ValueError(f"forget_bias: expected None, because {layout.spec.name} has no forget gate")
    if not layout.bias:
        raise ValueError("forget_bias: expected None without bias")
    slot = cell.from_x[names.index("f")]
    of_x, of_h = ([k for k, at in enumerate(slots) if at == slot] for slots in (cell.from_x, cell.from_h))
    return of_x, of_h
