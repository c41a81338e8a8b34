# SPDX-License-Identifier: Apache-2.0
"""Layers in safetensors files: the parameters as tensors, the configuration as JSON in the metadata."""

from __future__ import annotations

import json
import os
from typing import Any

from pyrnn import checks
from pyrnn.io.safetensors import load_safetensors, save_safetensors
from pyrnn.layout import Array, layout_from
from pyrnn.options import Chosen

KEY = "pyrnn"


def save_layer(layer: Any, path: str | os.PathLike[str]) -> None:
    """Write a layer's parameters and configuration; `layer.save(path)` is this.

    Parameters
    ----------
    layer : pyrnn.Recurrent, pyrnn.Cell, an attention or pyrnn.AttentionDecoder
    path : path
        Replaced, atomically, if it exists.

    Raises
    ------
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import os, tempfile, pyrnn, pyrnn.io
    >>> path = os.path.join(tempfile.mkdtemp(), "cell.safetensors")
    >>> pyrnn.io.save_layer(pyrnn.LSTMCell(3, 5, seed=0), path)
    >>> type(pyrnn.load(path)).__name__
    'LSTMCell'
    """
    save_safetensors(path, layer.state_dict(), {KEY: json.dumps(layer.config())})


def load(path: str | os.PathLike[str]) -> Any:
    """A layer from a file that `save_layer` wrote; `pyrnn.load` is this. Nothing in the file is executed.

    Parameters
    ----------
    path : path of a safetensors file

    Returns
    -------
    pyrnn.Recurrent, pyrnn.Quantized, pyrnn.Cell, an attention or pyrnn.AttentionDecoder
        As saved; the sizes are those of the tensors.

    Raises
    ------
    ValueError
        The file is damaged, or holds no layer.
    OSError
        It cannot be read.

    Examples
    --------
    >>> import os, tempfile, pyrnn
    >>> path = os.path.join(tempfile.mkdtemp(), "layer.safetensors")
    >>> pyrnn.GRU(3, 5, bidirectional=True, seed=0).save(path)
    >>> pyrnn.load(path)
    GRU(3, 5, bidirectional=True)
    """
    # Late, because the layers call this module to save themselves.
    from pyrnn.decoders import restore
    from pyrnn.quantized import Quantized

    tensors, metadata = load_safetensors(path)
    try:
        config = json.loads(metadata[KEY])
        name = config["layer"]
    except (KeyError, TypeError, ValueError):
        raise no_layer(path) from None
    try:
        if name == "Quantized":
            return Quantized(config, tensors)
        dtypes = {a.dtype for a in tensors.values()}
        if len(dtypes) > 1:
            raise ValueError(f"expected parameters of one dtype, got {', '.join(sorted(map(str, dtypes)))}")
        return recurrent(name, config, tensors) if "batch_first" in config else restore(config, tensors)
    except KeyError:
        raise no_layer(path) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def recurrent(name: str, config: dict[str, Any], tensors: dict[str, Array]) -> Any:
    """A recurrent layer from its configuration and its parameters."""
    import pyrnn
    from pyrnn.functional import KERNELS

    cell = config["cell"]
    options = {name: config[name] for name in ("batch_first", "dropout")}
    options["reverse"] = config.get("reverse", False)
    options["compute_dtype"] = config.get("compute_dtype")
    options["recurrent_dropout"] = config.get("recurrent_dropout", 0.0)
    zoneout = config.get("zoneout", 0.0)
    options["zoneout"] = tuple(zoneout) if isinstance(zoneout, list) else zoneout
    # The sizes come from tensors that are in the file: a forged configuration cannot ask for memory.
    merge = checks.choice("merge", config.get("merge", "concat"), ("concat", "sum"))
    layout = layout_from(KERNELS.spec(cell), tensors, merge, checks.size("heads", config.get("heads", 1)))
    checks.state_dict(layout, tensors)
    options |= {"bias": layout.bias, "layer_norm": layout.layer_norm, "bidirectional": layout.directions == 2}
    options["proj_size"] = layout.proj_size
    options["merge"] = merge
    names = set(Chosen._fields) - {"merge", "learn_initial_state", "cell_norm"}
    options |= {name: config[name] for name in names & set(config)}
    if isinstance(config.get("activations"), list):  # JSON's lists were tuples
        functions = config["activations"]
        options["activations"] = tuple(tuple(f) if isinstance(f, list) else f for f in functions)
    options |= {"learn_initial_state": bool(layout.initial), "cell_norm": layout.cell_norm}
    options["dtype"] = tensors["weight_ih_l0"].dtype
    sizes = (layout.input_size, layout.hidden_size, layout.num_layers)
    layer: Any
    if (name, cell) in (("LSTM", "lstm"), ("GRU", "gru")):
        layer = getattr(pyrnn, name)(*sizes, **options)
    elif (name, cell) == ("GRU", "gru_reset_before"):
        layer = pyrnn.GRU(*sizes, reset_after=False, **options)
    elif name == "RNN" and cell.startswith("rnn_"):
        layer = pyrnn.RNN(*sizes, nonlinearity=cell.removeprefix("rnn_"), **options)
    else:
        layer = pyrnn.Recurrent(cell, *sizes, **options)
    layer.load_state_dict(tensors)
    return layer


def no_layer(path: str | os.PathLike[str]) -> ValueError:
    """The error for a safetensors file that holds something else."""
    return ValueError(f"{os.fspath(path)}: expected a file that a layer's save wrote, got no layer in it")
