# SPDX-License-Identifier: Apache-2.0
"""torch.compile may look into the layers.

TorchDynamo breaks its graph at every `torch.nn.LSTM`, `GRU` and `RNN`, subclasses included, unless its
setting `allow_rnn` says otherwise, because it would unroll their loops. The layers here are one operator, so
the setting is made for them, and for them alone, while TorchDynamo takes one in.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

BUILDER = "torch._dynamo.variables.builder"


def allow(layers: tuple[type, ...]) -> None:
    """Let TorchDynamo trace these layers, now or as soon as it is imported, which takes it a second."""
    if BUILDER in sys.modules:
        wrap(sys.modules[BUILDER], layers)
    else:
        sys.meta_path.insert(0, Finder(layers))


def wrap(builder: ModuleType, layers: tuple[type, ...]) -> None:
    """Make the setting around what TorchDynamo does when it meets one of these layers."""
    take_in = getattr(getattr(builder, "VariableBuilder", None), "wrap_module", None)
    if take_in is None or not hasattr(builder.config, "allow_rnn"):
        return  # another version of PyTorch: it breaks the graph, as at its own layers

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, layers):
            return take_in(self, value)
        with builder.config.patch(allow_rnn=True):
            return take_in(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


class Finder(importlib.abc.MetaPathFinder):
    """Finds TorchDynamo's module once, with a loader that goes on to `wrap`."""

    def __init__(self, layers: tuple[type, ...]) -> None:
        self.layers = layers

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give."""
        if fullname != BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        load, layers = spec.loader.exec_module, self.layers

        def exec_module(module: ModuleType) -> None:
            load(module)
            wrap(module, layers)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
