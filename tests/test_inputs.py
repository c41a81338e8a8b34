# SPDX-License-Identifier: Apache-2.0
"""Strange arrays, read right: not contiguous, read-only, byte-swapped, misaligned, backwards, subclasses."""

import numpy as np
import pytest
from problems import CELLS, Problem, varied

from pyrnn import functional


class Plain(np.ndarray):
    """A subclass of no consequence."""


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = np.ndarray(a.shape, a.dtype, raw, 1)
    view[...] = a
    assert view.flags.aligned == (a.itemsize == 1)
    return view


def read_only(a):
    b = a.copy()
    b.flags.writeable = False
    return b


def sparse(a):
    """Every second element of the last axis of a larger array."""
    memory = np.ones((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    memory[..., ::2] = a
    return memory[..., ::2]


def in_fields(a):
    """A field of a packed record: strides that are no multiple of the element."""
    records = np.zeros(a.shape, np.dtype([("pad", np.uint8), ("a", a.dtype)]))
    records["a"] = a
    return records["a"]


def backwards(a):
    """Negative strides on every axis."""
    return np.flip(np.flip(a).copy())


STRANGE = {
    "fortran": np.asfortranarray,
    "sparse": sparse,
    "read_only": read_only,
    "byte_swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "misaligned": misaligned,
    "in_fields": in_fields,
    "backwards": backwards,
    "subclass": lambda a: a.view(Plain),
}


def strange_structure(make, state):
    return tuple(map(make, state)) if isinstance(state, tuple) else make(state)


@pytest.mark.parametrize(("cell", "name", "dtype"), varied(tuple(STRANGE), (np.float32, np.float64)))
def test_strange_arrays(cell, dtype, name):
    p = Problem(cell, 5, 3, 4, 6, 2, 2, kind="all", dtype=dtype)
    expected = p.run(functional)
    make = STRANGE[name]
    p.x, p.dy = make(p.x), make(p.dy)
    p.state, p.dstate = strange_structure(make, p.state), strange_structure(make, p.dstate)
    p.params = {n: make(a) for n, a in p.params.items()}
    p.options = {n: make(v) if isinstance(v, np.ndarray) else v for n, v in p.options.items()}
    for n, value in p.run(functional).items():
        assert type(value) is np.ndarray
        assert value.dtype == dtype
        assert np.array_equal(value, expected[n]), n


@pytest.mark.parametrize("cell", CELLS)
def test_a_broadcast_x(cell):
    p = Problem(cell, B=4)
    p.x = np.broadcast_to(p.x[:, :1], p.x.shape)
    expected = p.run(functional)
    p.x = p.x.copy()
    for n, value in p.run(functional).items():
        assert np.array_equal(value, expected[n]), n


@pytest.mark.parametrize("kind", [list, tuple, np.uint8, ">i2"], ids=str)
def test_kinds_of_lengths(kind):
    lengths = kind([5, 0, 3]) if kind in (list, tuple) else np.array([5, 0, 3], kind)
    p = Problem("gru")
    expected, _ = functional.sequence("gru", p.x, None, p.params, lengths=np.array([5, 0, 3]))
    assert np.array_equal(functional.sequence("gru", p.x, None, p.params, lengths=lengths)[0], expected)


def test_lists_as_masks():
    p = Problem("gru")
    mask = np.random.default_rng(0).random((p.T, p.B)) < 0.5
    expected, _ = functional.sequence("gru", p.x, None, p.params, mask=mask)
    assert np.array_equal(functional.sequence("gru", p.x, None, p.params, mask=mask.tolist())[0], expected)


def test_no_rows_need_no_lengths():
    p = Problem("gru", B=0)
    y, _ = functional.sequence("gru", p.x, None, p.params, lengths=[])
    assert y.shape == (p.T, 0, p.H)
