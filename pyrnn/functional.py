# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers and attention as functions: arrays in, arrays out, no objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn import _core, stacking
from pyrnn.checks import FLOATS
from pyrnn.functional_attention import (
    ATTENTION,
    attention,
    attention_backward,
    attention_forward,
    precompute,
)
from pyrnn.layout import Array
from pyrnn.stacking import Backend, Gradients, Saved, State

__all__ = [
    "ATTENTION",
    "KERNELS",
    "attention",
    "attention_backward",
    "attention_forward",
    "precompute",
    "sequence",
    "sequence_backward",
    "sequence_forward",
]

KERNELS = Backend(_core.cells(), _core.forward, _core.backward, FLOATS)


def sequence_forward(
    cell: str,
    x: Array,
    state: State | None = None,
    params: dict[str, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to: str = "zero",
    batch_first: bool = False,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    training: bool = True,
    out: Array | None = None,
) -> tuple[Array, State, Saved]:
    """Run a stack of recurrent layers and keep what the backward needs.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I) for a single sequence
        float32 or float64, the dtype of the parameters.
    state : array or tuple of arrays (num_layers·directions, B, H), optional
        `h` for cells with one state, `(h, c, …)` for cells with more; zeros when None. A single sequence has
        no B axis.
    params : dict of arrays
        PyTorch's names and shapes: `weight_ih_l0` (4·H, I) for the LSTM, `weight_hh_l0`, `bias_ih_l0`,
        `bias_hh_l0`, `…_l0_reverse`, `…_l1`. Layers, directions and biases are read off the names.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T in any order. What lies behind, even NaN, has no influence; y is zero
        there. The reverse direction starts at the last valid step.
    mask : bool array (T, B), optional
        False skips the step for that row: the state carries over and y is zero. In the layout of x: (B, T)
        with `batch_first`, (T,) for a single sequence.
    resets : bool array (T, B), optional
        True restores the row's state before step t is computed, in either direction. In the layout of x.
        Skipped steps do not reset.
    reset_to : {"zero", "initial"}
        What a reset restores.
    dropout : float
        Probability of zeroing an output of every layer but the last; the rest is scaled by 1 / (1 - dropout).
    rng : numpy.random.Generator
        Source of the dropout masks; required for dropout.
    training : bool
        False draws no dropout.
    out : array, optional
        Where to write y; it must share no memory with what is read.

    Returns
    -------
    y : array (T, B, H·directions), in the layout of x
    state : the state after each row's last valid step, in the structure of `state`
    saved : Saved
        For `sequence_backward`. x and the parameters must not change until then; y may.

    Raises
    ------
    ValueError
        A shape, a name or a value is wrong.
    TypeError
        A dtype or a kind is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import sequence_backward, sequence_forward
    >>> params = {"weight_ih_l0": np.ones((5, 3)), "weight_hh_l0": np.zeros((5, 5))}
    >>> y, h, saved = sequence_forward("rnn_relu", np.ones((7, 2, 3)), None, params)
    >>> y.shape, h.shape, float(y[0, 0, 0])
    ((7, 2, 5), (1, 2, 5), 3.0)
    >>> sequence_backward(saved, np.ones_like(y)).params["weight_ih_l0"].shape
    (5, 3)

    Notes
    -----
    Equivalent to `torch.nn.LSTM`, `GRU`, `RNN` with the same parameters, for the cells that PyTorch has.
    """
    return stacking.from_names(
        KERNELS,
        cell,
        x,
        state,
        params,
        training,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_to=reset_to,
        batch_first=batch_first,
        dropout=dropout,
        rng=rng,
        out=out,
        save=True,
    )


def sequence_backward(saved: Saved, dy: Array | None, dstate: State | None = None) -> Gradients:
    """Gradients of a scalar from its gradients with respect to what `sequence_forward` returned.

    Parameters
    ----------
    saved : Saved
        From `sequence_forward`; may be used more than once.
    dy : array, as y, or None for zeros
        Has no influence where a step was skipped, even when NaN.
    dstate : array or tuple of arrays, as the state, or None for zeros

    Returns
    -------
    Gradients
        `x` in the layout of x, `state` in the structure of the state, `params` by name.

    Raises
    ------
    TypeError
        `saved` is something else, or a dtype is wrong.
    ValueError
        A shape is wrong.
    """
    return stacking.backward(saved, dy, dstate)


def sequence(
    cell: str,
    x: Array,
    state: State | None = None,
    params: dict[str, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to: str = "zero",
    batch_first: bool = False,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    training: bool = False,
    out: Array | None = None,
) -> tuple[Array, State]:
    """Run a stack of recurrent layers and keep nothing; see `sequence_forward`.

    Returns
    -------
    y : array (T, B, H·directions), in the layout of x
    state : the state after each row's last valid step
    """
    return stacking.from_names(
        KERNELS,
        cell,
        x,
        state,
        params,
        training,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_to=reset_to,
        batch_first=batch_first,
        dropout=dropout,
        rng=rng,
        out=out,
    )[:2]
