# SPDX-License-Identifier: Apache-2.0
"""`replace`: the recurrent modules of a model that exists become those of this library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from pyrnn.torch import engines
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
NAMES = {kind.__name__ for kind in KINDS}
OURS = tuple(KINDS.values())
#: Classes made of a subclass of PyTorch's and of ours, by the subclass.
BOTH: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}


@dataclass
class Replaced:
    """What `replace` did.

    Attributes
    ----------
    swapped : dict of str to str
        By the module's name in the model, "" for the model itself: the class it had.
    left : dict of str to str
        By name: why a recurrent module is as it was.
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
    checkpoints go on; only what a call computes with changes. Subclasses of PyTorch's modules keep what they
    define, and reach the kernels where they call `super().forward`.

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
    >>> model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 5), "b": torch.nn.GRU(3, 5).half()})
    >>> print(pyrnn.torch.replace(model))
    a: LSTM swapped
    b: GRU left: torch.float16 is not in the kernels
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    result = Replaced(model)
    for name, module in model.named_modules():
        base = next((kind for kind in KINDS if isinstance(module, kind)), None)
        scripted = isinstance(module, torch.jit.ScriptModule) and module.original_name in NAMES
        if (base is None and not scripted) or isinstance(module, OURS):
            continue
        reason = unfit(module)
        if base is None or reason is not None:
            result.left[name] = (
                f"{module.original_name if base is None else type(module).__name__} left: {reason}"
            )
        else:
            result.swapped[name] = type(module).__name__
            module.__class__ = swapped(type(module), KINDS[base])
    return result


def swapped(kind: type[torch.nn.Module], ours: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class for modules of class `kind`: ours, or, of a subclass of PyTorch's, one that is both.

    What the subclass defines goes first, and finds our class where it asks for what PyTorch's does.
    """
    if kind in KINDS:
        return ours
    if kind not in BOTH:
        body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": reduce}
        BOTH[kind] = type(kind.__name__, (kind, ours), body)
    return BOTH[kind]


def reduce(module: torch.nn.Module, protocol: int) -> tuple[Any, ...]:
    """For copies and pickles: a class that was made here is made again from the one that has a name."""
    kind, ours = type(module).__bases__
    return restore, (kind, ours), module.__getstate__()


def restore(kind: type[torch.nn.Module], ours: type[torch.nn.Module]) -> torch.nn.Module:
    """An object without a state, for pickle to fill."""
    both: Any = swapped(kind, ours)
    return both.__new__(both)


def unfit(module: torch.nn.Module) -> str | None:
    """Why the kernels would not compute a module's calls, or None."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript"
    if is_parametrized(module):
        return "parametrised; replace first and parametrise then"
    for parameter in module.parameters(recurse=False):
        engine = engines.engine_of(parameter.device)
        if engine is None:
            return f"on {parameter.device}, where there are no kernels"
        if parameter.dtype not in engine.dtypes:
            return f"{parameter.dtype} is not in the kernels"
    return None
