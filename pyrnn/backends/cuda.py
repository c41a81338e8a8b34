# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels as a back end: where their library is, and calls on described arrays."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyrnn
from pyrnn import _core
from pyrnn.backends.device import NUMBERS, DeviceArrays, installed_library, library_of, number_of
from pyrnn.backends.layer import Backend
from pyrnn.layout import Spec
from pyrnn.options import own_curves

LIBRARY = "libpyrnn_cuda.so"
#: The entry points of packages that bring a device's library: a function that gives its path.
PACKAGES = "pyrnn.device_libraries"


def library_path() -> str | None:
    """Where the CUDA library is: PYRNN_CUDA_LIBRARY, beside this package, or in its own; None if nowhere.

    Raises
    ------
    RuntimeError
        The library's package has another version than this one.
    """
    named = os.environ.get("PYRNN_CUDA_LIBRARY")
    if named:
        return named
    beside = Path(_core.__file__).with_name(LIBRARY)
    if beside.exists():
        return str(beside)
    for package in entry_points(group=PACKAGES, name="cuda"):
        if package.dist is not None and package.dist.version != pyrnn.__version__:
            raise RuntimeError(
                f"device: {package.dist.name}: expected version {pyrnn.__version__}, as of pyrnn-kernels, "
                f"got {package.dist.version}"
            )
        return str(package.load()())
    return None


def open_library(device: str) -> int:
    """The number of the device that "cuda" or "cuda:1" names, its library open.

    Raises
    ------
    RuntimeError
        The library, the driver or the device is missing, or the library has another interface.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdecimal() or not _):
        raise RuntimeError(f"device: expected 'cpu', 'cuda' or 'cuda:0', …, got {device!r}")
    path = library_path()
    if path is None:
        raise RuntimeError(
            f"device: expected 'cpu', got {device!r}, for which {LIBRARY} is missing: install "
            "pyrnn-kernels-cuda13, or build with PYRNN_CUDA=ON"
        )
    _core.cuda_open(path)
    names = _core.cuda_devices()
    index = int(number or 0)
    if index >= len(names):
        raise RuntimeError(f"device: expected one of {len(names)} CUDA devices, got {device!r}")
    return index


def status() -> str:
    """The CUDA library and the devices it sees, in words, for `pyrnn info`."""
    path = None
    try:
        path = library_path()
        if path is None:
            return "not installed"
        build = _core.cuda_open(path)
        return f"{build}; devices: {', '.join(_core.cuda_devices()) or 'none'}"
    except RuntimeError as error:
        return f"{path or 'the installed library'} cannot be used: {error}"


#: Arguments that are arrays beside those of every layer.
EXTRAS = ("params", "norm_ih", "norm_hh", "weight_hr", "norm_c", "bias_c")


def with_kind(spec: Spec, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call as `_core.cuda_forward` has them: no variation where a cell is as it is."""
    if "variation" not in options:
        return options
    curves, gate_clip, cell_clip, kind = options["variation"]
    if kind == "candidate":
        raise NotImplementedError("dropout of candidates is not implemented on CUDA")
    if gate_clip or cell_clip or "norm_c" in options or curves != own_curves(spec):
        return options
    del options["variation"]
    return options | {"dropout_kind": kind}


class Kept:
    """What a forward on the device keeps, and the library of its arrays."""

    __slots__ = ("arrays", "core")

    def __init__(self, core: Any, arrays: DeviceArrays) -> None:
        self.core, self.arrays = core, arrays

    def saved(self) -> Any:
        """What the cells saved, (T, B, saved, H); zero at skipped steps."""
        return self.rows(self.core.saved())

    def states(self) -> Any:
        """The states after every step, (T, B, states, H); zero at skipped steps."""
        return self.rows(self.core.states())

    def rows(self, kept: Any) -> Any:
        """Rows of units that the kernels left, without their padding."""
        memory, shape, units, number = kept
        if memory is None:
            return self.arrays.empty((*shape[:3], units), number)
        return self.arrays.numbers(memory, shape, number)[..., :units]


class CudaBackend(Backend):
    """What runs one layer in one direction on a device.

    Parameters
    ----------
    device : str
        "cuda" or "cuda:1".
    precision : {"exact", "tf32"}
        How float32 products are computed.
    """

    def __init__(self, device: str, precision: str = "exact") -> None:
        self.device, self.precision = open_library(device), precision
        self.tier = "automatic"
        # A product of h, of every weight, into at most eight slots.
        cells = {
            name: cell
            for name, cell in _core.cells().items()
            if 0 < len(cell["from_h"]) <= 8 and not cell.get("ordered")
        }
        super().__init__(cells, self.run, self.run_backward, NUMBERS, installed_library(self.device))
        self.every = {"every": True}

    def spec(self, cell: Any) -> Spec:
        if isinstance(cell, str) and cell not in self.specs and cell in _core.cells():
            raise NotImplementedError(
                f"cell={cell!r} is not implemented on CUDA devices; {', '.join(self.specs)} are"
            )
        return super().spec(cell)

    def arrays_of(self, name: str, a: Any) -> DeviceArrays:
        return library_of(name, a, self.device)

    def dtype(self, name: str, dtype: Any) -> Any:
        return number_of(name, dtype)

    def run(
        self,
        cell: str,
        x: Any,
        state: list[Any],
        weight_ih: Any,
        weight_hh: Any,
        bias_ih: Any,
        bias_hh: Any,
        y: Any,
        state_out: list[Any],
        **options: Any,
    ) -> Kept | None:
        """As `_core.forward`, on device arrays."""
        arrays = self.arrays_of("x", x)
        options = with_kind(self.specs[cell], options)

        def described(a: Any) -> Any:
            return None if a is None else self.arrays_of("params", a).describe(a)

        for name in EXTRAS:
            if name in options:
                options[name] = described(options[name])
        for name in ("lengths", "mask", "resets"):
            if name in options:
                options[name] = arrays.describe(options[name])
        core = _core.cuda_forward(
            cell,
            arrays.describe(x),
            [arrays.describe(s) for s in state],
            described(weight_ih),
            described(weight_hh),
            described(bias_ih),
            described(bias_hh),
            arrays.describe(y),
            [arrays.describe(s) for s in state_out],
            allocate=arrays.allocate,
            device=self.device,
            stream=arrays.stream(),
            precision=self.precision,
            tier=self.tier,
            **options,
        )
        return None if core is None else Kept(core, arrays)

    def run_backward(
        self,
        kept: Kept,
        dy: Any,
        dstate: list[Any] | None,
        dx: Any,
        dx_accumulate: bool,
        dstate_out: list[Any],
        *dweights: Any,
        dstates: list[Any] | None = None,
        **extras: Any,
    ) -> None:
        """As `_core.backward`, on device arrays."""
        arrays = kept.arrays
        dw_ih, dw_hh = (arrays.describe(a) for a in dweights[:2])
        db_ih, db_hh = (None if a is None else arrays.describe(a) for a in dweights[2:])
        _core.cuda_backward(
            kept.core,
            None if dy is None else arrays.describe(dy),
            None if dstate is None else [arrays.describe(s) for s in dstate],
            arrays.describe(dx),
            dx_accumulate,
            [arrays.describe(s) for s in dstate_out],
            dw_ih,
            dw_hh,
            db_ih,
            db_hh,
            allocate=arrays.allocate,
            stream=arrays.stream(),
            dstates=None if dstates is None else [arrays.describe(s) for s in dstates],
            **{name: arrays.describe(a) for name, a in extras.items()},
        )
