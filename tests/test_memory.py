# SPDX-License-Identifier: Apache-2.0
"""Memory that is kept between calls: results have their own, and what nobody holds is used again."""

import gc

import numpy as np
import pytest

import pyrnn
from pyrnn import _core

F4 = np.dtype("float32")


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0, 2), (4, 7), (300, 5, 129)])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "complex128", "bool"])
def test_empty(shape, dtype):
    a = _core.empty(shape, np.dtype(dtype))
    assert a.shape == shape and a.dtype == dtype
    assert a.flags.c_contiguous and a.flags.aligned and a.flags.writeable
    a[...] = 1
    assert (a == 1).all()


def test_arrays_that_live_have_their_own_memory():
    arrays = [_core.empty((100_000,), F4) for _ in range(30)]
    for k, a in enumerate(arrays):
        a[:] = k
    assert all((a == k).all() for k, a in enumerate(arrays))


def test_memory_of_an_array_that_is_gone_is_used_again():
    _core.release_memory()
    a = _core.empty((1 << 20,), F4)
    address, view = a.ctypes.data, a[5:]
    del a
    other = _core.empty((1 << 20,), F4)
    assert other.ctypes.data != address  # the view holds it
    del view
    assert _core.empty((1 << 20,), F4).ctypes.data == address


def test_results_outlive_their_layer():
    layer = pyrnn.LSTM(16, 64, seed=0)
    x = np.random.default_rng(0).normal(size=(40, 32, 16)).astype("float32")
    y, _ = layer(x)
    kept = y.copy()
    for _ in range(5):
        layer(x + 1)
    del layer
    gc.collect()
    _core.release_memory()
    layer = pyrnn.LSTM(16, 64, seed=1)
    layer(x)
    np.testing.assert_array_equal(y, kept)


@pytest.mark.parametrize(
    "shape, dtype, error",
    [
        ((-1,), F4, ValueError),
        ((2**40, 2**40), F4, ValueError),
        ((2**59,), F4, MemoryError),
        (3, F4, TypeError),
        ((3,), np.dtype("O"), TypeError),
        ((3,), np.dtype([("a", "O")]), TypeError),
        (("a",), F4, TypeError),
        ((3,), None, TypeError),
    ],
)
def test_wrong_arguments(shape, dtype, error):
    with pytest.raises(error):
        _core.empty(shape, dtype)
