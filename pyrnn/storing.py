# SPDX-License-Identifier: Apache-2.0
"""What an object with named parameters can do with them: copy, load, save, and write itself down."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrnn import checks
from pyrnn.io.layers import save_layer
from pyrnn.layout import Array, Named


class Stored:
    """Made from the arguments of its constructor, which it keeps as attributes, and its parameters."""

    dtype: np.dtype[Any]

    def _parameters(self) -> tuple[Named, dict[str, Array]]:
        """Names and shapes, and the arrays themselves."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name."""
        named, params = self._parameters()
        return {name: np.array(params[name]) for name in named.shapes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters in place, cast to the dtype; every name and shape is checked first.

        Parameters
        ----------
        state : mapping of name to array-like of floats

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape is wrong; nothing is loaded then.
        TypeError
            A value holds something else than real floating-point numbers.
        """
        named, params = self._parameters()
        loaded = checks.state_dict(named, state)
        checks.named_arrays(named, params, self.dtype)
        checks.writable(params)
        for name, a in loaded.items():
            params[name][...] = a

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and configuration to a safetensors file, for `pyrnn.load`."""
        save_layer(self, path)

    def config(self) -> dict[str, Any]:
        """The kind, and every argument of the constructor but seed and device, as JSON has it."""
        written: dict[str, Any] = {"layer": type(self).__name__}
        for name in arguments_of(type(self)):
            value = getattr(self, name)
            if name == "device":
                continue
            if isinstance(value, Stored):
                value = value.config()
            written[name] = str(value) if isinstance(value, np.dtype) else value
        return written

    def __repr__(self) -> str:
        words = []
        for name, parameter in arguments_of(type(self)).items():
            value = getattr(self, name)
            word = repr(str(value) if isinstance(value, np.dtype) else value)
            if parameter.default is parameter.empty:
                words.append(word)
            elif value != parameter.default:
                words.append(f"{name}={word}")
        return f"{type(self).__name__}({', '.join(words)})"


def arguments_of(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor but for the seed, by name."""
    return {name: p for name, p in inspect.signature(cls).parameters.items() if name != "seed"}


def bound(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a configuration gives, completed by the defaults; TypeError for any other name."""
    arguments = inspect.signature(cls).bind(**{n: v for n, v in config.items() if n != "layer"})
    arguments.apply_defaults()
    return {name: value for name, value in arguments.arguments.items() if name != "seed"}
