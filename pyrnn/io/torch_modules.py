# SPDX-License-Identifier: Apache-2.0
"""Layers from modules of PyTorch and back: names, shapes and gate order are the same on both sides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyrnn.io.gates import layer_name
from pyrnn.io.layers import recurrent
from pyrnn.io.refusing import refuse
from pyrnn.layout import Array
from pyrnn.options import Chosen
from pyrnn.parameters import Parameters

if TYPE_CHECKING:
    import torch

#: Cells that `torch.nn` has, and its class for them.
CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}


def from_torch(module: torch.nn.Module) -> Any:
    """A layer with the parameters and options of a module of PyTorch.

    Parameters
    ----------
    module : torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell, or a module of `pyrnn.torch`
        On any device, in float32 or float64. Of parametrised modules the parameters as they are now.

    Returns
    -------
    pyrnn.LSTM, GRU, RNN, Recurrent, LSTMCell, GRUCell, RNNCell, an attention or an AttentionDecoder
        With copies of the parameters. States have the layers' axes, whatever `states_batch_first` is.

    Raises
    ------
    TypeError
        `module` is none of these, or has parameters of another dtype.

    Examples
    --------
    >>> import torch, pyrnn
    >>> pyrnn.io.from_torch(torch.nn.LSTM(3, 5, num_layers=2, batch_first=True))
    LSTM(3, 5, num_layers=2, batch_first=True)
    """
    import torch

    if isinstance(module, torch.nn.RNNBase):
        return layer_from(module)
    if isinstance(module, torch.nn.RNNCellBase):
        return cell_from(module)
    if isinstance(module, torch.nn.Module) and type(module).__module__.startswith("pyrnn.torch"):
        from pyrnn.decoders import restore

        # A decoder holds its attention's configuration, and names its parameters with the same prefix.
        described: Any = getattr(module, "decoder", None) or module.aligner
        return restore(described.config(), {name: array(name, a) for name, a in module.state_dict().items()})
    raise TypeError(
        "module: expected a recurrent layer or cell of torch.nn or a module of pyrnn.torch, "
        f"got {type(module).__name__}"
    )


def layer_from(module: Any) -> Any:
    """A layer from one of torch.nn, or from one of ours with what that does not have."""
    variant = getattr(module, "_variant", None)
    cell = module.mode.lower() if variant is None else variant.layout.spec.name
    config: dict[str, Any] = {"cell": cell, "batch_first": module.batch_first, "dropout": module.dropout}
    if variant is not None:
        config |= {"zoneout": variant.zoneout, "recurrent_dropout": variant.recurrent_dropout}
        config |= variant.chosen.changed()
        config |= {"reverse": variant.layout.reverse}
        if variant.compute_dtype == "bfloat16":
            config["compute_dtype"] = variant.compute_dtype
    names = [name for group in module._all_weights for name in group]
    return recurrent(layer_name(cell), config, {name: array(name, getattr(module, name)) for name in names})


def cell_from(module: Any) -> Any:
    """A cell from one of torch.nn."""
    import torch

    import pyrnn

    kinds = (torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell)
    kind = next((k for k in kinds if isinstance(module, k)), None)
    if kind is None:
        raise TypeError(f"module: expected LSTMCell, GRUCell or RNNCell, got {type(module).__name__}")
    variant = getattr(module, "_variant", None)
    if variant is not None:
        layout = variant[0]
        params = {name: array(name, getattr(module, name)) for name in layout.shapes}
        sizes = (module.input_size, module.hidden_size, module.bias)
        cell = pyrnn.Cell(layout.spec.name, *sizes, dtype=params["weight_ih"].dtype)
        cell.params = Parameters(params)
        return cell
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if module.bias else 2]
    params = {name: array(name, getattr(module, name)) for name in names}
    options = {"nonlinearity": module.nonlinearity} if kind is torch.nn.RNNCell else {}
    cell = getattr(pyrnn, kind.__name__)(
        module.input_size, module.hidden_size, module.bias, dtype=params["weight_ih"].dtype, **options
    )
    cell.params = Parameters(params)
    return cell


def array(name: str, tensor: torch.Tensor) -> Array:
    """A copy of a tensor in NumPy."""
    import torch

    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: expected torch.float32 or torch.float64, got {tensor.dtype}; module.float() converts it"
        )
    copied: Array = tensor.detach().cpu().contiguous().numpy().copy()
    return copied


def to_torch(layer: Any) -> torch.nn.Module:
    """A module of PyTorch with a layer's parameters and options.

    Parameters
    ----------
    layer : pyrnn.Recurrent, LSTMCell, GRUCell, RNNCell, BahdanauAttention, LuongAttention or AttentionDecoder

    Returns
    -------
    torch.nn.Module
        Of `torch.nn` where PyTorch has it; of `pyrnn.torch` for attention, other cells and options. On the
        CPU, with copies of the parameters in their dtype.

    Raises
    ------
    TypeError
        `layer` is none of these.
    ValueError
        It has a cell or an option that no module has.

    Examples
    --------
    >>> import pyrnn, pyrnn.torch
    >>> pyrnn.io.to_torch(pyrnn.GRU(3, 5, bidirectional=True))
    GRU(3, 5, bidirectional=True)
    """
    import torch

    import pyrnn
    from pyrnn.aligning import Aligner

    with torch.random.fork_rng(devices=[]):  # what a constructor draws is overwritten
        if isinstance(layer, pyrnn.Recurrent):
            module = module_of(layer)
        elif isinstance(layer, pyrnn.Cell):
            module = cell_module(layer)
        elif isinstance(layer, Aligner | pyrnn.AttentionDecoder):
            module = attention_module(layer)
        else:
            raise TypeError(f"layer: expected a layer, a cell or an attention, got {type(layer).__name__}")
        tensors = layer.params if isinstance(layer, pyrnn.Cell) else layer.state_dict()
        module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})
    return module


def module_of(layer: Any) -> Any:
    """A recurrent module whose parameters are still to be loaded."""
    import torch

    known = ("hidden_size", "zoneout", "layer_norm", "proj_size", "reverse", *Chosen._fields)
    refuse(layer, "PyTorch", known)
    options: dict[str, Any] = layer._chosen.changed()
    defaults: dict[str, Any] = {
        "zoneout": 0.0,
        "recurrent_dropout": 0.0,
        "layer_norm": False,
        "reverse": False,
    }
    for name, default in (defaults | {"compute_dtype": None}).items():
        if getattr(layer, name) != default:
            options[name] = getattr(layer, name)
    library: Any = torch.nn
    kind = CLASSES.get(layer.cell)
    if kind is None or options or layer._layout.ragged:
        import pyrnn.torch as library
        from pyrnn.torch.variants import cells_of

        if kind is None:
            kind = next(kind for kind in ("LSTM", "GRU", "RNN") if layer.cell in cells_of(kind))
            options["cell"] = layer.cell
    if kind == "RNN":
        options["nonlinearity"] = layer.cell.rpartition("_")[2]
    if layer.proj_size:
        options["proj_size"] = layer.proj_size
    module = getattr(library, kind)(
        layer.input_size, layer.hidden_size, layer.num_layers,
        bias=layer.bias, batch_first=layer.batch_first, bidirectional=layer.bidirectional,
        dtype=getattr(torch, str(layer.dtype)), **options,
    )  # fmt: skip
    module.dropout = layer.dropout  # PyTorch's constructor warns of one that a single layer does not use
    return module


def cell_module(cell: Any) -> Any:
    """A cell of torch.nn whose parameters are still to be loaded."""
    import torch

    options: dict[str, Any] = {}
    library: Any = torch.nn
    kind = CLASSES.get(cell.name)
    if kind is None:
        import pyrnn.torch as library
        from pyrnn.torch.variants import cells_of

        kind = next(kind for kind in ("LSTM", "GRU", "RNN") if cell.name in cells_of(kind))
        options["cell"] = cell.name
    elif kind == "RNN":
        options["nonlinearity"] = cell.name.removeprefix("rnn_")
    return getattr(library, kind + "Cell")(
        cell.input_size, cell.hidden_size, cell.bias, dtype=getattr(torch, str(cell.dtype)), **options
    )


def attention_module(layer: Any) -> Any:
    """An attention or a decoder of `pyrnn.torch` whose parameters are still to be loaded."""
    import pyrnn.torch

    config: dict[str, Any] = json.loads(json.dumps(layer.config()))
    name = config.pop("layer")
    kind = getattr(pyrnn.torch, name, None)
    if kind is None:
        raise ValueError(f"layer: expected an attention that pyrnn.torch has, got {name}")
    if "attention" in config:
        config["attention"] = attention_module(layer.attention)
    return kind(**config)
