# SPDX-License-Identifier: Apache-2.0
"""Link 2 of the chain of trust: each compiled cell's backward against its own forward on dual numbers."""

import numpy as np
import pytest
from problems import CELLS
from tolerances import DUAL

from pyrnn import _core
from pyrnn.reference.cells import registry


def test_the_registries_agree():
    """Every compiled cell has its reference, with the same constants; and the other way round."""
    from pyrnn import reference

    assert _core.cells() == reference.cells()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cell", CELLS)
def test_backward_is_the_transpose_of_the_derivative(cell, seed):
    """w·(J v) from forward on dual numbers equals (Jᵀ w)·v from backward."""
    sizes = [_core.cells()[cell][name] for name in ("slots", "states", "params")]
    rng = np.random.Generator(np.random.Philox(seed))
    point = [list(rng.normal(scale=2, size=n)) for n in sizes]
    v = [list(rng.normal(size=n)) for n in sizes]
    w = list(rng.normal(size=sizes[1]))
    s_new, jv = _core.cell_jvp(cell, *point, *v)
    jtw = _core.cell_vjp(cell, *point, w)
    left = np.dot(w, jv)
    right = sum(np.dot(g, t) for g, t in zip(jtw, v, strict=True))
    assert abs(left - right) <= DUAL * np.linalg.norm(w) * np.linalg.norm(np.concatenate(v))

    arrays = [[np.array([[value]]) for value in values] for values in point]
    expected, _ = registry[cell].forward(*arrays)
    assert np.allclose(s_new, np.ravel(expected), rtol=DUAL, atol=DUAL)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("missing", range(3))
def test_counts_are_checked(cell, missing):
    counts = _core.cells()[cell]
    values = [[0.5] * counts[name] for name in ("slots", "states", "params")]
    values[missing] = [0.5] * (len(values[missing]) + 1)
    with pytest.raises(ValueError, match=f"^{'asp'[missing]}: expected"):
        _core.cell_vjp(cell, *values, [1.0] * counts["states"])
    with pytest.raises(ValueError, match=f"^{'asp'[missing]}: expected"):
        _core.cell_jvp(cell, *values, *values)
