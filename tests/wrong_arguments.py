# SPDX-License-Identifier: Apache-2.0
"""Arrays, lists and options as nobody should pass them, drawn by Hypothesis.

PYRNN_FUZZ=4000 makes every fuzz test that many calls instead of a hundred, other ones each time (`.ci/fuzz`).
"""

import os
from contextlib import contextmanager

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("PYRNN_FUZZ", "100"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="PYRNN_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def refused_or_done(*more):
    """Swallows exactly the exceptions that wrong arguments may raise."""
    try:
        yield
    except (ValueError, TypeError, *more):
        return


class Subclass(np.ndarray):
    """An array by another name."""


def misaligned(a):
    return np.frombuffer(b"\0" * (a.nbytes + 1), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def sparse(a):
    memory = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    return memory[..., ::2]


def in_fields(a):
    return np.zeros(a.shape, np.dtype([("pad", np.uint8), ("a", a.dtype)]))["a"]


def stretched(a, *shape):
    """One number, seen as an array of any size."""
    return np.lib.stride_tricks.as_strided(np.ones(1, a.dtype), shape, (0,) * len(shape), writeable=False)


def lying_strides(a):
    """Reversed strides: the same memory, another layout."""
    return np.lib.stride_tricks.as_strided(a, a.shape, a.strides[::-1]) if len(set(a.shape)) <= 1 else a.T


ARRAYS = {
    "as it is": lambda a: a,
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "complex": lambda a: a.astype(np.complex64),
    "other float": lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.float64),
    "int": lambda a: a.astype(np.int64),
    "int32": lambda a: a.astype(np.int32),
    "bool": lambda a: a.astype(bool),
    "object": lambda a: a.astype(object),
    "text": lambda a: np.full(a.shape, "x"),
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "records": lambda a: np.zeros(a.shape, [("a", np.float32), ("b", np.float32)]),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "misaligned": misaligned,
    "read-only": read_only,
    "sparse": sparse,
    "in fields": in_fields,
    "other strides": lying_strides,
    "backwards": lambda a: a[..., ::-1],
    "first axis backwards": lambda a: a[::-1],
    "middle axis backwards": lambda a: a[:, ::-1] if a.ndim > 1 else a,
    "broadcast": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "broadcast rows": lambda a: np.broadcast_to(a[:1], a.shape),
    "fortran": np.asfortranarray,
    "an axis more": lambda a: a[None],
    "an axis less": lambda a: a.reshape(-1),
    "scalar": lambda a: a.reshape(-1)[:1].reshape(()) if a.size else a,
    "longer": lambda a: np.concatenate([a, a[..., :1]], -1),
    "one more": lambda a: np.concatenate([a, a[:1]]),
    "shorter": lambda a: a[..., :-1],
    "one less": lambda a: a[:-1],
    "none at all": lambda a: a[:0],
    "nothing in them": lambda a: a[..., :0],
    "huge": lambda a: stretched(a, *(2**19 for _ in a.shape)),
    "huge first axis": lambda a: stretched(a, 2**40, *a.shape[1:]),
    "huge last axis": lambda a: stretched(a, *a.shape[:-1], 2**40),
    "list": lambda a: a.tolist() if a.size < 1000 else [],
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "bytes": lambda a: a.tobytes(),
    "subclass": lambda a: a.view(Subclass),
    "masked": np.ma.masked_array,
}
OBJECTS = [
    None,
    0,
    -1,
    2**63,
    2**200,
    1.5,
    float("nan"),
    "lstm",
    "",
    b"x",
    [],
    (),
    {},
    [None],
    object(),
    np.float32,
]


def wrong_array(draw, a, huge=True):
    """Some array made of `a`, or no array at all; `huge`: also one that no memory holds."""
    names = [*(name for name in ARRAYS if huge or "huge" not in name), "object of another kind"]
    name = draw(st.sampled_from(names))
    if name == "object of another kind":
        return draw(st.sampled_from(OBJECTS))
    with np.errstate(all="ignore"):
        return ARRAYS[name](a)


def wrong_list(draw, arrays):
    """A list of states with a wrong one, or of a wrong length, or no list."""
    kind = draw(st.sampled_from(["one wrong", "fewer", "more", "none", "other", "tuple", "array", "nested"]))
    if kind == "one wrong":
        k = draw(st.integers(0, len(arrays) - 1))
        return [wrong_array(draw, a) if i == k else a for i, a in enumerate(arrays)]
    return {
        "fewer": arrays[:-1],
        "more": [*arrays, arrays[0]],
        "none": None,
        "other": draw(st.sampled_from(OBJECTS)),
        "tuple": tuple(arrays),
        "array": np.stack(arrays),
        "nested": [arrays],
    }[kind]


def wrong_lengths(draw, T, B):
    numbers = st.sampled_from([0, 1, T, T + 1, -1, 2**62, -(2**63), 2**63 - 1])
    values = draw(st.lists(numbers, min_size=B, max_size=B))
    return wrong_array(draw, np.array(values, np.int64))


def wrong_flags(draw, T, B):
    flags = np.frombuffer(draw(st.binary(min_size=T * B, max_size=T * B)), bool).reshape(T, B)
    return wrong_array(draw, flags)


WORDS = st.sampled_from(
    [
        *OBJECTS,
        "dot",
        "general",
        "additive",
        "location",
        "softmax",
        "monotonic",
        "m",
        "p",
        "previous",
        True,
        2,
    ]
)
#: Numbers that are wrong where a size, a position or a factor stands; or not.
NUMBERS = st.sampled_from(
    [*OBJECTS, True, 0, 1, -1, 3, 2**31, 2**63, (1, 2), [2, 0], (1, -1), (1, 2, 3), 0.5, float("inf")]
)


def wrong(draw, value):
    """Something else for a value, of its kind more often than not."""
    if isinstance(value, np.ndarray):  # a huge query is a right argument: a batch may be of any size
        return wrong_array(draw, value if value.ndim else np.ones(3), huge=False)
    if isinstance(value, dict):
        return wrong_dict(draw, value)
    if isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
        return wrong_list(draw, list(value))
    return draw(WORDS if isinstance(value, str) else NUMBERS)


def wrong_dict(draw, given):
    """Parameters with a wrong one, one fewer or one more, or none at all."""
    kind = draw(st.sampled_from(["one wrong", "one wrong", "fewer", "more", "other"]))
    if kind == "other" or not given:
        return draw(st.sampled_from([*OBJECTS, {"bias": np.ones(3)}, {3: np.ones(3)}]))
    name = draw(st.sampled_from(sorted(given)))
    if kind == "one wrong":
        return given | {name: wrong(draw, given[name])}
    if kind == "more":
        return given | {draw(st.sampled_from(["gain", "bias", "x", "weight_coverage", 3])): np.ones(3)}
    return {n: a for n, a in given.items() if n != name}


def spoiled(draw, arguments, more=()):
    """The arguments with up to three wrong ones, and up to one that is not among them."""
    arguments = dict(arguments)
    for name in draw(st.lists(st.sampled_from(sorted(arguments)), max_size=3, unique=True)):
        arguments[name] = wrong(draw, arguments[name])
    if more and draw(st.booleans()):
        arguments[draw(st.sampled_from(more))] = draw(NUMBERS)
    return arguments
