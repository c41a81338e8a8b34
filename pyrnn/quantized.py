# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with weights of eight bits, for inference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrnn import _core, checks, stacking
from pyrnn.backends.layer import Backend
from pyrnn.backends.numpy import NumpyArrays
from pyrnn.described import Sized
from pyrnn.functional import KERNELS
from pyrnn.io.layers import save_layer
from pyrnn.layout import Array, Layout, layout_from
from pyrnn.options import PLAIN
from pyrnn.states import State
from pyrnn.streams import Stream

#: Integers of a weight are -LARGEST to LARGEST.
LARGEST = 127
SCALE = "_scale"


class QuantizedArrays(NumpyArrays):
    """NumPy's arrays, but the weights of every pass are one packed layer."""

    @staticmethod
    def weights(layout: Layout, params: Any, dtype: Any) -> Any:
        """The packed layers, which were made from checked parameters."""
        return [[core] for core in params]

    @staticmethod
    def extras(layout: Layout, params: Any, dtype: Any) -> Any:
        """None: they are packed too."""
        return [{} for _ in layout.passes]

    @staticmethod
    def output(
        out: Any, shape: tuple[int, ...], axes: str, dtype: np.dtype[Any], read: Sequence[Any]
    ) -> None:
        """`out`, checked; packed layers share memory with nothing."""
        checks.output(out, shape, axes, dtype, [a for a in read if isinstance(a, np.ndarray)])


def forward(
    cell: str,
    x: Array,
    state: Sequence[Array],
    core: _core.Quantized,
    y: Array,
    state_out: Sequence[Array],
    *,
    save: bool,
    **options: Any,
) -> None:
    """A pass, as `stacking` calls a back end."""
    core.forward(x, state, y, state_out, **options)


def backward(*_: Any, **__: Any) -> None:
    """Refused: integers have no gradients."""
    raise NotImplementedError("backward: expected a layer of floating-point weights, got int8")


BACKEND = Backend(_core.cells(), forward, backward, checks.FLOATS[:1], QuantizedArrays())


class Quantized(Sized):
    """A recurrent layer with int8 weights, for inference; `layer.quantize("int8")` makes it.

    Every row of a weight is rounded to integers of -127 to 127 with a scale of its own, largest magnitude
    / 127; so is every row of x and h that they are multiplied with, at every step. Sums are exact, the cell,
    the states and the outputs are float32. Nothing is calibrated.

    Parameters
    ----------
    config : mapping
        What `config()` returned.
    params : mapping of arrays
        `weight_ih_l0` int8 (slots·H, I), `weight_ih_l0_scale` float32 (slots·H,), and so on; biases and
        per-unit parameters as the layer's own, float32. They are copied and packed once.

    Attributes
    ----------
    params : mapping of read-only arrays

    Raises
    ------
    ValueError
        The cell has more than a single product of h, or a name or a shape is wrong.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.LSTM(30, 50, seed=0)
    >>> small = layer.quantize("int8")
    >>> x = np.random.default_rng(0).normal(size=(7, 2, 30)).astype(np.float32)
    >>> bool(abs(small(x)[0] - layer(x)[0]).max() < 0.01)
    True
    """

    _variation = PLAIN

    def __init__(self, config: Mapping[str, Any], params: Mapping[str, Array]) -> None:
        spec = KERNELS.spec(config["cell"])
        if spec.staged:
            raise ValueError(f"quantize: expected a cell of a single product of h, got {spec.name!r}")
        self.name = str(config["quantized"])
        self.batch_first = checks.flag("batch_first", config["batch_first"])
        zoneout = config["zoneout"]
        self.zoneout = tuple(zoneout) if isinstance(zoneout, list) else zoneout
        checks.rates("zoneout", self.zoneout, spec.states)
        self._layout = layout_of(spec, params, checks.flag("reverse", config["reverse"]))
        self.dtype, self.compute_dtype = np.dtype(np.float32), None
        self._backend = BACKEND
        self.params = frozen(self._layout, params)
        self._cores = [self._pack(k) for k in range(len(self._layout.passes))]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made of the parameters, and packed anew."""
        return type(self), (self.config(), self.params)

    def _pack(self, k: int) -> _core.Quantized:
        """Pass k, packed."""
        ih, hh, *biases = (name for name, _ in self._layout.passes[k])
        bias_ih, bias_hh = (self.params[name] for name in biases) if biases else (None, None)
        extra = self._layout.extras[k].get("params")
        return _core.Quantized(
            self.cell,
            self.params[ih],
            self.params[ih + SCALE],
            self.params[hh],
            self.params[hh + SCALE],
            bias_ih,
            bias_hh,
            None if extra is None else self.params[extra[0]],
        )

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: Any = None,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_to: str = "zero",
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """y and the state, with the arguments of the layer's own call; x and the state are float32."""
        y, final, _ = stacking.forward(
            self._backend,
            self._layout,
            self.dtype,
            x,
            state,
            self._cores,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reset_to=reset_to,
            batch_first=self.batch_first,
            zoneout=self.zoneout,
            out=out,
        )
        return y, final

    def stream(self, batch_size: int = 1) -> Stream:
        """Step by step with the state kept inside; see `pyrnn.Stream`. The weights are shared, not copied."""
        return Stream(self, batch_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters."""
        return sum(a.nbytes for a in self.params.values())

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name."""
        return {name: np.array(a) for name, a in self.params.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and configuration to a safetensors file, for `pyrnn.load`."""
        save_layer(self, path)

    def config(self) -> dict[str, Any]:
        """What a file says beside the parameters."""
        return {
            "layer": "Quantized",
            "quantized": self.name,
            "cell": self.cell,
            "batch_first": self.batch_first,
            "reverse": self.reverse,
            "zoneout": self.zoneout,
        }

    def __repr__(self) -> str:
        return f"{self.name}.quantize('int8')"


def quantize(layer: Any, dtype: str) -> Quantized:
    """`layer.quantize(dtype)`."""
    checks.choice("dtype", dtype, ("int8",))
    for name, value, expected in (
        ("device", layer.device, "cpu"),
        ("dtype", str(layer.dtype), "float32"),
        ("layer_norm", layer.layer_norm, False),
        ("proj_size", layer.proj_size, 0),
        ("merge", layer.merge, "concat"),
        ("heads", layer.heads, 1),
        ("learn_initial_state", layer.learn_initial_state, False),
    ):
        if value != expected:
            raise ValueError(f"quantize: expected a layer with {name}={expected!r}, got {value!r}")
    if isinstance(layer.hidden_size, tuple):
        raise ValueError(f"quantize: expected layers of one hidden_size, got {layer.hidden_size}")
    if layer._variation.inside:
        raise ValueError("quantize: expected a layer without activations, clips and cell_norm of its own")
    if layer._layout.staged:
        raise ValueError(f"quantize: expected a cell of a single product of h, got {layer.cell!r}")
    arrays = layer._backend.arrays
    arrays.weights(layer._layout, layer.params, layer.dtype)  # checks them
    arrays.extras(layer._layout, layer.params, layer.dtype)
    matrices = {name for names in layer._layout.passes for name, _ in names[:2]}
    params: dict[str, Array] = {}
    for name in layer._layout.shapes:
        a = layer.params[name]
        if name in matrices:
            params[name], params[name + SCALE] = rounded(name, a)
        else:
            params[name] = a
    config = {
        "quantized": repr(layer),
        "cell": layer.cell,
        "batch_first": layer.batch_first,
        "reverse": layer.reverse,
        "zoneout": layer.zoneout,
    }
    return Quantized(config, params)


def rounded(name: str, a: Array) -> tuple[Array, Array]:
    """Rows as integers, to the nearest and ties to even, and their scales; a row of zeros has scale 0."""
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: expected finite numbers")
    largest = np.abs(a).max(axis=1)
    scale = (largest / LARGEST).astype(np.float32)
    integers = np.rint(a / np.where(scale > 0, scale, 1)[:, None])
    return np.clip(integers, -LARGEST, LARGEST).astype(np.int8), scale


def layout_of(spec: Any, params: Mapping[str, Array], reverse: bool) -> Layout:
    """The layout that the parameters are of, their names and shapes checked; scales are left out."""
    plain = {name: a for name, a in params.items() if not name.endswith(SCALE)}
    layout = layout_from(spec, plain)
    checks.check_names(layout, plain)
    if not reverse:
        return layout
    if layout.directions == 2:
        raise ValueError("reverse: expected False with two directions, got True")
    sizes = (layout.input_size, layout.hidden_size, layout.num_layers)
    return Layout(spec, *sizes, bias=layout.bias, reverse=True)


def frozen(layout: Layout, params: Mapping[str, Array]) -> dict[str, Array]:
    """Read-only copies of the parameters, every kind and shape checked."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    for names in layout.passes:
        for k, (name, shape) in enumerate(names):
            expected[name] = (shape, "float32" if k > 1 else "int8")
            if k < 2:
                expected[name + SCALE] = (shape[:1], "float32")
    for more in layout.extras:
        expected.update({name: (shape, "float32") for name, shape in more.values()})
    unknown = [name for name in params if name not in expected]
    if unknown:
        raise ValueError(f"params: expected {len(expected)} names, got {unknown[0]!r} in addition")
    made = {}
    for name, (shape, dtype) in expected.items():
        if name not in params:
            raise ValueError(f"params: expected {name!r} of shape {shape}, got no such name")
        a = checks.plain_array(name, params[name], np.dtype(dtype))
        if a.shape != shape:
            raise checks.wrong_shape(name, "of the layer", shape, a.shape)
        made[name] = np.array(a, dtype, order="C")
        made[name].flags.writeable = False
    return made
