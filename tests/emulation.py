# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, emulated on the host, as a back end for NumPy arrays."""

from types import SimpleNamespace

import numpy as np

from pyrnn import _core, stacking
from pyrnn.backends.cuda import with_kind
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


def emulation(**how):
    """A module like `pyrnn.functional` on the emulated library; `how` are options of `_core.cuda_forward`."""

    def forward(cell, x, state, w_ih, w_hh, b_ih, b_hh, y, state_out, **options):
        options = with_kind(backend.specs[cell], options)
        for name in ("lengths", "mask", "resets", "params"):
            if name in options:
                options[name] = described(options[name])
        return _core.cuda_forward(
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

    def backward(saved, dy, dstate, dx, accumulate, dstate_out, *dweights, dparams=None):
        _core.cuda_backward(
            saved,
            described(dy),
            None if dstate is None else [described(s) for s in dstate],
            described(dx),
            accumulate,
            [described(s) for s in dstate_out],
            *(described(a) for a in dweights),
            allocate=allocate,
            stream=0,
            dparams=described(dparams),
        )

    backend = Backend(_core.cells(), forward, backward, FLOATS)

    def sequence_forward(cell, x, state=None, params=None, *, training=True, **options):
        return stacking.from_names(backend, cell, x, state, params, training, save=True, **options)

    def sequence(cell, x, state=None, params=None, *, training=False, **options):
        return stacking.from_names(backend, cell, x, state, params, training, **options)[:2]

    return SimpleNamespace(
        sequence_forward=sequence_forward, sequence=sequence, sequence_backward=stacking.backward
    )
