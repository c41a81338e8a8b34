# SPDX-License-Identifier: Apache-2.0
"""Streams of layers whose step is not one product: the layer itself, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from pyrnn import stacking
from pyrnn.layout import Array
from pyrnn.states import built, by_pass, learned_states, memory_of


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
        self.states = self.initial()

    def reload(self, layers: Any = None) -> None:
        """Read the weights again; the states stay."""
        layer = self.layer
        layer._backend.arrays.weights(layer._layout, layer.params, layer.dtype)  # checks them
        layer._backend.arrays.extras(layer._layout, layer.params, layer.dtype)
        self.params = {name: np.array(a) for name, a in layer.params.items()}

    def initial(self) -> list[Any]:
        """Zeros, or the initial states that are parameters."""
        layer, layout = self.layer, self.layer._layout
        arrays, B = layer._backend.arrays, self.batch_size
        states = built(layout, lambda rows, width: np.zeros((rows, B, width), layer.dtype))
        if layout.initial:
            learned = learned_states(arrays, layout, self.params, B, layer.dtype)
            for rows, values in zip(by_pass(layout, states), learned, strict=True):
                for row, value in zip(rows, values, strict=True):
                    row[...] = value
        return states

    def step(self, x: Array, out: Array | None = None) -> Array:
        """One step: x (B, I), or (I,) when B is 1, to y of the same form."""
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}")
        return self.advance(x[None], "", out)

    def run(self, block: Array, out: Array | None = None) -> Array:
        """Steps: block (n, B, I) or (n, I) to (n, B, H) or (n, H)."""
        return self.advance(block, "n, ", out)

    def advance(self, block: Array, steps: str, out: Array | None) -> Array:
        """The states by a block of steps, or by its only one; y, in `out` if given."""
        layer, B = self.layer, self.batch_size
        plain = block.ndim == 2 and B == 1
        shape = (*block.shape[:1], *(() if plain else (B,)), layer.input_size)
        if block.shape != shape:
            without = " or without B" if B == 1 else ""
            raise ValueError(
                f"{'block' if steps else 'x'}: expected shape ({steps}B, I) = "
                f"({steps}{B}, {layer.input_size}){without}, got {block.shape if steps else block.shape[1:]}"
            )
        if out is not None:
            wanted = (*shape[:-1], layer._layout.sizes[2])
            layer._backend.arrays.output(
                out, wanted if steps else wanted[1:], f"({steps}{'' if plain else 'B, '}H)", layer.dtype, []
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
            variation=layer._variation,
        )
        self.states = [final] if len(states) == 1 else list(final)
        y = y[:, 0] if plain else y
        y = y if steps else y[0]
        if out is None:
            return cast(Array, y)
        out[...] = y
        return out

    def get_state(self) -> list[Any]:
        """One array (num_layers, B, H) for each state."""
        return [copied(s) for s in self.states]

    def set_state(self, states: list[Any]) -> None:
        """Replace them."""
        self.states = [copied(s) for s in states]

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """The initial states for these sequences, or all."""
        chosen = slice(None) if rows is None else list(rows)
        for s, start in zip(self.states, self.initial(), strict=True):
            for a, value in zip(memory_of(s), memory_of(start), strict=True):
                a[:, chosen] = value[:, chosen]


def copied(state: Any) -> Any:
    """A state, or a tuple of one for each layer, in memory of its own."""
    return tuple(map(np.array, state)) if isinstance(state, tuple) else np.array(state)
