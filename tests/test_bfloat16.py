# SPDX-License-Identifier: Apache-2.0
"""Link 5: products in bfloat16 against a plain implementation in the same precision, both against float64."""

import numpy as np
import pytest
from problems import FUSED, Problem, varied
from tolerances import BFLOAT16_GRADIENTS, BFLOAT16_VALUES, l2_error

import pyrnn
from pyrnn import _core, functional, reference

EVERY_CELL = pytest.mark.parametrize("cell", FUSED)  # the others stay float32
ROUNDED = {"compute_dtype": "bfloat16"}


def assert_as_good_as_plain(**problem):
    exact = Problem(**problem).run(reference)
    single = Problem(**problem, dtype=np.float32)
    actual, plain = single.run(functional, **ROUNDED), single.run(reference, **ROUNDED)
    for name, value in exact.items():
        if name.startswith("d") and problem["cell"] == "rnn_relu":
            continue  # piecewise constant: a unit near zero is on either side by chance, or none is
        bound = BFLOAT16_GRADIENTS if name.startswith("d") else BFLOAT16_VALUES
        assert actual[name].dtype == np.float32
        assert l2_error(actual[name], value) <= bound * l2_error(plain[name], value), name


@pytest.mark.parametrize(
    ("cell", "n", "B"),
    varied(((9, 16), (16, 31), (33, 129), (129, 17), (2, 64)), (1, 2, 5, 33), cells=FUSED),
    ids=str,
)
def test_sizes(cell, n, B):
    assert_as_good_as_plain(cell=cell, T=4, B=B, I=n[0], H=n[1])


@pytest.mark.parametrize(("cell", "B", "kind"), varied((1, 3, 8), ("plain", "all"), cells=FUSED))
def test_many_steps(cell, B, kind):
    assert_as_good_as_plain(cell=cell, T=60, B=B, I=17, H=33, kind=kind)


@EVERY_CELL
def test_stacked(cell):
    assert_as_good_as_plain(cell=cell, T=6, B=5, I=9, H=17, num_layers=2, directions=2, kind="all")


def test_weights_are_rounded():
    """1 + 2^-9 is no bfloat16: to the even neighbour, 1, also where a pair is incomplete."""
    for inputs in (1, 2, 5, 32, 33):
        layer = pyrnn.RNN(inputs, 40, nonlinearity="relu", bias=False, compute_dtype="bfloat16")
        layer.params["weight_ih_l0"][...] = 1 + 2**-9
        layer.params["weight_hh_l0"][...] = 0
        y, _ = layer(np.ones((1, 1, inputs), np.float32))
        np.testing.assert_array_equal(y, inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    """Not finite in, not finite out; padding has no influence."""
    layer = pyrnn.RNN(5, 20, nonlinearity="relu", seed=0, **ROUNDED)
    x = np.ones((3, 2, 5), np.float32)
    expected = layer(x[:2])[0]
    x[2] = value
    assert not np.isfinite(layer(x)[0][2]).all()
    np.testing.assert_array_equal(layer(x, lengths=[2, 2])[0][:2], expected)


@EVERY_CELL
@pytest.mark.parametrize("sizes", [(30, 1, 20, 200), (12, 70, 33, 65)], ids=str)
def test_any_number_of_threads(cell, sizes, threads):
    layer = pyrnn.Recurrent(cell, *sizes[2:], seed=0, **ROUNDED)
    x = np.random.default_rng(0).normal(size=sizes[:3]).astype(np.float32)
    threads(1)
    expected = layer(x)[0]
    for n in (2, 3, 5):
        threads(n)
        np.testing.assert_array_equal(layer(x)[0], expected)


@pytest.mark.parametrize("cell", FUSED)
def test_stream(cell):
    layer = pyrnn.Recurrent(cell, 7, 33, 2, seed=0, **ROUNDED)
    x = np.random.default_rng(0).normal(size=(9, 4, 7)).astype(np.float32)
    y = layer(x)[0]
    np.testing.assert_array_equal(layer.stream(batch_size=4).run(x), y)
    exact = pyrnn.Recurrent(cell, 7, 33, 2, seed=0)(x)[0]
    assert 1e-5 < l2_error(y, exact) < 1e-2


def test_file(tmp_path):
    layer = pyrnn.GRU(3, 5, seed=0, **ROUNDED)
    layer.save(tmp_path / "layer.safetensors")
    loaded = pyrnn.load(tmp_path / "layer.safetensors")
    assert repr(loaded) == repr(layer) == "GRU(3, 5, compute_dtype='bfloat16')"
    x = np.ones((2, 1, 3), np.float32)
    np.testing.assert_array_equal(loaded(x)[0], layer(x)[0])


def test_compiled_module_refuses():
    x, w = np.zeros((1, 1, 2)), np.zeros((2, 2))
    y, h = np.zeros((1, 1, 2)), [np.zeros((1, 2))]
    with pytest.raises(TypeError, match="compute_dtype: expected None for float64 arrays"):
        _core.forward("rnn_relu", x, None, w, w, None, None, y, h, **ROUNDED)
    with pytest.raises(ValueError, match="compute_dtype: expected None or 'bfloat16', got 'half'"):
        _core.forward("rnn_relu", x, None, w, w, None, None, y, h, compute_dtype="half")
    with pytest.raises(TypeError, match="compute_dtype"):
        _core.Stream("rnn_relu", [(w, w, None, None)], 1, np.dtype("float64"), "bfloat16")


def test_it_changes_nothing_and_says_so():
    for cell, given in (("lstm", {"heads": 5}), ("gru", {"layer_norm": True}), ("mgu", {})):
        with pytest.warns(UserWarning, match="compute_dtype: 'bfloat16' changes nothing with layer_norm"):
            layer = pyrnn.Recurrent(cell, 3, 5, seed=0, **ROUNDED, **given)
        x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
        exact = pyrnn.Recurrent(cell, 3, 5, seed=0, **given)
        assert np.array_equal(layer(x)[0], exact(x)[0])
    with pytest.warns(UserWarning, match="compute_dtype"):
        functional.sequence("mgu", x, None, exact.params, **ROUNDED)
