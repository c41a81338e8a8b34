# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test: the number of threads is what it was before."""

import os
import signal

# The reference's products are small: on a busy machine the threads of its BLAS would wait for each other a
# hundred times longer than they compute. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import pyrnn

# A shell's background job ignores SIGINT, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory):
    """The CUDA library for the host, built once."""
    from cuda_library import build_emulation

    return build_emulation(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def threads():
    """`threads(n)` sets the number of threads until the test ends."""
    before = pyrnn.num_threads()
    yield pyrnn.set_num_threads
    pyrnn.set_num_threads(before)
