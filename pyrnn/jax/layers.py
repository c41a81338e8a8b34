# SPDX-License-Identifier: Apache-2.0
"""Stacks of layers in one or two directions as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyrnn import checks
from pyrnn.backends.numpy import NUMPY
from pyrnn.functional import KERNELS
from pyrnn.jax.calls import Array, Inputs, Options, layer
from pyrnn.layout import Layout, layout_from
from pyrnn.states import read_state

#: Where the extras of a layout stand among `Inputs.weights`, after the matrices and the biases.
EXTRAS = ("params", "norm_ih", "norm_hh", "weight_hr")


def sequence(
    cell: str,
    x: Array,
    state: Array | tuple[Array, ...] | None,
    params: Mapping[str, Array],
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_to: str = "zero",
    batch_first: bool = False,
) -> tuple[Array, Any]:
    """Run a stack of recurrent layers on the CPU; differentiable once, in reverse mode.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I) for a single sequence
        float32, or float64 where JAX has it enabled: the dtype of the parameters.
    state : array or tuple of arrays (num_layers·directions, B, H), or None for zeros
        `h` for cells with one state, `(h, c, …)` for cells with more. A single sequence has no B axis.
    params : dict of arrays
        PyTorch's names and shapes, as `pyrnn.Recurrent(…).params`; layers, directions, biases and options are
        read off the names.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T. What lies behind has no influence; y is zero there.
    mask, resets : bool array (T, B), optional
        False skips a step; True restores the row's state before it. In the layout of x.
    reset_to : {"zero", "initial"}
    batch_first : bool

    Returns
    -------
    y : array (T, B, H·directions), in the layout of x
    state : the state after each row's last valid step, in the structure of `state`

    Raises
    ------
    ValueError, TypeError
        A shape, a name, a value or a dtype is wrong. Lengths that are traced are checked when they are known:
        a JaxRuntimeError then.
    NotImplementedError
        The parameters are those of layers of different sizes, with `cell_norm`, or with learned initial
        states.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, pyrnn, pyrnn.jax
    >>> params = jax.tree.map(jnp.asarray, pyrnn.GRU(3, 5, seed=0).params)
    >>> y, h = jax.jit(pyrnn.jax.gru)(jnp.ones((7, 2, 3)), None, params, lengths=jnp.array([7, 4]))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))

    Notes
    -----
    Under `vmap` examples become rows of the batch where the parameters are shared; with parameters of their
    own, and in a gradient, they are run one after the other.
    """
    x = array_of("x", x)
    params = {name: array_of(name, a) for name, a in checked_names(params).items()}
    layout, dtype = checked_params(cell, params)
    inputs = layout.input_size
    if x.dtype != dtype:
        raise TypeError(f"x: expected the dtype of the parameters, {dtype}, got {x.dtype}")
    if x.ndim not in (2, 3) or x.shape[-1] != inputs:
        axes = "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"x: expected shape {axes} or (T, I) with I = {inputs}, got {x.shape}")
    unbatched = x.ndim == 2
    batch_first = checks.flag("batch_first", batch_first) and not unbatched
    x = x[:, None] if unbatched else x
    T, B = x.shape[1::-1] if batch_first else x.shape[:2]
    to_initial = checks.choice("reset_to", reset_to, ("zero", "initial")) == "initial"
    states = None if state is None else checked_state(layout, state, B, unbatched, dtype)
    valid = None if lengths is None else checked_lengths(lengths, T, B, unbatched)
    skipped, restored = (
        None if a is None else checked_flags(name, a, T, B, batch_first, unbatched)
        for name, a in (("mask", mask), ("resets", resets))
    )

    finals: list[tuple[Array, ...]] = []
    for k in range(layout.num_layers * layout.directions):
        reverse = k % layout.directions == 1
        weights = weights_of(layout, params, k)
        before = None if states is None else tuple(s[k] for s in states)
        options = Options(cell, reverse, batch_first, to_initial)
        y, final = layer(options, Inputs(x, valid, skipped, restored, weights), before)
        finals.append(final)
        if layout.directions == 2 and not reverse:
            ahead = y
            continue
        x = jnp.concatenate((ahead, y), -1) if reverse else y
    new = tuple(
        jnp.stack(parts)[:, 0] if unbatched else jnp.stack(parts) for parts in zip(*finals, strict=True)
    )
    return x[:, 0] if unbatched else x, new if len(new) > 1 else new[0]


def lstm(x: Array, state: Any, params: Mapping[str, Array], **options: Any) -> tuple[Array, Any]:
    """`sequence` with the cell "lstm": the state is (h, c), and gates lie in the order i f g o.

    Parameters
    ----------
    x, state, params, **options
        As in `sequence`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, pyrnn, pyrnn.jax
    >>> params = jax.tree.map(jnp.asarray, pyrnn.LSTM(3, 5, seed=0).params)
    >>> y, (h, c) = pyrnn.jax.lstm(jnp.ones((7, 2, 3)), None, params)
    >>> y.shape, c.shape
    ((7, 2, 5), (1, 2, 5))
    """
    return sequence("lstm", x, state, params, **options)


def gru(x: Array, state: Any, params: Mapping[str, Array], **options: Any) -> tuple[Array, Any]:
    """`sequence` with the cell "gru": gates in the order r z n, the reset after the product.

    Parameters
    ----------
    x, state, params, **options
        As in `sequence`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, pyrnn, pyrnn.jax
    >>> params = jax.tree.map(jnp.asarray, pyrnn.GRU(3, 5, seed=0).params)
    >>> jax.grad(lambda x: pyrnn.jax.gru(x, None, params)[0].sum())(jnp.ones((7, 2, 3))).shape
    (7, 2, 3)
    """
    return sequence("gru", x, state, params, **options)


def rnn(
    x: Array, state: Any, params: Mapping[str, Array], *, nonlinearity: str = "tanh", **options: Any
) -> tuple[Array, Any]:
    """`sequence` with the cell "rnn_tanh" or "rnn_relu".

    Parameters
    ----------
    x, state, params, **options
        As in `sequence`.
    nonlinearity : {"tanh", "relu"}

    Examples
    --------
    >>> import jax, jax.numpy as jnp, pyrnn, pyrnn.jax
    >>> params = jax.tree.map(jnp.asarray, pyrnn.RNN(3, 5, nonlinearity="relu", seed=0).params)
    >>> pyrnn.jax.rnn(jnp.ones((7, 2, 3)), None, params, nonlinearity="relu")[0].shape
    (7, 2, 5)
    """
    return sequence(
        "rnn_" + checks.choice("nonlinearity", nonlinearity, ("tanh", "relu")), x, state, params, **options
    )


def array_of(name: str, a: Any) -> Array:
    """An array of JAX, or TypeError."""
    try:
        return jnp.asarray(a)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected an array, got {type(a).__name__}") from None


def checked_names(params: Any) -> Mapping[str, Any]:
    """A mapping, or TypeError."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    return params


def stand_in(a: Any) -> Any:
    """For the library's checks, an array of NumPy in the place of a tracer, which has no values yet."""
    return np.zeros(a.shape, a.dtype)


def checked_params(cell: str, params: Mapping[str, Array]) -> tuple[Layout, Any]:
    """The layout that the parameters have, and their dtype."""
    stands = {name: stand_in(a) for name, a in params.items()}
    layout = layout_from(KERNELS.spec(cell), stands)
    dtype = KERNELS.dtype("weight_ih_l0", stands["weight_ih_l0"].dtype)
    checks.weights(layout, stands, dtype)
    checks.extras(layout, stands, dtype)
    if layout.ragged or layout.initial or layout.cell_norm:
        raise NotImplementedError(
            "params: expected layers of one size, without cell_norm and learned initial states"
        )
    return layout, dtype


def weights_of(layout: Layout, params: Mapping[str, Array], k: int) -> tuple[Array | None, ...]:
    """Those of one layer and direction, in the handlers' order."""
    plain = [params[name] for name, _ in layout.passes[k]]
    extras = layout.extras[k]
    more = [params[extras[kind][0]] if kind in extras else None for kind in EXTRAS]
    return (*layout.in_order(plain), *more)


def checked_state(layout: Layout, state: Any, B: int, unbatched: bool, dtype: Any) -> tuple[Array, ...]:
    """Arrays (num_layers·directions, B, H)."""
    several = isinstance(state, tuple | list)
    arrays = tuple(map(jnp.asarray, state if several else (state,)))
    stands = tuple(map(stand_in, arrays))
    read_state(NUMPY, "state", stands if several else stands[0], layout, B, unbatched, dtype)
    return tuple(a[:, None] for a in arrays) if unbatched else arrays


def checked_lengths(lengths: Any, T: int, B: int, unbatched: bool) -> Array:
    """int32 (B,); values that are known are compared with T."""
    known = not isinstance(lengths, jax.core.Tracer)
    checked = checks.lengths_of(np.asarray(lengths) if known else stand_in(lengths), T, B, unbatched)
    return jnp.asarray(checked if known else lengths.reshape(B), jnp.int32)


def checked_flags(name: str, flags: Any, T: int, B: int, batch_first: bool, unbatched: bool) -> Array:
    """bool (T, B), from the layout of x."""
    a = jnp.asarray(flags)
    checks.flags_of(name, stand_in(a), T, B, batch_first, unbatched)
    return a[:, None] if unbatched else a.T if batch_first else a
