# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the parameters of a stack of layers, and of one cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

#: Names of the states, of the cells whose states are other than h and c.
STATES = {
    "slstm": ("h", "c", "n", "m"),
    "lstm_gate_recurrence": ("h", "c", "i", "f", "o"),
    "clockwork": ("h", "k"),
}


class Spec(NamedTuple):
    """Constants of a cell that decide shapes: states, slots that x and h add into, parameters of a unit."""

    name: str
    states: int
    from_x: int
    from_h: int
    params: int = 0  # per-unit parameters, an array (params, H)
    param_name: str = ""
    late: int = 0  # the last so many of from_h do not read h itself
    ordered: bool = False  # a weight of h counts only towards units whose first parameter is not larger
    roles: str = ""  # of the activations that may be chosen: f of the gates, g of the candidate, h of c

    @property
    def staged(self) -> bool:
        """Whether a step is no plain product of h and the cell: more, or less."""
        return self.late > 0 or self.from_h == 0 or self.ordered

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the states are called, h first."""
        return STATES.get(self.name, ("h", "c")[: self.states])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parameters of a product: without any of h those that end in `_hh` are missing."""
        return KINDS if self.from_h else KINDS[::2]


class Named(Protocol):
    """Names and shapes of a set of parameters, as the checks need them."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """How many parameters."""

    def axes(self, name: str) -> str:
        """The shape of a parameter in symbols."""


class Shapes:
    """Names and shapes of the parameters of anything but a stack of layers.

    Parameters
    ----------
    named : dict
        Shape by name, and the same in symbols: `{"weight_key": ((16, 8), "(A, Dk)")}`.
    """

    def __init__(self, named: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        self.shapes = {name: shape for name, (shape, _) in named.items()}
        self.symbols = {name: axes for name, (_, axes) in named.items()}
        self.count = len(self.shapes)

    def axes(self, name: str) -> str:
        """The shape of a parameter in symbols: `(A, Dk)`."""
        return self.symbols[name]


class Layout:
    """Names and shapes of the parameters of `num_layers` layers in `directions` directions.

    Parameters
    ----------
    spec : Spec
    input_size : int
    hidden_size : int, or a tuple of one for each layer
    num_layers, directions : int
    bias : bool
    suffixes : bool
        False leaves `_l0` away: the names of a single cell.
    layer_norm : bool
        Whether the products are normalised, with gains `weight_ln_ih` and `weight_ln_hh`.
    proj_size : int
        Numbers that h is projected to by `weight_hr`, P; 0 is none.
    reverse : bool
        Whether the only direction is the reverse one.
    cell_norm : bool
        Whether c is normalised on its way to h, with `weight_ln_c` and, if there are biases, `bias_ln_c`.
    learned : bool
        Whether the initial states are parameters, `h0`, `c0` ….
    merge : {"concat", "sum"}
        What becomes of the outputs of two directions.
    heads : int
        Blocks down the diagonal that the weights of h are, each (H/heads, H/heads) for a slot.
    """

    def __init__(
        self,
        spec: Spec,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        directions: int = 1,
        bias: bool = True,
        suffixes: bool = True,
        layer_norm: bool = False,
        proj_size: int = 0,
        reverse: bool = False,
        cell_norm: bool = False,
        learned: bool = False,
        merge: str = "concat",
        heads: int = 1,
    ) -> None:
        self.spec, self.bias, self.suffixes, self.layer_norm = spec, bias, suffixes, layer_norm
        self.reverse, self.heads = reverse, heads
        #: units of every layer
        self.units = hidden_size if isinstance(hidden_size, tuple) else (hidden_size,) * num_layers
        #: whether they differ; a state is then a tuple with an array for each layer
        self.ragged = len(set(self.units)) > 1
        self.input_size = input_size
        self.hidden_size: Any = hidden_size if self.ragged else self.units[0]
        self.proj_size, self.cell_norm, self.merge = proj_size, cell_norm, merge
        #: size of every state's last axis, by layer
        self.widths = [(proj_size or size, *[size] * (spec.states - 1)) for size in self.units]
        outputs = [width[0] * (1 if merge == "sum" else directions) for width in self.widths]
        #: size of what every layer reads, and of what the last one makes
        self.features = [input_size, *outputs]
        #: input size, size of the last layer's h, and the size of the output's last axis
        self.sizes = (input_size, self.widths[-1][0], outputs[-1])
        #: size of every state's last axis, of the last layer
        self.state_sizes = self.widths[-1]
        #: whether a step is more than one product and the cell
        self.staged = bool(spec.staged or layer_norm or proj_size or cell_norm or heads > 1)
        self.num_layers, self.directions = num_layers, directions
        passes, extras, initial = [], [], []
        for layer, size in enumerate(self.units):
            inputs, h_size = self.features[layer], self.widths[layer][0]
            rows_x, rows_h, read = spec.from_x * size, spec.from_h * size, h_size // heads
            shapes: list[tuple[int, ...]] = [(rows_x, inputs), (rows_h, read), (rows_x,), (rows_h,)]
            shapes = shapes if spec.from_h else shapes[::2]
            for way in range(directions):
                suffix = (f"_l{layer}" + "_reverse" * way) * suffixes
                passes.append(
                    tuple((kind + suffix, shape) for kind, shape in zip(spec.kinds, shapes, strict=True))
                )
                named = f"weight_{spec.param_name}{suffix}"
                more: dict[str, tuple[str, tuple[int, ...]]] = {}
                if spec.params:
                    more["params"] = (named, (spec.params, size))
                if layer_norm:
                    more["norm_ih"] = ("weight_ln_ih" + suffix, (rows_x,))
                    if spec.from_h:
                        more["norm_hh"] = ("weight_ln_hh" + suffix, (rows_h,))
                if proj_size:
                    more["weight_hr"] = ("weight_hr" + suffix, (proj_size, size))
                if cell_norm:
                    more["norm_c"] = ("weight_ln_c" + suffix, (size,))
                    if bias:
                        more["bias_c"] = ("bias_ln_c" + suffix, (size,))
                extras.append(more)
                if learned:
                    widths = enumerate(self.widths[layer])
                    initial.append([(f"{spec.state_names[s]}0{suffix}", (width,)) for s, width in widths])
        #: ((name, shape), …) of every layer and direction, in the engine's order
        self.passes = passes if bias else [names[: len(names) // 2] for names in passes]
        #: {argument: (name, shape)} of every layer and direction, for what only some cells have
        self.extras = extras
        #: [(name, shape), …] of the initial states of every layer and direction, if they are learned
        self.initial = initial
        #: shape by name
        self.shapes = {
            name: shape
            for names, more in zip(self.passes, extras, strict=True)
            for name, shape in (*names, *more.values())
        } | {name: shape for states in initial for name, shape in states}
        self.count = len(self.shapes)

    def in_order(self, arrays: list[Any]) -> list[Any]:
        """What belongs to the names of a pass as weight_ih, weight_hh, bias_ih, bias_hh; None for no such."""
        found = iter(arrays)
        kinds = self.spec.kinds if self.bias else self.spec.kinds[: len(self.spec.kinds) // 2]
        return [next(found) if kind in kinds else None for kind in KINDS]

    def axes(self, name: str) -> str:
        """The shape of a parameter in symbols, as the documentation writes it: `(4*H, I)`."""
        if self.spec.params and name.startswith(f"weight_{self.spec.param_name}"):
            return f"({self.spec.params}, H)"
        h = "P" if self.proj_size else "H"
        if name.startswith("weight_hr"):
            return "(P, H)"
        if "_ln_c" in name:
            return "(H,)"
        if name[0] not in "wb":
            return f"({h},)" if name[0] == "h" else "(H,)"
        slots = self.spec.from_h if "_hh" in name else self.spec.from_x
        rows = f"{slots}*H" if slots > 1 else "H"
        if name.startswith(("bias", "weight_ln")):
            return f"({rows},)"
        if name.startswith("weight_hh"):
            return f"({rows}, {h}/heads)" if self.heads > 1 else f"({rows}, {h})"
        both = self.directions == 2 and self.merge == "concat"
        inputs = "I" if not self.suffixes or "_l0" in name else f"2*{h}" if both else h
        return f"({rows}, {inputs})"


@lru_cache(maxsize=256)
def structure(names: tuple[Any, ...]) -> tuple[int, int, bool]:
    """Number of layers, directions and bias, read off the names of the parameters.

    Only the extent is read here; `checks.weights` compares every name.
    """
    layers = 1
    for name in names:
        match = re.fullmatch(r"\w+?_l([0-9]{1,4})(_reverse)?", name) if isinstance(name, str) else None
        if match:
            layers = max(layers, 1 + int(match[1]))
    return (
        layers,
        1 + any(str(name).endswith("_reverse") for name in names),
        any(str(name).startswith("bias") for name in names),
    )


@lru_cache(maxsize=256)
def layout_of(
    spec: Spec,
    names: tuple[Any, ...],
    input_size: int,
    hidden_size: int | tuple[int, ...],
    proj_size: int,
    merge: str,
    heads: int,
) -> Layout:
    """The layout that parameters of these names should have."""

    def present(beginning: str) -> bool:
        return any(str(name).startswith(beginning) for name in names)

    return Layout(
        spec,
        input_size,
        hidden_size,
        *structure(names),
        layer_norm=present("weight_ln_ih"),
        proj_size=proj_size,
        cell_norm=present("weight_ln_c"),
        learned=present("h0_l"),
        merge=merge,
        heads=heads,
    )


def units_of(spec: Spec, params: Mapping[Any, Any], first: int) -> int | tuple[int, ...]:
    """Units of every layer, read off their weights of h; those of the first layer if all have as many."""
    units = [first]
    for layer in range(1, structure(tuple(params))[0]):
        counts = set()
        sides = (("ih", spec.from_x), ("hh", spec.from_h))
        for side, rows in sides if spec.from_h else sides[:1]:
            a = params.get(f"weight_{side}_l{layer}")
            if not isinstance(a, np.ndarray) or a.ndim != 2 or len(a) < rows or len(a) % rows:
                return first  # the checks of the shapes say what is wrong
            counts.add(len(a) // rows)
        if len(counts) > 1:
            return first
        units += counts
    return tuple(units) if set(units) != {first} else first


def layout_from(spec: Spec, params: Any, merge: str = "concat", heads: int = 1) -> Layout:
    """The layout that `params` should have, its sizes read off the weights.

    Raises
    ------
    TypeError
        `params` is no dict of arrays.
    ValueError
        The first layer's weights are missing, or are no matrices from which sizes can be read.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    sizes = []
    # Without a product of h, weight_hh is an array (params, H).
    of_h = (spec.from_h, 0) if spec.from_h else (spec.params, 1)
    for kind, rows, axis, columns in (("weight_ih_l0", spec.from_x, 1, "I"), ("weight_hh_l0", *of_h, "H")):
        a = params.get(kind)
        if a is None:
            raise ValueError(f"params: expected {kind!r}, got no such name")
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{kind}: expected a NumPy array, got {type(a).__name__}")
        symbol = f"{rows}*H" if rows > 1 else "H"
        expected = f"({symbol if spec.from_h or columns == 'I' else rows}, {columns})"
        if a.ndim != 2 or a.shape[axis] < (1 if axis else rows):
            raise ValueError(f"{kind}: expected shape {expected} with positive sizes, got {a.shape}")
        sizes.append(a.shape[1] if axis else a.shape[0] // rows)
    units = units_of(spec, params, sizes[1])
    projection = params.get("weight_hr_l0")
    if projection is None:
        return layout_of(spec, tuple(params), sizes[0], units, 0, merge, heads)
    if spec.states < 2:
        raise ValueError(f"params: expected no 'weight_hr_l0', because {spec.name} has no state beside h")
    if spec.staged:
        raise ValueError(f"params: expected no 'weight_hr_l0', because {spec.name} reads more than h")
    if not isinstance(projection, np.ndarray):
        raise TypeError(f"weight_hr_l0: expected a NumPy array, got {type(projection).__name__}")
    if projection.ndim != 2 or not 1 <= len(projection) < sizes[1]:
        raise ValueError(f"weight_hr_l0: expected shape (P, H) with P < H, got {projection.shape}")
    return layout_of(spec, tuple(params), sizes[0], units, len(projection), merge, heads)
