# SPDX-License-Identifier: Apache-2.0
"""Checks of every argument, before anything is written: ValueError for shapes, values, TypeError for kinds.

A message names the argument, what was expected and what came:
`weight_hh_l0: expected shape (4*H, H) = (512, 128), got (512, 64)`.
"""

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrnn.layout import Array, Layout, Named, Spec

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def wrong_shape(name: str, axes: str, expected: Sequence[Any], got: tuple[int, ...]) -> ValueError:
    """The error for an array of the wrong shape; `axes` names the axes as the documentation does."""
    return ValueError(f"{name}: expected shape {axes} = {written(expected)}, got {got}")


def written(shape: Sequence[Any]) -> str:
    """A shape as Python writes a tuple, symbols unquoted."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def kernel_ready(a: Array, dtype: np.dtype[Any]) -> Array:
    """`a` itself when a kernel can read it, else a copy: native byte order, aligned, last axis contiguous."""
    flags = a.flags
    if flags.aligned and a.dtype.isnative and (flags.c_contiguous or a.strides[-1] == a.itemsize):
        return a
    return np.array(a, dtype, order="C")


def plain_array(name: str, a: Any, dtype: np.dtype[Any]) -> Array:
    """`a` checked to be an array of `dtype` (in any byte order), as a plain array."""
    if type(a) is np.ndarray and a.dtype == dtype:
        return a
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array, got a masked array; pass mask= to skip steps")
    plain: Array = np.asarray(a)
    if plain.dtype != dtype and plain.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {a.dtype}")
    return plain


def weights(layout: Layout, params: Any, dtype: np.dtype[Any]) -> list[list[Array | None]]:
    """The arrays of every pass in the engine's order (weight_ih, weight_hh, bias_ih, bias_hh), checked."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    if len(params) != layout.count:
        check_names(layout, params)
    passes = []
    for expected in layout.passes:
        arrays: list[Array | None] = []
        for name, shape in expected:
            a = params.get(name)
            if type(a) is not np.ndarray or a.shape != shape or a.dtype != dtype or not a.flags.carray:
                a = weight(layout, params, name, dtype)
            arrays.append(a)
        passes.append(layout.in_order(arrays))
    return passes


def extras(layout: Layout, params: Mapping[str, Any], dtype: np.dtype[Any]) -> list[dict[str, Array]]:
    """What only some cells have, by argument of the back end, of every pass; checked after `weights`."""
    return [
        {argument: weight(layout, params, name, dtype) for argument, (name, _) in more.items()}
        for more in layout.extras
    ]


def weight(layout: Named, params: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> Array:
    """One parameter that is not ready as it stands: an error, or a copy the kernels can read."""
    if name not in params:
        check_names(layout, params)
    a = plain_array(name, params[name], dtype)
    if a.shape != layout.shapes[name]:
        raise wrong_shape(name, layout.axes(name), layout.shapes[name], a.shape)
    return (
        a if a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative else np.array(a, dtype, order="C")
    )


def check_names(layout: Named, params: Mapping[str, Any]) -> None:
    """Refuse a set of parameters that lacks a name or has one too many."""
    for name in layout.shapes:
        if name not in params:
            raise ValueError(f"params: expected {name!r} of shape {layout.shapes[name]}, got no such name")
    for name in params:
        if name not in layout.shapes:
            raise ValueError(f"params: expected {layout.count} names, got {name!r} in addition")


def named_arrays(layout: Named, params: Any, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Every parameter of `layout` in `params`, checked and as the kernels read it."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    check_names(layout, params)
    return {name: weight(layout, params, name, dtype) for name in layout.shapes}


def state_dict(layout: Named, state: Any) -> dict[str, Array]:
    """Every parameter of `layout` in `state`, as floating-point arrays of the right shapes."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a dict of arrays, got {type(state).__name__}")
    check_names(layout, state)
    arrays = {name: array_of(name, state[name]) for name in layout.shapes}
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise TypeError(f"{name}: expected floating-point numbers, got {a.dtype}")
        if a.shape != layout.shapes[name]:
            raise wrong_shape(name, layout.axes(name), layout.shapes[name], a.shape)
    return arrays


def array_of(name: str, a: Any) -> Array:
    """An array of what should be one, whatever its library says of it."""
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array, got a masked array")
    try:
        return np.asarray(a)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TypeError(f"{name}: expected an array, got {type(a).__name__}: {reason}") from None


def writable(params: Mapping[str, Any]) -> None:
    """Refuse parameters that cannot be changed in place."""
    for name, a in params.items():
        if isinstance(a, np.ndarray) and not a.flags.writeable:
            raise ValueError(f"{name}: expected a writable array, got a read-only one")


def lengths_of(
    lengths: Any, T: int, B: int, unbatched: bool, name: str = "lengths", axis: str = "T"
) -> Array:
    """Lengths as int64 (B,); integers of any kind, 0 ≤ length ≤ T."""
    a = array_of(name, lengths)
    if a.dtype.kind not in "iu" and not (a.size == 0 and isinstance(lengths, Sequence)):
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    if unbatched and a.shape == ():
        a = a[None]
    if a.shape != (B,):
        raise wrong_shape(name, "(B,)", (B,), a.shape)
    if B and not (a.min() >= 0 and a.max() <= T):
        row = int(np.argmax((a < 0) | (a > T)))
        raise ValueError(f"{name}: expected 0 to {axis} = {T}, got {a[row]} in row {row}")
    return np.array(a, np.int64)


def flags_of(name: str, flags: Any, T: int, B: int, batch_first: bool, unbatched: bool) -> Array:
    """A mask or resets as bool (T, B), C-contiguous; given in the layout of x without its last axis."""
    a = array_of(name, flags)
    if a.dtype != np.bool_:
        raise TypeError(f"{name}: expected dtype bool, got {a.dtype}")
    axes, shape = ("(T,)", (T,)) if unbatched else ("(B, T)", (B, T)) if batch_first else ("(T, B)", (T, B))
    if a.shape != shape:
        raise wrong_shape(name, axes, shape, a.shape)
    return np.ascontiguousarray(a[:, None] if unbatched else a.T if batch_first else a)


def rows_of(rows: Any, B: int) -> list[int]:
    """Indices of rows of a batch, 0 to B - 1."""
    a = array_of("rows", rows)
    if a.dtype.kind not in "iu" and a.size:
        raise TypeError(f"rows: expected integers, got {a.dtype}")
    if a.ndim != 1:
        raise ValueError(f"rows: expected shape (n,), got {a.shape}")
    if a.size and not (a.min() >= 0 and a.max() < B):
        raise ValueError(f"rows: expected indices from 0 to {B - 1}, got {rows}")
    return [int(row) for row in a]


def states(
    name: str,
    state: Any,
    count: int,
    shape: tuple[int, ...],
    axes: str,
    dtype: np.dtype[Any],
    proj_size: int = 0,
) -> tuple[Array, ...]:
    """The state as a tuple of `count` arrays of `shape`: h alone for one, a tuple (h, c, …) for more.

    With `proj_size` h is that wide, and H is the last axis of the others.
    """
    if count == 1:
        state = (state,)
    elif not isinstance(state, tuple | list):
        raise TypeError(f"{name}: expected a tuple of {count} arrays, got {type(state).__name__}")
    elif len(state) != count:
        raise ValueError(f"{name}: expected a tuple of {count} arrays, got {len(state)}")
    ready = []
    for k, a in enumerate(state):
        label = name if count == 1 else f"{name}[{k}]"
        a = plain_array(label, a, dtype)
        projected = proj_size > 0 and k == 0
        expected = (*shape[:-1], proj_size) if projected else shape
        if a.shape != expected:
            raise wrong_shape(label, axes.replace("H)", "P)") if projected else axes, expected, a.shape)
        ready.append(kernel_ready(a, dtype))
    return tuple(ready)


def output(out: Any, shape: tuple[int, ...], axes: str, dtype: np.dtype[Any], read: Sequence[Array]) -> None:
    """`out`, checked: writable, of the right kind, and sharing no memory with what is read."""
    if type(out) is not np.ndarray:
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    if out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise wrong_shape("out", axes, shape, out.shape)
    if not out.flags.writeable:
        raise ValueError("out: expected a writable array, got a read-only one")
    if any(np.may_share_memory(out, a) for a in read):
        raise ValueError(
            "out: expected memory of its own, got memory that an argument or a parameter occupies"
        )


def real(name: str, value: Any) -> float:
    """A number, whatever its value; bools are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def probability(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if not 0 <= real(name, value) <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return float(value)


def rates(name: str, value: Any, count: int) -> tuple[float, ...]:
    """A probability for each of `count` states, from one for all or a tuple of them."""
    if not isinstance(value, tuple | list):
        return (probability(name, value),) * count
    if len(value) != count:
        raise ValueError(f"{name}: expected a number or {count} of them, got {len(value)}")
    return tuple(probability(f"{name}[{k}]", p) for k, p in enumerate(value))


def finite(name: str, value: Any, least: float = -np.inf) -> float:
    """A finite number of at least `least`."""
    if not (np.isfinite(real(name, value)) and value >= least):
        bound = "" if least == -np.inf else f" of at least {least:g}"
        raise ValueError(f"{name}: expected a finite number{bound}, got {value}")
    return float(value)


def generator(name: str, value: Any) -> None:
    """A NumPy random generator."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(f"{name}: expected a numpy.random.Generator, got {type(value).__name__}")


def integer(name: str, value: Any, least: float) -> int:
    """An integer of at least `least`; bools are not integers here."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {number}")
    return number


def size(name: str, value: Any) -> int:
    """A positive integer."""
    return integer(name, value, 1)


def projection(proj_size: Any, spec: Spec, hidden_size: int) -> int:
    """Numbers that h is projected to, less than there are units; 0 is none."""
    if integer("proj_size", proj_size, 0) and spec.states < 2:
        raise ValueError(f"proj_size: expected 0, because {spec.name} has no state beside h, got {proj_size}")
    if proj_size and spec.staged:
        raise ValueError(f"proj_size: expected 0, because {spec.name} reads more than h, got {proj_size}")
    if proj_size >= hidden_size:
        raise ValueError(f"proj_size: expected less than hidden_size = {hidden_size}, got {proj_size}")
    return int(proj_size)


def heads(value: Any, spec: Spec, units: Sequence[int], proj_size: Any) -> int:
    """Blocks of the weights of h of layers of so many units."""
    number = size("heads", value)
    if number > 1 and (not spec.from_h or spec.ordered):
        raise ValueError(f"heads: expected 1, because {spec.name} has no full product of h, got {number}")
    if number > 1 and proj_size:
        raise ValueError(f"heads: expected 1 with a projection, got {number}")
    for H in units:
        if H % number:
            raise ValueError(f"heads: expected a divisor of hidden_size = {H}, got {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def checkpointed(checkpoint: Any, return_states: bool) -> bool:
    """Whether only a few steps are kept, which is not enough for the states of all."""
    if flag("checkpoint", checkpoint) and return_states:
        raise ValueError("checkpoint: expected False with return_states=True, got True")
    return bool(checkpoint)


def seed(name: str, value: Any) -> int | None:
    """None or a non-negative integer."""
    return None if value is None else integer(name, value, 0)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        checked: np.dtype[Any] = np.dtype(dtype if dtype is not None else "none")  # NumPy's None is float64
    except TypeError:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}") from None
    if checked not in FLOATS:
        raise TypeError(f"dtype: expected float32 or float64, got {checked}")
    return checked


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def compute_dtype(value: Any, dtype: np.dtype[Any]) -> str | None:
    """None, or "bfloat16" beside float32 arrays."""
    if value is None:
        return None
    choice("compute_dtype", value, ("bfloat16",))
    if dtype != np.float32:
        raise TypeError(f"compute_dtype: expected None with dtype {dtype}, got {value!r}")
    return str(value)


def warn_of_float32(value: Any, layout: Layout) -> None:
    """A UserWarning where "bfloat16" is asked for, and a step is not a single product of h."""
    if value is not None and layout.staged:
        warnings.warn(
            f"compute_dtype: {value!r} changes nothing with layer_norm, proj_size and heads, and for cells "
            "of several products of h; everything stays float32",
            stacklevel=4,
        )


def supported(device: Any, **options: tuple[Any, Any]) -> None:
    """Refuse options that a device does not have yet; each is given as (value, default)."""
    for name, (value, default) in options.items():
        if value != default:
            raise NotImplementedError(
                f"{name}={value!r} is not implemented on device {device!r}; only {name}={default!r} is"
            )


def on_cpu(device: Any) -> None:
    """Refuse every device but the CPU."""
    if device != "cpu":
        raise RuntimeError(f"device: expected 'cpu', got {device!r}")
