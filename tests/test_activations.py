# SPDX-License-Identifier: Apache-2.0
"""The activations' vector code: the errors that csrc/math.h and csrc/activations.h state, in ULP."""

import numpy as np
import pytest

from pyrnn import _core

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
EXACT = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}
ULP = {"exp": 2, "tanh": 4, "sigmoid": 4, "relu": 0}
RANGE = {np.float32: (-87, 88), np.float64: (-708, 709)}


def points(dtype):
    """The whole range, the region where the functions bend, and numbers close to zero."""
    low, high = RANGE[dtype]
    rng = np.random.default_rng(0)
    small = rng.uniform(-1, 1, 100_000) * 10.0 ** rng.uniform(-30, 0, 100_000)
    whole, middle = np.linspace(low, high, 300_001), np.linspace(-12, 12, 300_001)
    return np.concatenate([whole, middle, small]).astype(dtype)


@pytest.mark.parametrize("dtype", WIDER)
@pytest.mark.parametrize("name", EXACT)
def test_error_in_units_in_the_last_place(name, dtype):
    x = points(dtype)
    if name == "sigmoid":  # below, e^-x is close to the end of the range and the result is flushed to zero
        x = x[x > (-87 if dtype == np.float32 else -708)]
    exact = EXACT[name](x.astype(WIDER[dtype]))
    got = _core.activation(name, x)
    spacing = np.spacing(np.abs(exact).astype(dtype)).astype(WIDER[dtype])
    error = np.abs(got.astype(WIDER[dtype]) - exact) / spacing
    worst = int(np.argmax(error))
    assert error[worst] <= ULP[name], f"{name}({x[worst]}) = {got[worst]}, {float(error[worst])} ULP off"


@pytest.mark.parametrize("dtype", WIDER)
def test_far_outside_the_range(dtype):
    x = np.array([-np.inf, -1e30, -1e4, 1e4, 1e30, np.inf], dtype)
    tiny = np.finfo(dtype).tiny
    np.testing.assert_array_equal(_core.activation("tanh", x), [-1, -1, -1, 1, 1, 1])
    np.testing.assert_array_equal(_core.activation("relu", x), np.maximum(x, 0))
    sigmoid = _core.activation("sigmoid", x)
    assert np.all(sigmoid[:3] >= 0) and np.all(sigmoid[:3] <= tiny)
    np.testing.assert_array_equal(sigmoid[3:], [1, 1, 1])


@pytest.mark.parametrize("dtype", WIDER)
@pytest.mark.parametrize("name", EXACT)
def test_nan_stays_nan(name, dtype):
    x = np.zeros(33, dtype)
    x[[0, 17, 32]] = np.nan
    np.testing.assert_array_equal(np.isnan(_core.activation(name, x)), np.isnan(x))


@pytest.mark.parametrize("dtype", WIDER)
def test_bounded_by_one(dtype):
    x = points(dtype)
    assert np.abs(_core.activation("tanh", x)).max() <= 1
    assert _core.activation("sigmoid", x).max() <= 1


def test_wrong_arguments():
    with pytest.raises(ValueError, match="name: expected sigmoid, tanh, relu or exp, got 'cosine'"):
        _core.activation("cosine", np.zeros(3))
    with pytest.raises(TypeError, match="x: expected native float32 or float64, got int64"):
        _core.activation("tanh", np.zeros(3, np.int64))
