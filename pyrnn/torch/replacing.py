# SPDX-License-Identifier: Apache-2.0
"""`replace`: the recurrent modules of a model that exists become those of this library."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pyrnn.torch.arrays import DTYPES
from pyrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from pyrnn.torch.recurrent import GRU, LSTM, RNN

KINDS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNN: RNN,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
    torch.nn.RNNCell: RNNCell,
}


@dataclass
class Replaced:
    """What `replace` did.

    Attributes
    ----------
    swapped : dict of str to str
        By the module's name in the model, "" for the model itself: the class it had.
    left : dict of str to str
        By name: why a recurrent module is as it was, or, where it was swapped, what PyTorch still computes.
    model : torch.nn.Module
        The model that was given.
    """

    model: torch.nn.Module
    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name or 'the model itself'}: {kind} swapped" for name, kind in self.swapped.items()]
        lines += [f"{name or 'the model itself'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "no recurrent module found"


def replace(model: torch.nn.Module) -> Replaced:
    """Give every recurrent module of a model the class of this library, in place.

    Parameters, hooks, names and the modules' identity stay as they are, so that optimisers, references and
    checkpoints go on; only what a call computes with changes.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Replaced
        What was swapped, and what was left and why.

    Raises
    ------
    TypeError
        `model` is no module.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 5), "b": torch.nn.LSTM(3, 5, proj_size=2)})
    >>> print(pyrnn.torch.replace(model))
    a: LSTM swapped
    b: LSTM left: proj_size is not in the kernels
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    result = Replaced(model)
    for name, module in model.named_modules():
        kind = type(module)
        if isinstance(module, tuple(KINDS.values())):
            continue
        reason = unfit(module)
        if kind in KINDS and reason is None:
            module.__class__ = KINDS[kind]
            result.swapped[name] = kind.__name__
        elif isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase) or "Scripted" in reason_kind(module):
            if kind in KINDS or reason is not None:
                result.left[name] = f"{kind.__name__} left: {reason}"
            else:
                result.left[name] = f"{kind.__name__} left: a class of its own, whose forward may differ"
    return result


def reason_kind(module: torch.nn.Module) -> str:
    """ "Scripted" for a module that TorchScript compiled from a recurrent one, else ""."""
    if not isinstance(module, torch.jit.ScriptModule):
        return ""
    names = {kind.__name__ for kind in KINDS}
    return "Scripted" if getattr(module, "original_name", "") in names else ""


def unfit(module: torch.nn.Module) -> str | None:
    """Why the kernels would not compute a module's calls, or None."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript"
    if getattr(module, "proj_size", 0):
        return "proj_size is not in the kernels"
    for parameter in module.parameters(recurse=False):
        if parameter.device.type != "cpu":
            return f"on {parameter.device}, where there are no kernels"
        if parameter.dtype not in DTYPES:
            return f"{parameter.dtype} is not in the kernels"
    return None
