# SPDX-License-Identifier: Apache-2.0
"""One file for a model to use and the training to go on with: what the checkpoints of all programs share.

Tensors by the names of the parameters are the best model so far; `training.*` is what resuming needs. The
metadata hold the rest as JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrnn.io.safetensors import load_safetensors, save_safetensors
from pyrnn.layout import Array
from pyrnn.optim import Adam, FlatBuffer


def save(
    path: str | os.PathLike[str],
    program: str,
    content: Mapping[str, Any],
    params: FlatBuffer,
    best: Array,
    adam: Adam,
    others: Mapping[str, Array],
) -> None:
    """Write everything, atomically.

    Parameters
    ----------
    path : path
    program : str
        Whose checkpoint it is: `charlm`.
    content : mapping
        Anything that JSON can hold.
    params : FlatBuffer
        As they are now.
    best : array (N,)
        The best so far, in the same layout.
    adam : Adam
    others : mapping of arrays
        What else resuming needs, by names that begin with `training.`.
    """
    tensors = params.views_of(best) | {
        "training.params": params.flat,
        "training.adam.mean": adam.mean,
        "training.adam.square": adam.square,
        **others,
    }
    save_safetensors(path, tensors, {key_of(program): json.dumps(content)})


def key_of(program: str) -> str:
    """Under which the metadata hold the content."""
    return f"pyrnn-{program}"


class Archive:
    """A file that `save` wrote.

    Parameters
    ----------
    path : path
    program : str
        Whose checkpoint is expected.

    Attributes
    ----------
    path : str
    content : Any
        As it was saved, or forged: nothing is known about it.
    tensors : dict of arrays

    Raises
    ------
    ValueError
        The file is damaged, or no checkpoint of the program.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], program: str) -> None:
        self.path, self._program = os.fspath(path), program
        self.tensors, metadata = load_safetensors(path)
        try:
            self.content = json.loads(metadata[key_of(program)])
        except (KeyError, ValueError) as error:
            raise self.refused(error) from None

    def refused(self, reason: object) -> ValueError:
        """The error for a content that is not the program's."""
        return ValueError(f"{self.path}: expected a checkpoint of pyrnn {self._program}: {reason}")

    def check_size(self, least: int) -> None:
        """ValueError when the file is far too small for this many parameters.

        So its own size bounds what a forged configuration can make a model allocate.
        """
        if least > 4 * sum(a.size for a in self.tensors.values()):
            raise ValueError("the configuration does not fit the tensors")

    def check_progress(self, progress: Any) -> None:
        """ValueError unless a training can go on from this `step`, `best_step` and `best_bits`."""
        for name in ("step", "best_step"):
            value = getattr(progress, name)
            if not isinstance(value, int) or not 0 <= value < 2**31:
                raise ValueError(f"the {name} is {value!r}")
        bits = progress.best_bits
        if bits is not None and not (isinstance(bits, float) and math.isfinite(bits)):
            raise ValueError(f"the best_bits are {bits!r}")

    def fill(self, params: FlatBuffer) -> None:
        """The best parameters."""
        for name, view in params.views.items():
            view[...] = self.tensor(name, view.shape)

    def resume(self, params: FlatBuffer, steps: int) -> tuple[Array, Adam]:
        """Fill in the parameters after the last step; returns the best ones and the optimiser."""
        self.fill(params)
        best, shape = params.flat.copy(), params.flat.shape
        params.flat[...] = self.tensor("training.params", shape)
        adam = Adam(best.size)
        adam.mean[...] = self.tensor("training.adam.mean", shape)
        adam.square[...] = self.tensor("training.adam.square", shape)
        adam.steps = steps
        return best, adam

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor, its shape and type checked."""
        a = self.tensors.get(name)
        if a is None or a.shape != shape or a.dtype != np.float32:
            got = "none" if a is None else f"{a.shape} of {a.dtype}"
            raise ValueError(f"{self.path}: expected {name!r} of shape {shape} in float32, got {got}")
        return a
