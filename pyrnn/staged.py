# SPDX-License-Identifier: Apache-2.0
"""Streams of layers whose step is not one product: the layer itself, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from pyrnn import stacking
from pyrnn.layout import Array


class StagedStream:
    """The methods of `pyrnn._core.Stream` for cells with late slots, normalised and projected layers.

    Parameters
    ----------
    layer : pyrnn.Recurrent
    batch_size : int
    """

    def __init__(self, layer: Any, batch_size: int) -> None:
        self.layer, self.batch_size = layer, batch_size
        self.reload()
        rows, widths = (layer.num_layers, batch_size), layer._layout.state_sizes
        self.states = [np.zeros((*rows, width), layer.dtype) for width in widths]

    def reload(self, layers: Any = None) -> None:
        """Read the weights again; the states stay."""
        layer = self.layer
        layer._backend.arrays.weights(layer._layout, layer.params, layer.dtype)  # checks them
        layer._backend.arrays.extras(layer._layout, layer.params, layer.dtype)
        self.params = {name: np.array(a) for name, a in layer.params.items()}

    def step(self, x: Array, out: Array | None = None) -> Array:
        """One step: x (B, I), or (I,) when B is 1, to y of the same form."""
        if not isinstance(x, np.ndarray):
            raise TypeError("x: expected a NumPy array")
        return self.into(out, self.advance(x[None], "x", "")[0], "(B, H)")

    def run(self, block: Array, out: Array | None = None) -> Array:
        """Steps: block (n, B, I) or (n, I) to (n, B, H) or (n, H)."""
        return self.into(out, self.advance(block, "x", "n, "), "(n, B, H)")

    def into(self, out: Array | None, y: Array, axes: str) -> Array:
        """y, in `out` if given."""
        if out is None:
            return y
        self.layer._backend.arrays.output(out, y.shape, axes, self.layer.dtype, [])
        out[...] = y
        return out

    def advance(self, block: Array, name: str, steps: str) -> Array:
        """The states by a block of steps."""
        layer, B = self.layer, self.batch_size
        plain = block.ndim == 2 and B == 1
        shape = (*block.shape[:1], *(() if plain else (B,)), layer.input_size)
        if block.shape != shape:
            without = " or without B" if B == 1 else ""
            raise ValueError(
                f"{name}: expected shape ({steps}B, I) = ({steps}{B}, {layer.input_size}){without}, "
                f"got {block.shape if steps else block.shape[1:]}"
            )
        x = block.reshape(len(block), B, layer.input_size)
        states = tuple(self.states)
        y, final, _ = stacking.forward(
            layer._backend,
            layer._layout,
            layer.dtype,
            x,
            states[0] if len(states) == 1 else states,
            self.params,
            zoneout=layer.zoneout,
            compute_dtype=layer.compute_dtype,
        )
        self.states = list(final) if isinstance(final, tuple) else [final]
        return cast(Array, y[:, 0] if plain else y)

    def get_state(self) -> list[Array]:
        """One array (num_layers, B, H) for each state."""
        return [np.array(s) for s in self.states]

    def set_state(self, states: list[Array]) -> None:
        """Replace them."""
        self.states = [np.array(s) for s in states]

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Zeros for these sequences, or all."""
        for s in self.states:
            s[:, slice(None) if rows is None else list(rows)] = 0
