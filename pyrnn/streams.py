# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers step by step, with the state kept between calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pyrnn import _core, checks
from pyrnn.layout import Array
from pyrnn.staged import StagedStream
from pyrnn.states import State, read_state

if TYPE_CHECKING:
    from pyrnn.quantized import Quantized
    from pyrnn.recurrent import Recurrent


class Stream:
    """A layer that is fed one step at a time; memory is allocated once, here.

    Made by `layer.stream(batch_size)`. The weights are a packed snapshot of the layer's, taken here and again
    at every `reset()`: changes of `layer.params` show from then on. One thread at a time may use a stream.

    Parameters
    ----------
    layer : Recurrent
        In one direction; dropout does not apply.
    batch_size : int
        B, the number of sequences that advance together.

    Attributes
    ----------
    step : callable
        `step(x, out=None) -> y`: one step, from x (B, I) to y (B, H), or from (I,) to (H,) if B is 1. x has
        the layer's dtype. Bound straight to the kernel, to cost nothing but the step.

    Raises
    ------
    ValueError
        The layer is bidirectional or reverse: it begins with a last step that a stream does not know.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> stream = pyrnn.LSTM(3, 5, seed=0).stream()
    >>> stream.step(np.ones(3, np.float32)).shape
    (5,)
    """

    step: Callable[..., Array]

    def __init__(self, layer: Recurrent | Quantized, batch_size: int = 1) -> None:
        if layer.bidirectional:
            raise ValueError("stream: expected a layer in one direction, got a bidirectional one")
        if layer.reverse:
            raise ValueError("stream: expected a layer that reads forward, got one with reverse=True")
        self.batch_size = checks.size("batch_size", batch_size)
        self._layer = layer
        self._core: Any
        if layer._layout.staged or layer._layout.ragged or layer._layout.initial or layer._variation.inside:
            self._core = StagedStream(layer, self.batch_size)
        else:
            self._core = _core.Stream(
                layer.cell,
                self._weights(),
                self.batch_size,
                layer.dtype,
                layer.compute_dtype,
                layer._zoneout(),
            )
        self.step = self._core.step

    def _weights(self) -> list[tuple[Array | None, ...]] | list[_core.Quantized]:
        layer = self._layer
        if hasattr(layer, "_cores"):
            return layer._cores
        layout, params, dtype = layer._layout, layer.params, layer.dtype
        extras = checks.extras(layout, params, dtype)
        return [
            (*arrays, *more.values())
            for arrays, more in zip(checks.weights(layout, params, dtype), extras, strict=True)
        ]

    def run(self, block: Array, out: Array | None = None) -> Array:
        """Advance by several steps.

        Parameters
        ----------
        block : array (n, B, I), or (n, I) when B is 1
            Time first, also for a layer that is batch-first.
        out : array, as y, optional
            Where to write y, C-contiguous; it may be the block's memory.

        Returns
        -------
        y : array (n, B, H), or (n, H)
        """
        dtype = self._layer.dtype
        ready = checks.kernel_ready(checks.plain_array("block", block, dtype), dtype)
        return cast(Array, self._core.run(ready, out))

    @property
    def state(self) -> State:
        """A copy of the current state, arrays (num_layers, B, H) as the layer's state; settable."""
        state = tuple(self._core.get_state())
        return cast(State, state[0] if len(state) == 1 else state)

    @state.setter
    def state(self, state: State) -> None:
        layer = self._layer
        self._core.set_state(
            list(
                read_state(
                    layer._backend.arrays, "state", state, layer._layout, self.batch_size, False, layer.dtype
                )
            )
        )

    def reset(self, rows: Sequence[int] | Array | None = None) -> None:
        """Back to the zero state, or to the initial states that are parameters.

        Parameters
        ----------
        rows : integers, optional
            Only these sequences of the batch, 0 to B - 1; the weights stay as they are then. With None, every
            sequence, and the weights are read from the layer again.
        """
        if rows is None:
            self._core.reload(self._weights())
            self._core.reset()
        else:
            self._core.reset(checks.rows_of(rows, self.batch_size))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have a layer and a state of their own, and read the weights as they are now."""
        return restored, (self._layer, self.batch_size, self.state)

    def __repr__(self) -> str:
        return f"{self._layer!r}.stream({self.batch_size})"


def restored(layer: Any, batch_size: int, state: State) -> Stream:
    """A stream that goes on from a state."""
    stream = Stream(layer, batch_size)
    stream.state = state
    return stream
