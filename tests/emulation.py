# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, emulated on the host, as a back end for NumPy arrays."""

import math
from types import SimpleNamespace

import numpy as np

from pyrnn import _core, stacking
from pyrnn.backends.cuda import EXTRAS, Kept, with_kind
from pyrnn.backends.layer import Backend
from pyrnn.checks import FLOATS


def described(a):
    """An array as `_core.cuda_forward` takes it."""
    if a is None:
        return None
    strides = tuple(s // a.itemsize for s in a.strides)
    return (a.__array_interface__["data"][0], a.shape, strides, a.dtype.name, a)


def allocate(size):
    """Memory filled with NaN, aligned as a device's is."""
    memory = np.full(size // 8 + 64, np.nan)
    pointer = memory.__array_interface__["data"][0]
    return (pointer + 255) // 256 * 256, memory


class Host:
    """Memory of the host as a device's."""

    @staticmethod
    def numbers(memory, shape, dtype):
        first = (-memory.__array_interface__["data"][0]) % 256
        return memory.view(np.uint8)[first:].view(dtype)[: math.prod(shape)].reshape(shape)


HOST = Host()


def emulation(**how):
    """A module like `pyrnn.functional` on the emulated library; `how` are options of `_core.cuda_forward`."""

    def forward(cell, x, state, w_ih, w_hh, b_ih, b_hh, y, state_out, **options):
        options = with_kind(backend.specs[cell], options)
        for name in ("lengths", "mask", "resets", *EXTRAS):
            if name in options:
                options[name] = described(options[name])
        core = _core.cuda_forward(
            cell,
            described(x),
            [described(s) for s in state],
            *(described(a) for a in (w_ih, w_hh, b_ih, b_hh, y)),
            [described(s) for s in state_out],
            allocate=allocate,
            device=0,
            stream=0,
            **options,
            **how,
        )
        return None if core is None else Kept(core, HOST)

    def backward(saved, dy, dstate, dx, accumulate, dstate_out, *dweights, dstates=None, **extras):
        _core.cuda_backward(
            saved.core,
            described(dy),
            None if dstate is None else [described(s) for s in dstate],
            described(dx),
            accumulate,
            [described(s) for s in dstate_out],
            *(described(a) for a in dweights),
            allocate=allocate,
            stream=0,
            **{name: described(a) for name, a in extras.items()},
            dstates=None if dstates is None else [described(s) for s in dstates],
        )

    backend = Backend(_core.cells(), forward, backward, FLOATS)
    backend.every = {"every": True}

    def sequence_forward(cell, x, state=None, params=None, *, training=True, **options):
        return stacking.from_names(backend, cell, x, state, params, training, save=True, **options)

    def sequence(cell, x, state=None, params=None, *, training=False, **options):
        return stacking.from_names(backend, cell, x, state, params, training, **options)[:-1]

    return SimpleNamespace(
        sequence_forward=sequence_forward, sequence=sequence, sequence_backward=stacking.backward
    )
