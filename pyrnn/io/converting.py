# SPDX-License-Identifier: Apache-2.0
"""Layers in files of any library: the suffix of a path decides."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from pyrnn.functional import KERNELS
from pyrnn.io.gates import layer_name
from pyrnn.io.keras_layers import from_keras, imported, to_keras
from pyrnn.io.layers import KEY, load, recurrent
from pyrnn.io.onnx_layers import from_onnx
from pyrnn.io.onnx_models import to_onnx
from pyrnn.io.safetensors import load_safetensors, write_atomically
from pyrnn.io.torch_modules import array, to_torch
from pyrnn.layout import Array

SUFFIXES = (".safetensors", ".pt", ".pth", ".keras", ".onnx")
#: Names of a layer's parameters in a state_dict, behind the path of its module; a cell's have no `_l0`.
PARAMETER = re.compile(
    r"(?:(?P<prefix>.*)\.)?(?P<name>(?:(?:weight|bias)_[a-z_]+?|[hc]0)(?P<end>_l\d+(?:_reverse)?)?)",
    re.DOTALL,
)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix of a path, one of those known."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)}: expected a suffix of {', '.join(SUFFIXES)}, got {suffix!r}")
    return suffix


def read_layer(path: str | os.PathLike[str], cell: str | None = None, part: str | None = None) -> Any:
    """A layer from a file of this library, PyTorch, Keras or ONNX.

    Parameters
    ----------
    path : path
        .safetensors: what `save` wrote, or a state_dict; .pt, .pth: a state_dict, read with
        `weights_only=True`; .keras: a model; .onnx.
    cell : str, optional
        The cell of a state_dict, which names none.
    part : str, optional
        Which layer of a file with several: the path of a module in a state_dict, the name of Keras's layer or
        of ONNX's node.

    Returns
    -------
    pyrnn.Recurrent
        Or another object that `save` wrote.

    Raises
    ------
    ValueError
        The suffix is unknown; the file is damaged, holds no layer or several; `cell` is missing or too much.
    OSError
        It cannot be read.
    ModuleNotFoundError
        The library of the format is not installed.
    """
    suffix = suffix_of(path)
    os.stat(path)  # a file that is not there is the same error for every library
    if suffix == ".safetensors":
        tensors, metadata = load_safetensors(path)
        if KEY not in metadata:
            return from_state_dict(path, tensors, cell, part)
    elif suffix in (".pt", ".pth"):
        return from_state_dict(path, torch_tensors(path), cell, part)
    if cell is not None:
        raise ValueError(f"cell: expected none, because {os.fspath(path)} says it, got {cell!r}")
    if suffix == ".onnx":
        return from_onnx(path, part)
    if suffix == ".keras":
        return from_keras(keras_model(path), part)
    if part is not None:
        raise ValueError(f"part: expected none, because {os.fspath(path)} holds one layer, got {part!r}")
    return load(path)


def write_layer(
    layer: Any, path: str | os.PathLike[str], *, lengths: bool = False, state: bool = False
) -> None:
    """Write a layer in the format that the suffix names, completely or not at all.

    Parameters
    ----------
    layer : pyrnn.Recurrent
    path : path
        .safetensors: for `pyrnn.load`; .pt, .pth: the state_dict of PyTorch's module; .keras: a model of
        Keras's layers; .onnx. Replaced if it exists.
    lengths, state : bool
        Inputs of an ONNX model; see `to_onnx`.

    Raises
    ------
    ValueError
        The suffix is unknown, or the format has no such layer.
    OSError
        The file cannot be written.
    ModuleNotFoundError
        The library of the format is not installed.
    """
    suffix = suffix_of(path)
    if (lengths or state) and suffix != ".onnx":
        raise ValueError(f"lengths, state: expected False but for .onnx, got True with {suffix}")
    if suffix == ".safetensors":
        layer.save(path)
    elif suffix == ".onnx":
        to_onnx(layer, path, lengths=lengths, state=state)
    elif suffix == ".keras":
        made, keras = to_keras(layer), imported()
        if not isinstance(made, keras.Model):
            made = keras.Sequential([keras.Input((None, layer.input_size), dtype=str(layer.dtype)), made])
        with tempfile.TemporaryDirectory() as folder:
            made.save(os.path.join(folder, "model.keras"))
            write_atomically(path, [Path(folder, "model.keras").read_bytes()])
    else:
        import torch

        buffer = BytesIO()
        torch.save(to_torch(layer).state_dict(), buffer)
        write_atomically(path, [buffer.getvalue()])


def torch_tensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a state_dict, or of the one in a checkpoint; no code of the file is run."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of a damaged file: pickle's, zipfile's, PyTorch's own
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise ValueError(f"{os.fspath(path)}: expected a state_dict of PyTorch: {reason}") from None
    for key in ("state_dict", "model_state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise ValueError(f"{os.fspath(path)}: expected a state_dict, got {type(found).__name__}")
    return {
        name: array(name, a)
        for name, a in found.items()
        if isinstance(name, str) and isinstance(a, torch.Tensor) and PARAMETER.fullmatch(name)
    }


def keras_model(path: str | os.PathLike[str]) -> Any:
    """A model of Keras's, read in its safe mode."""
    keras = imported()
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged archive raises in Keras
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise ValueError(f"{os.fspath(path)}: expected a model that Keras saved: {reason}") from None


def from_state_dict(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], cell: str | None, part: str | None
) -> Any:
    """A layer from the parameters of one module in a state_dict."""
    modules: dict[str, dict[str, Array]] = {}
    for key, a in tensors.items():
        match = PARAMETER.fullmatch(key)
        if match:
            name = match["name"] if match["end"] else match["name"] + "_l0"
            modules.setdefault(match["prefix"] or "", {})[name] = a
    modules = {prefix: params for prefix, params in modules.items() if "weight_hh_l0" in params}
    names = ", ".join(repr(prefix[:80]) for prefix in list(modules)[:20]) or "none"
    if part is None and len(modules) == 1:
        (part,) = modules
    if part not in modules:
        raise ValueError(f"{os.fspath(path)}: expected one recurrent module, or the path of one, got {names}")
    if cell is None:
        raise ValueError(f"cell: expected one of {', '.join(KERNELS.specs)}: a state_dict does not name it")
    params = modules[part]
    if len({a.dtype for a in params.values()}) > 1:
        raise ValueError(f"{os.fspath(path)}: expected parameters of one dtype, got several")
    config = {"cell": KERNELS.spec(cell).name, "batch_first": False, "dropout": 0.0}
    return recurrent(layer_name(cell), config, params)
