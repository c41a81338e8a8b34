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
        Uniform in ±1/√H, PyTorch's convention; the gains of normalisation are ones, what it adds and learned
        initial states zeros.

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
        else:
            match = re.search(r"_l([0-9]+)", name)
            bound = layout.units[int(match[1]) if match else 0] ** -0.5
            params[name] = rng.uniform(-bound, bound, shape)
    if forget_bias is not None:
        place = forget_gate(layout)
        for names in layout.passes:
            for (name, shape), value in zip(names[2:], (forget_bias, 0.0), strict=True):
                H = shape[0] // layout.spec.from_x
                params[name][place * H : place * H + H] = value
    return params


def forget_gate(layout: Layout) -> int:
    """Where the forget gate stands among the blocks of the biases."""
    from pyrnn.reference.cells import registry

    names = registry[layout.spec.name].gate_names
    if "f" not in names:
        raise ValueError(f"forget_bias: expected None, because {layout.spec.name} has no forget gate")
    if not layout.bias:
        raise ValueError("forget_bias: expected None without bias")
    return int(names.index("f"))
