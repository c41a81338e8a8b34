# SPDX-License-Identifier: Apache-2.0
"""The threads of NumPy's products."""

import contextlib


def blas_threads(n: int) -> contextlib.AbstractContextManager[object]:
    """Limit the threads of NumPy's products, where threadpoolctl is installed.

    OpenBLAS's threads go on spinning for a while after a product, on cores that the recurrent layers need.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(n, "blas")
    return limits
