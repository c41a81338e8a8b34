# SPDX-License-Identifier: Apache-2.0
"""The number of threads of the BLAS that NumPy was linked with."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

#: What OpenBLAS calls the pair in NumPy's wheels, in 64-bit builds, and in distributions.
NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[bool]:
    """Keep NumPy's matrix products in the calling thread.

    OpenBLAS's threads go on spinning for a while after a product, on cores that the recurrent layers need.

    Yields
    ------
    bool
        False where NumPy's BLAS is not OpenBLAS; it is left as it is then.
    """
    functions = thread_functions()
    if functions is None:
        yield False
        return
    get, put = functions
    before = get()
    put(1)
    try:
        yield True
    finally:
        put(before)


def thread_functions() -> tuple[Any, Any] | None:
    """What reads and what sets OpenBLAS's number of threads, or None.

    The symbols of a shared library's dependencies are found through the library itself: no search for files.
    """
    core = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    if core is None:
        return None
    library = ctypes.CDLL(core.__file__)
    for name in NAMES:
        if hasattr(library, name.format("set")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
